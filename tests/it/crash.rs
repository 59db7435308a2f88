//! A process that is aborted before and after each effect on its store and its output: whatever the moment, the next
//! life ends with exactly what is to be exported, and leaves nothing behind that no manifest lists.

pub(crate) mod output;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use offtake::testing::{Crash, CrashPoint, JobStore, When};
use offtake::{Config, Offtake};
use sample_upstream::{RequestSeen, Running, SampleUpstream, Settings, Stamp};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::exact::{self, files_below};
use crate::expected;
use crate::organized;
use crate::support::listener;
use output::CrashOutput;

/// Lives that are tried at the same time.
const AT_ONCE: usize = 12;
/// How long a removal may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One export that is aborted over and over.
struct Scenario {
    path: &'static str,
    patients: usize,
    settings: Settings,
    change: fn(&mut Config),
}

/// What becomes of the job store at the last abort.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Kept,
    /// It is rebuilt from the checkpoint objects.
    Lost,
    /// It is as a version would have left it that did not seal patients.
    Unsealed,
}

#[tokio::test]
async fn windows_survive_an_abort_at_every_effect() {
    abort_everywhere(windows(), Store::Kept).await;
}

fn windows() -> Scenario {
    Scenario {
        path: "/$export?_type=Patient,Encounter,Observation",
        patients: 3,
        settings: Settings { max_count: Some(20), ..Settings::default() },
        change: |config| config.output.file_max_resources = 25,
    }
}

#[tokio::test]
async fn batches_and_references_survive_an_abort_at_every_effect() {
    abort_everywhere(batches(), Store::Kept).await;
}

fn batches() -> Scenario {
    Scenario {
        path: "/Group/all/$export?_type=Patient,Encounter,Practitioner,Organization,Location",
        patients: 3,
        settings: Settings::default(),
        change: |_| {},
    }
}

/// BD-040, BD-043: blocks of small files, some of which go on in the next one, and one that is written as it is read.
#[tokio::test]
async fn blocks_survive_an_abort_at_every_effect() {
    abort_everywhere_of(blocks_upstream(), blocks(), Store::Kept).await;
}

#[tokio::test]
async fn blocks_survive_an_abort_at_every_effect_that_costs_the_store() {
    abort_everywhere_of(blocks_upstream(), blocks(), Store::Lost).await;
}

fn blocks() -> Scenario {
    Scenario {
        path: "/Group/all/$export?_type=Patient,Encounter,Observation,Practitioner&organizeOutputBy=Patient",
        patients: 0,
        settings: Settings::default(),
        change: |config| {
            config.output.file_max_resources = 16;
            config.upstream.page_target = STREAMED_ABOVE;
        },
    }
}

/// What one of four patients has is more than can be held.
fn blocks_upstream() -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(4);
    organized::give_large_ones(&upstream, &upstream.resources(Some("Patient"))[1].id, 36, 9_000);
    upstream
}

/// SEC-32: what a checkpoint object says and the store does not, and the other way round, neither doubles nor loses a line.
#[tokio::test]
async fn windows_survive_an_abort_at_every_effect_that_costs_the_store() {
    abort_everywhere(windows(), Store::Lost).await;
}

#[tokio::test]
async fn batches_and_references_survive_an_abort_at_every_effect_that_costs_the_store() {
    abort_everywhere(batches(), Store::Lost).await;
}

/// SEC-40: exports that were begun by a version that kept patients in the clear go on.
#[tokio::test]
async fn batches_of_a_store_from_before_patients_were_sealed_go_on() {
    abort_everywhere(batches(), Store::Unsealed).await;
}

/// A slice of more than two pages of this size is not held in memory.
const STREAMED_ABOVE: offtake::config::Size = offtake::config::Size::kibibytes(64);

/// Many resources with one stamp, more than fit into a reader's memory: they stream into files of their own.
#[tokio::test]
async fn a_streamed_slice_survives_an_abort_at_every_effect() {
    let settings = Settings { stamp: Stamp::Single, max_count: Some(40), ..Settings::default() };
    let (path, patients) = ("/$export?_type=Observation", 30);
    let upstream = SampleUpstream::new(settings.clone());
    upstream.generate(patients);
    let bytes: usize = expected::of(&upstream, path).values().map(String::len).sum();
    assert!(bytes as u64 > 2 * STREAMED_ABOVE.bytes() + 20_000, "{bytes} bytes fit into memory");
    let change = |config: &mut Config| {
        config.output.file_max_resources = 70;
        config.upstream.page_target = STREAMED_ABOVE;
    };
    abort_everywhere(Scenario { path, patients, settings, change }, Store::Kept).await;
}

/// A restart among the references: what the next life finds to refer to besides must not take the place of what was
/// still to be fetched.
#[tokio::test]
async fn references_that_appear_between_two_lives_are_fetched_too() {
    let upstream = SampleUpstream::new(Settings::default());
    let insert = |json: &str| upstream.insert_raw(json).expect("a resource");
    insert(r#"{"resourceType":"Patient","id":"p"}"#);
    insert(
        r#"{"resourceType":"Group","id":"all","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p"}}]}"#,
    );
    let encounter = |id: &str, practitioner: &str| {
        format!(
            r#"{{"resourceType":"Encounter","id":"{id}","status":"finished","class":{{"code":"AMB"}},"subject":{{"reference":"Patient/p"}},"participant":[{{"individual":{{"reference":"Practitioner/{practitioner}"}}}}]}}"#
        )
    };
    for number in 0..120 {
        insert(&format!(r#"{{"resourceType":"Practitioner","id":"m{number:03}"}}"#));
        insert(&encounter(&format!("e{number:03}"), &format!("m{number:03}")));
    }
    let server = upstream.serve(listener().await).await;
    let scenario = Scenario {
        path: "/Group/all/$export?_type=Encounter,Practitioner",
        patients: 0,
        settings: Settings::default(),
        change: |config| {
            config.upstream.max_concurrent_searches = 1;
            config.output.file_max_resources = 50;
        },
    };
    let world = World { scenario, upstream: upstream.clone(), server };
    let folder = tempfile::tempdir().expect("a folder of its own");
    let store = JobStore::memory();
    let point = Arc::new(CrashPoint::new(None));
    let life = world.begin(folder.path(), &store, &point).await.expect("a first life");
    // A first batch was committed then, and a second one is asked for.
    let (by_ids, stopped) = (AtomicUsize::new(0), Arc::clone(&point));
    let is_by_ids = |seen: &RequestSeen| seen.path.ends_with("/Practitioner") && seen.query.contains("_id=m");
    let is_fourth = move |seen: &RequestSeen| is_by_ids(seen) && by_ids.fetch_add(1, Ordering::Relaxed) == 3;
    upstream.first_when(is_fourth, move || stopped.stop());
    let client = Client::new();
    let status = client.kick_off(&format!("{}{}", life.base, world.scenario.path)).await.expect("a job");
    wait_until(|| upstream.requests().iter().filter(|seen| is_by_ids(seen)).count() >= 4)
        .await
        .expect("it asks by ids");
    life.abort().await;

    insert(r#"{"resourceType":"Practitioner","id":"a"}"#);
    upstream.update(&encounter("e000", "a")).expect("an update");
    insert(&encounter("e999", "a"));
    let life = world.begin(folder.path(), &store, &Arc::new(CrashPoint::new(None))).await.expect("a second life");
    let id = status.rsplit('/').next().expect("a job's id");
    let manifest = client.wait(&format!("{}/$bulk-status/{id}", life.base), |_| {}).await.expect("a manifest");
    let mut lines = String::new();
    for file in manifest.output.iter().filter(|file| file.resource_type == "Practitioner") {
        lines += std::str::from_utf8(&client.download(&file.url).await.expect("a file")).expect("text");
    }
    let wanted = upstream.resources(Some("Practitioner"));
    for practitioner in &wanted {
        let marker = format!(r#""id":"{}""#, practitioner.id);
        assert_eq!(lines.matches(&marker).count(), 1, "{marker}");
    }
    assert_eq!(lines.lines().count(), wanted.len());
    life.end().await;
    world.server.stop().await;
}

/// SEC-24: what attachments hold is in the lines that lead to it, whichever life wrote them.
#[tokio::test]
async fn inlined_attachments_survive_an_abort_at_every_effect() {
    let upstream = SampleUpstream::new(Settings { max_count: Some(10), ..Settings::default() });
    let insert = |json: String| upstream.insert_raw(&json).expect("a resource");
    insert(r#"{"resourceType":"Patient","id":"p"}"#.to_owned());
    for number in 1..31 {
        insert(format!(
            r#"{{"resourceType":"DocumentReference","id":"d{number}","status":"current","subject":{{"reference":"Patient/p"}},"content":[{{"attachment":{{"contentType":"text/plain","url":"Binary/b{number}"}}}}]}}"#
        ));
        insert(format!(
            r#"{{"resourceType":"Binary","id":"b{number}","contentType":"text/plain","data":"{}"}}"#,
            "QUFB".repeat(number)
        ));
    }
    let scenario = Scenario {
        path: "/Patient/$export?_type=DocumentReference",
        patients: 0,
        settings: Settings::default(),
        change: |config| {
            config.export.attachments = offtake::config::Attachments::Inline;
            config.output.file_max_resources = 8;
        },
    };
    abort_everywhere_of(upstream, scenario, Store::Kept).await;
}

/// BD-032: what is found by the lines of complete files is found once, whichever life wrote them.
#[tokio::test]
async fn associated_provenance_survives_an_abort_at_every_effect() {
    abort_everywhere_of(provenance_upstream(), associated(), Store::Kept).await;
}

#[tokio::test]
async fn associated_provenance_survives_an_abort_at_every_effect_that_costs_the_store() {
    abort_everywhere_of(provenance_upstream(), associated(), Store::Lost).await;
}

fn associated() -> Scenario {
    Scenario {
        path: "/$export?_type=Patient,Provenance&includeAssociatedData=LatestProvenanceResources",
        patients: 0,
        settings: Settings::default(),
        change: |config| {
            config.output.file_max_resources = 25;
        },
    }
}

/// What Provenance is called that is not the latest of anything.
const NOT_THE_LATEST: &str = "Provenance/earlier-";

/// Each patient has Provenance, and some of it is about two of them. Of some there is another one that was recorded at the same
/// time and updated before.
fn provenance_upstream() -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings::default());
    let insert = |json: String| upstream.insert_raw(&json).expect("a resource");
    for number in 0..60 {
        insert(format!(r#"{{"resourceType":"Patient","id":"p{number:02}"}}"#));
    }
    for number in 0..60 {
        let recorded = format!(r#""recorded":"2024-01-01T00:00:{number:02}Z""#);
        if number % 3 == 0 {
            let earlier = format!(
                r#"{{"resourceType":"Provenance","id":"earlier-{number:02}",{recorded},"target":[{{"reference":"Patient/p{number:02}"}}]}}"#
            );
            upstream.insert_raw_at(&earlier, upstream.now() - chrono::TimeDelta::hours(1)).expect("a resource");
        }
        let other = (number + 1) % 60;
        let other = if number % 10 == 4 { format!(r#",{{"reference":"Patient/p{other:02}"}}"#) } else { String::new() };
        insert(format!(
            r#"{{"resourceType":"Provenance","id":"v{number:02}",{recorded},"target":[{{"reference":"Patient/p{number:02}"}}{other}]}}"#
        ));
    }
    upstream
}

/// Runs the scenario once to count its effects, and then once for each side of each of them.
async fn abort_everywhere(scenario: Scenario, lot: Store) {
    let upstream = SampleUpstream::new(scenario.settings.clone());
    upstream.generate(scenario.patients);
    abort_everywhere_of(upstream, scenario, lot).await;
}

async fn abort_everywhere_of(upstream: SampleUpstream, scenario: Scenario, lot: Store) {
    let server = upstream.serve(listener().await).await;
    let world = World { scenario, upstream, server };
    let effects = world.count_effects().await.expect("an undisturbed export");
    assert!(effects > 10, "only {effects} effects");
    let crashes = (1..=effects).flat_map(|at| [When::Before, When::After].map(|when| Crash { at, when }));
    let tried: Vec<_> = futures_util::stream::iter(crashes)
        .map(|crash| {
            let world = &world;
            async move { (crash, world.abort_at(crash, lot).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed: Vec<_> = tried.iter().filter_map(|(crash, ended)| Some((crash, ended.as_ref().err()?))).collect();
    assert!(failed.is_empty(), "{} of {} aborted exports: {failed:#?}", failed.len(), tried.len());
    world.server.stop().await;
}

struct World {
    scenario: Scenario,
    upstream: SampleUpstream,
    server: Running,
}

impl World {
    async fn count_effects(&self) -> anyhow::Result<usize> {
        let folder = tempfile::tempdir()?;
        let point = Arc::new(CrashPoint::new(None));
        let life = self.begin(folder.path(), &JobStore::memory(), &point).await?;
        let client = Client::new();
        let status = client.kick_off(&format!("{}{}", life.base, self.scenario.path)).await?;
        let manifest = client.wait(&status, |_| {}).await?;
        ensure!(!manifest.output.is_empty(), "nothing was exported");
        let effects = point.effects();
        life.end().await;
        Ok(effects)
    }

    /// With what the attachments hold that lead to a Binary.
    fn inline(&self, wanted: &mut expected::Expected) {
        for binary in self.upstream.resources(Some("Binary")) {
            let reference = format!(r#""url":"Binary/{}""#, binary.id);
            let data = serde_json::from_str::<serde_json::Value>(&binary.body).expect("JSON")["data"].to_string();
            for line in wanted.values_mut() {
                *line = line.replace(&reference, &format!(r#"{reference},"data":{data}"#));
            }
        }
    }

    /// A first life up to `crash`, a second one that is aborted soon as well, and a third one to the end.
    async fn abort_at(&self, crash: Crash, lot: Store) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut store = JobStore::memory();
        let first = Arc::new(CrashPoint::new(Some(crash)));
        self.live_until(folder.path(), &store, &first, true).await?;
        let second = Crash { at: 1 + crash.at % 9, when: When::After };
        self.live_until(folder.path(), &store, &Arc::new(CrashPoint::new(Some(second))), false).await?;

        store = match lot {
            Store::Kept => store,
            Store::Lost => store.rebuilt(&folder.path().join("output")).await?,
            Store::Unsealed => store.unsealed().await?,
        };
        let life = self.begin(folder.path(), &store, &Arc::new(CrashPoint::new(None))).await?;
        let client = Client::new();
        let jobs = store.job_ids().await;
        let output = folder.path().join("output");
        if jobs.is_empty() {
            // Whose the output is may be about to be written by this very life.
            wait_until(|| files_below(&output).is_ok_and(|files| files.is_empty()))
                .await
                .with_context(|| format!("on disk {:?}", files_below(&output)))?;
        }
        ensure!(jobs.len() <= 1, "{jobs:?}");
        for id in &jobs {
            let status = format!("{}/$bulk-status/{id}", life.base);
            let manifest = client.wait(&status, |_| {}).await?;
            if self.scenario.path.contains("organizeOutputBy") {
                let goes_on = organized::check(&client, &manifest, &self.upstream, self.scenario.path).await?;
                ensure!(goes_on > 0, "no block goes on in another file");
            } else {
                let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
                for file in &manifest.output {
                    received.entry(file.resource_type.clone()).or_default().extend(client.download(&file.url).await?);
                }
                let mut wanted = expected::of(&self.upstream, self.scenario.path);
                wanted.retain(|name, _| !name.starts_with(NOT_THE_LATEST));
                self.inline(&mut wanted);
                let difference = expected::compare(&wanted, &received)?;
                ensure!(difference.is_none(), "{difference}");
            }
            exact::check_folder(&output, &manifest)?;
        }
        for id in &jobs {
            client.delete(&format!("{}/$bulk-status/{id}", life.base)).await?;
        }
        wait_until(|| files_below(&output).is_ok_and(|files| files.is_empty()))
            .await
            .with_context(|| format!("left behind: {:?}", files_below(&output)))?;
        life.end().await;
        Ok(())
    }

    /// A life up to its crash, or to the end of its exports if there is none before.
    async fn live_until(
        &self,
        folder: &Path,
        store: &JobStore,
        point: &Arc<CrashPoint>,
        kicks_off: bool,
    ) -> anyhow::Result<()> {
        let life = self.begin(folder, store, point).await?;
        let lived = async {
            let client = Client::new();
            if kicks_off {
                let status = client.kick_off(&format!("{}{}", life.base, self.scenario.path)).await?;
                client.wait(&status, |_| {}).await?;
            } else {
                for id in store.job_ids().await {
                    client.wait(&format!("{}/$bulk-status/{id}", life.base), |_| {}).await?;
                }
            }
            anyhow::Ok(())
        };
        tokio::select! {
            lived = lived => lived?,
            () = point.crashed() => {}
        }
        point.stop();
        life.abort().await;
        Ok(())
    }

    async fn begin(&self, folder: &Path, store: &JobStore, point: &Arc<CrashPoint>) -> anyhow::Result<Life> {
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr()?);
        let mut config = Config::local(&self.server.base_url, &base, folder)?;
        // What is found out in the background comes at another moment in each life; the export finds it out itself.
        config.upstream.probe_on_start = false;
        config.output.min_free = Some(offtake::config::Size::kibibytes(0));
        config.export.early_polls_per_second = u32::MAX;
        (self.scenario.change)(&mut config);
        let crashing = Arc::clone(point);
        let offtake = Offtake::builder(config)
            .store(store.until(point))
            .output_through(move |below| Arc::new(CrashOutput::new(below, crashing)))
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Ok(Life { base, stop, serving })
    }
}

/// One process's life, within this one.
struct Life {
    base: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Life {
    async fn end(self) {
        drop(self.stop);
        self.serving.await.expect("serving did not panic").expect("serving ended well");
    }

    /// Ends it without a word.
    async fn abort(self) {
        self.serving.abort();
        let ended = self.serving.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it was serving");
    }
}

async fn wait_until(holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        ensure!(tokio::time::Instant::now() < deadline, "waited for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
