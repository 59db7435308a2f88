//! An Offtake whose clients get their tokens from a real issuer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use offtake::config::{ClientConfig, SmartMode};
use offtake::{Config, Offtake};
use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::expected;
use crate::issuer::{ELSEWHERE, ES384, Issuer, RS384, needed};
use crate::raw::{self, Answer, KICKOFF};

/// How the issuer's tokens are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Keys,
    Asking,
}

pub(crate) struct Rig {
    base: String,
    upstream: SampleUpstream,
    server: Running,
    _folder: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

/// Longest wait for an export.
const PATIENCE: Duration = Duration::from_mins(5);

impl Rig {
    /// At the base that tokens are for.
    pub(crate) async fn before(issuer: &Issuer, way: Way) -> anyhow::Result<Self> {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(5);
        let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
        let folder = tempfile::tempdir()?;
        let base = needed("OFFTAKE_ISSUERS_BASE");
        let mut config = Config::local(&server.base_url, &base, folder.path())?;
        // The sample server answers everybody.
        config.upstream.accepts_anonymous = offtake::config::AcceptsAnonymous::Acknowledged;
        config.upstream.probe_on_start = false;
        config.output.min_free = Some(offtake::config::Size::kibibytes(0));
        config.smart.mode = SmartMode::External;
        config.smart.jwks_private_hosts = vec!["127.0.0.1".to_owned()];
        config.smart.issuer.issuer = Some(issuer.url.clone());
        if way == Way::Asking {
            let secret = folder.path().join("secret");
            std::fs::write(&secret, needed("OFFTAKE_ISSUERS_SECRET"))?;
            config.smart.issuer.introspection.client_id = Some("offtake".to_owned());
            config.smart.issuer.introspection.client_secret_file = Some(secret);
        }
        let listed = [ES384.id, RS384.id, ELSEWHERE.id, "portal"];
        let listed = listed.map(|id| ClientConfig {
            client_id: id.to_owned(),
            scope: "system/*.rs".to_owned(),
            ..ClientConfig::default()
        });
        config.smart.clients = listed.to_vec();
        let listener = TcpListener::bind(base.trim_start_matches("http://").trim_end_matches("/fhir")).await?;
        let offtake = Offtake::builder(config).build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        let rig = Self { base, upstream, server, _folder: folder, stop, serving };
        let began = Instant::now();
        // Until the job store is open.
        while rig.ask("GET", "/$bulk-status/00000000000000000000000000000000", None).await.status == 503 {
            ensure!(began.elapsed() < PATIENCE, "the job store does not open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(rig)
    }

    /// The ways that there are for an issuer.
    pub(crate) fn way(issuer: &Issuer) -> Way {
        if issuer.is_opaque() { Way::Asking } else { Way::Keys }
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.serving.await??;
        self.server.stop().await;
        Ok(())
    }

    pub(crate) async fn ask(&self, method: &str, below: &str, token: Option<&str>) -> Answer {
        let host = self.base.trim_start_matches("http://").trim_end_matches("/fhir");
        let authorization = token.map(|token| format!("Bearer {token}"));
        let shown = authorization.as_deref().map(|value| ("Authorization", value));
        let headers: Vec<_> = KICKOFF.into_iter().chain(shown).collect();
        raw::ask(host, &raw::request(method, &format!("/fhir{below}"), host, &headers, b"")).await
    }

    /// Kicks off, waits and fetches: every line that came, by type. Gives where the status is.
    pub(crate) async fn export(&self, path: &str, token: &str) -> anyhow::Result<String> {
        let kickoff = self.ask("GET", path, Some(token)).await;
        ensure!(kickoff.status == 202, "{}: {}", kickoff.status, String::from_utf8_lossy(&kickoff.body));
        let status =
            kickoff.header("content-location").strip_prefix(&self.base).context("not below the base")?.to_owned();
        let began = Instant::now();
        let manifest = loop {
            ensure!(began.elapsed() < PATIENCE, "{path} does not end");
            let answer = self.ask("GET", &status, Some(token)).await;
            match answer.status {
                200 => break answer.json(),
                202 => tokio::time::sleep(Duration::from_millis(50)).await,
                other => anyhow::bail!("{other}: {}", String::from_utf8_lossy(&answer.body)),
            }
        };
        let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for file in manifest["output"].as_array().context("no output")? {
            let url =
                file["url"].as_str().and_then(|url| url.strip_prefix(&self.base)).context("not below the base")?;
            let answer = self.ask("GET", url, None).await;
            ensure!(answer.status == 200, "a link is answered with {}", answer.status);
            let name = file["type"].as_str().context("no type")?.to_owned();
            received.entry(name).or_default().extend(answer.body);
        }
        let difference = expected::compare(&expected::of(&self.upstream, path), &received)?;
        ensure!(difference.is_none(), "{path}:\n{difference}");
        Ok(status)
    }

    /// Fails unless a kick-off with this token is refused like that, and nothing is asked of the upstream.
    pub(crate) async fn refuses(&self, what: &str, token: &str, status: u16, error: &str) -> anyhow::Result<()> {
        let before = self.upstream.requests().len();
        let answer = self.ask("GET", "/$export?_type=Patient", Some(token)).await;
        answer.assert_refused(what, status, if status == 401 { "login" } else { "forbidden" }, None);
        let challenge = answer.header("www-authenticate");
        ensure!(challenge.contains(&format!("error=\"{error}\"")), "{what}: {challenge}");
        ensure!(self.upstream.requests().len() == before, "{what}: the upstream was asked");
        Ok(())
    }
}
