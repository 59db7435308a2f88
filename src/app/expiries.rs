//! What of a configuration expires, and when (SEC-44): read at the start and at SIGHUP, as that which is in use is, and told of
//! once a day.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::keys::{LINK_KEY, LINK_KEY_LIFETIME, kept_link_keys};
use super::secrets;
use super::smart::{TOKEN_KEYS, kept_token_keys};
use crate::clock::{self, Clock};
use crate::config::{ClientConfig, Config, Location, PassThroughMode, SecretSource, SmartMode};
use crate::doctor::expiries as doctor;
use crate::expiry::{Expiring, Outlook, Renewal, Told, credentials, earliest, latest, x509};
use crate::fhir::datatypes::Millis;

/// How often it is looked what is to be told.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// What expires, for as long as the process runs. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Expiries {
    known: Arc<Mutex<Known>>,
    /// The folder that our own keys are kept in, if there is one.
    state: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Known {
    /// What we or the platform replace is looked at anew by this one.
    config: Option<Config>,
    /// How old the keys of tokens may get: what they are watched by.
    token_key_lifetime: Duration,
    /// Those whom we trust.
    fixed: BTreeMap<String, Millis>,
    /// What SIGHUP reads anew.
    replaceable: BTreeMap<String, Millis>,
    told: Told,
}

impl Expiries {
    /// What a configuration names at the start.
    pub(super) fn new(config: &Config, state: Option<&Path>) -> Self {
        let known = Known {
            config: Some(config.clone()),
            token_key_lifetime: config.smart.token_key_lifetime,
            fixed: read(authorities(config), &BTreeMap::new()),
            replaceable: read(replaceable(config), &BTreeMap::new()),
            told: Told::default(),
        };
        Self { known: Arc::new(Mutex::new(known)), state: state.map(Path::to_owned) }
    }

    /// Takes up what a configuration names now of what can be replaced without a restart.
    pub(super) fn reread(&self, config: &Config, now: Millis) {
        let before = self.known.lock().unwrap_or_else(PoisonError::into_inner).replaceable.clone();
        let replaceable = read(replaceable(config), &before);
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.replaceable = replaceable;
            known.config = Some(config.clone());
        }
        self.tell(now);
    }

    /// By this configuration the keys of tokens are watched from now on.
    pub(super) fn watched_by(&self, config: &Config) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.token_key_lifetime = config.smart.token_key_lifetime;
    }

    /// All that is known to expire, in the order of its names.
    pub(super) fn list(&self) -> Vec<Expiring> {
        let (mut all, config, lifetime) = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let by_hand = |(what, when): (&String, &Millis)| Expiring {
                what: what.clone(),
                when: *when,
                renewal: Renewal::ByHand,
            };
            let given: Vec<_> = known.fixed.iter().chain(&known.replaceable).map(by_hand).collect();
            (given, known.config.clone(), known.token_key_lifetime)
        };
        // Nobody is kept waiting by a disk that hangs.
        all.extend(config.iter().flat_map(|config| renewed(config, lifetime, self.state.as_deref())));
        all.sort_by(|one, other| one.what.cmp(&other.what));
        all
    }

    /// Tells of what is due, for as long as it is polled.
    pub(super) async fn watch(self, clock: Arc<dyn Clock>) {
        loop {
            let (own, now) = (self.clone(), clock::now(&*clock));
            let _told = tokio::task::spawn_blocking(move || own.tell(now)).await;
            clock.sleep(LOOK_EVERY).await;
        }
    }

    fn tell(&self, now: Millis) {
        let all = self.list();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (expiring, outlook) in known.told.news(&all, now) {
            let Expiring { what, when, renewal } = expiring;
            match (outlook, renewal) {
                (Outlook::Over, Renewal::ByHand) => tracing::error!(what, %when, "this HAS EXPIRED: replace it"),
                (_, Renewal::ByHand) => tracing::warn!(what, %when, "this {outlook}: replace it in time"),
                (_, Renewal::ByItself) => {
                    tracing::error!(what, %when, "this should have been replaced by itself, and was not");
                }
            }
        }
    }
}

/// The same for a configuration that nobody serves.
pub(super) fn examine(config: &Config, now: Millis) -> doctor::Expiries {
    doctor::Expiries { known: Expiries::new(config, Some(&config.store.path)).list(), now }
}

/// One thing, and its end if it has one.
type Found = (String, anyhow::Result<Option<Millis>>);

/// What cannot be read now is in use as it was `before`: others tell of that.
fn read(found: Vec<Found>, before: &BTreeMap<String, Millis>) -> BTreeMap<String, Millis> {
    let end = |(what, end): Found| {
        let end = end.unwrap_or_else(|_| before.get(&what).copied())?;
        Some((what, end))
    };
    found.into_iter().filter_map(end).collect()
}

/// Those whom we trust, which only a restart replaces.
fn authorities(config: &Config) -> Vec<Found> {
    let Config { upstream, output, .. } = config;
    let of_pass_through = upstream.pass_through_tls.ca_file.as_deref();
    let of_pass_through = of_pass_through.filter(|_| config.server.pass_through == PassThroughMode::Forward);
    let files = [
        ("upstream.tls.ca_file", upstream.tls.ca_file.as_deref()),
        ("upstream.pass_through_tls.ca_file", of_pass_through),
        ("output.http.ca_file", output.http.ca_file.as_deref()),
    ];
    let mut found: Vec<Found> = files.map(|(what, file)| (what.to_owned(), file.map_or(Ok(None), trusted))).into();
    if matches!(output.place(), Ok(Location::Azure(_))) {
        found.push(("output.azure.sas_token_file".to_owned(), signature(output.azure.sas_token_file.as_deref())));
    }
    found
}

/// What SIGHUP reads anew.
fn replaceable(config: &Config) -> Vec<Found> {
    let Config { upstream, smart, .. } = config;
    let own = upstream.tls.client_cert_file.as_deref().map_or(Ok(None), chain);
    let mut found = vec![("upstream.tls.client_cert_file".to_owned(), own)];
    if let Some(backend) = &upstream.credentials.smart {
        found.push(("upstream.credentials.smart.key_file".to_owned(), private_jwk(&backend.key_file)));
    }
    for (name, source) in &upstream.credentials.headers {
        found.push((format!("upstream.credentials.headers.{name}"), token(source)));
    }
    if let Some(file) = smart.issuer.introspection.key_file.as_deref().filter(|_| smart.mode == SmartMode::External) {
        found.push(("smart.issuer.introspection.key_file".to_owned(), private_jwk(file)));
    }
    if smart.mode == SmartMode::AuthorizationServer {
        found.extend(smart.clients.iter().enumerate().filter_map(|(number, client)| {
            let (option, end) = client_keys(client)?;
            Some((format!("smart.clients[{number}].{option}"), end))
        }));
    }
    found
}

/// What we or the platform replace, as it is in its files now.
fn renewed(config: &Config, token_key_lifetime: Duration, state: Option<&Path>) -> Vec<Expiring> {
    let by_itself = |what: &str, when| Expiring { what: what.to_owned(), when, renewal: Renewal::ByItself };
    let mut found = Vec::new();
    if let Some(state) = state {
        // It is looked every hour whether they are too old: what is due now is no failure yet.
        let due = |created: Millis, lifetime: Duration| {
            created.saturating_add(lifetime).saturating_add(LOOK_EVERY).saturating_add(LOOK_EVERY)
        };
        if let Some(created) = kept_link_keys(state).ok().flatten().and_then(|keys| keys.created()) {
            let created = Millis(i64::try_from(created).unwrap_or(i64::MAX).saturating_mul(1_000));
            found.push(by_itself(LINK_KEY, due(created, LINK_KEY_LIFETIME)));
        }
        if config.smart.mode == SmartMode::AuthorizationServer
            && let Some(keys) = kept_token_keys(state).ok().flatten()
        {
            found.push(by_itself(TOKEN_KEYS, due(keys.created(), token_key_lifetime)));
        }
    }
    let federated = config.output.azure.federated_token_file.as_deref();
    let federated = federated.filter(|_| matches!(config.output.place(), Ok(Location::Azure(_))));
    let end = federated.and_then(|file| secrets::public_file(file).ok()).and_then(|token| of_token(&token));
    found.extend(end.map(|end| by_itself("output.azure.federated_token_file", end)));
    found
}

/// The ends of several certificates in PEM.
fn certificates(file: &Path) -> anyhow::Result<Vec<Option<Millis>>> {
    let pem = secrets::public_file(file)?;
    let end = |certificate: Result<CertificateDer<'_>, _>| Ok(x509::not_after(&certificate.context("is no PEM")?)?);
    CertificateDer::pem_slice_iter(&pem).map(end).collect()
}

/// The last end of those of whom one is enough.
fn trusted(file: &Path) -> anyhow::Result<Option<Millis>> {
    Ok(latest(certificates(file)?))
}

/// The first end of a chain, which needs them all.
fn chain(file: &Path) -> anyhow::Result<Option<Millis>> {
    Ok(earliest(certificates(file)?.into_iter().flatten()))
}

fn signature(file: Option<&Path>) -> anyhow::Result<Option<Millis>> {
    let Some(file) = file else { return Ok(None) };
    Ok(credentials::of_sas(&String::from_utf8_lossy(&secrets::public_file(file)?)))
}

fn private_jwk(file: &Path) -> anyhow::Result<Option<Millis>> {
    Ok(credentials::of_jwks(&serde_json::from_slice(&secrets::file(file)?).context("is no JSON")?))
}

fn token(source: &SecretSource) -> anyhow::Result<Option<Millis>> {
    Ok(of_token(&secrets::read(source)?))
}

fn of_token(token: &[u8]) -> Option<Millis> {
    credentials::of_jwt(std::str::from_utf8(token).ok()?)
}

/// Keys that a client has given us. Those at its `jwks_uri` it replaces itself.
fn client_keys(client: &ClientConfig) -> Option<(&'static str, anyhow::Result<Option<Millis>>)> {
    if let Some(jwks) = &client.jwks {
        return Some(("jwks", Ok(credentials::of_jwks(jwks))));
    }
    let file = client.jwks_file.as_deref()?;
    let end = secrets::public_file(file).and_then(|json| {
        let jwks: Value = serde_json::from_slice(&json).context("is no JSON")?;
        Ok(credentials::of_jwks(&jwks))
    });
    Some(("jwks_file", end))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::super::keys::keep;
    use super::*;
    use crate::output::signing::LinkKeys;

    const LEAST: &str = "server: { public_base_url: https://fhir.example/fhir }\n";

    fn certificate(year: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("it signs itself").pem()
    }

    fn ends(known: &Expiries) -> Vec<(String, String)> {
        known.list().into_iter().map(|expiring| (expiring.what, expiring.when.to_string()[..10].to_owned())).collect()
    }

    /// SEC-44: all of them, by the names of their options.
    #[test]
    fn all_that_expires_is_found_and_what_is_replaced_is_found_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            std::fs::write(at(name), text).expect("the disk takes it");
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o600)).expect("it is ours");
        };
        write("ca.pem", &format!("{}{}", certificate(2040), certificate(2035)));
        write("own.pem", &certificate(2030));
        write("storage.pem", &certificate(2036));
        write("sas", "sv=1&se=2031-01-01&sig=s3cret");
        write("federated", &jwt(1_924_992_000));
        write("token", &format!("Bearer {}\n", jwt(1_893_456_000)));
        let der = CertificateDer::from_pem_slice(certificate(2032).as_bytes()).expect("a certificate");
        let x5c = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, der);
        write("jwks", &json!({ "keys": [{ "kty": "RSA", "x5c": [x5c] }] }).to_string());
        let yaml = format!(
            "{LEAST}upstream: {{ base_url: https://h/fhir, tls: {{ ca_file: {ca}, client_cert_file: {own}, client_key_file: {own} }}, \
             pass_through_tls: {{ ca_file: {ca} }}, credentials: {{ headers: {{ authorization: {{ file: {token} }} }} }} }}\n\
             output: {{ location: 'az://c', links: proxy, azure: {{ account_name: a, sas_token_file: {sas} }}, http: {{ ca_file: {storage} }} }}\n\
             store: {{ path: {state} }}\n\
             smart: {{ mode: authorization_server, clients: [{{ client_id: a, scope: system/*.rs, jwks_uri: 'https://c.example/jwks' }}, \
             {{ client_id: b, scope: system/*.rs, jwks_file: {jwks} }}] }}\n",
            ca = at("ca.pem").display(),
            own = at("own.pem").display(),
            storage = at("storage.pem").display(),
            token = at("token").display(),
            sas = at("sas").display(),
            jwks = at("jwks").display(),
            state = folder.path().display(),
        );
        let mut config = Config::from_yaml(&yaml).expect("good values");
        let made = LinkKeys::made(&[7; 32], None, 1_800_000_000, 0).expect("a key");
        keep(&at(LINK_KEY), made.text.as_bytes()).expect("it is kept");
        let known = Expiries::new(&config, Some(folder.path()));
        let expected = [
            ("link.key", "2027-04-15"),
            ("output.azure.sas_token_file", "2031-01-01"),
            ("output.http.ca_file", "2036-01-01"),
            ("smart.clients[1].jwks_file", "2032-01-01"),
            ("upstream.credentials.headers.authorization", "2030-01-01"),
            ("upstream.pass_through_tls.ca_file", "2040-01-01"),
            ("upstream.tls.ca_file", "2040-01-01"),
            ("upstream.tls.client_cert_file", "2030-01-01"),
        ];
        let expected = expected.map(|(what, end)| (what.to_owned(), end.to_owned()));
        assert_eq!(ends(&known), expected);
        // What SIGHUP takes up is as it is now; what cannot be read, and what a restart takes, as it was.
        write("own.pem", &certificate(2033));
        write("ca.pem", &certificate(2050));
        std::fs::remove_file(at("token")).expect("it was there");
        config.smart.clients.pop();
        known.reread(&config, Millis(0));
        let after = ends(&known);
        let end = |what: &str| after.iter().find(|(own, _)| own == what).map(|(_, end)| end.as_str());
        assert_eq!(end("upstream.tls.client_cert_file"), Some("2033-01-01"));
        assert_eq!(end("upstream.tls.ca_file"), Some("2040-01-01"));
        assert_eq!(end("upstream.credentials.headers.authorization"), Some("2030-01-01"));
        assert_eq!(end("smart.clients[1].jwks_file"), None, "who is gone has no keys");
        config.output.azure.sas_token_file = None;
        config.output.azure.federated_token_file = Some(at("federated"));
        let renewed = renewed(&config, Duration::ZERO, None);
        assert_eq!(renewed.len(), 1);
        assert_eq!((renewed[0].when, renewed[0].renewal), (Millis(1_924_992_000_000), Renewal::ByItself));
    }

    /// SIGHUP does not change how old they may get: no other end is told than that by which they are replaced.
    #[test]
    fn the_keys_of_tokens_end_by_what_they_are_watched_by() {
        let folder = tempfile::tempdir().expect("a folder");
        let yaml = format!(
            "{LEAST}upstream: {{ base_url: https://h/fhir }}\nsmart: {{ mode: authorization_server, clients: [{{ client_id: a, scope: system/*.rs, jwks_uri: 'https://c.example/jwks' }}] }}\n"
        );
        let mut config = Config::from_yaml(&yaml).expect("good values");
        super::super::smart::replace_token_keys(&config.smart, folder.path(), None, Millis(1_800_000_000_000))
            .expect("they are made");
        let known = Expiries::new(&config, Some(folder.path()));
        let before = known.list();
        assert_eq!(before.len(), 1, "{before:?}");
        config.smart.token_key_lifetime /= 2;
        known.reread(&config, Millis(0));
        assert_eq!(known.list(), before);
        known.watched_by(&config);
        assert!(known.list()[0].when < before[0].when);
    }

    fn jwt(exp: i64) -> String {
        let claims = json!({ "exp": exp }).to_string();
        let engine = &base64::engine::general_purpose::URL_SAFE_NO_PAD;
        format!("e30.{}.c2ln", base64::Engine::encode(engine, claims))
    }
}
