//! What servers are filled with: NDJSON from Synthea or from anybody else, by id.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write as _};
use std::path::Path;

use anyhow::{Context, ensure};
use flate2::read::MultiGzDecoder;
use sample_upstream::{SampleUpstream, Settings};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Http;

/// Resources of one transaction: they share their `lastUpdated`.
const TRANSACTION: usize = 200;
/// References by search are resolved when they are written, so that what they look for has to be there.
const FIRST: [&str; 7] =
    ["Organization", "Location", "Practitioner", "PractitionerRole", "Patient", "Medication", "Encounter"];

#[expect(clippy::disallowed_methods, reason = "tests are told by it what runs")]
pub(crate) fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// What `tests/real/run` sets.
pub(crate) fn needed(variable: &str) -> anyhow::Result<String> {
    given(variable).with_context(|| format!("{variable} is set by tests/real/run"))
}

/// A resource as it is written.
pub(crate) struct Resource {
    pub(crate) id: String,
    text: String,
}

/// Resources by type, in the order in which they can be written.
pub(crate) type Resources = Vec<(String, Vec<Resource>)>;

/// All `*.ndjson` and `*.ndjson.gz` of the folder that the variable names, or what the sample server makes, and a Group `all` of
/// every second patient.
pub(crate) fn read(variable: &str) -> anyhow::Result<Resources> {
    #[derive(Deserialize)]
    struct Name<'a> {
        #[serde(borrow, rename = "resourceType")]
        resource_type: Cow<'a, str>,
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    let mut types: BTreeMap<(usize, String), Vec<Resource>> = BTreeMap::new();
    for text in given(variable).map_or_else(|| Ok(made()), |folder| lines_of(Path::new(&folder)))? {
        let Name { resource_type, id } = serde_json::from_str(&text).context("a line that is no resource")?;
        let (resource_type, id) = (resource_type.into_owned(), id.into_owned());
        let rank = FIRST.iter().position(|first| *first == resource_type).unwrap_or(FIRST.len());
        types.entry((rank, resource_type)).or_default().push(Resource { id, text });
    }
    types.retain(|(_, name), _| name != "Group");
    let mut resources: Resources = types.into_iter().map(|((_, name), of_type)| (name, of_type)).collect();
    let (_, patients) = resources.iter().find(|(name, _)| name == "Patient").context("no patients")?;
    let reference = |Resource { id, .. }: &Resource| json!({ "entity": { "reference": format!("Patient/{id}") } });
    let members: Vec<_> = patients.iter().step_by(2).map(reference).collect();
    let group = json!({ "resourceType": "Group", "id": "all", "type": "person", "actual": true, "member": members });
    resources.push(("Group".to_owned(), vec![Resource { id: "all".to_owned(), text: group.to_string() }]));
    Ok(resources)
}

fn made() -> Vec<String> {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(50);
    upstream.resources(None).iter().map(|stored| stored.body.to_string()).collect()
}

fn lines_of(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let file: Box<dyn Read> = match name {
            _ if name.ends_with(".ndjson.gz") => Box::new(MultiGzDecoder::new(File::open(&path)?)),
            _ if name.ends_with(".ndjson") => Box::new(File::open(&path)?),
            _ => continue,
        };
        for line in BufReader::new(file).lines() {
            all.push(line?);
        }
    }
    Ok(all)
}

/// Writes them to a file, one on each line.
pub(crate) fn write(file: &Path, resources: &Resources) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create_new(file)?);
    for Resource { text, .. } in resources.iter().flat_map(|(_, of_type)| of_type) {
        writeln!(file, "{text}")?;
    }
    Ok(file.flush()?)
}

/// Writes them to the server at `base`, one type after the other.
pub(crate) async fn load(http: &Http, base: &str, bundle_type: &str, resources: &Resources) -> anyhow::Result<()> {
    let bundles =
        resources.iter().flat_map(|(name, of_type)| of_type.chunks(TRANSACTION).map(move |some| (name, some)));
    for (name, some) in bundles {
        let put = |Resource { id, text }: &Resource| {
            format!(r#"{{"request":{{"method":"PUT","url":"{name}/{id}"}},"resource":{text}}}"#)
        };
        let entry = some.iter().map(put).collect::<Vec<_>>().join(",");
        let bundle = format!(r#"{{"resourceType":"Bundle","type":"{bundle_type}","entry":[{entry}]}}"#);
        let answer: Value = http.post(base, bundle).await?;
        let written = answer["entry"].as_array().map_or(&[][..], Vec::as_slice);
        let is_written = |entry: &Value| text(&entry["response"]["status"]).starts_with('2');
        let refused = written.iter().find(|entry| !is_written(entry));
        ensure!(refused.is_none() && written.len() == some.len(), "{refused:?}; {} of {}", written.len(), some.len());
    }
    Ok(())
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
