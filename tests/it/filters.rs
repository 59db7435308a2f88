//! `_typeFilter`: exactly what passes is exported, by an evaluator of our own that knows nothing of searches (BD-035 to BD-039,
//! DS-004, DS-005, SEC-21, SEC-22); and where a server cannot be relied on, nothing is.

mod rights;
mod trust;

use std::collections::BTreeMap;

use sample_upstream::{Paging, SampleUpstream, Settings, Total};
use serde_json::Value;

use crate::expected::{self, Expected};
use crate::support::App;

/// What a filter lets pass, said a second time.
pub(crate) type Passes = fn(&Value) -> bool;

/// Whether a `CodeableConcept` at `element`, or one of a list, holds a code.
pub(crate) fn coded(resource: &Value, element: &str, code: &str) -> bool {
    let concepts = match &resource[element] {
        Value::Array(concepts) => concepts.clone(),
        concept => vec![concept.clone()],
    };
    let codings = concepts.iter().filter_map(|concept| concept["coding"].as_array()).flatten();
    codings.into_iter().any(|coding| coding["code"] == code)
}

pub(crate) fn is_laboratory(resource: &Value) -> bool {
    coded(resource, "category", "laboratory")
}

/// Everything of a level, but of the named types only what passes.
pub(crate) fn expected(upstream: &SampleUpstream, level: &str, passes: &[(&str, Passes)]) -> Expected {
    let mut expected = expected::of(upstream, level);
    expected.retain(|name, body| {
        let resource: Value = serde_json::from_str(body).expect("the server holds JSON");
        let of_type = |of: &str| name.split('/').next() == Some(of);
        passes.iter().find(|(of, _)| of_type(of)).is_none_or(|(_, passes)| passes(&resource))
    });
    expected
}

/// Exports, and compares the lines of some types with what is expected of them.
pub(crate) async fn exports(app: &App, path: &str, types: &[&str], passes: &[(&str, Passes)]) -> Value {
    let level = path.split('?').next().expect("a level");
    let (manifest, mut received) = app.export(path).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    let mut expected = expected(&app.upstream, level, passes);
    expected.retain(|name, _| types.iter().any(|of| name.split('/').next() == Some(*of)));
    received.retain(|name, _| types.contains(&name.as_str()));
    assert!(!expected.is_empty(), "{path}: there is something to be exported");
    let difference = expected::compare(&expected, &received).expect("lines");
    assert!(difference.is_none(), "{path}:\n{difference}");
    manifest.whole
}

pub(crate) fn proof<'a>(manifest: &'a Value, name: &str) -> &'a Value {
    &manifest["extension"]["https://offtake.dev/proof"][name]
}

/// Ways in which servers page, count and want to be asked.
fn servers() -> BTreeMap<&'static str, Settings> {
    let offsets = Settings {
        paging: Paging::Offset,
        total: Total::Absent,
        counts: false,
        accurate_total: false,
        max_count: Some(7),
        ..Settings::default()
    };
    BTreeMap::from([
        ("as most", Settings::default()),
        ("by cursors", Settings { paging: Paging::Cursor, max_count: Some(11), ..Settings::default() }),
        ("by offsets and without counts", offsets),
        ("without time", Settings { no_last_updated: true, ..Settings::default() }),
        ("by patient only", Settings { require_patient: true, total: Total::Exact, ..Settings::default() }),
    ])
}

#[tokio::test]
async fn what_passes_is_exported_at_every_level_from_every_kind_of_server() {
    for (name, settings) in servers() {
        let app = App::with_patients(6, settings.clone()).await;
        for level in ["/$export", "/Patient/$export", "/Group/all/$export"] {
            if level == "/$export" && settings.require_patient {
                continue; // what belongs to nobody cannot be had of it
            }
            let path = format!("{level}?_typeFilter=Observation%3Fcategory%3Dlaboratory");
            let types = ["Observation", "Patient", "Condition", "Encounter", "Coverage"];
            let manifest = exports(&app, &path, &types, &[("Observation", is_laboratory)]).await;
            let counted = app.upstream.resources(Some("Observation")).len() as u64;
            let of_type = proof(&manifest, "Observation");
            assert_eq!(of_type["short"], 0, "{name} {level}");
            assert!(of_type["written"].as_u64().is_some_and(|written| written > 0 && written < counted), "{of_type}");
            if name == "as most" {
                assert_eq!((&of_type["method"], &of_type["expected"]), (&"counted".into(), &of_type["received"]));
            }
        }
        app.stop().await;
    }
}

/// BD-036, BD-038: repeats and lists are alternatives; each line comes once.
#[tokio::test]
async fn alternatives_overlap_and_each_resource_has_one_line() {
    let app = App::with_patients(15, Settings { max_count: Some(9), ..Settings::default() }).await;
    let either: Passes = |resource| is_laboratory(resource) || coded(resource, "code", "8867-4");
    let both: Passes = |resource| is_laboratory(resource) && coded(resource, "code", "8867-4");
    let men: Passes = |resource| resource["gender"] == "male" || resource["gender"] == "other";
    for level in ["/$export", "/Group/all/$export"] {
        for (filters, passes) in [
            (
                "_typeFilter=Observation?category=laboratory&_typeFilter=Observation%3Fcode%3Dhttp%3A%2F%2Floinc.org%7C8867-4",
                either,
            ),
            ("_typeFilter=Observation?category=laboratory,Observation?code=8867-4", either),
            ("_typeFilter=Observation%3Fcategory%3Dlaboratory%26code%3D8867-4", both),
        ] {
            let path = format!(
                "{level}?{filters}&_typeFilter=Patient?gender=male%252Cother&_type=Patient,Observation,Condition"
            );
            let passes = [("Observation", passes), ("Patient", men)];
            let manifest = exports(&app, &path, &["Observation", "Patient", "Condition"], &passes).await;
            let of_type = proof(&manifest, "Observation");
            let [received, written, repeated] = ["received", "written", "repeated"].map(|name| of_type[name].as_u64());
            let withheld = of_type["withheld"].as_u64().expect("a number");
            let sum = written.zip(repeated).map(|(written, repeated)| written + repeated + withheld);
            assert_eq!((received, &of_type["short"]), (sum, &0.into()), "{path}: {of_type}");
        }
    }
    app.stop().await;
}

/// Whatever an export asks of a type that is narrowed, but for what it needs to plan and to prove it, carries the filter.
#[tokio::test]
async fn the_filter_is_in_every_search_that_brings_something() {
    let app = App::with_patients(12, Settings { max_count: Some(5), ..Settings::default() }).await;
    app.export("/$export?_type=Observation&_typeFilter=Observation?category=laboratory").await.expect("an export");
    let is_page = |query: &str| {
        // Pages are asked for with everything in them.
        query.contains("_lastUpdated=") && !query.contains("_elements=") && !query.contains("_summary=")
    };
    let asked = app.upstream.requests();
    let asked = asked.iter().filter(|seen| seen.path.ends_with("/Observation"));
    let pages: Vec<_> = asked.map(|seen| seen.query.as_str()).filter(|query| is_page(query)).collect();
    assert!(pages.len() > 3, "{pages:?}");
    // The probes of the server's own habits look at a handful.
    let without: Vec<_> = pages.iter().filter(|query| !query.contains("category=laboratory")).collect();
    assert!(without.is_empty(), "{without:?}");
    app.stop().await;
}
