//! The process is killed twenty times in the middle of an export, while the server changes: the export is exact all the
//! same, and nothing is left behind.
//!
//! Other moments, other data and other ways of paging: `OFFTAKE_KILL_SEEDS=1..200 cargo test --test it kill`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sample_upstream::{Paging, RequestSeen, SampleUpstream, Settings, Stamp, Total};

use crate::client::{Client, Manifest, Poll};
use crate::exact::{self, Applied, Exported, Moment};
use crate::process::{Options, Process, until};
use crate::random::Random;
use crate::support::listener;
use crate::writer::Writer;

const KILLS: usize = 20;
/// Lives that have completed a file, or there are more kills, up to so many.
const LIVES_THAT_GOT_SOMEWHERE: usize = 5;
const MOST_KILLS: usize = 5 * KILLS;
const CHANGES_PER_SECOND: u32 = 20;
/// How long the server is changed before the kick-off: some transactions are seen only after it.
const HEAD_START: Duration = Duration::from_secs(2);
/// How long the process lives until it is killed, if nothing else is waited for.
const LIFE: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(1_500)];
/// What other kills wait for, and for how long at most; then they strike within so short a time.
const AIMS: [&str; 5] = ["planning", "counting", "looking for changes", "fetching references", "finishing"];
const AIM_TIME: Duration = Duration::from_secs(3);
const STRIKE: [Duration; 2] = [Duration::ZERO, Duration::from_millis(60)];

/// Small files, closed soon, and a lag that no transaction of the writer exceeds.
const OPTIONS: Options = Options {
    upstream: "settling_lag_seconds: 6, page_max_resources: 20",
    output: "file_max_resources: 60, file_max_age_seconds: 1",
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_export_that_is_killed_again_and_again_is_exact() {
    survive_all("/$export", 250_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_export_that_is_killed_again_and_again_is_exact() {
    survive_all("/Group/first-half/$export", 150_000).await;
}

/// What is referred to is read last. After a kill in the middle of it the sweep may bring lines that refer to more: none
/// of it may fall through because the list has become another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_that_turn_up_after_a_kill_are_followed() {
    let path = "/Group/all/$export";
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let patient = upstream.resources(Some("Patient"))[0].id.clone();
    let observed_by = |doctor: &str| {
        let id = format!("by-{doctor}");
        let (subject, performer) = (format!("Patient/{patient}"), format!("Practitioner/{doctor}"));
        upstream.create(&format!(
            r#"{{"resourceType":"Observation","id":"{id}","subject":{{"reference":"{subject}"}},"performer":[{{"reference":"{performer}"}}]}}"#
        ))
    };
    let doctors: Vec<_> = (0..150).map(|number| format!("doctor-{number:03}")).collect();
    for doctor in doctors.iter().map(String::as_str).chain(["another", "first"]) {
        upstream.create(&format!(r#"{{"resourceType":"Practitioner","id":"{doctor}"}}"#)).expect("a resource");
    }
    doctors.iter().try_for_each(|doctor| observed_by(doctor).map(drop)).expect("resources");
    let server = upstream.serve(listener().await).await;

    // The second search for practitioners finds the server away: by then the file of the first one is complete.
    let searches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&searches);
    let is_second = move |seen: &RequestSeen| {
        let is_one = seen.path.ends_with("/Practitioner") && seen.query.starts_with("_id=");
        is_one && counted.fetch_add(1, Ordering::SeqCst) == 1
    };
    upstream.away_when(is_second, Duration::from_hours(1));
    let options = Options { upstream: "max_concurrent_searches: 1", output: "file_max_resources: 40" };
    let mut process = Process::start(&server.base_url, options).await.expect("a process");
    let client = Client::new();
    let began = Moment::of(&upstream);
    let status = process.kick_off(&client, path).await.expect("a kick-off");
    until("the second search", async || Ok((searches.load(Ordering::SeqCst) > 1).then_some(())))
        .await
        .expect("it comes");
    process.kill().expect("it was running");
    // In the list of references these two come before all others.
    for doctor in ["another", "first"] {
        observed_by(doctor).expect("a resource");
    }
    upstream.set_available(true);
    process.restart().expect("it starts");
    let manifest = process.finished(&client, &status).await.expect("it ends");
    let exported = Exported::fetch(&client, manifest).await.expect("files");
    let applied = exported.judge(path, began, &upstream.versions()).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(applied.created_came, 2, "the sweep brought what turned up: {applied:?}");
    assert!(applied.context >= doctors.len() + 2, "{applied:?}");
}

/// `bytes_per_second` makes the server so slow that there is time for twenty kills.
async fn survive_all(path: &str, bytes_per_second: u64) {
    for seed in seeds() {
        match survive(path, seed, bytes_per_second).await {
            Ok(told) => println!("{path}, seed {seed}: {told}"),
            Err(error) => panic!("{path}, seed {seed}: {error:#}"),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a switch of this test alone, to try more seeds")]
fn seeds() -> Range<u64> {
    let text = std::env::var("OFFTAKE_KILL_SEEDS").unwrap_or_else(|_| "1..2".to_owned());
    let (first, end) = text.split_once("..").expect("OFFTAKE_KILL_SEEDS is FIRST..END");
    first.parse().expect("a number")..end.parse().expect("a number")
}

/// The first seed is the plainest server; the others add what real ones do.
fn settings(seed: u64) -> Settings {
    let plain = Settings {
        seed,
        latency: Duration::from_millis(10),
        gzip: false,
        max_count: Some(20),
        warnings: true,
        ..Settings::default()
    };
    match seed % 5 {
        0 => Settings { paging: Paging::Cursor, total: Total::Exact, ..plain },
        2 => Settings { stamp: Stamp::Now, ..plain },
        3 => Settings { max_count: Some(200), total: Total::Absent, ..plain },
        4 => Settings { stamp: Stamp::Spread { over: Duration::from_secs(3_700) }, ..plain },
        _ => plain,
    }
}

async fn survive(path: &str, seed: u64, bytes_per_second: u64) -> anyhow::Result<String> {
    let upstream = SampleUpstream::new(Settings { bytes_per_second: Some(bytes_per_second), ..settings(seed) });
    upstream.generate(60);
    let server = upstream.serve(listener().await).await;
    let writer = Writer::start(&upstream, seed, CHANGES_PER_SECOND)?;
    let (mut process, ()) = tokio::try_join!(Process::start(&server.base_url, OPTIONS), async {
        tokio::time::sleep(HEAD_START).await;
        Ok(())
    })?;

    let client = Client::new();
    let mut killer = Killer { random: Random::new(seed), hits: BTreeMap::new() };
    let mut told = Vec::new();
    let mut lives = 0;
    let mut kills = KILLS;
    // Most often one export takes all kills; if it ends before, or few lives have got anywhere, another one follows.
    while killer.kills() < kills {
        let began = Moment::of(&upstream);
        let kicked_off = Instant::now();
        let status = process.kick_off(&client, path).await?;
        let manifest = loop {
            if killer.kills() < kills {
                if let Some(manifest) = killer.strike(&mut process, &client, &status).await? {
                    break manifest;
                }
            } else {
                break process.finished(&client, &status).await?;
            }
        };
        let (versions, took) = (upstream.versions(), kicked_off.elapsed());
        let exported = Exported::fetch(&client, manifest).await?;
        let context = || format!("after kills at {:?}\n{}", killer.hits, process.log());
        let applied = exported.judge(path, began, &versions).with_context(context)?;
        exact::check_folder(&process.output(), &exported.manifest)?;
        check_variety(&applied)?;
        let committed = committed(&process)?;
        lives += committed.len();
        if lives < LIVES_THAT_GOT_SOMEWHERE {
            kills = (killer.kills() + KILLS / 2).max(kills).min(MOST_KILLS);
        }
        told.push(format!("exact after {took:.1?}, files by lives {committed:?}, {applied:?}"));
        check_errors(&process, &client, path, &upstream, &exported).await?;
        delete_under_fire(&mut process, &client, &status, &mut killer.random).await?;
    }
    let changes = writer.stop().await?;
    server.stop().await;
    ensure!(lives >= LIVES_THAT_GOT_SOMEWHERE, "only {lives} lives have completed a file: {told:#?}");
    Ok(format!("kills hit {:?}, {changes:?}\n  {}", killer.hits, told.join("\n  ")))
}

/// Who kills, and what the process was at.
struct Killer {
    random: Random,
    hits: BTreeMap<String, usize>,
}

impl Killer {
    fn kills(&self) -> usize {
        self.hits.values().sum()
    }

    /// Lets the process live for a while, kills it and starts it again; the manifest if the export was done by then.
    async fn strike(
        &mut self,
        process: &mut Process,
        client: &Client,
        status: &str,
    ) -> anyhow::Result<Option<Manifest>> {
        let aim = AIMS[self.random.below(AIMS.len())];
        let (aimed, life) = (self.random.percent(50), self.random.between(LIFE[0], LIFE[1]));
        let strike = self.random.between(STRIKE[0], STRIKE[1]);
        let (began, most) = (Instant::now(), if aimed { AIM_TIME } else { life });
        let mut found = String::from("starting");
        while began.elapsed() < most {
            match process.poll(client, status).await? {
                Some(Poll::Complete(manifest)) => return Ok(Some(manifest)),
                Some(Poll::Running(text)) => found = activity(&text),
                Some(Poll::Other(..)) | None => {}
            }
            // At the end it strikes at once, whatever it waited for: the job shall not slip through.
            if (aimed && found == aim) || found == "finishing" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if aimed {
            tokio::time::sleep(if found == "finishing" { strike / 4 } else { strike }).await;
        }
        process.kill()?;
        process.restart()?;
        *self.hits.entry(found).or_default() += 1;
        Ok(None)
    }
}

/// The first words of a progress text.
fn activity(text: &str) -> String {
    text.split(',').next().unwrap_or_default().to_owned()
}

/// The file of errors says what that of an undisturbed export of the same server says, kind by kind.
async fn check_errors(
    process: &Process,
    client: &Client,
    path: &str,
    upstream: &SampleUpstream,
    exported: &Exported,
) -> anyhow::Result<()> {
    let mut throttled = None;
    upstream.update_settings(|settings| throttled = settings.bytes_per_second.take());
    let began = Moment::of(upstream);
    let status = process.kick_off(client, path).await?;
    let manifest = process.finished(client, &status).await?;
    let versions = upstream.versions();
    upstream.update_settings(|settings| settings.bytes_per_second = throttled);
    let undisturbed = Exported::fetch(client, manifest).await?;
    undisturbed.judge(path, began, &versions).context("the undisturbed export")?;
    let (errors, expected) = (exported.kinds_of_errors()?, undisturbed.kinds_of_errors()?);
    let differences: Vec<_> = errors.symmetric_difference(&expected).collect();
    ensure!(differences.is_empty(), "the files of errors differ: {differences:#?}");
    client.delete(&status).await
}

/// A clean-up that is killed is taken up again as well, until nothing is left.
async fn delete_under_fire(
    process: &mut Process,
    client: &Client,
    status: &str,
    random: &mut Random,
) -> anyhow::Result<()> {
    client.delete(status).await?;
    tokio::time::sleep(random.between(Duration::ZERO, Duration::from_millis(20))).await;
    process.kill()?;
    process.restart()?;
    until("nothing is left in the output", async || {
        Ok(exact::files_below(&process.output())?.is_empty().then_some(()))
    })
    .await?;
    until("the job is gone", async || {
        Ok(matches!(client.poll(status).await, Ok(Poll::Other(code, _)) if code == 404).then_some(()))
    })
    .await
}

/// The lives of the process that have completed a file of the only export: their epochs are in the files' names.
fn committed(process: &Process) -> anyhow::Result<BTreeSet<u32>> {
    let files = exact::files_below(&process.output())?;
    let epochs = files.iter().filter_map(|file| file.strip_suffix(".ndjson")?.rsplit('.').next()?.parse().ok());
    Ok(epochs.collect())
}

/// A run in which nothing of some kind happened proves nothing about it.
fn check_variety(applied: &Applied) -> anyhow::Result<()> {
    let Applied { untouched, modified, modified_new, created, deleted_since, deleted_before, .. } = *applied;
    let least = [untouched, modified, modified_new, created, deleted_since, deleted_before].into_iter().min();
    ensure!(least > Some(0), "nothing of some kind happened: {applied:?}");
    Ok(())
}
