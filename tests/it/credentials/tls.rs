//! Certificates: whom we trust, and by which one we are known. All are made here, for one test each.

use std::sync::Arc;

use offtake::Config;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sample_upstream::{SampleUpstream, Settings};

use super::{Secrets, client, export_exactly, passed, searches};
use crate::smart::Rig;
use crate::support::listener;

/// A certificate authority of the house.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, both PEM.
struct Certified {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn certify(&self, name: &str) -> Certified {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Certified { certificate, key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("an authority");
        Arc::new(roots)
    }
}

/// Whether a server wants a certificate of whoever connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    /// It takes one.
    Asks,
    Demands,
}

/// TLS of a server, and of its clients where it wants to know them.
fn server_tls(authority: &Authority, wants: Wants) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider.clone());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let builder = match wants {
        Wants::Nothing => builder.with_no_client_auth(),
        Wants::Asks => builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().expect("a verifier")),
        Wants::Demands => builder.with_client_cert_verifier(verifier.build().expect("a verifier")),
    };
    let Certified { certificate, key } = authority.certify("127.0.0.1");
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let mut config = builder.with_single_cert(chain, key).expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn rig(tls: Arc<ServerConfig>, change: impl FnOnce(&mut Config)) -> Rig {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve_tls(listener().await, tls).await;
    assert!(server.base_url.starts_with("https://"));
    Rig::before(upstream, server, &[client()], |config| {
        // Making way for what passes through takes time, which stands still here.
        config.upstream.yield_to_live_traffic.enabled = false;
        change(config);
    })
    .await
}

#[tokio::test]
async fn a_server_with_a_certificate_of_the_house_is_known_by_its_authority_and_by_no_other() {
    let (authority, other) = (Authority::new("house"), Authority::new("other"));
    let secrets = Secrets::new();
    let (own, foreign) = (secrets.file("ca.pem", &authority.pem), secrets.file("other.pem", &other.pem));
    let tls = server_tls(&authority, Wants::Nothing);
    for (search, through) in [(Some(&own), None), (None, Some(&own)), (Some(&own), Some(&own)), (Some(&foreign), None)]
    {
        let rig = rig(tls.clone(), |config| {
            config.upstream.tls.ca_file = search.cloned();
            config.upstream.pass_through_tls.ca_file = through.cloned();
            config.upstream.give_up_after = std::time::Duration::from_secs(1);
        })
        .await;
        let is_known = through == Some(&own);
        let status = rig.ask("GET", "/Patient?_count=1", &[], b"").await.status;
        assert_eq!(status, if is_known { 200 } else { 502 }, "each has settings of its own");
        if search == Some(&own) {
            export_exactly(&rig, "/$export").await;
        } else {
            let token = rig.token(&client(), "system/*.rs").await;
            let clock = rig.clock.clone();
            let passing = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    clock.advance(std::time::Duration::from_secs(1));
                }
            });
            rig.with_token("GET", "/$export", &token).await.assert_refused("unknown", 503, "transient", None);
            passing.abort();
            assert!(searches(&rig.upstream).is_empty());
        }
        rig.stop().await;
    }
}

/// SEC-01
#[tokio::test]
async fn searches_show_our_certificate_and_nothing_else_does() {
    let authority = Authority::new("house");
    let secrets = Secrets::new();
    let ours = authority.certify("offtake");
    let ca = secrets.file("ca.pem", &authority.pem);
    for wants in [Wants::Asks, Wants::Demands] {
        let rig = rig(server_tls(&authority, wants), |config| {
            let tls = &mut config.upstream.tls;
            tls.ca_file = Some(ca.clone());
            tls.client_cert_file = Some(secrets.file("cert.pem", &ours.certificate));
            tls.client_key_file = Some(secrets.file("key.pem", &ours.key));
            config.upstream.pass_through_tls.ca_file = Some(ca.clone());
        })
        .await;
        for _ in 0..2 {
            let answer = rig.ask("GET", "/Patient?_count=1", &[], b"").await;
            assert_eq!(answer.status, if wants == Wants::Asks { 200 } else { 502 });
            export_exactly(&rig, "/$export").await;
        }
        let (searches, passed) = (searches(&rig.upstream), passed(&rig.upstream));
        assert!(searches.len() > 10 && searches.iter().all(|seen| seen.has_certificate));
        assert_eq!(passed.len(), if wants == Wants::Asks { 2 } else { 0 });
        assert!(passed.iter().all(|seen| !seen.has_certificate), "a request of others shows nothing of ours");
        rig.stop().await;
    }
}
