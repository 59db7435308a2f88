//! What `offtake doctor` says of a server.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use sample_upstream::{Everything, Handling, Lies, OwnExport, Paging, Posts, SampleUpstream, Settings, Total};

use crate::support::listener;

/// The report, line by line: a name and its value.
async fn examined(settings: Settings, more: &str) -> Output {
    examined_of(5, settings, more).await
}

async fn examined_of(patients: usize, settings: Settings, more: &str) -> Output {
    let upstream = SampleUpstream::new(settings);
    if patients > 0 {
        upstream.generate(patients);
    }
    let server = upstream.serve(listener().await).await;
    let output = examined_at(&server.base_url, more).await;
    server.stop().await;
    output
}

async fn examined_at(base_url: &str, more: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let config = folder.path().join("offtake.yaml");
    let at = folder.path().display();
    let yaml = format!(
        "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: {base_url}{more} }}\n\
         output: {{ location: file://{at}/output, min_free_bytes: 0 }}\nstore: {{ path: {at}/state }}\n"
    );
    std::fs::write(&config, yaml).expect("the disk takes it");
    let doctor = move || {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_offtake"));
        doctor.arg("doctor").arg("--config").arg(&config).output().expect("it runs")
    };
    tokio::task::spawn_blocking(doctor).await.expect("it does not panic")
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

/// What doctor prints, word for word.
async fn report(settings: Settings, more: &str) -> String {
    report_of(5, settings, more).await
}

async fn report_of(patients: usize, settings: Settings, more: &str) -> String {
    let output = examined_of(patients, settings, more).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // `Date` has whole seconds.
    let (upstream, storage) = text.split_once("storage ").expect("the storage comes last");
    assert!(storage.contains("\nfolder        missing         serve makes it"), "{storage}");
    upstream.lines().map(|line| line.trim_end().replace("119 s", "120 s") + "\n").collect()
}

/// Every line of the profile is there with what it means for exports: of a server that does all.
#[tokio::test]
async fn the_whole_report_of_a_good_server() {
    let settings = Settings {
        total: Total::Exact,
        max_count: Some(12),
        everything: Everything::Paged,
        version: "1.2.3".to_owned(),
        ..Settings::default()
    };
    assert_eq!(report(settings, "").await, GOOD);
}

/// And of one that does as little as there is to do, and whose clock is ahead.
#[tokio::test]
async fn the_whole_report_of_a_poor_server() {
    let lies =
        Lies { first_of_list: true, handling: Handling::PreferRefused, posts: Posts::Refused, ..Lies::default() };
    let settings = Settings {
        paging: Paging::Offset,
        total: Total::PageSized,
        counts: false,
        accurate_total: false,
        ignore_sort: true,
        no_last_updated: true,
        history: false,
        gzip: false,
        required_params: BTreeMap::from([("Immunization".to_owned(), vec!["patient".to_owned()])]),
        clock_skew: chrono::TimeDelta::minutes(2),
        version: "1.2.3".to_owned(),
        lies,
        ..Settings::default()
    };
    assert_eq!(report(settings, ", profile: { page_most: 10 }").await, POOR);
}

/// Before a server that holds nothing there is nothing to try, which is said.
#[tokio::test]
async fn the_whole_report_of_an_empty_server() {
    let settings = Settings { version: "1.2.3".to_owned(), ..Settings::default() };
    assert_eq!(report_of(0, settings, "").await, EMPTY);
}

/// SEC-03: an export of the server's own is a way round ours. What was begun to find out is ended.
#[tokio::test]
async fn an_export_of_the_servers_own_is_found_ended_and_asked_to_be_switched_off() {
    const ALL: &str = "`$export`, `Patient/$export` and `Group/…/$export`";
    let upstream = SampleUpstream::new(Settings { own_export: OwnExport::Everywhere, ..Settings::default() });
    let report = report_before(&upstream).await;
    for line in [
        format!("own export    BEGUN           the server has begun an export by {ALL}; it was ended again\n"),
        format!(
            "              BEGUN           the server has begun an export by {ALL} in a batch; it was ended again\n"
        ),
        "SWITCH IT OFF THERE".to_owned(),
    ] {
        assert!(report.contains(&line), "{report}");
    }
    let kickoffs: Vec<_> = upstream.requests().into_iter().filter(|seen| seen.path.ends_with("/$export")).collect();
    assert_eq!(kickoffs.len(), 3);
    for kickoff in kickoffs {
        assert!(kickoff.query.starts_with("_type=Basic&_since=20"), "{}", kickoff.query);
    }
    assert_eq!(upstream.own_exports(), 0, "nothing is left of it");
    // Nor where the server goes by another name: what it says is asked where searches go.
    upstream.update_settings(|settings| settings.link_base = Some("http://elsewhere.example/r4".to_owned()));
    let report = report_before(&upstream).await;
    assert_eq!(report.matches("it was ended again").count(), 2, "{report}");
    assert_eq!(upstream.own_exports(), 0);
}

/// SEC-03: also where it is offered for Groups alone.
#[tokio::test]
async fn an_export_of_groups_alone_is_found_by_trying_and_by_what_the_server_says() {
    for (own_export, group) in [(OwnExport::Groups, "BEGUN"), (OwnExport::KnownGroups, "refused")] {
        let upstream = SampleUpstream::new(Settings { own_export, ..Settings::default() });
        let report = report_before(&upstream).await;
        let begun = "has begun an export by `Group/…/$export`; it was ended again\n";
        assert_eq!(report.contains(begun), group == "BEGUN", "{report}");
        assert!(report.contains("answers `$export`"), "{report}");
        assert!(report.contains("stated          the server's statement offers `Group/…/$export`\n"), "{report}");
        assert!(report.contains("SWITCH IT OFF THERE"), "{report}");
        assert_eq!(upstream.own_exports(), 0, "nothing is left of it");
    }
}

/// What doctor prints before a server as it is.
async fn report_before(upstream: &SampleUpstream) -> String {
    let server = upstream.serve(listener().await).await;
    let output = examined_at(&server.base_url, "").await;
    server.stop().await;
    String::from_utf8(output.stdout).expect("text")
}

/// A filter that is ignored is found before anything is exported.
#[tokio::test]
async fn searches_by_patient_that_cannot_be_relied_on_are_named() {
    let ignored = Settings { ignored_params: vec!["patient".to_owned(), "subject".to_owned()], ..Settings::default() };
    let text = report(ignored, "").await;
    assert!(text.contains("unreliable      the server ignores `"), "{text}");
}

const GOOD: &str = concat!(
    "anonymous     accepted        the server gives to anybody: whoever reaches Offtake reads it through it\n",
    "own export    refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` with 404\n",
    "              refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` in a batch with 405\n",
    "software      sample upstream 1.2.3\n",
    "preset        none            all that is relied on was found by asking\n",
    "FHIR          4.0.1           all levels can be exported\n",
    "types         78              can be searched; 20 hold 136 resources together\n",
    "clock         agrees          with ours\n",
    "_lastUpdated  millisecond     types are read in windows of time, many at once\n",
    "_sort         obeyed          the newest change is found by one search\n",
    "counts        summary         exact; the proof can say `counted`\n",
    "page total    always          a page's own total is exact\n",
    "next links    stable          lists or cursors: several pages can prove themselves\n",
    "page size     12              resources at most\n",
    "patients      id              how searches name a patient; tried again for each Group export\n",
    "patient lists proven          one search names many patients\n",
    "              1700 bytes      in a URL, of all that it names\n",
    "              200 patients    by POST at most\n",
    "id lists      proven          several ids are asked for at once\n",
    "$everything   offered         what no search by patient reaches is read from it, unproven\n",
    "history       offered         exports with `_since` say what was deleted\n",
    "strict        enforced        a parameter that the server does not know is refused by it\n",
    "gzip          yes             pages come compressed\n",
    "protocol      http/1.1        each search at the same time has a connection\n",
    "keys          made            at the next start, as far as they are not there yet\n",
);
const POOR: &str = concat!(
    "anonymous     accepted        the server gives to anybody: whoever reaches Offtake reads it through it\n",
    "own export    refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` with 404\n",
    "              refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` in a batch with 405\n",
    "software      sample upstream 1.2.3\n",
    "preset        none            all that is relied on was found by asking\n",
    "FHIR          4.0.1           all levels can be exported\n",
    "types         78              can be searched; nothing shows how much they hold\n",
    "              Immunization    is refused without a patient: exports try it patient by patient\n",
    "clock         120 s           ahead of ours; exports go by the server's own\n",
    "_lastUpdated  none            types are read as one chain of pages; `_since` is our own filter, where resources say their time\n",
    "_sort         unproven        the newest change is found by halving; pages are never relied on to be in order\n",
    "counts        none            nothing exact: every slice is read twice, and the proof says `reread`\n",
    "page total    none            each slice is counted apart before it is read\n",
    "next links    offsets         several pages are read until two readings are the same\n",
    "page size     10              resources at most\n",
    "patients      id              how searches name a patient; tried again for each Group export\n",
    "patient lists unproven        patients are asked for one by one\n",
    "              not proven      by POST: no list is longer than a URL takes\n",
    "id lists      unproven        ids are asked for one by one\n",
    "$everything   refused         what no search by patient reaches is refused by name\n",
    "history       refused         exports with `_since` cannot say what was deleted, and say so\n",
    "strict        refused         searches are sent without `Prefer: handling=strict`\n",
    "gzip          no              pages come as large as they are\n",
    "protocol      http/1.1        each search at the same time has a connection\n",
    "untried       last_updated, counts no witness was found; each export tries again\n",
    "                              (with the lines that upstream.profile sets)\n",
    "keys          made            at the next start, as far as they are not there yet\n",
);
const EMPTY: &str = concat!(
    "anonymous     accepted        the server gives to anybody: whoever reaches Offtake reads it through it\n",
    "own export    refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` with 404\n",
    "              refused         the server answers `$export`, `Patient/$export` and `Group/…/$export` in a batch with 405\n",
    "software      sample upstream 1.2.3\n",
    "preset        none            all that is relied on was found by asking\n",
    "FHIR          4.0.1           all levels can be exported\n",
    "types         78              can be searched; nothing shows how much they hold\n",
    "clock         agrees          with ours\n",
    "_lastUpdated  none            types are read as one chain of pages; `_since` is our own filter, where resources say their time\n",
    "_sort         unproven        the newest change is found by halving; pages are never relied on to be in order\n",
    "counts        none            nothing exact: every slice is read twice, and the proof says `reread`\n",
    "page total    none            each slice is counted apart before it is read\n",
    "next links    offsets         several pages are read until two readings are the same\n",
    "page size     as asked        resources at most\n",
    "patients      id              how searches name a patient; tried again for each Group export\n",
    "              untried         there is nobody to try searches by patient on\n",
    "patient lists unproven        patients are asked for one by one\n",
    "              not proven      by POST: no list is longer than a URL takes\n",
    "id lists      unproven        ids are asked for one by one\n",
    "$everything   untried         there is nobody to try it on: each export tries\n",
    "history       untried         there is nothing to try it on: each export tries\n",
    "strict        enforced        a parameter that the server does not know is refused by it\n",
    "gzip          yes             pages come compressed\n",
    "protocol      http/1.1        each search at the same time has a connection\n",
    "untried       last_updated, sort, counts, links, id_lists, history no witness was found; each export tries again\n",
    "keys          made            at the next start, as far as they are not there yet\n",
);

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
