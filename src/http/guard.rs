//! Refuses a request to our routes by its headers alone, before anything else looks at it. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{self, HeaderMap};
use http::uri::Authority;
use http::{Request, Uri};

/// Why a request is refused by its headers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("`open` mode answers only requests for a loopback host")]
    Host,
    #[error("`open` mode answers no request that a web page sends")]
    Origin,
    #[error("`open` mode answers no request that came through another proxy")]
    Forwarded,
    #[error("a request has one `Authorization` header at most")]
    Authorizations,
}

/// Whether anything but a token tells who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// Being on this machine does.
    ThisMachine,
    /// Tokens do, or nothing at all, as an operator has said.
    Anywhere,
}

/// What is asked of every bulk request where nothing else tells who may ask (SEC-10), and everywhere (SEC-11).
///
/// In `open` mode being on this machine is the only credential: a page in a local browser can reach us by a name that
/// it rebinds to loopback, and a proxy beside us speaks for strangers. Of two credentials in one request whoever looks
/// at it next may look at the other one.
pub(crate) fn check<B>(request: &Request<B>, exposure: Exposure) -> Result<(), Refused> {
    match exposure {
        Exposure::ThisMachine => loopback_only(request.uri(), request.headers())?,
        Exposure::Anywhere => {}
    }
    one_authorization(request.headers())
}

fn loopback_only(uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let named: Vec<Option<Authority>> = headers
        .get_all(header::HOST)
        .iter()
        .map(|host| Authority::try_from(host.as_bytes()).ok())
        // HTTP/2 and absolute-form targets name the host in the target.
        .chain(uri.authority().cloned().map(Some))
        .collect();
    let loopback = |host: &Option<Authority>| host.as_ref().is_some_and(is_loopback);
    if named.is_empty() || !named.iter().all(loopback) {
        return Err(Refused::Host);
    }
    if headers.contains_key(header::ORIGIN) {
        return Err(Refused::Origin);
    }
    let forwards =
        |name: &str| name == "forwarded" || name == "via" || name == "x-real-ip" || name.starts_with("x-forwarded");
    if headers.keys().any(|name| forwards(name.as_str())) {
        return Err(Refused::Forwarded);
    }
    Ok(())
}

fn one_authorization(headers: &HeaderMap) -> Result<(), Refused> {
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Refused::Authorizations);
    }
    Ok(())
}

/// `localhost`, 127.0.0.0/8 or `[::1]`, with or without a port, and nothing before it.
fn is_loopback(authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Problem;

    /// The status of the answer; 200 stands for a request that may go on.
    fn status(uri: &str, headers: &[(&str, &str)]) -> u16 {
        status_at(Exposure::ThisMachine, uri, headers)
    }

    fn status_at(exposure: Exposure, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("the test's request is well formed");
        check(&request, exposure)
            .map_or_else(|refused| Problem::from(refused).into_response().status().as_u16(), |()| 200)
    }

    /// SEC-10.
    #[test]
    fn open_mode_answers_only_this_machine_asking_for_itself() {
        for (uri, headers, expected) in [
            ("/fhir/$export", &[("host", "127.0.0.1:8080")][..], 200),
            ("/fhir/$export", &[("host", "localhost")], 200),
            ("/fhir/$export", &[("host", "LOCALHOST.:8080")], 200),
            ("/fhir/$export", &[("host", "[::1]:8080")], 200),
            ("/fhir/$export", &[("host", "127.9.9.9")], 200),
            ("http://127.0.0.1:8080/fhir/$export", &[], 200),
            ("/fhir/$export", &[], 403),
            ("/fhir/$export", &[("host", "")], 403),
            ("/fhir/$export", &[("host", "evil.example")], 403),
            ("/fhir/$export", &[("host", "localhost.evil.example")], 403),
            ("/fhir/$export", &[("host", "127.0.0.1.evil.example")], 403),
            ("/fhir/$export", &[("host", "127.0.0.1@evil.example")], 403),
            ("/fhir/$export", &[("host", "evil.example@127.0.0.1")], 403),
            ("/fhir/$export", &[("host", "10.0.0.1")], 403),
            ("/fhir/$export", &[("host", "0.0.0.0:8080")], 403),
            ("/fhir/$export", &[("host", "[::]:8080")], 403),
            ("/fhir/$export", &[("host", "127.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("host", "evil.example")], 403),
            ("http://evil.example/fhir/$export", &[("host", "localhost")], 403),
            ("http://localhost/fhir/$export", &[("host", "evil.example")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("origin", "http://localhost")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("origin", "null")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("forwarded", "for=10.0.0.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("x-forwarded-for", "127.0.0.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("x-forwarded-prefix", "/x")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("x-real-ip", "127.0.0.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("via", "1.1 proxy")], 403),
        ] {
            assert_eq!(status(uri, headers), expected, "{uri} {headers:?}");
        }
    }

    #[test]
    fn whoever_shows_a_token_may_come_from_anywhere() {
        for (headers, expected) in [
            (&[("host", "fhir.example.org"), ("x-forwarded-for", "10.0.0.1")][..], 200),
            (&[("host", "fhir.example.org"), ("authorization", "a"), ("authorization", "b")], 400),
        ] {
            assert_eq!(status_at(Exposure::Anywhere, "/fhir/$export", headers), expected, "{headers:?}");
        }
    }

    /// SEC-11: refused are two `Authorization` headers.
    #[test]
    fn a_request_with_two_credentials_is_refused() {
        for (headers, expected) in [
            (&[][..], 200),
            (&[("authorization", "Bearer a")], 200),
            (&[("authorization", "Bearer a"), ("Authorization", "Bearer a")], 400),
            (&[("authorization", "Bearer a"), ("authorization", "Basic b")], 400),
        ] {
            let headers = [&[("host", "localhost")], headers].concat();
            assert_eq!(status("/fhir/$export", &headers), expected, "{headers:?}");
        }
    }
}
