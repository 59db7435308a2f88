//! The `Prefer` header as RFC 7240 writes it.

/// The value of the preference `name` where it is named first, over all `Prefer` headers in their order; the empty
/// text if it has none. Names are compared without regard to case; parameters of preferences are passed over.
pub(super) fn first(headers: &[String], name: &str) -> Option<String> {
    headers.iter().flat_map(|header| pieces(header, ',')).find_map(|preference| {
        let preference = pieces(preference, ';').next()?;
        let (token, value) = preference.split_once('=').unwrap_or((preference, ""));
        token.trim().eq_ignore_ascii_case(name).then(|| unquoted(value.trim()))
    })
}

/// The pieces between separators that do not stand in a quoted string.
fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character| {
        let escaped = std::mem::take(&mut is_escaped);
        match character {
            _ if escaped => false,
            '"' => {
                is_quoted = !is_quoted;
                false
            }
            '\\' => {
                is_escaped = is_quoted;
                false
            }
            other => other == separator && !is_quoted,
        }
    })
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut is_escaped = false;
    let kept = inner.chars().filter(|character| {
        is_escaped = *character == '\\' && !is_escaped;
        !is_escaped
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_found_in_every_spelling_and_nowhere_else() {
        for (headers, expected) in [
            (&["respond-async"][..], Some("")),
            (&["RESPOND-async"], Some("")),
            (&["wait=10", " respond-async ; x=y , z"], Some("")),
            (&["respond-async="], Some("")),
            (&[r#"respond-async="""#], Some("")),
            (&["respond-async=false"], Some("false")),
            (&[r#"respond-async = "a\"b\\c""#], Some(r#"a"b\c"#)),
            (&["respond-async=1, respond-async"], Some("1")),
            (&[r#"note="a, respond-async""#], None),
            (&[r#"note="a\", respond-async""#], None),
            (&["return=minimal; respond-async"], None),
            (&["respond async", "respond-asynchronously", ""], None),
            (&[], None),
        ] {
            let owned: Vec<_> = headers.iter().map(|&header| header.to_owned()).collect();
            assert_eq!(first(&owned, "respond-async").as_deref(), expected, "{headers:?}");
        }
    }
}
