//! What sled promises only with our help: durability, one process, and opening after a hard stop.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::job::store::Change;
use crate::store::conformance::{self, file, job, plan, running};

fn folder() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a folder of its own");
    let folder = parent.path().join("jobs");
    (parent, folder)
}

fn opened(folder: &Path) -> SledStore {
    SledStore::open(folder).expect("it can be opened")
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

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let (_parent, folder) = folder();
    let store = opened(&folder);
    fill(&store).await;
    drop(store);
    assert_filled(&opened(&folder)).await;
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
        let db = ::sled::Config::new().path(&folder).open().expect("sled opens it");
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
    SledStore::start(trees, lock, Box::new(sync)).expect("a thread can be had")
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
