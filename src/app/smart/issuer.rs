//! An external issuer of a configuration: how its tokens are verified.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use url::Url;

use crate::clock::Clock;
use crate::config::{Config, IntrospectionConfig, IssuerConfig};
use crate::smart::external::claims::Rules;
use crate::smart::external::introspection::{Credential, Introspection};
use crate::smart::external::{Issuer, Verifier, Way};
use crate::smart::fetch::Fetcher;

/// Longest secret in a file.
const MOST_SECRET_BYTES: u64 = 4 * 1024;

/// What verifies the tokens of the issuer that a configuration names. It is not asked yet.
///
/// # Errors
/// If the file of our secret cannot be read, or TLS cannot be set up.
pub(in crate::app) fn verifier(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Verifier> {
    let options = &config.smart.issuer;
    let name = options.issuer.clone().context("smart.issuer.issuer is not set")?;
    let url: Url = name.parse().context("smart.issuer.issuer is no URL")?;
    let base = config.server.bulk_base();
    let base = base.as_str().trim_end_matches('/');
    let rules = Rules {
        issuer: name,
        audience: options.audience.clone().unwrap_or_else(|| base.to_owned()),
        client: options.claims.client.clone(),
        scope: options.claims.scope.clone(),
        scope_map: options.scope_map.clone(),
        required: options.claims.required.clone(),
    };
    let way = way(options, clock)?;
    let has_https = url.scheme() == "https" || options.addresses().any(|address| address.scheme() == "https");
    let fetcher = Fetcher::new(Arc::clone(clock), config.smart.private_hosts(), has_https);
    let fetcher = fetcher.context("could not set up connections to smart.issuer")?;
    let issuer = Issuer { rules, url, token_endpoint: options.token_endpoint.clone(), way };
    Ok(Verifier::new(issuer, fetcher, Arc::clone(clock)))
}

fn way(options: &IssuerConfig, clock: &Arc<dyn Clock>) -> anyhow::Result<Way> {
    let introspection = &options.introspection;
    if *introspection == IntrospectionConfig::default() {
        return Ok(Way::Keys { accepted: options.accepted(), jwks_uri: options.jwks_uri.clone() });
    }
    let client_id = introspection.client_id.as_deref().context("smart.issuer.introspection.client_id is not set")?;
    let file = introspection.client_secret_file.as_deref();
    let file = file.context("smart.issuer.introspection.client_secret_file is not set")?;
    let context = || format!("smart.issuer.introspection.client_secret_file {} cannot be read", file.display());
    let secret = secret(file).with_context(context)?;
    let credential = Credential::secret(client_id, &secret).with_context(context)?;
    let introspection = Introspection::new(credential, Arc::clone(clock));
    Ok(Way::Asking { endpoint: options.introspection.endpoint.clone(), introspection })
}

/// What a file holds, without the end of its last line.
fn secret(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(MOST_SECRET_BYTES).read_to_string(&mut text)?;
    let secret = text.trim_end_matches(['\r', '\n']);
    anyhow::ensure!(!secret.is_empty(), "it is empty");
    Ok(secret.to_owned())
}
