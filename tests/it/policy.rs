//! Policy of single clients: what leaves, for whom, and how much (SEC-14, SEC-20, SEC-26, SEC-27).

mod access;
mod consent;
mod elements;
mod labels;
mod process;
mod quotas;
mod reload;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use offtake::config::ClientConfig;
use serde_json::Value;

use crate::exact::paths_below;
use crate::smart::{Client, Rig};

const ALL: &str = "system/*.rs";
/// Whatever the real time that a removal takes.
const SOON: Duration = Duration::from_mins(1);

/// What every export under a policy says in its file of outcomes, once.
const STATEMENT: &str = "this export holds what the policy for it permits";

pub(crate) fn under(client: &Client, policy: Value) -> ClientConfig {
    ClientConfig { policy: serde_json::from_value(policy).expect("a policy"), ..client.config() }
}

/// One client under a policy.
async fn rig(client: &Client, policy: Value) -> Rig {
    Rig::configured(&[], |config| config.smart.clients = vec![under(client, policy)]).await
}

/// All that a client gets of an export.
pub(crate) struct Export {
    pub(crate) status: String,
    pub(crate) manifest: Value,
    /// The lines of all files in a list of the manifest.
    pub(crate) output: String,
    pub(crate) deleted: String,
    pub(crate) error: String,
}

impl Export {
    /// `Type/id` of what stands on a line of its own.
    fn has(&self, id: &str) -> bool {
        self.output.lines().any(|line| {
            let resource: Value = serde_json::from_str(line).expect("JSON");
            resource["id"] == id
        })
    }

    /// Ids of the resources of a type.
    pub(crate) fn ids(&self, name: &str) -> BTreeSet<String> {
        let resources = self.output.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let of_type = resources.filter(|resource| resource["resourceType"] == name);
        of_type.map(|resource| resource["id"].as_str().expect("an id").to_owned()).collect()
    }

    fn proof(&self, name: &str) -> &Value {
        &self.manifest["extension"]["https://offtake.dev/proof"][name]
    }
}

pub(crate) async fn export(rig: &Rig, token: &str, below: &str) -> Export {
    let status = rig.exported(below, token).await;
    got(rig, token, status).await
}

/// All that a client gets of an export that has ended.
pub(crate) async fn got(rig: &Rig, token: &str, status: String) -> Export {
    let manifest = rig.with_token("GET", &status, token).await.json();
    let mut lists = Vec::new();
    for list in ["output", "deleted", "error"] {
        let mut lines = String::new();
        for file in manifest[list].as_array().into_iter().flatten() {
            let url = file["url"].as_str().expect("a URL");
            let answer = rig.ask("GET", url.strip_prefix(&rig.base).expect("ours"), &[], b"").await;
            assert_eq!(answer.status, 200, "{list}");
            lines.push_str(std::str::from_utf8(&answer.body).expect("text"));
        }
        lists.push(lines);
    }
    let [output, deleted, error] = <[String; 3]>::try_from(lists).expect("three lists");
    Export { status, manifest, output, deleted, error }
}

/// Where the objects of jobs are.
fn objects(rig: &Rig) -> Vec<PathBuf> {
    paths_below(&rig.path("output")).expect("a folder")
}

/// Waits until nothing is left of any export.
async fn nothing_is_left(rig: &Rig, what: &str) {
    let began = std::time::Instant::now();
    loop {
        if rig.store.job_ids().await.is_empty() && objects(rig).is_empty() {
            return;
        }
        assert!(began.elapsed() < SOON, "{what}: {:?}", objects(rig));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
