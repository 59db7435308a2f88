//! Whom our connections trust, and by what certificate we are known: by none, unless it is a search's (SEC-01).

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use http::uri::Scheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use super::connect::ConnectError;

/// Certificate authorities that are trusted besides those of the system.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authorities(Vec<CertificateDer<'static>>);

/// What a file has to hold and does not. It never says what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    #[error("holds no certificate in PEM")]
    NoCertificate,
    #[error("holds a certificate that cannot be used")]
    Certificate,
    #[error("holds no private key in PEM: PKCS#8, PKCS#1 or SEC1, not encrypted")]
    NoKey,
    #[error("holds a private key that cannot be used, or not for the certificate")]
    Key,
}

impl Authorities {
    /// # Errors
    /// [`PemError`] if there is none, or one that cannot be used.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, PemError> {
        let found = certificates(pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &found {
            roots.add(certificate.clone()).map_err(|_| PemError::Certificate)?;
        }
        Ok(Self(found))
    }
}

/// A certificate of ours and its key. It can be replaced: connections that are made from then on show the new one.
pub(crate) struct Identity {
    shown: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// # Errors
    /// [`PemError`] for the first thing that is wrong.
    pub(crate) fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PemError> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::NoKey)?;
        let shown = CertifiedKey::from_der(chain, key, &provider()).map_err(|_| PemError::Key)?;
        Ok(Self { shown: RwLock::new(Arc::new(shown)) })
    }

    /// Shows what `other` would.
    pub(crate) fn replace(&self, other: &Self) {
        let new = other.shown();
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown();
        shown.key.choose_scheme(schemes).is_some().then_some(shown)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// By what searches know the upstream, and it us.
#[derive(Debug, Clone, Default)]
pub(crate) struct SearchTls {
    pub(crate) authorities: Authorities,
    pub(crate) identity: Option<Arc<Identity>>,
}

impl SearchTls {
    /// For connections to the upstream itself. Certificates are needed for `https` only.
    pub(crate) fn to_upstream(&self, scheme: &Scheme) -> Result<ClientConfig, ConnectError> {
        let Some(identity) = &self.identity else { return unnamed(scheme, &self.authorities) };
        Ok(trusting(scheme, &self.authorities)?.with_client_cert_resolver(Arc::clone(identity) as _))
    }

    /// For connections to somebody whom the upstream trusts: they are not shown who we are.
    pub(crate) fn to_others(&self, scheme: &Scheme) -> Result<ClientConfig, ConnectError> {
        unnamed(scheme, &self.authorities)
    }
}

/// For connections that have no certificate of ours.
pub(crate) fn unnamed(scheme: &Scheme, authorities: &Authorities) -> Result<ClientConfig, ConnectError> {
    Ok(trusting(scheme, authorities)?.with_no_client_auth())
}

type Trusting = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn trusting(scheme: &Scheme, authorities: &Authorities) -> Result<Trusting, ConnectError> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(ConnectError::Tls)?;
    // A machine without certificates can still stand before a server that speaks plain HTTP.
    let roots = if *scheme == Scheme::HTTPS { roots(authorities)? } else { RootCertStore::empty() };
    Ok(builder.with_root_certificates(roots))
}

fn roots(authorities: &Authorities) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Systems have some that nobody can use; each other one counts.
    roots.add_parsable_certificates(found.certs);
    for certificate in &authorities.0 {
        roots.add(certificate.clone()).map_err(ConnectError::Tls)?;
    }
    if roots.is_empty() {
        return Err(ConnectError::Roots(io::Error::new(io::ErrorKind::NotFound, "there are none")));
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| PemError::Certificate)?;
    if found.is_empty() { Err(PemError::NoCertificate) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_or_key_is_refused_without_being_shown() {
        let pem = |kind: &str, text: &str| format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n");
        for (text, expected) in [
            ("", PemError::NoCertificate),
            ("s3cret", PemError::NoCertificate),
            (&pem("PRIVATE KEY", "AAAA") as &str, PemError::NoCertificate),
            (&pem("CERTIFICATE", "AAAA"), PemError::Certificate),
            (&pem("CERTIFICATE", "!"), PemError::Certificate),
        ] {
            assert_eq!(Authorities::from_pem(text.as_bytes()).err(), Some(expected), "{text}");
        }
        let certificate = pem("CERTIFICATE", "AAAA");
        for (key, expected) in [
            ("", PemError::NoKey),
            (&pem("ENCRYPTED PRIVATE KEY", "AAAA") as &str, PemError::NoKey),
            (&pem("PRIVATE KEY", "AAAA"), PemError::Key),
        ] {
            let told = Identity::from_pem(certificate.as_bytes(), key.as_bytes());
            assert_eq!(told.err(), Some(expected), "{key}");
        }
    }
}
