//! `/metadata`: what the sample upstream says of itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::params::{self, Kind};
use crate::settings::OwnExport;
use crate::upstream::SampleUpstream;
use crate::{instant, settings::Settings};

/// The text of the `CapabilityStatement`. Lies (ignored parameters) are not admitted.
pub(crate) fn statement(upstream: &SampleUpstream, base: &str) -> String {
    let settings = upstream.settings();
    let mut types: BTreeSet<String> = params::known_types(settings.version()).map(str::to_owned).collect();
    types.extend(upstream.read(|store| store.types().map(|(name, _)| name.as_ref().to_owned()).collect::<Vec<_>>()));
    let resources: Vec<Value> = types.iter().map(|name| resource(name, &settings)).collect();
    json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": instant::text(upstream.now()),
        "kind": "instance",
        "software": { "name": settings.software, "version": settings.version },
        "implementation": { "description": "sample upstream", "url": base },
        "fhirVersion": settings.fhir_version,
        "format": ["application/fhir+json", "json"],
        "rest": [{
            "mode": "server",
            "interaction": [{ "code": "history-system" }],
            "resource": resources
        }]
    })
    .to_string()
}

fn resource(name: &str, settings: &Settings) -> Value {
    let codes = ["read", "vread", "update", "delete", "history-instance", "history-type", "create", "search-type"];
    let interactions: Vec<Value> = codes.iter().map(|code| json!({ "code": code })).collect();
    let mut search_params = vec![json!({ "name": "_id", "type": "token" })];
    if !settings.no_last_updated {
        search_params.push(json!({ "name": "_lastUpdated", "type": "date" }));
    }
    for param in params::of(settings.version(), name) {
        let kind = match param.kind {
            Kind::Reference => "reference",
            Kind::Token => "token",
        };
        search_params.push(json!({ "name": param.name, "type": kind }));
    }
    let mut resource = json!({
        "type": name,
        "interaction": interactions,
        "versioning": "versioned",
        "readHistory": true,
        "searchParam": search_params
    });
    let is_exported = match settings.own_export {
        OwnExport::None => false,
        OwnExport::KnownGroups | OwnExport::Groups => name == "Group",
        OwnExport::Everywhere => matches!(name, "Group" | "Patient"),
    };
    if is_exported {
        let definition = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export";
        resource["operation"] = json!([{ "name": "export", "definition": definition }]);
    }
    resource
}
