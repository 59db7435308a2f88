//! One storage that `tests/clouds/run` has started: how it is configured, asked and stalled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

pub(crate) struct Storage {
    pub(crate) name: String,
}

/// What a storage answers to somebody without credentials.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Its head, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's value; names are in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

impl Storage {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    pub(crate) fn is_s3(&self) -> bool {
        matches!(self.name.as_str(), "versitygw" | "minio")
    }

    fn is_gcs(&self) -> bool {
        self.name == "gcs"
    }

    /// The options of `output` for it, with all objects below `folder`.
    pub(crate) fn output(&self, folder: &str) -> String {
        if self.is_s3() {
            let [endpoint, region, key, secret, bucket] = ["ENDPOINT", "REGION", "ACCESS_KEY", "SECRET_KEY", "BUCKET"]
                .map(|name| variable(&format!("OFFTAKE_S3_{name}")));
            return format!(
                "location: s3://{bucket}/{folder}, s3: {{ endpoint: '{endpoint}', region: {region}, \
                 access_key_id: '{key}', secret_access_key: '{secret}' }}"
            );
        }
        if self.is_gcs() {
            let [bucket, key] = ["BUCKET", "KEY_FILE"].map(|name| variable(&format!("OFFTAKE_GCS_{name}")));
            return format!("location: gs://{bucket}/{folder}, gcs: {{ service_account_file: '{key}' }}");
        }
        let [account, key, container] =
            ["ACCOUNT", "KEY", "CONTAINER"].map(|name| variable(&format!("OFFTAKE_AZURE_{name}")));
        let endpoint = if self.name == "azurite-https" { "HTTPS_ENDPOINT" } else { "ENDPOINT" };
        let endpoint = variable(&format!("OFFTAKE_AZURE_{endpoint}"));
        format!(
            "location: az://{container}/{folder}, \
             azure: {{ account_name: {account}, endpoint: '{endpoint}', account_key: '{key}' }}"
        )
    }

    /// `MinIO` lists uploads by whole keys only, and Azure knows none.
    pub(crate) fn lists_uploads_below_folders(&self) -> bool {
        matches!(self.name.as_str(), "versitygw" | "gcs")
    }

    /// The same address by another name, where it can be signed for.
    pub(crate) fn public_endpoint(&self) -> Option<String> {
        let name = match self.name.as_str() {
            "versitygw" | "minio" => "OFFTAKE_S3_ENDPOINT",
            "azurite" => "OFFTAKE_AZURE_ENDPOINT",
            _ => return None,
        };
        Some(variable(name).replace("127.0.0.1", "localhost"))
    }

    /// The options of `output.http` for it.
    pub(crate) fn http(&self) -> String {
        match self.ca_file() {
            Some(ca) if self.is_gcs() => format!("ca_file: '{ca}', proxy_url: '{}'", variable("OFFTAKE_GCS_PROXY")),
            Some(ca) => format!("ca_file: '{ca}'"),
            None => String::new(),
        }
    }

    fn ca_file(&self) -> Option<String> {
        match self.name.as_str() {
            "gcs" => Some(variable("OFFTAKE_GCS_CA_FILE")),
            "azurite-https" => Some(variable("OFFTAKE_AZURE_CA_FILE")),
            _ => None,
        }
    }

    /// Fetches a URL as anybody would who has nothing but it.
    pub(crate) async fn fetch(&self, url: &str) -> anyhow::Result<Answer> {
        self.fetch_as(url, &[]).await
    }

    /// The same with more options.
    pub(crate) async fn fetch_as(&self, url: &str, options: &[&str]) -> anyhow::Result<Answer> {
        let folder = tempfile::tempdir()?;
        let (head, body) = (folder.path().join("head"), folder.path().join("body"));
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "60", "--dump-header"])
            .arg(&head)
            .arg("--output")
            .arg(&body);
        command.args(["--write-out", "%{http_code}"]);
        if let Some(ca) = self.ca_file() {
            command.args(["--cacert", &ca]);
        }
        if self.is_gcs() && url.starts_with("https://") {
            command.args(["--proxy", &variable("OFFTAKE_GCS_PROXY"), "--suppress-connect-headers"]);
        }
        command.args(options).arg(url);
        let status = run(command).await?.trim().parse()?;
        let body = std::fs::read(body).unwrap_or_default();
        Ok(Answer { status, head: std::fs::read_to_string(head)?.to_lowercase(), body })
    }

    /// The objects and unfinished uploads in it, as it lists them itself: `object KEY` and `upload KEY`.
    pub(crate) async fn left(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.ask(&["left"]).await?.lines().map(str::to_owned).collect())
    }

    /// The same of a folder, but for the marker that says whose it is and the copy of the ledger's head: those stay.
    pub(crate) async fn left_in(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let mut left = self.left().await?;
        let (within, marker) = (format!("{folder}/"), format!("{folder}/offtake.instance"));
        let stays = |key: &str| key == marker || key.ends_with("/ledger.head");
        left.retain(|line| line.split_once(' ').is_some_and(|(_, key)| key.starts_with(&within) && !stays(key)));
        Ok(left)
    }

    /// Does what another program would: `put` an object, or `begin` an upload that is never ended.
    pub(crate) async fn ask(&self, what: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("node");
        command.arg(folder().join("ask.mjs")).arg(&self.name).args(what);
        run(command).await
    }

    /// Makes it stall (`pause`), or go on (`resume`).
    pub(crate) async fn ctl(&self, what: &str) -> anyhow::Result<()> {
        let mut command = Command::new(variable("OFFTAKE_CLOUDS_CTL"));
        command.args([what, &self.name]);
        run(command).await.map(drop)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clouds")
}

pub(crate) fn variable(name: &str) -> String {
    given(name).unwrap_or_else(|| panic!("{name} is not set: start this by tests/clouds/run"))
}

/// A variable of those that `tests/clouds/run` describes its storages by.
#[expect(clippy::disallowed_methods, reason = "what a script tells the command that it runs")]
pub(crate) fn given(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn run(mut command: Command) -> anyhow::Result<String> {
    let ended = tokio::task::spawn_blocking(move || command.output().with_context(|| format!("{command:?}"))).await??;
    ensure!(ended.status.success(), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    Ok(String::from_utf8(ended.stdout)?)
}
