//! `organizeOutputBy=Patient`: blocks, one for each patient (spec 2.4.5, BD-040 to BD-044, BD-075, BD-076).

mod rights;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use chrono::TimeDelta;
use offtake::config::{Attachments, Compression, Size};
use sample_upstream::{Lies, Paging, SampleUpstream, Settings, Total};
use serde_json::{Value, json};

use crate::client::{Client, Manifest};
use crate::expected::{self, compact, followed, type_of, whose};
use crate::raw::KICKOFF;
use crate::support::App;

/// The resources of each patient's block: their lines by `Type/id`.
pub(crate) type Blocks = BTreeMap<String, BTreeMap<String, String>>;

/// Whose block a header line begins, if it is one.
fn header(line: &Value) -> anyhow::Result<Option<String>> {
    if line["resourceType"] != "Parameters" {
        return Ok(None);
    }
    let patient = line["parameter"][0]["valueReference"]["reference"].as_str().context("a header of nobody")?;
    let named = json!([{ "name": "header", "valueReference": { "reference": patient } }]);
    ensure!(*line == json!({ "resourceType": "Parameters", "parameter": named }), "a header of another shape: {line}");
    Ok(Some(patient.to_owned()))
}

/// What has come, and how many files go on in another one: fails if a block is not what it should be by itself.
pub(crate) async fn received(client: &Client, manifest: &Manifest) -> anyhow::Result<(Blocks, usize)> {
    ensure!(manifest.whole["outputOrganizedBy"] == "Patient", "it is not said how it is organized");
    let files = manifest.whole["output"].as_array().context("no output")?;
    let mut blocks = Blocks::new();
    // Whose block goes on in which file.
    let mut continued: BTreeMap<&str, String> = BTreeMap::new();
    for file in files {
        ensure!(file.get("type").is_none(), "a file of blocks has no type: {file}");
        let url = file["url"].as_str().context("no url")?;
        let bytes = client.download(url).await?;
        let text = std::str::from_utf8(&bytes)?;
        ensure!(file["count"] == text.lines().count(), "{file} has {} lines", text.lines().count());
        let mut patient: Option<String> = None;
        let mut goes_on = continued.remove(url);
        for line in text.lines() {
            let value: Value = serde_json::from_str(line)?;
            if let Some(named) = header(&value)? {
                match goes_on.take() {
                    Some(expected) => ensure!(named == expected, "{expected} goes on, and {named} comes"),
                    None => {
                        ensure!(blocks.insert(named.clone(), BTreeMap::new()).is_none(), "two blocks of {named}");
                    }
                }
                patient = Some(named);
                continue;
            }
            let patient = patient.as_ref().context("a file that does not begin with a header")?;
            let name =
                format!("{}/{}", value["resourceType"].as_str().unwrap_or("?"), value["id"].as_str().unwrap_or("?"));
            let block = blocks.entry(patient.clone()).or_default();
            ensure!(type_of(&name) != "Patient" || name == *patient, "{name} in the block of {patient}");
            ensure!(type_of(&name) != "Patient" || block.is_empty(), "the patient comes first");
            ensure!(
                block.insert(name.clone(), line.to_owned()).is_none(),
                "{name} stands twice in the block of {patient}"
            );
        }
        ensure!(goes_on.is_none(), "nothing goes on in {url}");
        if let Some(next) = file.get("continuesInFile") {
            continued.insert(next.as_str().context("no url")?, patient.context("an empty file goes on")?);
        }
    }
    ensure!(continued.is_empty(), "what goes on in a file that comes before or is not listed: {continued:?}");
    let goes_on = files.iter().filter(|file| file.get("continuesInFile").is_some()).count();
    Ok((blocks, goes_on))
}

/// The blocks of what `path` asks for.
fn wanted(upstream: &SampleUpstream, path: &str) -> Blocks {
    // What belongs to nobody has no block.
    let path = if path.starts_with("/$export") { format!("/Patient{path}") } else { path.to_owned() };
    let path = if path.contains("?_type=") { path.as_str() } else { path.split('?').next().unwrap_or_default() };
    let all = expected::of(upstream, path);
    let values: BTreeMap<&str, Value> =
        all.iter().map(|(name, body)| (name.as_str(), serde_json::from_str(body).expect("JSON"))).collect();
    let context = |name: &str| !followed(&json!({ "reference": name })).is_empty();
    let mut blocks = Blocks::new();
    for (name, value) in values.iter().filter(|(name, _)| !context(name)) {
        for patient in whose(name, value) {
            let block = blocks.entry(patient).or_default();
            block.insert((*name).to_owned(), compact(&all[*name]));
            let along = followed(value).into_iter().filter_map(|name| all.get_key_value(&name));
            block.extend(along.map(|(name, body)| (name.clone(), compact(body))));
        }
    }
    blocks
}

/// Fails unless each patient of whom something was asked for has one block, with all that belongs to it and nothing else, byte
/// for byte, and the proof counts each resource once.
pub(crate) async fn check(
    client: &Client,
    manifest: &Manifest,
    upstream: &SampleUpstream,
    path: &str,
) -> anyhow::Result<usize> {
    let (received, goes_on) = received(client, manifest).await?;
    let wanted = wanted(upstream, path);
    ensure!(!wanted.is_empty(), "nothing is expected of {path}");
    let patients = |blocks: &Blocks| blocks.keys().cloned().collect::<BTreeSet<_>>();
    ensure!(patients(&received) == patients(&wanted), "{:?}, not {:?}", patients(&received), patients(&wanted));
    for (patient, block) in &wanted {
        let came = &received[patient];
        let missing: Vec<_> = block.keys().filter(|name| !came.contains_key(*name)).collect();
        let unwanted: Vec<_> = came.keys().filter(|name| !block.contains_key(*name)).collect();
        ensure!(missing.is_empty() && unwanted.is_empty(), "{patient}: without {missing:?}, with {unwanted:?}");
        ensure!(came == block, "{patient}: something came otherwise than it is");
    }
    let distinct: BTreeSet<&String> = received.values().flat_map(BTreeMap::keys).collect();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for name in &distinct {
        *counts.entry(type_of(name)).or_default() += 1;
    }
    let proof = manifest.whole["extension"]["https://offtake.dev/proof"].as_object().context("no proof")?;
    for (name, proof) in proof {
        let count = counts.remove(name.as_str()).unwrap_or(0);
        ensure!(proof["written"] == count && proof["short"] == 0, "{count} of {name}: {proof}");
        let sum: u64 = ["written", "repeated", "withheld"].iter().filter_map(|part| proof[*part].as_u64()).sum();
        ensure!(proof["received"] == sum, "{name}: {proof}");
    }
    ensure!(counts.is_empty(), "the proof does not tell of {counts:?}");
    Ok(goes_on)
}

/// Exports and checks; how many files go on in another one.
async fn export(app: &App, path: &str) -> (Manifest, usize) {
    let client = Client::new();
    let status =
        client.kick_off(&format!("{}{path}", app.base)).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    let manifest = client.wait(&status, |_| {}).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    let checked = check(&client, &manifest, &app.upstream, path).await;
    let goes_on = checked.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    (manifest, goes_on)
}

/// What a server holds of patients who share something: an encounter of both, and whoever saw them.
fn with_shared(settings: Settings, patients: usize) -> SampleUpstream {
    let upstream = SampleUpstream::new(settings);
    upstream.generate(patients);
    let of = |name: &str| upstream.resources(Some(name)).iter().map(|stored| stored.id.clone()).collect::<Vec<_>>();
    let (patients, doctors) = (of("Patient"), of("Practitioner"));
    let (first, last) = (&patients[0], &patients[patients.len() - 1]);
    for (number, other) in [last, &patients[1]].into_iter().enumerate() {
        let shared = format!(
            r#"{{"resourceType":"Observation","id":"shared-{number}","status":"final","code":{{"text":"x"}},"subject":{{"reference":"Patient/{first}"}},"performer":[{{"reference":"Patient/{other}"}},{{"reference":"Practitioner/{}"}}]}}"#,
            doctors[0]
        );
        insert(&upstream, &shared);
    }
    upstream
}

/// As if it had been there for long: what was made just before an export counts as moved, and not as received.
pub(crate) fn insert(upstream: &SampleUpstream, json: &str) {
    upstream.insert_raw_at(json, upstream.now() - TimeDelta::hours(1)).expect("a resource");
}

/// So many Observations of a patient, each of about so many bytes.
pub(crate) fn give_large_ones(upstream: &SampleUpstream, patient: &str, count: usize, bytes: usize) {
    let note = "x".repeat(bytes);
    for number in 0..count {
        insert(
            upstream,
            &format!(
                r#"{{"resourceType":"Observation","id":"large-{number}","status":"final","code":{{"text":"{note}"}},"subject":{{"reference":"Patient/{patient}"}}}}"#
            ),
        );
    }
}

/// BD-040, BD-044: at each level every block is whole, whatever the server can do.
#[tokio::test]
async fn every_level_has_a_whole_block_of_each_patient() {
    let plain = Settings { no_last_updated: true, counts: false, ..Settings::default() };
    let small = Settings { max_count: Some(7), ..Settings::default() };
    for settings in [Settings::default(), plain, small] {
        let app = App::before(with_shared(settings.clone(), 12), |_| {}).await;
        for level in ["/Group/all", "/Patient", ""] {
            let (manifest, goes_on) = export(&app, &format!("{level}/$export?organizeOutputBy=Patient")).await;
            assert_eq!(goes_on, 0, "{level} {settings:?}");
            let errors = errors(&manifest).await;
            assert_eq!(errors.contains("is left out"), level != "/Group/all", "{level}: {errors}");
        }
        app.stop().await;
    }
}

/// What one search of a patient's records leaves out although it says to be whole ends the export: nothing is missing without a word.
#[tokio::test]
async fn a_search_that_ends_early_ends_the_export() {
    let lies = Lies { results_end: Some(40), ..Lies::default() };
    let upstream = with_shared(Settings { lies, ..Settings::default() }, 3);
    let patient = upstream.resources(Some("Patient"))[1].id.clone();
    give_large_ones(&upstream, &patient, 60, 100);
    let app = App::before(upstream, |_| {}).await;
    let client = Client::new();
    let status =
        client.kick_off(&format!("{}/Group/all/$export?organizeOutputBy=Patient", app.base)).await.expect("a kick-off");
    let error = client.wait(&status, |_| {}).await.expect_err("it lacks twenty");
    assert!(format!("{error:#}").contains("did not come"), "{error:#}");
    // A page that nobody counts is believed by its own total.
    let uncounted = ["patient", "subject", "_id"].map(str::to_owned).into();
    app.upstream.update_settings(|settings| settings.lies = Lies { uncounted, ..Lies::default() });
    export(&app, "/Group/all/$export?organizeOutputBy=Patient").await;
    app.stop().await;
}

async fn errors(manifest: &Manifest) -> String {
    let mut said = String::new();
    for file in manifest.whole["error"].as_array().expect("a list") {
        let bytes = Client::new().download(file["url"].as_str().expect("a url")).await.expect("a file");
        said += std::str::from_utf8(&bytes).expect("text");
    }
    said
}

/// BD-022: what `_type` does not name is in no block, not even the patient whose it is.
#[tokio::test]
async fn blocks_have_the_types_that_were_asked_for() {
    let app =
        App::before(with_shared(Settings::default(), 5), |config| config.output.compression = Compression::Gzip).await;
    for types in ["Observation", "Patient,Encounter,Practitioner", "Patient"] {
        for level in ["/Group/all", "/Patient", ""] {
            export(&app, &format!("{level}/$export?_type={types}&organizeOutputBy=Patient")).await;
        }
    }
    let kickoff = app.ask("GET", "/$export?_type=Organization&organizeOutputBy=Patient", &KICKOFF, b"").await;
    kickoff.assert_refused("what never belongs to a patient", 400, "not-supported", Some("http._type"));
    app.stop().await;
}

/// BD-017: whoever has nothing that changed has no block.
#[tokio::test]
async fn since_an_instant_only_those_have_blocks_of_whom_something_changed() {
    let app = App::with_patients(6, Settings::default()).await;
    let (manifest, _) = export(&app, "/Group/all/$export?organizeOutputBy=Patient").await;
    let since = manifest.whole["transactionTime"].as_str().expect("an instant").to_owned();
    let patient = app.upstream.resources(Some("Patient"))[2].id.clone();
    let changed = format!(
        r#"{{"resourceType":"Observation","id":"new","status":"final","code":{{"text":"x"}},"subject":{{"reference":"Patient/{patient}"}}}}"#
    );
    app.upstream.create(&changed).expect("a resource");
    let client = Client::new();
    let path =
        format!("{}/Group/all/$export?_since={since}&_type=Patient,Observation&organizeOutputBy=Patient", app.base);
    let status = client.kick_off(&path).await.expect("a kick-off");
    let manifest = client.wait(&status, |_| {}).await.expect("an export");
    let (blocks, _) = received(&client, &manifest).await.expect("blocks");
    let came: Vec<_> =
        blocks.iter().map(|(patient, block)| (patient.as_str(), block.keys().collect::<Vec<_>>())).collect();
    assert_eq!(came, [(format!("Patient/{patient}").as_str(), vec![&"Observation/new".to_owned()])]);
    app.stop().await;
}

/// BD-042, BD-043, BD-046: a block is split if it is larger than a file may be, and then alone.
#[tokio::test]
async fn a_block_that_does_not_fit_goes_on_in_the_next_file_and_others_are_not_split() {
    let path = "/Patient/$export?organizeOutputBy=Patient";
    let upstream = with_shared(Settings::default(), 8);
    let sizes = wanted(&upstream, path).into_values().map(|block| block.values().map(|line| line.len() + 1).sum());
    let largest: usize = sizes.max().expect("some patients");
    // With its header.
    let whole = largest + 200;
    for (most, compression) in
        [(4_000, Compression::None), (4_000, Compression::Gzip), (whole, Compression::None), (whole, Compression::Gzip)]
    {
        let app = App::before(upstream.clone(), |config| {
            config.output.least_file_max = Size::kibibytes(1);
            config.output.compression = compression;
        })
        .await;
        let (manifest, goes_on) = export(&app, &format!("{path}&_maximumFileSize={most}")).await;
        assert_eq!(goes_on > 0, most < whole, "{most}");
        assert!(manifest.output.len() > 1, "{most}: {}", manifest.whole);
        for file in &manifest.output {
            let bytes = Client::new().download(&file.url).await.expect("a file").len();
            assert!(bytes <= most || file.count == 2, "{bytes} bytes in {} lines", file.count);
        }
        app.stop().await;
    }
}

/// The same, and one of six has more than is held of several.
fn with_a_large_record(settings: Settings) -> SampleUpstream {
    let upstream = with_shared(settings, 6);
    give_large_ones(&upstream, &upstream.resources(Some("Patient"))[3].id, 300, 1_500);
    upstream
}

/// The record of one patient that is too large to be held is written as it comes, beside those that are held.
#[tokio::test]
async fn a_record_that_is_too_large_to_be_held_has_its_block_as_well() {
    let offsets = Settings {
        no_last_updated: true,
        counts: false,
        accurate_total: false,
        total: Total::Absent,
        max_count: Some(40),
        ..Settings::default()
    };
    for settings in [Settings { max_count: Some(40), ..Settings::default() }, offsets] {
        let upstream = with_a_large_record(settings.clone());
        let app = App::before(upstream, |config| {
            config.upstream.page_target = Size::kibibytes(64);
            config.output.file_max_resources = 250;
        })
        .await;
        for level in ["/Group/all", "/Patient"] {
            let (_, goes_on) = export(&app, &format!("{level}/$export?organizeOutputBy=Patient")).await;
            assert!(goes_on > 0, "{level} {settings:?}: larger than a file");
        }
        app.stop().await;
    }
}

/// Each of many large slices is read twice where nothing is counted; that all before it are read again counts for none of them.
#[tokio::test]
async fn a_record_of_many_large_slices_is_read_to_its_end() {
    let offsets = Settings {
        paging: Paging::Offset,
        no_last_updated: true,
        counts: false,
        accurate_total: false,
        total: Total::Absent,
        max_count: Some(3),
        ..Settings::default()
    };
    let upstream = SampleUpstream::new(offsets);
    insert(&upstream, r#"{"resourceType":"Patient","id":"p"}"#);
    insert(&upstream, r#"{"resourceType":"Patient","id":"q"}"#);
    let note = "x".repeat(20_000);
    let types = [
        "AllergyIntolerance:patient",
        "CarePlan:subject",
        "Claim:patient",
        "Condition:subject",
        "DiagnosticReport:subject",
        "DocumentReference:subject",
        "Encounter:subject",
        "Flag:subject",
        "Goal:subject",
        "ImagingStudy:subject",
        "Immunization:patient",
        "MedicationAdministration:subject",
        "MedicationRequest:subject",
        "Observation:subject",
        "Procedure:subject",
        "ServiceRequest:subject",
        "Specimen:subject",
    ];
    for (name, link) in types.iter().filter_map(|one| one.split_once(':')) {
        for number in 0..8 {
            let text = json!({ "status": "generated", "div": note });
            let json = json!({ "resourceType": name, "id": format!("r{number}"), "text": text, link: { "reference": "Patient/p" } });
            insert(&upstream, &json.to_string());
        }
    }
    let app = App::before(upstream, |config| config.upstream.page_target = Size::kibibytes(64)).await;
    export(&app, "/Patient/$export?organizeOutputBy=Patient").await;
    app.stop().await;
}

/// A server that lists nobody, and has what is somebody's, has not shown that there is nothing.
#[tokio::test]
async fn where_nobody_is_listed_nothing_is_said_to_be_whole() {
    let upstream = SampleUpstream::new(Settings::default());
    give_large_ones(&upstream, "hidden", 3, 10);
    let app = App::before(upstream, |_| {}).await;
    for level in ["/Patient", ""] {
        let error =
            app.export(&format!("{level}/$export?organizeOutputBy=Patient")).await.expect_err("nobody is listed");
        assert!(error.to_string().contains("lists Patient"), "{level}: {error}");
    }
    app.stop().await;
}

/// A record that the server fails on is told of, and holds nobody else up.
#[tokio::test]
async fn a_patient_whom_the_server_cannot_write_is_told_of_and_all_others_come() {
    let upstream = with_shared(Settings::default(), 6);
    let poisoned = format!("Patient/{}", upstream.resources(Some("Patient"))[2].id);
    let lies = Lies { poisoned: [poisoned.clone()].into(), ..Lies::default() };
    upstream.update_settings(|settings| settings.lies = lies);
    let app = App::before(upstream, |config| config.export.on_short = offtake::config::OnShort::Report).await;
    for level in ["/Patient", "/Group/all"] {
        let client = Client::new();
        let path = format!("{}{level}/$export?organizeOutputBy=Patient", app.base);
        let status = client.kick_off(&path).await.expect("a job");
        let manifest = client.wait(&status, |_| {}).await.unwrap_or_else(|error| panic!("{level}: {error:#}"));
        let (blocks, _) = received(&client, &manifest).await.unwrap_or_else(|error| panic!("{level}: {error:#}"));
        let mut expected = wanted(&app.upstream, &format!("{level}/$export"));
        expected.get_mut(&poisoned).expect("a block").remove(&poisoned);
        assert_eq!(blocks, expected, "{level}");
        let proof = &manifest.whole["extension"]["https://offtake.dev/proof"]["Patient"];
        assert_eq!((&proof["short"], &proof["expected"]), (&json!(1), &json!(6)), "{level}: {proof}");
        let said = errors(&manifest).await;
        assert!(said.contains(r#""severity":"error""#), "{level}: {said}");
    }
    app.stop().await;
}

/// SEC-24: what attachments hold stands in blocks too, and what is left out of them is said.
#[tokio::test]
async fn attachments_are_inlined_in_blocks() {
    for (large, page) in [(0, Size::mebibytes(2)), (300, Size::kibibytes(64))] {
        let upstream = SampleUpstream::new(Settings::default());
        insert(&upstream, r#"{"resourceType":"Patient","id":"p"}"#);
        insert(&upstream, r#"{"resourceType":"Binary","id":"b","contentType":"text/plain","data":"aGk="}"#);
        let content: Vec<_> = ["b", "gone"].map(|id| json!({ "attachment": { "url": format!("Binary/{id}") } })).into();
        let subject = json!({ "reference": "Patient/p" });
        let document = json!({ "resourceType": "DocumentReference", "id": "d", "status": "current", "subject": subject, "content": content });
        insert(&upstream, &document.to_string());
        give_large_ones(&upstream, "p", large, 1_500);
        let app = App::before(upstream, |config| {
            config.export.attachments = Attachments::Inline;
            config.upstream.page_target = page;
        })
        .await;
        let client = Client::new();
        let path = format!("{}/Patient/$export?organizeOutputBy=Patient", app.base);
        let status = client.kick_off(&path).await.expect("a job");
        let manifest = client.wait(&status, |_| {}).await.expect("an export");
        let (blocks, _) = received(&client, &manifest).await.expect("blocks");
        let document = &blocks["Patient/p"]["DocumentReference/d"];
        assert!(document.contains(r#""data":"aGk=""#), "{document}");
        let said = errors(&manifest).await;
        assert!(said.contains("1 attachments are references"), "{large}: {said}");
        app.stop().await;
    }
}

/// M4: the fourth release's manifest says the same in its own shape.
#[tokio::test]
async fn the_fourth_manifest_tells_of_blocks_too() {
    let app = App::before(with_shared(Settings::default(), 4), |_| {}).await;
    let body = json!({ "resourceType": "Parameters", "parameter": [{ "name": "organizeOutputBy", "valueString": "Patient" }] });
    let headers = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];
    let kickoff = app.ask("POST", "/Group/all/$export-v4", &headers, body.to_string().as_bytes()).await;
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    let client = Client::new();
    let manifest = client.wait(kickoff.header("content-location"), |_| {}).await.expect("an export");
    assert!(manifest.whole["outcome"].is_array() && manifest.whole["output"][0]["fileSize"].is_number());
    let (came, _) = received(&client, &manifest).await.expect("blocks");
    assert_eq!(came, wanted(&app.upstream, "/Group/all/$export"));
    app.stop().await;
}

/// BD-083 to BD-086: where the manifest has pages, each block stands on one of them, with all of its files.
#[tokio::test]
async fn pages_of_a_manifest_have_whole_blocks() {
    let app = App::before(with_a_large_record(Settings { max_count: Some(40), ..Settings::default() }), |config| {
        config.upstream.page_target = Size::kibibytes(64);
        config.output.file_max_resources = 250;
    })
    .await;
    let path = "/Group/all/$export?organizeOutputBy=Patient";
    let client = Client::new();
    let status = client.kick_off(&format!("{}{path}&allowPartialManifests=true", app.base)).await.expect("a kick-off");
    let mut page = client.wait(&status, |_| {}).await.expect("an export");
    let (mut blocks, mut pages, mut continued) = (Blocks::new(), 1, 0);
    loop {
        let (came, goes_on) = received(&client, &page).await.expect("blocks");
        continued += goes_on;
        for (patient, block) in came {
            assert!(blocks.insert(patient.clone(), block).is_none(), "{patient} on two pages");
        }
        let Some(next) = page.whole["link"][0]["url"].as_str() else { break };
        let next = app.ask("GET", next.strip_prefix(&app.base).expect("below the base"), &[], b"").await;
        (page, pages) = (Manifest { output: Vec::new(), whole: next.json() }, pages + 1);
    }
    assert!(pages > 1 && continued > 0, "{pages} pages, {continued} files go on");
    assert_eq!(blocks, wanted(&app.upstream, path));
    app.stop().await;
}

/// BD-024, SEC-22: what cannot be done rightly together is refused; leniently what only adds is left out, and the blocks stay.
#[tokio::test]
async fn what_cannot_be_had_with_blocks_is_refused_before_anything_is_read() {
    let app = App::before(with_shared(Settings::default(), 3), |_| {}).await;
    let with = "organizeOutputBy=Patient&includeAssociatedData=LatestProvenanceResources";
    let path = format!("/Group/all/$export?_type=Patient,Observation&{with}");
    let kickoff = app.ask("GET", &path, &KICKOFF, b"").await;
    kickoff.assert_refused(&path, 400, "not-supported", Some("http.includeAssociatedData"));
    let lenient = [KICKOFF[0], ("Prefer", "respond-async, handling=lenient")];
    let kickoff = app.ask("GET", &path, &lenient, b"").await;
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    let client = Client::new();
    let manifest = client.wait(kickoff.header("content-location"), |_| {}).await.expect("an export");
    check(&client, &manifest, &app.upstream, "/Group/all/$export?_type=Patient,Observation").await.expect("blocks");
    assert!(errors(&manifest).await.contains("LatestProvenanceResources"));
    app.stop().await;
}

/// Whoever of a Group is no patient has no block, and that is said.
#[tokio::test]
async fn members_that_are_no_patients_are_left_out_and_it_is_said() {
    let upstream = with_shared(Settings::default(), 3);
    let doctor = r#"{"resourceType":"Practitioner","id":"member"}"#;
    insert(&upstream, doctor);
    let patient = upstream.resources(Some("Patient"))[0].id.clone();
    let members = [format!("Patient/{patient}"), "Practitioner/member".to_owned()];
    let members = members.map(|reference| json!({ "entity": { "reference": reference } }));
    let group = json!({ "resourceType": "Group", "id": "mixed", "type": "person", "actual": true, "member": members });
    insert(&upstream, &group.to_string());
    let app = App::before(upstream, |_| {}).await;
    let client = Client::new();
    let path = format!("{}/Group/mixed/$export?organizeOutputBy=Patient", app.base);
    let status = client.kick_off(&path).await.expect("a kick-off");
    let manifest = client.wait(&status, |_| {}).await.expect("an export");
    let (blocks, _) = received(&client, &manifest).await.expect("blocks");
    assert_eq!(blocks.keys().collect::<Vec<_>>(), [&format!("Patient/{patient}")]);
    assert!(!blocks.values().any(|block| block.contains_key("Practitioner/member")));
    assert!(errors(&manifest).await.contains("some members of the Group"));
    app.stop().await;
}
