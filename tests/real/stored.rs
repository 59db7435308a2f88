//! What a server holds, read one by one and not by searches. It is not what was written: references by search are resolved.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::data::Resources;
use crate::expected::{Expected, Held, compact};
use crate::http::Http;

/// Resources asked for in one batch.
const BATCH: usize = 500;

pub(crate) struct Stored(Expected);

#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    entry: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    resource: Option<Box<RawValue>>,
}

impl Stored {
    /// Everything that was written to the server at `base`. Fails if it counts others besides.
    pub(crate) async fn read(http: &Http, base: &str, written: &Resources) -> anyhow::Result<Self> {
        let mut all = Expected::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, of_type) in written {
            for chunk in of_type.chunks(BATCH) {
                let names: Vec<_> = chunk.iter().map(|resource| format!("{name}/{}", resource.id)).collect();
                let entry: Vec<_> =
                    names.iter().map(|name| json!({ "request": { "method": "GET", "url": name } })).collect();
                let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entry });
                let answer: Bundle = http.post(base, batch.to_string()).await?;
                ensure!(answer.entry.len() == names.len(), "{} answers to {} reads", answer.entry.len(), names.len());
                for (name, entry) in names.into_iter().zip(answer.entry) {
                    let resource = entry.resource.with_context(|| format!("no {name}"))?;
                    all.insert(name, compact(resource.get()));
                }
            }
            *counts.entry(name).or_default() += of_type.len();
        }
        for (name, count) in counts {
            let counted: Value = http.get(&format!("{base}/{name}?_summary=count")).await?;
            ensure!(counted["total"] == json!(count), "{name}: {count} were written, {} are there", counted["total"]);
        }
        Ok(Self(all))
    }
}

impl Held for Stored {
    fn held(&self) -> Expected {
        self.0.clone()
    }
}
