//! Whether a client takes gzip. Pure (RFC 9110, 12.5.3).

/// Whether the values of `Accept-Encoding` allow gzip, and do not prefer the bytes as they are.
pub(crate) fn takes_gzip<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for choice in values.flat_map(|value| value.split(',')) {
        let (name, weight) = choice.split_once(';').unwrap_or((choice, "q=1"));
        let weight = weight.trim().strip_prefix(['q', 'Q']).and_then(|weight| weight.trim_start().strip_prefix('='));
        // What cannot be read is not wanted.
        let weight = weight.and_then(|weight| weight.trim().parse::<f32>().ok()).filter(|weight| weight.is_finite());
        let weight = weight.unwrap_or(0.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "*" => any = Some(weight),
            "identity" => identity = Some(weight),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && identity.is_none_or(|identity| identity <= gzip)
}

#[cfg(test)]
mod tests {
    use super::takes_gzip;

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        for (value, expected) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("br, gzip;q=0.5", true),
            ("gzip, deflate, br, zstd", true),
            ("*", true),
            ("identity;q=0.5, *;q=0.6", true),
            ("gzip;q=1.0, identity; q = 0", true),
            ("", false),
            ("identity", false),
            ("br", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000, *", false),
            ("*;q=0", false),
            ("identity, gzip;q=0.5", false),
            ("gzip;q=x", false),
            ("gzip;q=NaN", false),
            ("gzip;level=1", false),
            ("gzipped", false),
        ] {
            assert_eq!(takes_gzip(std::iter::once(value)), expected, "{value:?}");
        }
        assert!(takes_gzip(["br", "gzip"].into_iter()), "the header may come more than once");
        assert!(!takes_gzip(std::iter::empty()));
    }
}
