//! The manifest as Bulk Data Access 1.0 to 3.0 want it.

use serde_json::{Value, json};

use super::{FILE, Manifest, ManifestFile, PROOF};
use crate::fhir::resource_type::ResourceType;

/// `error` and `request` are always there (DS-023).
pub(super) fn written(manifest: &Manifest) -> Value {
    let typed = |file: &ManifestFile| item(file, file.resource_type.map(ResourceType::as_str));
    let outcome = |file: &ManifestFile| item(file, Some(ResourceType::OPERATION_OUTCOME.as_str()));
    let mut value = json!({
        "transactionTime": manifest.transaction_time.to_string(),
        "request": manifest.request,
        "requiresAccessToken": manifest.requires_access_token,
        "output": manifest.output.iter().map(typed).collect::<Vec<_>>(),
        "error": manifest.outcomes.iter().map(outcome).collect::<Vec<_>>(),
    });
    if let Some(proof) = &manifest.proof {
        value["extension"] = json!({ PROOF: proof });
    }
    if let Some(deleted) = &manifest.deleted {
        value["deleted"] = deleted.iter().map(|file| item(file, Some("Bundle"))).collect();
    }
    value
}

fn item(file: &ManifestFile, resource_type: Option<&str>) -> Value {
    let mut stored = json!({ "bytes": file.bytes, "sha256": file.sha256 });
    if file.is_gzip {
        stored["contentEncoding"] = "gzip".into();
    }
    let mut item = json!({
        "url": file.url,
        "count": file.count,
        "extension": { FILE: stored },
    });
    if let Some(resource_type) = resource_type {
        item["type"] = resource_type.into();
    }
    if let Some(next) = &file.continued_in {
        item["continuesInFile"] = next.as_str().into();
    }
    item
}
