//! The capability statement of a base that is ours alone: nothing of it is passed on, so what the upstream can do is not said
//! there. Our operations are added where those of the upstream's own statement are. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fhir::resource_type::ResourceType;

/// What a base of ours says of itself.
pub(crate) struct Statement<'a> {
    /// Without a slash at its end.
    pub(crate) base: &'a str,
    /// The upstream's.
    pub(crate) fhir_version: &'a str,
    /// What can be exported, and what exports are asked of.
    pub(crate) types: &'a BTreeSet<ResourceType>,
    /// As FHIR writes it.
    pub(crate) date: String,
}

impl Statement<'_> {
    pub(crate) fn document(&self) -> String {
        let version = if self.fhir_version.is_empty() { "4.0.1" } else { self.fhir_version };
        let mut server = json!({ "mode": "server" });
        if !self.types.is_empty() {
            let resources: Vec<_> = self.types.iter().map(|name| json!({ "type": name.as_str() })).collect();
            server["resource"] = Value::from(resources);
        }
        json!({
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": self.date,
            "kind": "instance",
            "software": { "name": "Offtake", "version": env!("CARGO_PKG_VERSION") },
            "implementation": { "description": "Bulk Data exports", "url": self.base },
            "fhirVersion": version,
            "format": ["application/fhir+json"],
            "rest": [server],
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_there_and_nothing_else() {
        let types = BTreeSet::from([ResourceType::PATIENT, ResourceType::GROUP]);
        let date = "2026-01-01T00:00:00Z".to_owned();
        let statement = Statement { base: "https://h/bulk", fhir_version: "", types: &types, date };
        let document: Value = serde_json::from_str(&statement.document()).expect("JSON");
        assert_eq!(
            (&document["fhirVersion"], &document["implementation"]["url"]),
            (&json!("4.0.1"), &json!("https://h/bulk"))
        );
        let server = &document["rest"][0];
        assert_eq!(server["resource"], json!([{ "type": "Group" }, { "type": "Patient" }]));
        let without = Statement { fhir_version: "6.0.0", types: &BTreeSet::new(), ..statement };
        let document: Value = serde_json::from_str(&without.document()).expect("JSON");
        assert_eq!(document["rest"], json!([{ "mode": "server" }]));
        assert_eq!(document["fhirVersion"], "6.0.0");
    }
}
