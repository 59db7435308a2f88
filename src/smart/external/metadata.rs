//! What an issuer says of itself (`OpenID` Connect Discovery 1.0; RFC 8414). Pure.

use serde::Deserialize;
use url::Url;

use crate::smart::address::is_loopback;

/// Where an issuer is asked what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) jwks_uri: Option<Url>,
    pub(crate) token_endpoint: Option<Url>,
    pub(crate) introspection_endpoint: Option<Url>,
    /// How clients prove to it who they are, if it says so.
    pub(crate) token_auth_methods: Option<Vec<String>>,
    pub(crate) token_auth_algorithms: Option<Vec<String>>,
}

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("is no JSON object that names an issuer")]
    Shape,
    #[error("is that of another issuer: `issuer` is not smart.issuer.issuer, letter by letter")]
    Issuer,
    #[error("names an address that is not https://")]
    Address,
}

#[derive(Deserialize)]
struct Sent {
    issuer: String,
    jwks_uri: Option<Url>,
    token_endpoint: Option<Url>,
    introspection_endpoint: Option<Url>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_signing_alg_values_supported: Option<Vec<String>>,
}

/// Words of a list that are handed on.
const MOST_WORDS: usize = 50;

impl Metadata {
    /// # Errors
    /// [`MetadataError`] if it is not what an issuer of this name says of itself.
    pub(crate) fn parse(json: &[u8], issuer: &str) -> Result<Self, MetadataError> {
        let sent: Sent = serde_json::from_slice(json).map_err(|_| MetadataError::Shape)?;
        if sent.issuer != issuer {
            return Err(MetadataError::Issuer);
        }
        let fit = |address: Option<Url>| match address {
            Some(address) if !may_be_asked(&address) => Err(MetadataError::Address),
            address => Ok(address),
        };
        let words = |list: Option<Vec<String>>| {
            list.map(|list| list.into_iter().filter(|word| is_plain(word)).take(MOST_WORDS).collect())
        };
        Ok(Self {
            jwks_uri: fit(sent.jwks_uri)?,
            token_endpoint: fit(sent.token_endpoint)?,
            introspection_endpoint: fit(sent.introspection_endpoint)?,
            token_auth_methods: words(sent.token_endpoint_auth_methods_supported),
            token_auth_algorithms: words(sent.token_endpoint_auth_signing_alg_values_supported),
        })
    }
}

/// Whether what is sent to an address is for nobody on the way.
pub(crate) fn may_be_asked(address: &Url) -> bool {
    let is_private = address.scheme() == "https" || (address.scheme() == "http" && is_loopback(address));
    is_private && address.username().is_empty() && address.password().is_none() && address.fragment().is_none()
}

fn is_plain(word: &str) -> bool {
    word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Where an issuer's metadata may lie: after its name, or before the path of it (RFC 8414, section 3.1).
pub(crate) fn addresses(issuer: &Url) -> [Url; 2] {
    let path = issuer.path().trim_end_matches('/').to_owned();
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    [
        at(format!("{path}/.well-known/openid-configuration")),
        at(format!("/.well-known/oauth-authorization-server{path}")),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://login.example/realms/a";

    #[test]
    fn the_document_is_that_of_the_issuer_and_names_nothing_that_others_can_read() {
        let document = |change: serde_json::Value| {
            let mut document = json!({
                "issuer": ISSUER,
                "jwks_uri": "https://login.example/keys",
                "token_endpoint": "https://login.example/token",
                "token_endpoint_auth_methods_supported": ["private_key_jwt", "a b", "x\u{1}"],
                "more": { "than": ["is", "asked"] },
            });
            let document_members = document.as_object_mut().expect("an object");
            document_members.extend(change.as_object().expect("an object").clone());
            Metadata::parse(document.to_string().as_bytes(), ISSUER)
        };
        let good = document(json!({})).expect("a good document");
        assert_eq!(good.jwks_uri.map(String::from).as_deref(), Some("https://login.example/keys"));
        assert_eq!(good.token_auth_methods, Some(vec!["private_key_jwt".to_owned()]));
        assert_eq!((good.introspection_endpoint, good.token_auth_algorithms), (None, None));
        for (change, expected) in [
            (json!({ "issuer": "https://login.example/realms/a/" }), MetadataError::Issuer),
            (json!({ "issuer": "https://login.example/realms/b" }), MetadataError::Issuer),
            (json!({ "issuer": "HTTPS://login.example/realms/a" }), MetadataError::Issuer),
            (json!({ "issuer": null }), MetadataError::Shape),
            (json!({ "jwks_uri": "http://login.example/keys" }), MetadataError::Address),
            (json!({ "jwks_uri": "file:///etc/passwd" }), MetadataError::Address),
            (json!({ "token_endpoint": "https://a:b@login.example/" }), MetadataError::Address),
            (json!({ "introspection_endpoint": "http://10.0.0.1/" }), MetadataError::Address),
            (json!({ "jwks_uri": "keys" }), MetadataError::Shape),
        ] {
            assert_eq!(document(change.clone()).err(), Some(expected), "{change}");
        }
        assert!(document(json!({ "jwks_uri": "http://127.0.0.1:9/keys" })).is_ok());
        assert_eq!(Metadata::parse(b"[]", ISSUER).err(), Some(MetadataError::Shape));
        assert_eq!(Metadata::parse(b"<html>", ISSUER).err(), Some(MetadataError::Shape));
    }

    #[test]
    fn it_lies_in_one_of_two_places() {
        for (issuer, expected) in [
            (
                "https://a.example/realms/x",
                [
                    "https://a.example/realms/x/.well-known/openid-configuration",
                    "https://a.example/.well-known/oauth-authorization-server/realms/x",
                ],
            ),
            (
                "https://a.example/",
                [
                    "https://a.example/.well-known/openid-configuration",
                    "https://a.example/.well-known/oauth-authorization-server",
                ],
            ),
        ] {
            assert_eq!(addresses(&issuer.parse().expect("a URL")).map(String::from), expected);
        }
    }
}
