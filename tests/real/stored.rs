//! What a server holds, read one by one and not by searches. It is not what was written: references by search are resolved.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use sample_upstream::Version;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::data::{Resources, text};
use crate::expected::{Expected, Held, compact, type_of};
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
    /// Everything that was written to the server at `base`.
    pub(crate) async fn read(http: &Http, base: &str, written: &Resources) -> anyhow::Result<Self> {
        let mut all = Expected::new();
        for (name, of_type) in written {
            for chunk in of_type.chunks(BATCH) {
                let names: Vec<_> = chunk.iter().map(|resource| format!("{name}/{}", resource.id)).collect();
                all.extend(names.iter().cloned().zip(read_each(http, base, &names).await?));
            }
        }
        Ok(Self(all))
    }

    /// The same of a server that takes no batches.
    pub(crate) async fn read_singly(http: &Http, base: &str, written: &Resources) -> anyhow::Result<Self> {
        let mut all = Expected::new();
        for (name, of_type) in written {
            for resource in of_type {
                let place = format!("{name}/{}", resource.id);
                let read: Box<RawValue> = http.get(&format!("{base}/{place}")).await?;
                all.insert(place, compact(read.get()));
            }
        }
        Ok(Self(all))
    }

    /// Fails if the server counts others besides.
    pub(crate) async fn is_counted(&self, http: &Http, base: &str) -> anyhow::Result<()> {
        for (name, count) in self.types() {
            let counted: Value = http.get(&format!("{base}/{name}?_summary=count")).await?;
            ensure!(counted["total"] == json!(count), "{name}: {count} were written, {} are there", counted["total"]);
        }
        Ok(())
    }

    /// What was read from a server that had the same database.
    pub(crate) fn kept(file: &Path) -> anyhow::Result<Self> {
        let lines = std::fs::read_to_string(file)?;
        let named = |line: &str| Ok((Named::of(line)?.name(), line.to_owned()));
        Ok(Self(lines.lines().map(named).collect::<anyhow::Result<_>>()?))
    }

    pub(crate) fn keep(&self, file: &Path) -> anyhow::Result<()> {
        let mut file = BufWriter::new(File::create_new(file)?);
        for line in self.0.values() {
            writeln!(file, "{line}")?;
        }
        Ok(file.flush()?)
    }

    /// The one version of each.
    pub(crate) fn versions(&self) -> anyhow::Result<Vec<Version>> {
        self.0.values().map(|line| version(line)).collect()
    }

    /// How many there are of each type that there is.
    pub(crate) fn types(&self) -> BTreeMap<&str, usize> {
        let mut types = BTreeMap::new();
        for name in self.0.keys() {
            *types.entry(type_of(name)).or_default() += 1;
        }
        types
    }
}

impl Held for Stored {
    fn held(&self) -> Expected {
        self.0.clone()
    }
}

/// What is to be had at each of these places below `base`.
pub(crate) async fn read_each(http: &Http, base: &str, places: &[String]) -> anyhow::Result<Vec<String>> {
    // Not every server answers an empty batch.
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let entry: Vec<_> = places.iter().map(|place| json!({ "request": { "method": "GET", "url": place } })).collect();
    let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entry });
    let answer: Bundle = http.post(base, batch.to_string()).await?;
    ensure!(answer.entry.len() == places.len(), "{} answers to {} reads", answer.entry.len(), places.len());
    let read = |(place, entry): (&String, Entry)| {
        let resource = entry.resource.with_context(|| format!("no {place}"))?;
        Ok(compact(resource.get()))
    };
    places.iter().zip(answer.entry).map(read).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Named {
    resource_type: String,
    id: String,
    meta: Option<Value>,
}

impl Named {
    pub(crate) fn of(line: &str) -> anyhow::Result<Self> {
        serde_json::from_str(line).context("a line that is no resource")
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.resource_type, self.id)
    }
}

/// A version that there is, by its line.
pub(crate) fn version(line: &str) -> anyhow::Result<Version> {
    let Named { resource_type, id, meta } = Named::of(line)?;
    let meta = meta.context("no meta")?;
    let last_updated: DateTime<Utc> = text(&meta["lastUpdated"]).parse().context("a time")?;
    Ok(Version {
        resource_type,
        id,
        version: text(&meta["versionId"]).parse().context("a number")?,
        last_updated: Some(last_updated),
        visible_at: last_updated,
        body: Some(Arc::from(line)),
        sequence: 0,
    })
}
