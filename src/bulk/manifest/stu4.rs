//! The manifest as Bulk Data Access 4.0 wants it: `outcome` in the place of `error`, no `request`, and extensions as FHIR
//! writes them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{FILE, Manifest, ManifestFile, PROOF, TypeProof};
use crate::fhir::resource_type::ResourceType;

const MANIFEST_TYPE: &str = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkDataManifest";
const OUTPUT_FORMAT: &str = "application/fhir+ndjson";

/// DS-023: never `error`.
pub(super) fn written(manifest: &Manifest) -> Value {
    let mut value = json!({
        "manifestType": MANIFEST_TYPE,
        "transactionTime": manifest.transaction_time.to_string(),
        "requiresAccessToken": manifest.requires_access_token,
        "outputFormat": OUTPUT_FORMAT,
        "output": manifest.output.iter().map(typed).collect::<Vec<_>>(),
        "outcome": manifest.outcomes.iter().map(outcome).collect::<Vec<_>>(),
    });
    if let Some(types) = &manifest.proof {
        value["extension"] = json!([{ "url": PROOF, "extension": proof(types) }]);
    }
    if let Some(deleted) = &manifest.deleted {
        value["deleted"] = deleted.iter().map(item).collect();
    }
    value
}

fn typed(file: &ManifestFile) -> Value {
    let mut item = item(file);
    if let Some(resource_type) = file.resource_type {
        item["type"] = resource_type.as_str().into();
    }
    if let Some(next) = &file.continued_in {
        item["continuesInFile"] = next.as_str().into();
    }
    item
}

fn outcome(file: &ManifestFile) -> Value {
    let mut item = item(file);
    if !file.severities.is_empty() {
        let counted = file.severities.iter().map(|(code, count)| json!({ "code": code, "count": count }));
        item["countSeverity"] = counted.collect();
    }
    item
}

fn item(file: &ManifestFile) -> Value {
    let mut stored = vec![json!({ "url": "sha256", "valueString": file.sha256 })];
    if file.is_gzip {
        stored.push(json!({ "url": "contentEncoding", "valueString": "gzip" }));
    }
    json!({
        "url": file.url,
        "count": file.count,
        // As it is stored, and sent to whoever takes gzip.
        "fileSize": file.bytes,
        "extension": [{ "url": FILE, "extension": stored }],
    })
}

/// One extension for each type. Integers of FHIR end at 2^31: decimals do not.
fn proof(types: &BTreeMap<ResourceType, TypeProof>) -> Vec<Value> {
    let types = types.iter().map(|(name, proof)| {
        let TypeProof { method, expected, received, written, repeated, withheld, reread, short } = *proof;
        let number = |name: &str, value: u64| json!({ "url": name, "valueDecimal": value });
        json!({ "url": name.as_str(), "extension": [
            { "url": "method", "valueCode": method.as_str() },
            number("expected", expected),
            number("received", received),
            number("written", written),
            number("repeated", repeated),
            number("withheld", withheld),
            number("reread", reread),
            number("short", short),
        ] })
    });
    types.collect()
}
