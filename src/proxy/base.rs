//! Where our public address lies, and where the upstream's. Pure.

use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Uri};
use url::Url;

/// Our base and the upstream's base: `http://ours/fhir` and `https://theirs/baseR4`.
#[derive(Debug, Clone)]
pub(crate) struct Bases {
    public_path: String,
    upstream_scheme: Scheme,
    upstream_authority: Authority,
    upstream_path: String,
    /// What the upstream is told of the address that clients use. Never what a client claims of it.
    pub(super) public_proto: HeaderValue,
    pub(super) public_host: HeaderValue,
    pub(super) upstream_host: HeaderValue,
    /// Headers that say who asks, beside those that are known to.
    pub(super) identity: Arc<[HeaderName]>,
}

/// A base is no `http` or `https` URL with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a base is not an http or https URL with a host")]
pub(crate) struct BadBase;

impl Bases {
    pub(crate) fn new(public: &Url, upstream: &Url) -> Result<Self, BadBase> {
        let (public_scheme, public_authority) = origin(public)?;
        let (upstream_scheme, upstream_authority) = origin(upstream)?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| BadBase);
        Ok(Self {
            public_path: path(public),
            upstream_path: path(upstream),
            public_proto: value(public_scheme.as_str())?,
            public_host: value(public_authority.as_str())?,
            upstream_host: value(upstream_authority.as_str())?,
            upstream_scheme,
            upstream_authority,
            identity: Arc::default(),
        })
    }

    /// The same where these headers say who asks (SEC-04).
    pub(crate) fn with_identity(self, headers: Vec<HeaderName>) -> Self {
        Self { identity: headers.into(), ..self }
    }

    /// The path of our own base, without a slash at its end.
    pub(crate) fn public_path(&self) -> &str {
        &self.public_path
    }

    /// The upstream's address for one of ours: the base is exchanged, the rest is kept byte for byte. None
    /// if the address is not below our base. The host that a client names decides nothing.
    pub(super) fn upstream_of(&self, uri: &Uri) -> Option<Uri> {
        let below = below(uri.path(), &self.public_path)?;
        let mut target = String::with_capacity(self.upstream_path.len() + uri.path().len() + 64);
        target.push_str(&self.upstream_path);
        target.push_str(below);
        if target.is_empty() {
            target.push('/');
        }
        if let Some(query) = uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.upstream_scheme.clone());
        parts.authority = Some(self.upstream_authority.clone());
        // Longer than an address may be, once the base is exchanged.
        parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
        Uri::from_parts(parts).ok()
    }
}

impl Bases {
    /// Whether an address that the upstream leads to is somebody else's: neither below the upstream's origin or ours, nor the
    /// same host by the other scheme. What is no address leads nowhere.
    pub(super) fn leads_away(&self, location: &str) -> bool {
        let origin = |scheme: &str, authority: &str| Url::parse(&format!("{scheme}://{authority}/")).ok();
        let upstream = origin(self.upstream_scheme.as_str(), self.upstream_authority.as_str());
        let public = self.public_proto.to_str().ok().zip(self.public_host.to_str().ok());
        let public = public.and_then(|(scheme, authority)| origin(scheme, authority));
        let (Some(upstream), Some(public)) = (upstream, public) else { return false };
        let Ok(target) = upstream.join(location) else { return false };
        let is_own = |own: &Url| {
            own.origin() == target.origin() || (own.host() == target.host() && own.scheme() != target.scheme())
        };
        target.has_host() && !is_own(&upstream) && !is_own(&public)
    }
}

/// What follows `base` in `path`: nothing, or a text that begins with a slash.
pub(super) fn below<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn path(base: &Url) -> String {
    base.path().trim_end_matches('/').to_owned()
}

fn origin(base: &Url) -> Result<(Scheme, Authority), BadBase> {
    let scheme = match base.scheme() {
        "http" => Scheme::HTTP,
        "https" => Scheme::HTTPS,
        _ => return Err(BadBase),
    };
    // Without user and password: credentials are never part of an address here (SEC-01).
    let authority = &base[url::Position::BeforeHost..url::Position::AfterPort];
    Ok((scheme, Authority::try_from(authority).map_err(|_| BadBase)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(public: &str, upstream: &str) -> Bases {
        let url = |text: &str| Url::parse(text).expect("the test's URL is well formed");
        Bases::new(&url(public), &url(upstream)).expect("the test's bases are http")
    }

    #[test]
    fn only_the_base_of_an_address_is_exchanged() {
        let deep = bases("http://ours:8080/fhir", "https://theirs/base/R4/");
        let root = bases("http://ours:8080", "http://theirs:9000/");
        for (bases, ours, theirs) in [
            (&deep, "/fhir", Some("https://theirs/base/R4")),
            (&deep, "/fhir/", Some("https://theirs/base/R4/")),
            (&deep, "/fhir?_count=1", Some("https://theirs/base/R4?_count=1")),
            (&deep, "/fhir/Patient/7", Some("https://theirs/base/R4/Patient/7")),
            (&deep, "/fhir/Patient?", Some("https://theirs/base/R4/Patient?")),
            (
                &deep,
                "/fhir/Patient?name=%c3%A4+b&&x=a|b,c%2Cd?e",
                Some("https://theirs/base/R4/Patient?name=%c3%A4+b&&x=a|b,c%2Cd?e"),
            ),
            (&deep, "http://evil.example/fhir/Patient", Some("https://theirs/base/R4/Patient")),
            (&deep, "/fhirx/Patient", None),
            (&deep, "/FHIR/Patient", None),
            (&deep, "/%66hir/Patient", None),
            (&deep, "/", None),
            (&deep, "*", None),
            (&root, "/", Some("http://theirs:9000/")),
            (&root, "/Patient?a=b", Some("http://theirs:9000/Patient?a=b")),
            (&root, "http://ours:8080?a=b", Some("http://theirs:9000/?a=b")),
            (&root, "*", None),
        ] {
            let uri: Uri = ours.parse().expect("the test's target is well formed");
            let mapped = bases.upstream_of(&uri).map(|uri| uri.to_string());
            assert_eq!(mapped.as_deref(), theirs, "{ours}");
        }
    }

    #[test]
    fn an_address_that_grows_too_long_has_no_counterpart() {
        let bases = bases("http://ours/", &format!("http://theirs/{}", "b".repeat(1000)));
        let uri: Uri = format!("/{}", "a".repeat(65_000)).parse().expect("just short enough");
        assert_eq!(bases.upstream_of(&uri), None);
    }

    #[test]
    fn a_password_in_a_base_is_no_part_of_its_host() {
        let bases = bases("http://ours/", "http://user:secret@theirs:9000/fhir");
        assert_eq!(bases.upstream_host, "theirs:9000");
        let uri = bases.upstream_of(&Uri::from_static("/x")).expect("below the base");
        assert_eq!(uri, "http://theirs:9000/fhir/x");
    }

    #[test]
    fn a_base_is_http_or_https() {
        let url = |text: &str| Url::parse(text).expect("the test's URL is well formed");
        let good = url("http://ours/");
        for bad in ["ftp://theirs/", "file:///fhir", "mailto:a@b.c"] {
            assert_eq!(Bases::new(&good, &url(bad)).err(), Some(BadBase), "{bad}");
        }
    }
}
