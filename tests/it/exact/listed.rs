//! The files of an export: what the manifest says of them, and what comes when they are fetched.

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::Value;

use crate::client::{Client, Manifest};

/// A file as the manifest lists it.
pub(super) struct Listed {
    pub(super) resource_type: String,
    url: String,
    count: u64,
    bytes: u64,
    sha256: String,
}

impl Listed {
    /// Its name: the last part of its path.
    pub(super) fn name(&self) -> &str {
        let path = self.url.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Its lines, once they have been found to be what was listed.
    pub(super) async fn fetch(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let bytes: Bytes = client.download(&self.url).await?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        let digest = digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        ensure!(bytes.len() as u64 == self.bytes && digest == self.sha256, "{} is not what was listed", self.name());
        ensure!(bytes.last() == Some(&b'\n'), "{} does not end with a line", self.name());
        let lines: Vec<String> = std::str::from_utf8(&bytes)?.lines().map(str::to_owned).collect();
        ensure!(lines.len() as u64 == self.count, "{} has {} lines, not {}", self.name(), lines.len(), self.count);
        Ok(lines)
    }
}

/// What the manifest lists as `output` or as `error`.
pub(super) fn listed(manifest: &Manifest, kind: &str) -> anyhow::Result<Vec<Listed>> {
    let files = manifest.whole[kind].as_array().with_context(|| format!("the manifest has no `{kind}`"))?;
    let listed = files.iter().map(|file| {
        let details = &file["extension"]["https://offtake.dev/file"];
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a manifest's file lacks a member");
        Ok(Listed {
            // There is none where it has blocks.
            resource_type: file["type"].as_str().unwrap_or_default().to_owned(),
            url: text(&file["url"])?,
            count: file["count"].as_u64().context("no count")?,
            bytes: details["bytes"].as_u64().context("no size")?,
            sha256: text(&details["sha256"])?,
        })
    });
    listed.collect()
}
