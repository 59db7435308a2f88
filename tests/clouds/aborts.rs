//! A process that is aborted at each kind of effect on its store and its storage: the next life ends with exactly what
//! is to be exported, and by what the storage lists itself nothing of ours is left behind, and all of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, ensure};
use offtake::testing::{Crash, CrashPoint, JobStore, When};

use crate::client::Client;
use crate::exports::{OF_LARGE, large};
use crate::storage::{Storage, given};
use crate::support::{Life, World};

/// Files are small enough for some to be written at once and large enough for some to take several parts.
const FILES: &str = "file_max_resources: 44";

/// What has to be among the effects, twice at least.
const KINDS: [&str; 6] = ["begin an upload", "part", "complete", "sidecar", "store: commit", "remove"];

pub(crate) async fn everywhere(storage: &Storage) -> anyhow::Result<()> {
    let mut world = World::of(storage, large()).await?;
    let undisturbed = Arc::new(CrashPoint::new(None));
    lives_of(&world, &undisturbed).await.context("undisturbed")?;
    let effects = undisturbed.effects();
    ensure!(effects > 20, "only {effects} effects");
    let mut aborted: BTreeMap<&str, usize> = BTreeMap::new();
    for point in points(&undisturbed.kinds()) {
        let point = Arc::new(point);
        // A store of its own, so an output of its own.
        world.move_on();
        lives_of(&world, &point).await.with_context(|| format!("{point:?}"))?;
        // A life may take another way, and end before.
        if let Some(kind) = point.hit() {
            *aborted.entry(kind).or_default() += 1;
        }
    }
    let told: Vec<_> = aborted.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    println!("    aborted at: {}", told.join(", "));
    for kind in KINDS {
        ensure!(aborted.get(kind).is_some_and(|times| *times > 1), "{kind} was not hit twice");
    }
    world.end().await;
    Ok(())
}

/// Where processes are aborted: three times at each kind of effect that has to be hit, after every commit, as each has another
/// meaning, and after one of each other kind; or on both sides of every effect there is, which takes minutes.
fn points(kinds: &[&'static str]) -> Vec<CrashPoint> {
    if given("OFFTAKE_CLOUDS_ABORTS").is_some() {
        let crash = |at| [When::Before, When::After].map(|when| CrashPoint::new(Some(Crash { at, when })));
        return (1..=kinds.len()).flat_map(crash).collect();
    }
    let different: BTreeSet<_> = kinds.iter().copied().collect();
    let crashes = different.into_iter().flat_map(|kind| {
        let number = kinds.iter().filter(|found| **found == kind).count();
        let after = match kind {
            "store: commit" => number,
            _ if KINDS.contains(&kind) => 2,
            _ => 1,
        };
        let before = KINDS.contains(&kind).then_some(Crash { at: 1, when: When::Before });
        let after = (1..=after).map(|at| Crash { at, when: When::After });
        after.chain(before).map(move |crash| CrashPoint::at_kind(kind, crash))
    });
    crashes.collect()
}

/// A life up to `point` in which something is exported and deleted, and one after it to a good end.
async fn lives_of(world: &World<'_>, point: &Arc<CrashPoint>) -> anyhow::Result<()> {
    let store = JobStore::memory();
    let life = world.begin_until(FILES, &store, point).await?;
    tokio::select! {
        lived = export_and_delete(world, &life) => lived?,
        () = point.crashed() => {}
    }
    point.stop();
    life.abort().await;

    let life = world.begin_until(FILES, &store, &Arc::new(CrashPoint::new(None))).await?;
    ends_well(world, &life, &store).await?;
    life.end().await
}

/// Every export comes to a good end, and is deleted: nothing is left of them.
async fn ends_well(world: &World<'_>, life: &Life, store: &JobStore) -> anyhow::Result<()> {
    let client = Client::new();
    for id in store.job_ids().await {
        let status = format!("{}/$bulk-status/{id}", life.base);
        let manifest = client.wait(&status, |_| {}).await?;
        world.compare(OF_LARGE, &manifest).await?;
        client.delete(&status).await?;
    }
    world.is_empty().await?;
    Ok(())
}

async fn export_and_delete(world: &World<'_>, life: &Life) -> anyhow::Result<()> {
    let (status, _) = life.export(OF_LARGE).await?;
    Client::new().delete(&status).await?;
    world.is_empty().await
}

/// A block that a storage takes in only after the next life has tidied up is found all the same: nothing in it says that it
/// comes too late.
pub(crate) async fn finds_what_comes_late(storage: &Storage) -> anyhow::Result<()> {
    let world = World::of(storage, large()).await?;
    let store = JobStore::memory();
    let begun = |left: Vec<String>| left.iter().find_map(|line| Some(line.strip_prefix("upload ")?.to_owned()));
    let mut late = None;
    for at in 1.. {
        let point = Arc::new(CrashPoint::new(Some(Crash { at, when: When::After })));
        let life = world.begin_until(FILES, &store, &point).await?;
        tokio::select! {
            lived = life.export(OF_LARGE) => drop(lived.context("no upload was left behind")?),
            () = point.crashed() => {}
        }
        point.stop();
        life.abort().await;
        late = begun(storage.left_in(&world.folder).await?);
        if late.is_some() {
            break;
        }
    }
    let late = late.context("no upload was left behind")?;
    let name = late.rsplit('/').next().context("a name")?.to_owned();
    let (written, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let tell = move |put: &str| {
        if put == name {
            // Nobody listens after the first time.
            let _told = written.send(());
        }
    };
    let life = world.begin_telling(FILES, &store, tell).await?;
    seen.recv().await.context("it is written over")?;
    storage.ask(&["begin", &late]).await?;
    ends_well(&world, &life, &store).await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

/// SEC-32: an object and an upload of another program in the very folder of a job.
pub(crate) async fn spares_others(storage: &Storage) -> anyhow::Result<()> {
    let world = World::of(storage, large()).await?;
    let store = JobStore::memory();
    let whole = Arc::new(CrashPoint::new(None));
    let life = world.begin_until(FILES, &store, &whole).await?;
    let (_, manifest) = life.export(OF_LARGE).await?;
    let url = manifest.output[0].url.split('?').next().context("a URL")?.replace("%2F", "/");
    let key = url.find(&world.folder).map(|at| &url[at..]).context("a key")?;
    let folder = key.rsplit_once('/').context("a folder")?.0;
    let others = [
        ("put", format!("{folder}/README.txt")),
        ("begin", format!("{folder}/upload.bin")),
        ("put", format!("{}/other", world.folder)),
        ("begin", format!("{}/upload.bin", world.folder)),
    ];
    for (what, key) in &others {
        storage.ask(&[what, key]).await?;
    }
    let mut expected: Vec<_> = others
        .iter()
        .map(|(what, key)| format!("{} {key}", if *what == "put" { "object" } else { "upload" }))
        .collect();
    expected.sort();
    let client = Client::new();
    for id in store.job_ids().await {
        client.delete(&format!("{}/$bulk-status/{id}", life.base)).await?;
    }
    crate::support::until("ours are gone and others' are not", crate::support::PATIENCE, async || {
        let mut left = storage.left_in(&world.folder).await?;
        left.sort();
        ensure!(left == expected, "{left:#?} is left, and {expected:#?} should be");
        Ok(())
    })
    .await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

/// The job store is lost, and rebuilt from what lies in the storage: what was complete is what it was, and what was under way
/// goes on. What it had begun to upload is found where the storage lists the uploads below a folder.
pub(crate) async fn rebuilds_a_lost_store(storage: &Storage) -> anyhow::Result<()> {
    let world = World::of(storage, large()).await?;
    let store = JobStore::memory();
    let whole = Arc::new(CrashPoint::new(None));
    let life = world.begin_until(FILES, &store, &whole).await?;
    let (first, complete) = life.export(OF_LARGE).await?;
    let first = first.rsplit('/').next().context("a job's id")?.to_owned();
    let so_far = whole.effects();
    life.end().await?;
    for at in [so_far / 4, so_far / 2, so_far * 2 / 3] {
        let point = Arc::new(CrashPoint::new(Some(Crash { at, when: When::After })));
        let life = world.begin_until(FILES, &store, &point).await?;
        tokio::select! {
            lived = life.export(OF_LARGE) => drop(lived?),
            () = point.crashed() => {}
        }
        point.stop();
        life.abort().await;
    }
    let known = store.job_ids().await.len();
    let store = store.rebuilt_by(&world.config("http://127.0.0.1:1/fhir", FILES)?).await?;
    let rebuilt = store.job_ids().await;
    ensure!(rebuilt.len() > 1 && rebuilt.len() <= known, "{} of {known} jobs were rebuilt", rebuilt.len());
    let life = world.begin_until(FILES, &store, &Arc::new(CrashPoint::new(None))).await?;
    let client = Client::new();
    let mut as_it_was = 0;
    for id in rebuilt {
        let status = format!("{}/$bulk-status/{id}", life.base);
        let manifest = client.wait(&status, |_| {}).await?;
        world.compare(OF_LARGE, &manifest).await?;
        if id == first {
            ensure!(manifest.whole["transactionTime"] == complete.whole["transactionTime"], "{id} is not what it was");
            as_it_was += 1;
        }
        client.delete(&status).await?;
    }
    ensure!(as_it_was == 1, "{as_it_was} exports are the one that was complete");
    if storage.lists_uploads_below_folders() {
        world.is_empty().await?;
    } else {
        world.has_no_objects().await?;
    }
    life.end().await?;
    world.end().await;
    Ok(())
}
