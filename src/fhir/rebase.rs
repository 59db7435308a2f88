//! Absolute references of a server to itself, written anew for those who reach it elsewhere (DS-025): a reader outside can follow
//! none that lead to an inner address. All else of a resource stays byte for byte.

use std::fmt;

use memchr::memmem;

use super::datatypes::LocalReference;
use super::inside::{meaning, string_end};
use super::resource_type::ResourceType;

/// From which bases to which one.
#[derive(Clone)]
pub(crate) struct Rebase {
    from: Vec<Base>,
    /// Without a slash at its end.
    to: Box<str>,
}

#[derive(Clone)]
struct Base {
    /// Without a slash at its end.
    url: Box<str>,
    /// Whether a line can name it at all is told by its authority, which no escape divides.
    authority: memmem::Finder<'static>,
}

impl Rebase {
    /// `None` if all is there already.
    pub(crate) fn new<'a>(from: impl IntoIterator<Item = &'a str>, to: &str) -> Option<Self> {
        let to = to.trim_end_matches('/');
        let others = from.into_iter().map(|base| base.trim_end_matches('/')).filter(|base| *base != to);
        let from: Vec<_> = others.filter_map(Base::new).collect();
        (!from.is_empty()).then(|| Self { from, to: to.into() })
    }

    /// A compact resource that refers to the new base, and a newline; `None` if it refers to none of the old ones. What is
    /// rewritten are the texts of `reference` and `fullUrl` that lead to a resource, and of `url` that lead to a Binary: any other
    /// `url` is a name, and stays what it is.
    pub(crate) fn line(&self, line: &[u8]) -> Option<Vec<u8>> {
        if !self.from.iter().any(|base| base.authority.find(line).is_some()) {
            return None;
        }
        let text = std::str::from_utf8(line).ok()?;
        let mut written: Option<Vec<u8>> = None;
        let (mut at, mut copied) = (0, 0);
        let mut name = None;
        while let Some(found) = memchr::memchr3(b'"', b',', b'{', text.as_bytes().get(at..)?) {
            at += found;
            if text.as_bytes().get(at) != Some(&b'"') {
                name = None;
                at += 1;
                continue;
            }
            let end = string_end(text, at)?;
            let quoted = text.get(at..end)?;
            if text.as_bytes().get(end) == Some(&b':') {
                name = meaning(quoted);
            } else if let Some(moved) = name.take().and_then(|name| self.moved(&name, quoted)) {
                let written = written.get_or_insert_with(|| Vec::with_capacity(line.len() + 256));
                written.extend_from_slice(text.as_bytes().get(copied..at)?);
                serde_json::to_writer(&mut *written, &moved).ok()?;
                copied = end;
            }
            at = end;
        }
        let mut written = written?;
        written.extend_from_slice(text.as_bytes().get(copied..)?);
        Some(written)
    }

    /// What a member says from now on, if that is something else.
    fn moved(&self, name: &str, quoted: &str) -> Option<String> {
        let of_any = match name {
            "reference" | "fullUrl" => true,
            "url" => false,
            _ => return None,
        };
        let text = meaning(quoted)?;
        let below = self.from.iter().find_map(|base| text.strip_prefix(&*base.url)?.strip_prefix('/'))?;
        let LocalReference { resource_type, .. } = LocalReference::parse_on(below, &[])?;
        (of_any || resource_type == ResourceType::BINARY).then(|| format!("{}/{below}", self.to))
    }
}

impl Base {
    fn new(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split('/').next().filter(|authority| !authority.is_empty())?;
        Some(Self { url: url.into(), authority: memmem::Finder::new(authority).into_owned() })
    }
}

impl fmt::Debug for Rebase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {}", self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(line: &str) -> Option<String> {
        let rebase = Rebase::new(["http://inner:9/fhir/", "http://replica/fhir"], "https://out.example/r4/");
        let moved = rebase.expect("two bases").line(line.as_bytes())?;
        Some(String::from_utf8(moved).expect("text"))
    }

    #[test]
    fn references_and_binaries_lead_to_the_new_base() {
        for (line, expected) in [
            (
                r#"{"a":1.00,"subject":{"reference":"http://inner:9/fhir/Patient/1"},"b":"\u00e9"}"#,
                r#"{"a":1.00,"subject":{"reference":"https://out.example/r4/Patient/1"},"b":"\u00e9"}"#,
            ),
            (
                r#"[{"reference":"http:\/\/replica\/fhir\/Patient\/1\/_history\/2"},{"r\u0065ference":"http://inner:9/fhir/X/1","reference":"http://inner:9/fhir/Group/g"}]"#,
                r#"[{"reference":"https://out.example/r4/Patient/1/_history/2"},{"r\u0065ference":"http://inner:9/fhir/X/1","reference":"https://out.example/r4/Group/g"}]"#,
            ),
            (
                r#"{"content":[{"attachment":{"url":"http://inner:9/fhir/Binary/b"}}],"fullUrl":"http://inner:9/fhir/Patient/1"}"#,
                r#"{"content":[{"attachment":{"url":"https://out.example/r4/Binary/b"}}],"fullUrl":"https://out.example/r4/Patient/1"}"#,
            ),
        ] {
            assert_eq!(moved(&format!("{line}\n")), Some(format!("{expected}\n")), "{line}");
        }
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for line in [
            r#"{"reference":"Patient/1"}"#,
            r#"{"reference":"http://inner:99/fhir/Patient/1"}"#,
            r#"{"reference":"http://inner:9/fhirs/Patient/1"}"#,
            r#"{"reference":"http://inner:9/fhir/Patient?identifier=1"}"#,
            r#"{"reference":"http://inner:9/fhir/metadata"}"#,
            r#"{"url":"http://inner:9/fhir/StructureDefinition/x"}"#,
            r#"{"url":"http://inner:9/fhir/Binary/b?x"}"#,
            r#"{"display":"http://inner:9/fhir/Patient/1"}"#,
            r#"{"text":"\"reference\":\"http://inner:9/fhir/Patient/1\""}"#,
            r#"{"reference":["x","http://inner:9/fhir/Patient/1"]}"#,
            r#"{"x":"reference","y":"http://inner:9/fhir/Patient/1"}"#,
            r#"{"reference":{"display":"http://inner:9/fhir/Patient/1"}}"#,
        ] {
            assert_eq!(moved(line), None, "{line}");
        }
        assert!(Rebase::new(["https://out.example/r4"], "https://out.example/r4/").is_none());
        assert!(Rebase::new(["nowhere"], "https://out.example/r4/").is_none());
    }

    /// Whatever a resource looks like, as a tree it differs in these texts alone.
    #[test]
    fn the_tree_is_the_same_but_for_what_is_rewritten() {
        let line = r#"{"resourceType":"Bundle","entry":[{"fullUrl":"http://inner:9/fhir/Observation/o","resource":{"resourceType":"Observation","id":"o","subject":{"reference":"http://inner:9/fhir/Patient/p"},"note":[{"text":"a \"quote\" , { http://inner:9/fhir/Patient/p"}],"valueQuantity":{"value":-1.50e+3}}}]}"#;
        let mut expected: serde_json::Value = serde_json::from_str(line).expect("JSON");
        expected["entry"][0]["fullUrl"] = "https://out.example/r4/Observation/o".into();
        expected["entry"][0]["resource"]["subject"]["reference"] = "https://out.example/r4/Patient/p".into();
        let moved = moved(line).expect("it is");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&moved).expect("JSON"), expected);
        assert!(moved.contains("-1.50e+3"));
    }
}
