//! Lists of patients that are too long for a URL: by POST where that is the same, else in smaller lists.

use std::collections::BTreeSet;

use offtake::config::ProfileOverrides;
use sample_upstream::{Lies, Paging, Posts, SampleUpstream, Settings, Total};

use super::Expected::{Complete, Stops};
use super::{PROOF, Row, run};
use crate::support::App;

/// All of 120 patients, of each of whom there is one Immunization.
const GROUP: &str = "/Group/all/$export?_type=Patient,Immunization";
const PATIENTS: usize = 120;

fn settings(posts: Posts) -> Settings {
    Settings { total: Total::Exact, lies: Lies { posts, ..Lies::default() }, ..Settings::default() }
}

/// Patients named by each search of Immunization that is no count and no probe, by method.
fn lists(upstream: &SampleUpstream) -> Vec<(http::Method, usize)> {
    let requests = upstream.requests().into_iter().filter(|request| {
        let is_read = request.path.contains("/Immunization") && request.query.contains("patient=");
        is_read && !["_summary=", "_elements=", "offtake-probe-"].iter().any(|part| request.query.contains(part))
    });
    let named = |query: &str| {
        let patients = query.split('&').find_map(|pair| pair.strip_prefix("patient=")).unwrap_or_default();
        patients.split(',').count()
    };
    requests.map(|request| (request.method, named(&request.query))).collect()
}

fn in_one_form(upstream: &SampleUpstream, _: &str) -> Result<(), String> {
    let lists = lists(upstream);
    if lists.contains(&(http::Method::POST, PATIENTS)) { Ok(()) } else { Err(format!("nobody posted all: {lists:?}")) }
}

fn in_urls(upstream: &SampleUpstream, _: &str) -> Result<(), String> {
    let lists = lists(upstream);
    let fits = |(method, patients): &(http::Method, usize)| *method == http::Method::GET && *patients <= 50;
    if lists.iter().all(fits) && lists.iter().any(|(_, patients)| *patients > 5) {
        Ok(())
    } else {
        Err(format!("{lists:?}"))
    }
}

fn row(name: impl Into<String>, settings: Settings, check: fn(&SampleUpstream, &str) -> Result<(), String>) -> Row {
    let expected = Complete("counted");
    let (name, patients) = (name.into(), PATIENTS);
    Row { name, settings, patients, prepare: |_| {}, preset: None, level: GROUP, expected, check }
}

#[tokio::test]
async fn long_lists_are_posted_only_where_that_finds_the_same() {
    let mut rows = Vec::new();
    for posts in [Posts::AsGets, Posts::NextByPost, Posts::NextForgets] {
        rows.push(row(format!("{posts:?}"), settings(posts), in_one_form));
        let lies = Lies { short_pages: true, posts, ..Lies::default() };
        rows.push(row(format!("{posts:?}, short pages"), Settings { lies, ..settings(posts) }, |_, _| Ok(())));
        for paging in [Paging::Snapshot, Paging::Cursor, Paging::Offset] {
            let name = format!("{posts:?}, {paging:?}, pages of 40");
            rows.push(row(name, Settings { paging, max_count: Some(40), ..settings(posts) }, |_, _| Ok(())));
        }
        let settings = Settings { most_url_bytes: 700, ..settings(posts) };
        rows.push(row(format!("{posts:?}, short URLs"), settings, in_one_form));
    }
    for posts in [Posts::Refused, Posts::FormIgnored, Posts::ListsCut] {
        rows.push(row(format!("{posts:?}"), settings(posts), in_urls));
        let settings = Settings { most_url_bytes: 700, ..settings(posts) };
        rows.push(row(format!("{posts:?}, short URLs"), settings, in_urls));
    }
    let uncounted = Settings { counts: false, accurate_total: false, total: Total::Absent, ..settings(Posts::AsGets) };
    rows.push(Row { expected: Complete("reread"), ..row("no counts", uncounted, in_one_form) });
    rows.push(Row {
        prepare: |upstream| {
            let dropped = format!("Immunization/{}", upstream.resources(Some("Immunization"))[70].id);
            upstream.update_settings(|settings| settings.lies.dropped = BTreeSet::from([dropped]));
        },
        // Another type shows that counts are exact.
        level: "/Group/all/$export?_type=CarePlan,Immunization",
        expected: Stops(&["could not read Immunization", "1 resources that the server counts did not come"]),
        ..row("one is counted and never sent", settings(Posts::AsGets), |_, _| Ok(()))
    });
    run(rows).await;
}

/// What was taken when it was probed may be refused later, as by a gateway.
#[tokio::test]
async fn a_list_that_is_refused_for_its_length_is_halved() {
    let upstream = SampleUpstream::new(Settings { most_url_bytes: 700, ..settings(Posts::Refused) });
    upstream.generate(PATIENTS);
    let app = App::before(upstream, |config| {
        config.upstream.profile = ProfileOverrides { url_most_bytes: Some(1_700), ..ProfileOverrides::default() };
    })
    .await;
    let manifest = app.export_exactly(GROUP).await.expect("an exact export");
    assert_eq!(manifest.whole["extension"][PROOF]["Immunization"]["method"], "counted");
    let refused = lists(&app.upstream).iter().filter(|(_, patients)| *patients == 50).count();
    assert!(refused > 0, "lists of fifty were asked for first");
    app.stop().await;
}
