//! The capability statement of a base that is ours alone: nothing of it is passed on, so what the upstream can do is not said
//! there. Our operations are added where those of the upstream's own statement are. Pure.

use serde_json::{Value, json};

/// What a base of ours says of itself.
pub(crate) struct Statement<'a> {
    /// Without a slash at its end.
    pub(crate) base: &'a str,
    /// The upstream's.
    pub(crate) fhir_version: &'a str,
    /// Whether there are exports of patients and Groups.
    pub(crate) has_patients: bool,
    /// As FHIR writes it.
    pub(crate) date: String,
    /// Where access tokens are had, if they are wanted.
    pub(crate) token_endpoint: Option<&'a str>,
}

/// Which extension tells where tokens are had.
const OAUTH_URIS: &str = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris";

impl Statement<'_> {
    pub(crate) fn document(&self) -> String {
        let version = if self.fhir_version.is_empty() { "4.0.1" } else { self.fhir_version };
        let resources: &[&str] = if self.has_patients { &["Patient", "Group"] } else { &[] };
        let mut server = json!({ "mode": "server" });
        if !resources.is_empty() {
            let resources: Vec<_> = resources.iter().map(|name| json!({ "type": name })).collect();
            server["resource"] = Value::from(resources);
        }
        if let Some(endpoint) = self.token_endpoint {
            server["security"] = json!({
                "extension": [{ "url": OAUTH_URIS, "extension": [{ "url": "token", "valueUri": endpoint }] }],
                "service": [{ "coding": [{
                    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                    "code": "SMART-on-FHIR",
                }] }],
            });
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
        let statement = Statement {
            base: "https://h/bulk",
            fhir_version: "",
            has_patients: true,
            date: "2026-01-01T00:00:00Z".to_owned(),
            token_endpoint: Some("https://h/bulk/$bulk-token"),
        };
        let document: Value = serde_json::from_str(&statement.document()).expect("JSON");
        assert_eq!(
            (&document["fhirVersion"], &document["implementation"]["url"]),
            (&json!("4.0.1"), &json!("https://h/bulk"))
        );
        let server = &document["rest"][0];
        assert_eq!(server["resource"], json!([{ "type": "Patient" }, { "type": "Group" }]));
        assert_eq!(server["security"]["extension"][0]["extension"][0]["valueUri"], "https://h/bulk/$bulk-token");
        let without = Statement { fhir_version: "6.0.0", has_patients: false, token_endpoint: None, ..statement };
        let document: Value = serde_json::from_str(&without.document()).expect("JSON");
        assert_eq!(document["rest"], json!([{ "mode": "server" }]));
        assert_eq!(document["fhirVersion"], "6.0.0");
    }
}
