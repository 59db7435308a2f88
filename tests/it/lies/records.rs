//! Types that can be searched by no patient, and are in what `$everything` gives of each.

use std::collections::{BTreeMap, BTreeSet};

use sample_upstream::{Everything, SampleUpstream, Settings, Total};

use super::{PROOF, outcomes};
use crate::client::Client;
use crate::exact::{Exported, Moment};
use crate::support::App;

const GROUP: &str = "/Group/all/$export";
const ALL_PATIENTS: &str = "/Patient/$export";
/// Not everybody is in it.
const SOME: &str = "/Group/first-half/$export";
/// As many that resources of two patients are among the data.
const PATIENTS: usize = 12;
const RECORDS: [&str; 4] = ["Coverage", "Immunization", "Observation", "Procedure"];

/// Four types that are searched by an identifier only.
fn settings(everything: Everything) -> Settings {
    let identifier = vec!["identifier".to_owned()];
    let required_params: BTreeMap<_, _> = RECORDS.iter().map(|name| ((*name).to_owned(), identifier.clone())).collect();
    Settings { total: Total::Exact, required_params, everything, ..Settings::default() }
}

async fn before(settings: Settings) -> App {
    let upstream = SampleUpstream::new(settings);
    upstream.generate(PATIENTS);
    App::before(upstream, |_| {}).await
}

fn records_asked_for(upstream: &SampleUpstream) -> usize {
    upstream.requests().iter().filter(|request| request.path.ends_with("/$everything")).count()
}

#[tokio::test]
async fn records_are_read_where_no_search_by_patient_is_answered() {
    for (everything, max_count) in
        [(Everything::Paged, None), (Everything::Paged, Some(3)), (Everything::TypeIgnored, Some(20))]
    {
        let app = before(Settings { max_count, ..settings(everything) }).await;
        for level in [GROUP, ALL_PATIENTS] {
            let exported = app.export_exactly(level).await;
            let manifest = exported.unwrap_or_else(|error| panic!("{everything:?}, {max_count:?}, {level}: {error:#}"));
            let proof = &manifest.whole["extension"][PROOF];
            for name in RECORDS {
                assert_eq!(proof[name]["method"], "unproven", "{name}");
            }
            assert_eq!(proof["Condition"]["method"], "counted");
            assert!(proof["Observation"]["repeated"].as_u64() > Some(0), "some are in two records: {proof}");
            let said = outcomes(&manifest).await;
            let line = said.lines().find(|line| line.contains("$everything holds")).expect("it is said");
            assert!(line.contains(&RECORDS.join(", ")), "{line}");
        }
        app.stop().await;
    }
}

/// SEC-20: whatever a record holds, nothing leaves that does not belong to the members, and to them alone.
#[tokio::test]
async fn of_a_record_only_what_belongs_to_the_members_leaves() {
    for everything in [Everything::Paged, Everything::TypeIgnored, Everything::OfEverybody] {
        let app = before(settings(everything)).await;
        let began = Moment::of(&app.upstream);
        let (manifest, received) = app.export(SOME).await.expect("an export");
        assert!(!received["Observation"].is_empty() && records_asked_for(&app.upstream) > 0);
        let withheld = manifest.whole["extension"][PROOF]["Observation"]["withheld"].as_u64();
        assert_eq!(withheld > Some(0), everything == Everything::OfEverybody, "{everything:?}: {withheld:?}");
        let exported = Exported::fetch(&Client::new(), manifest).await.expect("all files");
        exported
            .judge(SOME, began, &app.upstream.versions())
            .unwrap_or_else(|error| panic!("{everything:?}: {error:#}"));
        app.stop().await;
    }
}

#[tokio::test]
async fn what_a_record_lacks_is_never_counted() {
    let app = before(settings(Everything::Paged)).await;
    let dropped = app.upstream.resources(Some("Immunization"))[3].id.clone();
    let lacking = BTreeSet::from([format!("Immunization/{dropped}")]);
    app.upstream.update_settings(|settings| settings.lies.dropped = lacking);
    let (manifest, received) = app.export(GROUP).await.expect("an export");
    assert!(!String::from_utf8_lossy(&received["Immunization"]).contains(&dropped));
    assert_eq!(manifest.whole["extension"][PROOF]["Immunization"]["method"], "unproven");
    app.stop().await;
}

#[tokio::test]
async fn without_records_and_at_system_level_such_types_are_refused_by_name() {
    for (everything, level) in [(Everything::Absent, GROUP), (Everything::Paged, "/$export")] {
        let app = before(settings(everything)).await;
        let (manifest, received) = app.export(level).await.expect("an export");
        assert!(RECORDS.iter().all(|name| !received.contains_key(*name)));
        let said = outcomes(&manifest).await;
        assert!(RECORDS.iter().all(|name| said.contains(name)), "{said}");
        let asked = records_asked_for(&app.upstream);
        assert!(asked <= 3, "{asked} records were asked for at {level}");
        app.stop().await;
    }
}
