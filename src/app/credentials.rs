//! What searches show to the upstream, and by what its TLS is verified: from files and variables to what connections use.

use std::sync::Arc;

use anyhow::Context;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

use super::fingerprint::{Fingerprint, MadeOf};
use super::secrets;
use crate::clock::Clock;
use crate::config::{BackendConfig, BasicConfig, Config, SearchTlsConfig, UpstreamConfig};
use crate::smart::private_jwk::PrivateKey;
use crate::upstream::credentials::{Credentials, Kind, Place, TokenEndpoint, Tokens};
use crate::upstream::tls::{Authorities, Identity, SearchTls};

/// What of an upstream's credentials can be read anew while the process runs.
#[derive(Debug)]
pub(super) struct Rereadable {
    /// The base that they are for.
    base: Url,
    identity: Option<Arc<Identity>>,
    tls: SearchTls,
    made_of: MadeOf,
}

/// What searches are made with.
pub(super) struct Shown {
    pub(super) credentials: Credentials,
    pub(super) tls: SearchTls,
}

/// # Errors
/// If a file or a variable cannot be used.
pub(super) fn of_searches(upstream: &UpstreamConfig, clock: &Arc<dyn Clock>) -> anyhow::Result<Shown> {
    let tls = search_tls(&upstream.tls)?;
    let base = upstream.searched();
    let kind = kind(upstream, &tls, clock)?;
    let credentials = Credentials::new(base, kind).context("could not read the origin of the upstream's base URL")?;
    Ok(Shown { credentials, tls })
}

/// Authorities for requests that pass through (SEC-01: and nothing of ours).
///
/// # Errors
/// If the file cannot be used.
pub(super) fn of_pass_through(upstream: &UpstreamConfig) -> anyhow::Result<Authorities> {
    authorities(upstream.pass_through_tls.ca_file.as_deref()).context("upstream.pass_through_tls.ca_file")
}

/// Finds what is wrong with the files and variables that a configuration names.
///
/// # Errors
/// The first thing that is.
pub(super) fn check(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<()> {
    of_searches(&config.upstream, clock)?;
    of_pass_through(&config.upstream)?;
    Ok(())
}

impl Rereadable {
    pub(super) fn new(upstream: &UpstreamConfig, tls: &SearchTls) -> Self {
        let made_of = MadeOf::new(fingerprint(upstream).ok());
        Self { base: upstream.searched().clone(), identity: tls.identity.clone(), tls: tls.clone(), made_of }
    }

    /// Reads everything anew that a configuration names now. Searches show it from the next one on, connections from when
    /// they are made.
    ///
    /// # Errors
    /// If something cannot be used: then all stays as it was.
    pub(super) fn reread(
        &self,
        upstream: &UpstreamConfig,
        credentials: &Credentials,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<()> {
        // They would go to a server that they are not meant for.
        anyhow::ensure!(
            *upstream.searched() == self.base,
            "the upstream's base URL is another one than at the start, which only a restart can change"
        );
        let now = fingerprint(upstream)?;
        // A token that is good stays so: nobody is asked for another one.
        if self.made_of.is(now) {
            return Ok(());
        }
        let new = search_tls(&upstream.tls)?;
        let kind = kind(upstream, &self.tls, clock)?;
        match (&self.identity, &new.identity) {
            (Some(shown), Some(new)) => shown.replace(new),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                anyhow::bail!(
                    "upstream.tls.client_cert_file is there or not as at the start: only a restart can change that"
                )
            }
        }
        credentials.replace(kind);
        self.made_of.set(now);
        Ok(())
    }
}

/// Of all that searches show.
fn fingerprint(upstream: &UpstreamConfig) -> anyhow::Result<Fingerprint> {
    let credentials = &upstream.credentials;
    let mut files = Vec::new();
    if let Some(basic) = &credentials.basic {
        files.push(secrets::read(&basic.password().context("needs either password_file or password_env")?)?);
    }
    if let Some(smart) = &credentials.smart {
        files.push(secrets::file(&smart.key_file)?);
    }
    for source in credentials.headers.values() {
        files.push(secrets::read(source)?);
    }
    if let (Some(certificate), Some(key)) = (&upstream.tls.client_cert_file, &upstream.tls.client_key_file) {
        files.extend([secrets::public_file(certificate)?, secrets::file(key)?]);
    }
    Fingerprint::of(&(credentials, &upstream.tls), &files)
}

fn search_tls(tls: &SearchTlsConfig) -> anyhow::Result<SearchTls> {
    let authorities = authorities(tls.ca_file.as_deref()).context("upstream.tls.ca_file")?;
    let identity = match (&tls.client_cert_file, &tls.client_key_file) {
        (Some(certificate), Some(key)) => {
            let context = "upstream.tls.client_cert_file";
            let chain = secrets::public_file(certificate).context(context)?;
            let key = secrets::file(key).context("upstream.tls.client_key_file")?;
            let identity = Identity::from_pem(&chain, &key);
            Some(Arc::new(identity.with_context(|| format!("{context} {} or its key", certificate.display()))?))
        }
        _ => None,
    };
    Ok(SearchTls { authorities, identity })
}

fn authorities(file: Option<&std::path::Path>) -> anyhow::Result<Authorities> {
    let Some(path) = file else { return Ok(Authorities::default()) };
    let pem = secrets::public_file(path)?;
    Authorities::from_pem(&pem).with_context(|| path.display().to_string())
}

fn kind(upstream: &UpstreamConfig, tls: &SearchTls, clock: &Arc<dyn Clock>) -> anyhow::Result<Kind> {
    let credentials = &upstream.credentials;
    if let Some(basic) = &credentials.basic {
        let value = basic_value(basic).context("upstream.credentials.basic")?;
        return Ok(Kind::Headers(Arc::new(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))));
    }
    if let Some(smart) = &credentials.smart {
        let tokens = tokens(smart, upstream.searched(), tls, clock).context("upstream.credentials.smart")?;
        return Ok(Kind::Tokens(tokens));
    }
    if credentials.headers.is_empty() {
        return Ok(Kind::Nothing);
    }
    let mut headers = HeaderMap::new();
    for (name, source) in &credentials.headers {
        let context = || format!("upstream.credentials.headers.{name}");
        let value = secrets::read(source).and_then(|secret| secret_value(&secret)).with_context(context)?;
        headers.insert(HeaderName::from_bytes(name.as_bytes()).with_context(context)?, value);
    }
    Ok(Kind::Headers(Arc::new(headers)))
}

fn basic_value(basic: &BasicConfig) -> anyhow::Result<HeaderValue> {
    let source = basic.password().context("needs either password_file or password_env")?;
    let pair = [basic.username.as_bytes(), b":", &secrets::read(&source)?].concat();
    secret_value(format!("Basic {}", BASE64_STANDARD.encode(pair)).as_bytes())
}

fn secret_value(secret: &[u8]) -> anyhow::Result<HeaderValue> {
    let value = HeaderValue::from_bytes(secret);
    // The library's error could not be more exact without showing it.
    let mut value =
        value.map_err(|_| anyhow::anyhow!("holds a line's end or another character that no header can have"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn tokens(smart: &BackendConfig, base: &Url, tls: &SearchTls, clock: &Arc<dyn Clock>) -> anyhow::Result<Tokens> {
    let jwk = secrets::file(&smart.key_file).context("key_file")?;
    let key = PrivateKey::parse(&jwk).with_context(|| format!("key_file {}", smart.key_file.display()))?;
    let place = match &smart.token_endpoint {
        Some(endpoint) => Place::Given(endpoint.as_str().to_owned()),
        None => Place::Discovered,
    };
    let (client_id, scope, base) = (smart.client_id.clone(), smart.scope.clone(), base.clone());
    let endpoint = TokenEndpoint::new(place, base, tls, client_id, key, scope, Arc::clone(clock));
    Ok(Tokens::new(endpoint.context("could not set up connections to the token endpoint")?, Arc::clone(clock)))
}
