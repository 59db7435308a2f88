//! What sled promises only with our help: durability, one process, and opening after a hard stop.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::bulk::kickoff::{Kickoff, NamedPatients};
use crate::bulk::sealed::JobKey;
use crate::fhir::datatypes::Id;
use crate::job::checkpoint::FileNo;
use crate::job::store::Change;
use crate::store::codec::{self, Record};
use crate::store::conformance::{self, file, job, of_client, plan, running};

fn folder() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a folder of its own");
    let folder = parent.path().join("jobs");
    (parent, folder)
}

/// A process that another test is about to start holds the lock of a store that was dropped, until it is another program.
fn opened(folder: &Path) -> SledStore {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match SledStore::open(folder) {
            Err(error @ OpenError::Locked(_)) => {
                assert!(std::time::Instant::now() < patience, "{error}");
                std::thread::yield_now();
            }
            opened => return opened.expect("it can be opened"),
        }
    }
}

/// sled itself, once a thread of the store that was dropped has given back its lock.
fn bare(folder: &Path) -> ::sled::Db {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match ::sled::open(folder) {
            Err(error) if error.to_string().contains("could not acquire lock") => {
                assert!(std::time::Instant::now() < patience, "{error}");
                std::thread::yield_now();
            }
            opened => return opened.expect("sled opens it"),
        }
    }
}

/// One job with a plan and a file, committed.
async fn fill(store: &SledStore) {
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(job(1).id).await.expect("it is there");
    let change = Change { plan: Some(plan(500)), files: vec![file(1)], ..running(7) };
    store.commit(lease, change).await.expect("the lease is good");
}

async fn assert_filled(store: &SledStore) {
    let id = job(1).id;
    let found = store.job(id).await.expect("the store answers").expect("the job is there");
    assert_eq!(Some(found.state), running(7).state);
    assert_eq!(store.plan(id).await.expect("the store answers"), Some(plan(500)));
    assert_eq!(store.files(id).await.expect("the store answers"), vec![file(1)]);
}

#[tokio::test]
async fn the_embedded_store_does_what_every_store_does() {
    let parent = tempfile::tempdir().expect("a folder of its own");
    let made = AtomicUsize::new(0);
    conformance::conformance(async || {
        let number = made.fetch_add(1, Ordering::Relaxed);
        Arc::new(opened(&parent.path().join(number.to_string()))) as Arc<dyn Store>
    })
    .await;
}

/// A version that did not keep the jobs of each client apart has left a log, or has used one for a while.
#[tokio::test]
async fn jobs_of_a_client_are_counted_in_a_log_of_an_earlier_version() {
    let (_parent, folder) = folder();
    let store = opened(&folder);
    for number in 1..=3 {
        store.create(of_client(number)).await.expect("a new job");
    }
    store.delete(of_client(3).id).await.expect("it is there");
    let client = of_client(1).owner.client().cloned().expect("it has one");
    drop(store);
    let db = bare(&folder);
    db.open_tree("active").and_then(|active| active.clear()).expect("a tree");
    db.open_tree("meta").and_then(|meta| meta.remove("active-by-client")).expect("a tree");
    drop(db);
    let store = opened(&folder);
    assert_eq!(store.active(client.clone()).await.expect("the store answers"), 2);
    drop(store);
    let db = bare(&folder);
    db.open_tree("jobs").and_then(|jobs| jobs.clear()).expect("a tree");
    drop(db);
    assert_eq!(opened(&folder).active(client).await.expect("the store answers"), 0, "they have gone meanwhile");
}

/// A store is read through at each start: a thousand files of a job that has ended are a record of some kilobytes. Of more it
/// would be too large a change, and those that an earlier version has left apart stay so.
#[tokio::test]
async fn files_of_a_job_that_has_ended_are_one_record() {
    let (_parent, folder) = folder();
    let most = u32::try_from(trees::MOST_TOGETHER).expect("a number");
    let mut bytes = Vec::new();
    for (number, count) in [(1, most), (2, most + 1)] {
        let (store, id) = (opened(&folder), job(number).id);
        store.create(job(number)).await.expect("a new job");
        let lease = store.claim(id).await.expect("it is there");
        let files: Vec<_> = (0..count).map(file).collect();
        store.commit(lease, Change { files: files.clone(), ..running(1) }).await.expect("the lease is good");
        store.commit(lease, conformance::failed()).await.expect("the lease is good");
        drop(store);
        let db = bare(&folder);
        let held = |name| db.open_tree(name).expect("a tree").scan_prefix(id.as_bytes()).collect::<Result<Vec<_>, _>>();
        let [apart, together] = ["files", "ended-files"].map(|name| held(name).expect("they can be read"));
        bytes.push(together.iter().map(|(_, value)| value.len()).sum::<usize>());
        assert_eq!(apart.len(), if number == 1 { 0 } else { count as usize }, "job {number}");
        drop(db);
        assert_eq!(opened(&folder).files(id).await.expect("they can be read"), files, "job {number}");
    }
    assert!((1..20_000).contains(&bytes[0]) && bytes[1] == 0, "{bytes:?}");
}

/// A job of which a file's record cannot be read ends like any other, and what is kept of it stays as it is.
#[tokio::test]
async fn a_job_with_a_damaged_file_ends() {
    let (_parent, folder) = folder();
    let (store, id) = (opened(&folder), job(1).id);
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    store.commit(lease, Change { files: vec![file(1), file(2)], ..running(1) }).await.expect("the lease is good");
    drop(store);
    let db = bare(&folder);
    let files = db.open_tree("files").expect("a tree");
    let (key, value) = files.first().expect("it can be read").expect("a record");
    files.insert(&key, &value[..value.len() - 1]).expect("it can be written");
    drop((files, db));
    let store = opened(&folder);
    store.commit(lease, conformance::failed()).await.expect("it ends");
    let ended = store.job(id).await.expect("the store answers").expect("the job is there");
    assert!(!ended.state.is_active());
    assert!(matches!(store.files(id).await, Err(StoreError::Damaged(_))));
    assert!(store.delete(id).await.expect("it is there"));
    store.purge(id).await.expect("it is deleted");
    assert_eq!(store.files(id).await.expect("nothing is left"), []);
}

#[tokio::test]
async fn files_that_an_earlier_version_kept_apart_are_those_of_a_job_that_has_ended() {
    let (_parent, folder) = folder();
    let (store, id) = (opened(&folder), job(1).id);
    store.create(job(1)).await.expect("a new job");
    let lease = store.claim(id).await.expect("it is there");
    store.commit(lease, conformance::failed()).await.expect("the lease is good");
    drop(store);
    let db = bare(&folder);
    db.open_tree("ended-files").and_then(|tree| tree.clear()).expect("a tree");
    for no in 0..3 {
        for (key, part) in codec::encode(Record::File(id, FileNo(no)), &file(no)).expect("it can be written") {
            db.open_tree("files").and_then(|files| files.insert(key, part)).expect("a tree");
        }
    }
    drop(db);
    let store = opened(&folder);
    assert_eq!(store.files(id).await.expect("they can be read"), [file(0), file(1), file(2)]);
    store.commit(lease, Change { forgotten: vec![FileNo(1)], ..Change::default() }).await.expect("the lease is good");
    assert_eq!(store.files(id).await.expect("they can be read"), [file(0), file(2)]);
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let (_parent, folder) = folder();
    let store = opened(&folder);
    fill(&store).await;
    drop(store);
    assert_filled(&opened(&folder)).await;
}

/// SEC-40: what is sealed is in no byte of the folder, unpacked or not, also once it was replaced and removed; what is not sealed is
/// found.
#[tokio::test]
async fn whom_a_job_is_for_is_in_no_byte_of_the_folder_if_it_is_sealed() {
    let (_parent, folder) = folder();
    let key = JobKey::new(job(2).id, &[7; 32]);
    let KeptPlan::Clear(clear) = plan(3_000) else { panic!("it is in the clear") };
    let sealed = KeptPlan::sealed(&clear, &key, [1; 12]);
    let named = |number| {
        let ids = (0..50).filter_map(|id| Id::parse(&format!("asked-for-{id:030}")).ok()).collect();
        let kickoff = Kickoff { patients: Some(NamedPatients::Clear(ids)), ..job(number).kickoff };
        Job { kickoff, ..job(number) }
    };
    let told = |folder: &Path| {
        let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let files: Vec<_> = files
            .filter(|path| path.is_file())
            .map(|path| codec::legible(&fs::read(path).expect("it is ours")))
            .collect();
        ["patient-00000000", "asked-for-0000"]
            .map(|id| files.iter().any(|file| memchr::memmem::find(file, id.as_bytes()).is_some()))
    };
    for (number, recorded, plan, expected) in [
        (2, Job { kickoff: named(2).kickoff.sealed(&key, [2; 12]), ..job(2) }, sealed, [false; 2]),
        (1, named(1), KeptPlan::Clear(clear), [true; 2]),
    ] {
        let store = opened(&folder);
        store.create(recorded.clone()).await.expect("a new job");
        let lease = store.claim(recorded.id).await.expect("it is there");
        for sweep in 0..3 {
            let change = Change { plan: Some(plan.clone()), ..running(sweep) };
            store.commit(lease, change).await.expect("the lease is good");
        }
        drop(store);
        assert_eq!(told(&folder), expected, "job {number}");
        let store = opened(&folder);
        assert_eq!(store.plan(recorded.id).await.expect("the store answers"), Some(plan));
        let kept = store.job(recorded.id).await.expect("the store answers").expect("the job is there");
        assert_eq!(kept.kickoff, recorded.kickoff);
        assert!(store.delete(recorded.id).await.expect("it is there"));
        store.purge(recorded.id).await.expect("it is deleted");
        drop(store);
        assert_eq!(told(&folder), expected, "job {number}, after it was removed: a log keeps what it held");
    }
}

/// The server can be asked again: a profile that cannot be read is none, and nothing else suffers.
#[tokio::test]
async fn a_profile_that_is_damaged_or_of_a_later_version_is_none() {
    let (_parent, folder) = folder();
    let (key, found) = conformance::found("1");
    for damage in ["flip", "version", "cut"] {
        let store = opened(&folder);
        store.keep_profile(key, found.clone()).await.expect("it is kept");
        drop(store);
        assert_eq!(opened(&folder).profile(key).await.expect("the store answers"), Some(found.clone()));
        let db = bare(&folder);
        let tree = db.open_tree("profiles").expect("there is such a tree");
        let (part, value) = tree.iter().next().expect("one is kept").expect("it can be read");
        let mut value = value.to_vec();
        match damage {
            "flip" => *value.last_mut().expect("it is not empty") ^= 1,
            "version" => value[0] += 1,
            _ => value.truncate(3),
        }
        tree.insert(part, value).expect("the disk takes it");
        drop((tree, db));
        let store = opened(&folder);
        assert_eq!(store.profile(key).await.expect("the store answers"), None, "{damage}");
        fill(&store).await;
        store.keep_profile(key, found.clone()).await.expect("another one is kept");
        assert_eq!(store.profile(key).await.expect("the store answers"), Some(found.clone()), "{damage}");
    }
}

#[tokio::test]
async fn a_second_process_is_told_that_the_folder_is_in_use() {
    let (_parent, folder) = folder();
    let store = opened(&folder);
    let error = SledStore::open(&folder).expect_err("it is in use");
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    drop(store);
    drop(opened(&folder));
}

/// A snapshot that a hard stop left torn or half written keeps sled from opening a log that is whole.
#[tokio::test]
async fn a_damaged_snapshot_costs_nothing() {
    for damage in ["flip", "cut", "empty", "half-written"] {
        let (_parent, folder) = folder();
        let store = opened(&folder);
        fill(&store).await;
        drop(store);
        let snapshots: Vec<_> = fs::read_dir(&folder)
            .expect("the folder is there")
            .map(|entry| entry.expect("it can be listed").path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")))
            .collect();
        let snapshot = snapshots.first().cloned().unwrap_or_else(|| folder.join("snap.0000000000000001"));
        let bytes = fs::read(&snapshot).unwrap_or_else(|_| vec![7; 64]);
        let written = match damage {
            "flip" => {
                let mut flipped = bytes;
                let middle = flipped.len() / 2;
                flipped[middle] ^= 0xff;
                fs::write(&snapshot, flipped)
            }
            "cut" => fs::write(&snapshot, &bytes[..bytes.len() / 2]),
            "empty" => fs::write(&snapshot, b""),
            _ => fs::write(folder.join("snap.00000000000000ff.generating"), &bytes[..bytes.len() / 2]),
        };
        written.expect("the disk takes it");
        let store = opened(&folder);
        assert_filled(&store).await;
        drop(store);
        // And what is written now is there the next time too.
        assert_filled(&opened(&folder)).await;
    }
}

#[tokio::test]
async fn a_log_that_nobody_can_read_is_not_taken_for_an_empty_one() {
    let (_parent, folder) = folder();
    let store = opened(&folder);
    fill(&store).await;
    drop(store);
    let data = folder.join("db");
    let whole = fs::read(&data).expect("it is there");
    let damaged: Vec<u8> = whole.iter().map(|byte| byte ^ 0x55).collect();
    fs::write(&data, &damaged).expect("the disk takes it");
    for _ in 0..2 {
        let error = SledStore::open(&folder).expect_err("it was written before");
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
}

/// A store whose file can be synced as `sync` says.
fn with_sync(folder: &Path, sync: impl FnMut() -> io::Result<()> + Send + 'static) -> SledStore {
    let Opened { trees, lock, .. } = open::open(folder).expect("it can be opened");
    SledStore::start(Shared::new(folder, trees, None), lock, Box::new(sync)).expect("a thread can be had")
}

#[tokio::test]
async fn nothing_is_answered_or_can_be_read_before_it_is_synced() {
    let (_parent, folder) = folder();
    let synced = Arc::new(AtomicBool::new(false));
    let store = with_sync(&folder, {
        let synced = Arc::clone(&synced);
        move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            synced.store(true, Ordering::SeqCst);
            Ok(())
        }
    });
    let store = Arc::new(store);
    let reader = tokio::spawn({
        let (store, synced) = (Arc::clone(&store), Arc::clone(&synced));
        async move {
            loop {
                if store.job(job(1).id).await.expect("the store answers").is_some() {
                    return synced.load(Ordering::SeqCst);
                }
            }
        }
    });
    store.create(job(1)).await.expect("a new job");
    assert!(synced.load(Ordering::SeqCst), "it was answered before it was durable");
    assert!(reader.await.expect("the reader did not panic"), "it was read before it was durable");
}

#[tokio::test]
async fn a_failed_sync_is_never_forgotten() {
    let (_parent, folder) = folder();
    let tries = Arc::new(AtomicUsize::new(0));
    let store = with_sync(&folder, {
        let tries = Arc::clone(&tries);
        // A second sync after a failed one can succeed without having written what the first one lost.
        move || if tries.fetch_add(1, Ordering::SeqCst) == 1 { Err(io::Error::other("no space")) } else { Ok(()) }
    });
    store.create(job(1)).await.expect("the first sync works");
    assert!(matches!(store.create(job(2)).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.create(job(3)).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.job(job(1).id).await, Err(StoreError::Unavailable(_))));
    drop(store);
    let found = opened(&folder).job(job(1).id).await.expect("the store answers");
    assert_eq!(found, Some(job(1)), "what was acknowledged is there after a restart");
}

/// SEC-45: sled takes nothing more once it has failed, and is opened anew.
#[tokio::test]
async fn a_write_that_had_no_room_costs_nothing_but_itself() {
    let (_parent, folder) = folder();
    let store = opened(&folder);
    fill(&store).await;
    for _ in 0..3 {
        let run: writer::Run = Box::new(|trees| {
            assert!(trees.is_ok(), "it is not refused");
            Err(::sled::Error::Io(io::ErrorKind::StorageFull.into()))
        });
        let queue = store.queue.as_ref().expect("it is open");
        assert!(queue.send(Write { room: Room::None, run }).await.is_ok(), "the writer lives");
        // It may share the batch, and is then refused with it.
        while let Err(error) = store.create(job(2)).await {
            assert!(matches!(error, StoreError::Full), "{error:?}");
        }
        assert_filled(&store).await;
    }
    drop(store);
    let store = opened(&folder);
    assert_filled(&store).await;
    assert_eq!(store.job(job(2).id).await.expect("the store answers"), Some(job(2)));
}

/// What is set aside is for what makes room, and is set aside anew.
#[tokio::test]
async fn a_disk_that_is_about_to_be_full_takes_deletions_only() {
    let (parent, folder) = folder();
    let path = parent.path().join("ballast");
    // More than there is anywhere: what is left never suffices.
    let store = SledStore::open_beside(&folder, Some(Ballast::new(path.clone(), u64::MAX / 2))).expect("it opens");
    assert!(matches!(store.create(job(1)).await, Err(StoreError::Full)));
    assert!(!store.delete(job(1).id).await.expect("a deletion is taken"), "there is none");
    assert_eq!(store.job(job(1).id).await.expect("it can be read"), None);
    // Whoever deletes needs a token: so many of those there are, and no more.
    let use_once = |number: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        store.use_once(Use { hash, until: Millis(10) }, Millis(0))
    };
    let used = futures_util::future::join_all((0..writer::LITTLE_WRITES).map(use_once)).await;
    assert!(used.into_iter().all(|used| used.expect("it is taken")), "each was the first");
    assert!(matches!(use_once(usize::MAX).await, Err(StoreError::Full)), "it is bounded");
    assert!(!store.delete(job(1).id).await.expect("a deletion is taken"), "there is none");
    drop(store);
    let store = SledStore::open_beside(&folder, Some(Ballast::new(path.clone(), 65_536))).expect("it opens");
    store.create(job(1)).await.expect("there is room");
    assert_eq!(path.metadata().expect("it is set aside").len(), 65_536);
}

/// Where the test below mounts a disk of 48 MiB that nobody else sees.
const SMALL_DISK: &str = "/tmp/offtake-small-disk";

/// SEC-45, with sled's own failures: all that was acknowledged is there, while the disk is full and ever after.
#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let disk = Path::new(SMALL_DISK);
    let is_mounted = fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| mounts.contains(SMALL_DISK));
    if !is_mounted {
        fs::create_dir_all(disk).expect("a folder to mount on");
        let own = std::env::current_exe().expect("a program");
        let script = format!("mount -t tmpfs -o size=48m,mode=700 tmpfs {SMALL_DISK} || exit 42; exec \"$@\"");
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]).arg(own);
        command.args(["--exact", "store::sled::tests::a_full_disk_loses_nothing_that_was_acknowledged"]);
        let done = command.output();
        match done {
            Ok(done) if done.status.success() => {}
            Ok(done) if done.status.code() == Some(101) => {
                panic!("{}", String::from_utf8_lossy(&done.stdout));
            }
            Ok(_) | Err(_) => println!("NOT RUN: no disk can be mounted here"),
        }
        return;
    }
    let folder = disk.join("jobs");
    let mut acknowledged = Vec::new();
    let check = async |store: &SledStore, acknowledged: &[u8]| {
        for number in acknowledged {
            let found = store.job(job(*number).id).await;
            assert_eq!(found.expect("the store answers"), Some(job(*number)), "{number} of {acknowledged:?}");
        }
    };
    for round in 0..5_u8 {
        // Without anything set aside, so that sled itself meets the end of the disk.
        let store = opened(&folder);
        check(&store, &acknowledged).await;
        let mut refused = 0_usize;
        for number in 0..20 {
            if number == round {
                let mut filler = fs::File::create(disk.join("filler")).expect("a file");
                let full =
                    std::iter::repeat_with(|| io::Write::write_all(&mut filler, &[7; 4096])).find(Result::is_err);
                let error = full.and_then(Result::err).expect("it ends");
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            }
            let id = round * 20 + number;
            match store.create(job(id)).await {
                Ok(()) => acknowledged.push(id),
                Err(StoreError::Full) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
            if let Ok(lease) = store.claim(job(id).id).await {
                // Something that needs room, and may be lost.
                let change = Change { plan: Some(plan(2_000)), ..Change::default() };
                let _full = store.commit(lease, change).await;
            }
        }
        println!("round {round}: {refused} refused");
        fs::remove_file(disk.join("filler")).expect("it is there");
        // Opened anew by itself.
        for _ in 0..200 {
            if store.job(job(0).id).await.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        check(&store, &acknowledged).await;
        for id in acknowledged.drain(..) {
            store.delete(job(id).id).await.expect("there is room");
            store.purge(job(id).id).await.expect("there is room");
        }
        store.create(job(round * 20)).await.expect("there is room");
        acknowledged.push(round * 20);
        drop(store);
    }
}
