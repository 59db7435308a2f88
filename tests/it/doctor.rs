//! What `offtake doctor` says of a server.

use std::process::{Command, Output};

use sample_upstream::{Paging, SampleUpstream, Settings, Total};

use crate::support::listener;

/// The report, line by line: a name and its value.
async fn examined(settings: Settings, more: &str) -> Output {
    let upstream = SampleUpstream::new(settings);
    upstream.generate(5);
    let server = upstream.serve(listener().await).await;
    let folder = tempfile::tempdir().expect("a folder of its own");
    let config = folder.path().join("offtake.yaml");
    let yaml = format!(
        "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: {}{more} }}\n",
        server.base_url
    );
    std::fs::write(&config, yaml).expect("the disk takes it");
    let doctor = move || {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_offtake"));
        doctor.arg("doctor").arg("--config").arg(&config).output().expect("it runs")
    };
    let output = tokio::task::spawn_blocking(doctor).await.expect("it does not panic");
    server.stop().await;
    output
}

async fn lines(settings: Settings, more: &str) -> Vec<(String, String)> {
    let output = examined(settings, more).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let value = |line: &str, range: std::ops::Range<usize>| line.get(range).unwrap_or_default().trim().to_owned();
    text.lines().map(|line| (value(line, 0..14), value(line, 14..30))).collect()
}

#[tokio::test]
async fn a_good_server_is_described_as_it_is() {
    let settings = Settings { total: Total::Exact, max_count: Some(12), ..Settings::default() };
    let found = lines(settings, "").await;
    for (name, value) in [
        ("software", "sample upstream"),
        ("preset", "none"),
        ("FHIR", "4.0.1"),
        ("clock", "agrees"),
        ("_lastUpdated", "millisecond"),
        ("_sort", "obeyed"),
        ("counts", "summary"),
        ("page total", "always"),
        ("next links", "stable"),
        ("page size", "12"),
        ("id lists", "proven"),
    ] {
        let line = found.iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no {name} in {found:?}"));
        assert!(line.1.starts_with(value), "{line:?}");
    }
}

#[tokio::test]
async fn what_a_server_does_not_do_is_not_relied_on() {
    let settings = Settings {
        paging: Paging::Offset,
        total: Total::PageSized,
        counts: false,
        accurate_total: false,
        ignore_sort: true,
        ignored_params: vec!["_lastUpdated".to_owned()],
        ..Settings::default()
    };
    let found = lines(settings.clone(), "").await;
    for (name, value) in [
        ("_lastUpdated", "none"),
        ("_sort", "unproven"),
        ("counts", "none"),
        ("page total", "none"),
        ("next links", "offsets"),
    ] {
        assert!(found.contains(&(name.to_owned(), value.to_owned())), "{name} in {found:?}");
    }
    let overridden = lines(settings, ", profile: { links: stable }").await;
    assert!(overridden.contains(&("next links".to_owned(), "stable".to_owned())), "{overridden:?}");
}

/// A preset is taken by the name that the server gives itself, or by the one in the configuration; it takes away from
/// what the probes found, and the configuration goes before it.
#[tokio::test]
async fn a_preset_restricts_what_was_found() {
    let settings = Settings { total: Total::Exact, software: "Epic".to_owned(), ..Settings::default() };
    let says = |found: &[(String, String)], name: &str, value: &str| {
        assert!(found.contains(&(name.to_owned(), value.to_owned())), "{name} {value} in {found:?}");
    };
    let epic = lines(settings.clone(), "").await;
    for (name, value) in [
        ("preset", "epic"),
        ("_lastUpdated", "none"),
        ("_sort", "unproven"),
        ("counts", "none"),
        ("id lists", "proven"),
        ("", "required"),
        ("", "Observation"),
    ] {
        says(&epic, name, value);
    }
    let overridden = lines(settings.clone(), ", profile: { sort: true }").await;
    says(&overridden, "_sort", "obeyed");
    says(&overridden, "counts", "none");
    let without = lines(settings.clone(), ", preset: none").await;
    says(&without, "preset", "none");
    says(&without, "counts", "summary");
    let named = lines(settings, ", preset: healthlake").await;
    for (name, value) in
        [("preset", "healthlake"), ("_lastUpdated", "second"), ("counts", "summary"), ("page size", "100")]
    {
        says(&named, name, value);
    }
    let refused = examined(Settings::default(), ", preset: epik").await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("neither auto nor none nor one of aidbox, azure"), "{said}");
}
