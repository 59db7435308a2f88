//! Which headers pass. Pure: the peer's address is an argument.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::base::Bases;

/// Headers about one connection, whether `Connection` names them or not (RFC 9110, 7.6.1). `Trailer` is
/// none of them: the trailers of answers pass.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Turns a client's headers into those of our request to the upstream (SEC-04).
pub(super) fn to_upstream(headers: &mut HeaderMap, peer: Option<IpAddr>, bases: &Bases) {
    let wants_trailers = names(headers, &header::TE, "trailers");
    strip_hop_by_hop(headers, &bases.identity);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    // No peer is trusted to say for whom it speaks, or that it asks for another path than it does.
    remove_where(headers, |name| {
        matches!(name, "forwarded" | "x-real-ip" | "x-original-url" | "x-rewrite-url")
            || name.starts_with("x-forwarded-")
    });
    if let Some(peer) = peer {
        let peer =
            HeaderValue::try_from(peer.to_canonical().to_string()).expect("an address is written in visible ASCII");
        headers.insert(X_FORWARDED_FOR, peer);
    }
    headers.insert(X_FORWARDED_PROTO, bases.public_proto.clone());
    headers.insert(X_FORWARDED_HOST, bases.public_host.clone());
    headers.insert(header::HOST, bases.upstream_host.clone());
    // What follows a body nobody holds to any of this: it goes no further (RFC 9110, 6.5).
    headers.remove(header::TRAILER);
}

/// Turns the upstream's headers into those of our answer.
pub(super) fn to_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers, &[]);
}

/// Whether `token` is in the comma-separated list that `name` holds; parameters of an element are ignored.
pub(super) fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    elements(headers, name).any(|element| {
        let element = element.split(|byte| *byte == b';').next().unwrap_or_default();
        element.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn strip_hop_by_hop(headers: &mut HeaderMap, identity: &[HeaderName]) {
    let named: Vec<HeaderName> = elements(headers, &header::CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !carries_identity(name.as_str()) && !identity.contains(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Headers that a proxy before us may have set to say who asks: naming them in `Connection` does not get
/// rid of them (SEC-04).
fn carries_identity(name: &str) -> bool {
    name == "authorization" || name == "forwarded" || name.starts_with("x-forwarded-") || name.starts_with("x-remote-")
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn sent(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let url = |text: &str| Url::parse(text).expect("the test's URL is well formed");
        let bases = Bases::new(&url("https://ours/fhir"), &url("http://theirs:9000/fhir"));
        let bases =
            bases.expect("the test's bases are http").with_identity(vec![HeaderName::from_static("x-auth-user")]);
        let mut headers = map(lines);
        let peer = Some(IpAddr::from([192, 0, 2, 7]));
        to_upstream(&mut headers, peer, &bases);
        headers
    }

    /// SEC-04.
    #[test]
    fn headers_about_one_connection_stay_on_it() {
        for line in [
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-authenticate", "Basic"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
        ] {
            assert!(!sent(&[line]).contains_key(line.0), "to the upstream: {}", line.0);
            let mut headers = map(&[line]);
            to_client(&mut headers);
            assert!(!headers.contains_key(line.0), "to the client: {}", line.0);
        }
        for (connection, gone) in [
            ("x-private", true),
            ("close, X-Private", true),
            (" , x-private ,", true),
            ("x-public", false),
            ("x-private;q=1", false),
        ] {
            let lines = [("connection", connection), ("x-private", "1"), ("accept", "*/*")];
            let headers = sent(&lines);
            assert_eq!(!headers.contains_key("x-private"), gone, "Connection: {connection}");
            assert!(headers.contains_key("accept"));
            assert!(!headers.contains_key("connection"));
        }
    }

    /// SEC-04: headers that carry identity cannot be stripped by a client.
    #[test]
    fn a_client_cannot_have_an_identity_taken_away() {
        for (name, value) in [("authorization", "Bearer x"), ("x-remote-user", "nobody"), ("x-auth-user", "nobody")] {
            let headers = sent(&[("connection", name), (name, value)]);
            assert_eq!(headers[name], value);
        }
        let headers = sent(&[("connection", "x-forwarded-for, x-forwarded-host")]);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-host"], "ours");
    }

    /// SEC-04: forwarding headers of untrusted peers are overwritten.
    #[test]
    fn a_client_cannot_say_for_whom_it_speaks() {
        let headers = sent(&[
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-user", "root"),
            ("x-real-ip", "10.0.0.1"),
            ("x-original-url", "/fhir/$export"),
            ("x-rewrite-url", "/fhir/$export"),
            ("trailer", "x-forwarded-for"),
            ("host", "evil.example"),
        ]);
        let mut lines: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        lines.sort_unstable();
        let expected: [(&str, &[u8]); 4] = [
            ("host", b"theirs:9000"),
            ("x-forwarded-for", b"192.0.2.7"),
            ("x-forwarded-host", b"ours"),
            ("x-forwarded-proto", b"https"),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn only_trailers_are_accepted_in_the_name_of_a_client() {
        for (te, passed) in [
            ("trailers", true),
            ("gzip, Trailers", true),
            ("deflate;q=0.5, trailers;q=1", true),
            ("gzip", false),
            ("x-trailers", false),
        ] {
            let headers = sent(&[("te", te), ("connection", "te")]);
            assert_eq!(headers.get("te").is_some_and(|te| te == "trailers"), passed, "TE: {te}");
            assert_eq!(headers.get("connection").is_some_and(|te| te == "te"), passed, "TE: {te}");
        }
    }

    #[test]
    fn all_other_headers_pass_as_they_are() {
        let lines = [
            ("accept", "application/fhir+json"),
            ("authorization", "Bearer abc"),
            ("cookie", "a=b"),
            ("if-none-exist", "identifier=a|b"),
            ("prefer", "return=minimal"),
            ("x-http-method-override", "DELETE"),
            ("x-repeated", "1"),
            ("x-repeated", "2"),
        ];
        let headers = sent(&lines);
        for (name, value) in lines {
            assert!(headers.get_all(name).iter().any(|sent| sent == value), "{name}: {value}");
        }
        assert_eq!(headers.get_all("x-repeated").iter().count(), 2);
    }
}
