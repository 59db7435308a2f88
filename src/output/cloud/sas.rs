//! Shared access signatures of Azure for one blob, by the account's key or by one that is lent to an identity.
//!
//! `object_store` makes such signatures too, but neither binds them to TLS nor to addresses. What is signed is laid down
//! in "Create a service SAS" and "Create a user delegation SAS" of Azure's REST reference, for version 2020-12-06 and later.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode, header};
use object_store::azure::{AzureCredential, AzureCredentialProvider};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::Signer;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use crate::clock::{self, SystemClock};
use crate::fhir::datatypes::Millis;

/// The version of the service that signatures and requests name.
const VERSION: &str = "2023-11-03";
/// Clocks of the service may be behind ours by so much.
const SKEW: Duration = Duration::from_mins(5);
/// A lent key is asked for so much longer than it is needed for, so that other links can be signed with it.
const LENT_BESIDES: Duration = Duration::from_hours(6);
/// And never for longer than this from now, which is what Azure allows but for the skew.
const LENT_AT_MOST: Duration = Duration::from_hours(7 * 24 - 1);
/// Bytes of the answer that lends a key.
const LONGEST: usize = 64 * 1024;

/// Signs links to the blobs of one container.
#[derive(Debug)]
pub(super) struct SasSigner {
    /// The container as clients see it.
    container: Url,
    /// What a signature calls it: `/blob/ACCOUNT/CONTAINER`.
    canonical: String,
    key: Key,
    /// From where links can be used: an IPv4 address, or a range of them.
    addresses: Option<String>,
}

/// What signs.
#[derive(Debug)]
enum Key {
    Account(Secret),
    Lent(Lender),
}

/// What signs one link.
#[derive(Clone, Copy)]
enum By<'a> {
    Account(&'a Secret),
    Lent(&'a Lent),
}

/// A key as it signs. Never shown.
struct Secret(Box<hmac::Key>);

/// Asks Azure for keys, for an identity that has none.
pub(super) struct Lender {
    http: HttpClient,
    /// The account's own address, as we use it.
    service: Url,
    identity: AzureCredentialProvider,
    /// The latest one. Held while it is asked for: all who sign need the same.
    lent: Mutex<Option<Arc<Lent>>>,
}

/// A key that Azure has lent.
struct Lent {
    key: Secret,
    until: Millis,
    says: DelegationKey,
}

/// How Azure lends a key.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DelegationKey {
    signed_oid: String,
    signed_tid: String,
    signed_start: String,
    signed_expiry: String,
    signed_service: String,
    signed_version: String,
    value: String,
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
enum SasError {
    #[error("the account's key is no base64")]
    Key,
    #[error("Azure did not answer when asked for a key to sign with")]
    NoAnswer,
    #[error("Azure lends no key to sign with: {0}")]
    Refused(StatusCode),
    #[error("Azure's answer is no key to sign with")]
    Content,
    #[error("the identity shows no token")]
    Identity,
    #[error("only GET is signed for")]
    Method,
}

impl From<SasError> for object_store::Error {
    fn from(error: SasError) -> Self {
        Self::Generic { store: "azure", source: Box::new(error) }
    }
}

impl Secret {
    fn of(base64: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(base64.trim()).ok()?;
        Some(Self(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lender")
    }
}

impl Lender {
    pub(super) fn new(http: HttpClient, service: Url, identity: AzureCredentialProvider) -> Self {
        Self { http, service, identity, lent: Mutex::new(None) }
    }

    /// A key that is good until `until` at least.
    async fn key(&self, now: Millis, until: Millis) -> Result<Arc<Lent>, SasError> {
        let mut latest = self.lent.lock().await;
        if let Some(lent) = latest.as_ref().filter(|lent| lent.until >= until) {
            return Ok(Arc::clone(lent));
        }
        let until = until.saturating_add(LENT_BESIDES).min(now.saturating_add(LENT_AT_MOST)).max(until);
        let lent = Arc::new(self.ask(now, until).await?);
        *latest = Some(Arc::clone(&lent));
        Ok(lent)
    }

    async fn ask(&self, now: Millis, until: Millis) -> Result<Lent, SasError> {
        let identity = self.identity.get_credential().await.map_err(|_| SasError::Identity)?;
        let AzureCredential::BearerToken(token) = &*identity else { return Err(SasError::Identity) };
        let mut url = self.service.clone();
        url.query_pairs_mut().append_pair("restype", "service").append_pair("comp", "userdelegationkey");
        let (start, expiry) = (time(earlier(now)), time(until));
        let info = format!("<KeyInfo><Start>{start}</Start><Expiry>{expiry}</Expiry></KeyInfo>");
        let request = Request::post(url.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/xml")
            .header("x-ms-date", date(now))
            .header("x-ms-version", VERSION);
        let request = request.body(HttpRequestBody::from(info)).map_err(|_| SasError::Identity)?;
        let answer = self.http.execute(request).await.map_err(|_| SasError::NoAnswer)?;
        if answer.status() != StatusCode::OK {
            return Err(SasError::Refused(answer.status()));
        }
        let mut body = answer.into_body().bytes_stream();
        let mut text = Vec::new();
        while let Some(piece) = body.next().await {
            text.extend_from_slice(&piece.map_err(|_| SasError::NoAnswer)?);
            if text.len() > LONGEST {
                return Err(SasError::Content);
            }
        }
        let says: DelegationKey = quick_xml::de::from_reader(&*text).map_err(|_| SasError::Content)?;
        let key = Secret::of(&says.value).ok_or(SasError::Content)?;
        // It may be lent for less than was asked for.
        let told = chrono::DateTime::parse_from_rfc3339(&says.signed_expiry).map_err(|_| SasError::Content)?;
        Ok(Lent { key, until: Millis(told.timestamp_millis()), says })
    }
}

impl SasSigner {
    /// `account_key` is base64; `container` is the address of the container.
    ///
    /// # Errors
    /// If the key is none.
    pub(super) fn by_key(names: Names<'_>, account_key: &str) -> object_store::Result<Self> {
        let key = Secret::of(account_key).ok_or(SasError::Key)?;
        Ok(Self::new(names, Key::Account(key)))
    }

    pub(super) fn by_identity(names: Names<'_>, lender: Lender) -> Self {
        Self::new(names, Key::Lent(lender))
    }

    fn new(Names { account, bucket, container, addresses }: Names<'_>, key: Key) -> Self {
        Self { container, canonical: format!("/blob/{account}/{bucket}"), key, addresses: addresses.cloned() }
    }

    async fn sign(&self, path: &Path, now: Millis, lifetime: Duration) -> Result<Url, SasError> {
        let (start, until) = (time(earlier(now)), now.saturating_add(lifetime));
        Ok(match &self.key {
            Key::Account(key) => self.signed(path, &start, &time(until), By::Account(key)),
            Key::Lent(lender) => {
                let lent = lender.key(now, until).await?;
                // A link never outlives what signed it, whatever was asked for.
                self.signed(path, &start, &time(until.min(lent.until)), By::Lent(&lent))
            }
        })
    }

    /// The link, from the times as they are written.
    fn signed(&self, path: &Path, start: &str, expiry: &str, by: By<'_>) -> Url {
        let resource = format!("{}/{path}", self.canonical);
        let addresses = self.addresses.as_deref().unwrap_or_default();
        // Anything but TLS is for emulators on this machine.
        let protocol = if self.container.scheme() == "https" { "https" } else { "https,http" };
        let mut lines = vec!["r", start, expiry, &resource];
        let Secret(key) = match by {
            By::Account(key) => {
                lines.push(""); // no stored policy
                key
            }
            By::Lent(Lent { key, says, .. }) => {
                lines.extend([&*says.signed_oid, &says.signed_tid, &says.signed_start, &says.signed_expiry]);
                // Nobody in particular is authorized, nobody is kept out, and nothing is correlated.
                lines.extend([&*says.signed_service, &says.signed_version, "", "", ""]);
                key
            }
        };
        // Of one blob; no snapshot, no scope of encryption, and no header of the answer is overridden.
        lines.extend([addresses, protocol, VERSION, "b", "", "", "", "", "", "", ""]);
        let signature = hmac::sign(key, lines.join("\n").as_bytes());
        let mut url = self.container.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.parts().map(|part| part.as_ref().to_owned()));
        }
        {
            let mut query = url.query_pairs_mut();
            let known = [("sv", VERSION), ("sp", "r"), ("st", start), ("se", expiry), ("sr", "b"), ("spr", protocol)];
            query.extend_pairs(known);
            if !addresses.is_empty() {
                query.append_pair("sip", addresses);
            }
            if let By::Lent(Lent { says, .. }) = by {
                query
                    .append_pair("skoid", &says.signed_oid)
                    .append_pair("sktid", &says.signed_tid)
                    .append_pair("skt", &says.signed_start)
                    .append_pair("ske", &says.signed_expiry)
                    .append_pair("sks", &says.signed_service)
                    .append_pair("skv", &says.signed_version);
            }
            query.append_pair("sig", &BASE64_STANDARD.encode(signature));
        }
        url
    }
}

/// What a container is called.
#[derive(Clone)]
pub(super) struct Names<'a> {
    pub(super) account: &'a str,
    pub(super) bucket: &'a str,
    /// Its address as clients see it.
    pub(super) container: Url,
    /// From where links can be used.
    pub(super) addresses: Option<&'a String>,
}

#[async_trait]
impl Signer for SasSigner {
    async fn signed_url(&self, method: Method, path: &Path, expires_in: Duration) -> object_store::Result<Url> {
        if method != Method::GET {
            return Err(SasError::Method.into());
        }
        Ok(self.sign(path, clock::now(&SystemClock), expires_in).await?)
    }
}

fn earlier(now: Millis) -> Millis {
    Millis(now.0.saturating_sub(i64::try_from(SKEW.as_millis()).unwrap_or(0)))
}

fn at(time: Millis) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_millis(time.0).unwrap_or_default()
}

/// As signatures write it: in whole seconds, of which a part is cut off.
fn time(time: Millis) -> String {
    at(time).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// As headers write it.
fn date(time: Millis) -> String {
    at(time).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::azure::MicrosoftAzureBuilder;

    use super::*;

    const ACCOUNT_KEY: &str = "c2VjcmV0";

    fn signer(container: &str, addresses: Option<&str>) -> SasSigner {
        let container = container.parse().expect("a URL");
        let addresses = addresses.map(str::to_owned);
        let names = Names { account: "acme", bucket: "bulk", container, addresses: addresses.as_ref() };
        SasSigner::by_key(names, ACCOUNT_KEY).expect("a key")
    }

    fn query(url: &Url) -> BTreeMap<String, String> {
        url.query_pairs().into_owned().collect()
    }

    /// What `object_store` signs is what we sign, where neither binds it to anything.
    #[tokio::test]
    async fn the_signature_is_that_of_others_but_for_what_binds_it() {
        let path = Path::from("exports/0a/Patient-00001.1.ndjson");
        let builder = MicrosoftAzureBuilder::new().with_account("acme").with_access_key(ACCOUNT_KEY);
        let theirs = builder.with_container_name("bulk").build().expect("it can be set up");
        let theirs = theirs.signed_url(Method::GET, &path, Duration::from_mins(5)).await.expect("a link");
        let ours = signer("https://acme.blob.core.windows.net/bulk", None);
        let of = query(&theirs);
        let Key::Account(key) = &ours.key else { panic!("it signs by the account's key") };
        let url = ours.signed(&path, &of["st"], &of["se"], By::Account(key));
        assert_eq!(&url[..url::Position::AfterPath], &theirs[..url::Position::AfterPath]);
        let lines = ["r", &of["st"], &of["se"], "/blob/acme/bulk/exports/0a/Patient-00001.1.ndjson", ""];
        let rest = |protocol| ["", protocol, VERSION, "b", "", "", "", "", "", "", ""];
        let signature = |protocol| {
            let text = lines.iter().copied().chain(rest(protocol)).collect::<Vec<_>>().join("\n");
            BASE64_STANDARD.encode(hmac::sign(&key.0, text.as_bytes()))
        };
        assert_eq!(of["sig"], signature(""), "theirs is bound to nothing");
        assert_eq!((query(&url)["sig"].as_str(), query(&url)["spr"].as_str()), (&*signature("https"), "https"));
    }

    #[tokio::test]
    async fn a_link_is_bound_to_tls_and_to_addresses() {
        let path = Path::from("a/b.ndjson");
        let lifetime = Duration::from_hours(1);
        let now = Millis(1_800_000_000_999);
        for (container, addresses, protocol) in [
            ("https://acme.blob.core.windows.net/bulk", None, "https"),
            ("https://acme.blob.core.windows.net/bulk", Some("10.0.0.0-10.0.0.255"), "https"),
            ("http://127.0.0.1:10000/acme/bulk", Some("127.0.0.1"), "https,http"),
        ] {
            let url = signer(container, addresses).sign(&path, now, lifetime).await.expect("a link");
            let said = query(&url);
            assert!(url.as_str().starts_with(&format!("{container}/a/b.ndjson?")), "{url}");
            assert_eq!((said["spr"].as_str(), said.get("sip").map(String::as_str)), (protocol, addresses));
            let times = (said["st"].as_str(), said["se"].as_str());
            assert_eq!(times, ("2027-01-15T07:55:00Z", "2027-01-15T09:00:00Z"), "whole seconds");
        }
        let good = signer("https://acme.blob.core.windows.net/bulk", None);
        assert!(good.signed_url(Method::PUT, &path, lifetime).await.is_err(), "only GET is signed for");
    }

    #[test]
    fn a_key_that_is_none_is_told_at_once() {
        let container: Url = "https://acme.blob.core.windows.net/bulk".parse().expect("a URL");
        let names = Names { account: "acme", bucket: "bulk", container, addresses: None };
        assert!(SasSigner::by_key(names, "no base64!").is_err());
    }
}
