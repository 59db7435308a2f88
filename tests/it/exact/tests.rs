//! A judge that never finds anything proves nothing: here are exports with one thing wrong.

use std::collections::BTreeMap;

use sample_upstream::SampleUpstream;
use serde_json::json;

use super::{Exported, Moment};
use crate::client::Manifest;
use crate::expected::compact;

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

/// A server with a past: of each kind one patient.
fn server() -> (SampleUpstream, Moment) {
    let upstream = SampleUpstream::new(sample_upstream::Settings::default());
    let patient = |id: &str| PATIENT.replace("\"p\"", &format!("\"{id}\""));
    for id in ["untouched", "old", "modified", "deleted-before", "deleted-since"] {
        upstream.create(&patient(id)).expect("a resource");
    }
    upstream.update(&patient("old")).expect("a resource");
    upstream.delete("Patient", "deleted-before").expect("it was there");
    let began = Moment::of(&upstream);
    upstream.update(&patient("modified")).expect("a resource");
    upstream.create(&patient("created")).expect("a resource");
    upstream.delete("Patient", "deleted-since").expect("it was there");
    (upstream, began)
}

/// An export with these versions of these patients and nothing else.
fn export(upstream: &SampleUpstream, patients: &[(&str, u64)]) -> Exported {
    let versions = upstream.versions();
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, version) in patients {
        let held = versions.iter().find(|held| held.id == *id && held.version == *version).expect("there is one");
        let line = compact(held.body.as_deref().expect("it is no deletion"));
        lines.entry(format!("Patient/{id}")).or_default().push(line);
    }
    let whole = json!({
        "transactionTime": "2000-01-01T00:00:00Z",
        "extension": { "https://offtake.dev/proof": { "Patient": { "written": patients.len(), "short": 0 } } },
    });
    Exported {
        manifest: Manifest { output: Vec::new(), whole },
        lines,
        errors: Vec::new(),
        is_of_who_hides_deleted: false,
    }
}

#[test]
fn what_is_allowed_is_found_good() {
    let (upstream, began) = server();
    for patients in [
        [("untouched", 1), ("old", 2), ("modified", 1)].as_slice(),
        &[("untouched", 1), ("old", 2), ("modified", 2), ("created", 1)],
        &[("untouched", 1), ("old", 2), ("modified", 2), ("deleted-since", 1)],
    ] {
        let judged = export(&upstream, patients).judge("/$export", began, &upstream.versions());
        assert!(judged.is_ok(), "{patients:?}: {judged:?}");
    }
}

#[test]
fn each_thing_that_is_wrong_is_found() {
    let (upstream, began) = server();
    for (patients, expected) in [
        ([("untouched", 1), ("old", 2)].as_slice(), "Patient/modified: missing"),
        (&[("old", 2), ("modified", 2)], "Patient/untouched: missing"),
        (&[("untouched", 1), ("untouched", 1), ("old", 2), ("modified", 1)], "Patient/untouched: 2 lines"),
        (&[("untouched", 1), ("old", 1), ("modified", 1)], "Patient/old: in no version that was current"),
        (&[("untouched", 1), ("old", 2), ("modified", 1), ("deleted-before", 1)], "Patient/deleted-before: had been"),
    ] {
        let error = export(&upstream, patients).judge("/$export", began, &upstream.versions()).expect_err("not good");
        assert!(error.to_string().contains(expected), "{patients:?}: {error}");
    }
}

#[test]
fn what_the_next_export_would_not_bring_is_found_and_so_is_a_proof_that_does_not_fit() {
    let (upstream, began) = server();
    let good = [("untouched", 1), ("old", 2), ("modified", 1)];
    let mut exported = export(&upstream, &good);
    exported.manifest.whole["transactionTime"] = "2100-01-01T00:00:00Z".into();
    let error = exported.judge("/$export", began, &upstream.versions()).expect_err("not good").to_string();
    for lost in ["Patient/modified: what was written", "Patient/created: what was written"] {
        assert!(error.contains(lost), "{error}");
    }
    let mut exported = export(&upstream, &good);
    exported.manifest.whole["extension"]["https://offtake.dev/proof"]["Patient"]["written"] = 2.into();
    let error = exported.judge("/$export", began, &upstream.versions()).expect_err("not good").to_string();
    assert!(error.contains("3 lines, and the proof says"), "{error}");
}

#[test]
fn what_a_level_does_not_ask_for_is_found() {
    let (upstream, _) = server();
    upstream
        .create(r#"{"resourceType":"Group","id":"g","member":[{"entity":{"reference":"Patient/old"}}]}"#)
        .expect("ok");
    let began = Moment::of(&upstream);
    let judge =
        |patients: &[(&str, u64)]| export(&upstream, patients).judge("/Group/g/$export", began, &upstream.versions());
    assert!(judge(&[("old", 2)]).is_ok());
    let error = judge(&[("old", 2), ("untouched", 1)]).expect_err("not good").to_string();
    assert!(error.contains("Patient/untouched: was not asked for"), "{error}");
}
