//! An external issuer of a configuration: how its tokens are verified.

use std::sync::Arc;

use anyhow::Context;
use url::Url;

use crate::app::secrets;
use crate::clock::Clock;
use crate::config::{ClaimsConfig, Config, IntrospectionConfig, IssuerConfig, SecretSource};
use crate::smart::external::claims::Rules;
use crate::smart::external::introspection::{Credential, Introspection};
use crate::smart::external::{Issuer, Verifier, Way};
use crate::smart::fetch::Fetcher;
use crate::smart::private_jwk::PrivateKey;

/// Tells whoever starts it what opens us to tokens that were issued for somebody else.
pub(super) fn warn(options: &IssuerConfig, base: &str) {
    let base = base.trim_end_matches('/');
    if let Some(audience) = options.audience.as_deref().filter(|audience| *audience != base) {
        tracing::warn!(
            audience,
            "smart.issuer.audience is not {base}: whoever gets tokens of the issuer for what bears that name can show them here"
        );
    }
    if options.claims.client != ClaimsConfig::default().client {
        tracing::warn!(
            claims = options.claims.client.join(", "),
            "smart.issuer.claims.client is set: whoever can have the issuer write what they like into such a claim passes for \
             any client"
        );
    }
}

/// What verifies the tokens of the issuer that a configuration names, for a server at `base`. It is not asked yet.
///
/// # Errors
/// If the file of our secret cannot be read, or lies open to others, or TLS cannot be set up.
pub(in crate::app) fn verifier(config: &Config, base: &str, clock: &Arc<dyn Clock>) -> anyhow::Result<Verifier> {
    let options = &config.smart.issuer;
    let name = options.issuer.clone().context("smart.issuer.issuer is not set")?;
    let url: Url = name.parse().context("smart.issuer.issuer is no URL")?;
    let rules = Rules {
        issuer: name,
        audience: options.audience.clone().unwrap_or_else(|| base.trim_end_matches('/').to_owned()),
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
    if let Some(file) = &introspection.key_file {
        let context = || format!("smart.issuer.introspection.key_file {} cannot be used", file.display());
        let key = PrivateKey::parse(&secrets::file(file).with_context(context)?).with_context(context)?;
        let credential =
            Credential::Key { client_id: client_id.to_owned(), key, audience: introspection.audience.clone() };
        let introspection = Box::new(Introspection::new(credential, Arc::clone(clock)));
        return Ok(Way::Asking { endpoint: options.introspection.endpoint.clone(), introspection });
    }
    let file = introspection.client_secret_file.as_deref();
    let file = file.context("smart.issuer.introspection.client_secret_file is not set")?;
    let context = || format!("smart.issuer.introspection.client_secret_file {} cannot be read", file.display());
    let secret = secrets::read(&SecretSource::File(file.to_owned())).with_context(context)?;
    // The library's error would show it.
    let secret = String::from_utf8(secret).map_err(|_| anyhow::anyhow!("it is not UTF-8")).with_context(context)?;
    let credential = Credential::secret(client_id, &secret).with_context(context)?;
    let introspection = Box::new(Introspection::new(credential, Arc::clone(clock)));
    Ok(Way::Asking { endpoint: options.introspection.endpoint.clone(), introspection })
}
