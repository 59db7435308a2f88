//! A server of a directory, without one patient: what is exported of it makes another server of the same.

use std::collections::BTreeMap;

use sample_upstream::{Paging, SampleUpstream, Settings, Stored};
use serde_json::{Value, json};

use crate::raw;
use crate::support::{App, host_of, listener};

const TYPES: [&str; 6] = ["CodeSystem", "Endpoint", "HealthcareService", "Location", "Organization", "Practitioner"];
/// Of each type.
const RESOURCES: usize = 150;

#[tokio::test]
async fn a_directory_loaded_into_another_server_is_the_same_there() {
    for paging in [Paging::Snapshot, Paging::Cursor, Paging::Offset] {
        let app = App::before(directory(paging), |_| {}).await;
        let (_, received) = app.export("/$export").await.expect("an export");
        assert_eq!(received.keys().collect::<Vec<_>>(), TYPES.iter().collect::<Vec<_>>(), "{paging:?}");

        let other = SampleUpstream::new(Settings::default());
        let server = other.serve(listener().await).await;
        let host = host_of(&server.base_url);
        for line in received.values().flat_map(|file| file.split(|byte| *byte == b'\n')).filter(|line| !line.is_empty())
        {
            let resource: Value = serde_json::from_slice(line).expect("a resource");
            let (name, id) = (text(&resource["resourceType"]), text(&resource["id"]));
            let head = [("Content-Type", "application/fhir+json")];
            let put = raw::request("PUT", &format!("/fhir/{name}/{id}"), &host, &head, line);
            let answer = raw::ask(&host, &put).await;
            assert_eq!(answer.status, 201, "{name}/{id}: {}", String::from_utf8_lossy(&answer.body));
        }
        let (source, copy) = (contents(&app.upstream.resources(None)), contents(&other.resources(None)));
        assert_eq!(source.len(), TYPES.len() * RESOURCES);
        assert_eq!(source, copy, "{paging:?}");
        server.stop().await;
        app.stop().await;
    }
}

/// What stands in resources, but for what a server says itself of each.
fn contents(resources: &[Stored]) -> BTreeMap<String, Value> {
    let content = |stored: &Stored| {
        let mut resource: Value = serde_json::from_str(&stored.body).expect("a resource");
        let meta = resource["meta"].as_object_mut().expect("a server says something of each");
        assert!(meta.remove("versionId").is_some() && meta.remove("lastUpdated").is_some());
        (format!("{}/{}", stored.resource_type, stored.id), resource)
    };
    resources.iter().map(content).collect()
}

/// Each resource refers to others by id, forth and back, and some say what has to be escaped.
fn directory(paging: Paging) -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings { paging, max_count: Some(40), ..Settings::default() });
    for number in 0..RESOURCES {
        let (own, next, half) =
            (format!("d{number}"), format!("d{}", (number + 1) % RESOURCES), format!("d{}", number / 2));
        let to = |name: &str, id: &str| json!({ "reference": format!("{name}/{id}") });
        for resource in [
            json!({ "resourceType": "Organization", "id": own, "name": format!("Ward \"{number}\"\\\u{2028}é"), "partOf": to("Organization", &half), "endpoint": [to("Endpoint", &next)] }),
            json!({ "resourceType": "Location", "id": own, "managingOrganization": to("Organization", &next), "position": { "longitude": 1.50, "latitude": -0.0 } }),
            json!({ "resourceType": "Practitioner", "id": own, "active": number % 3 > 0, "identifier": [{ "system": "urn:example", "value": own }] }),
            json!({ "resourceType": "HealthcareService", "id": own, "providedBy": to("Organization", &half), "location": [to("Location", &next)] }),
            json!({ "resourceType": "Endpoint", "id": own, "status": "active", "address": format!("https://example.org/{number}?a=b&c=d"), "managingOrganization": to("Organization", &own) }),
            json!({ "resourceType": "CodeSystem", "id": own, "url": format!("https://example.org/codes/{number}"), "content": "complete", "concept": [{ "code": "a", "concept": [{ "code": "b" }] }] }),
        ] {
            upstream.insert_raw(&resource.to_string()).expect("a resource");
        }
    }
    upstream
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
