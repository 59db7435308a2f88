//! The ledger on disk: what was changed, removed, put elsewhere or cut short is found out, whatever it is.

mod running;
mod tampering;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::chain::{Broken, Head};
use super::copies::Copies;
use super::folder::ReadError;
use super::reader::{Findings, Reader, Share, copy_in};
use super::record::{
    Actor, Asked, Contents, Denied, DeniedMore, Ended, Event, FileBegun, FileEnded, Finished, Hidden, Key, KickOff,
    LinkIssued, Links, ManifestRead, Record,
};
use super::writer::{Files, OpenError};
use super::{Fault, Gathering, Settings, audit_event, folder};
use crate::bulk::kickoff::ExportLevel;
use crate::fhir::datatypes::{Id, Instant, Millis};
use crate::fhir::outcome::IssueType;
use crate::fhir::resource_type::ResourceType;
use crate::job::JobId;
use crate::job::index::IdHash;
use crate::smart::client::ClientId;
use crate::smart::scope::Scopes;

const NOW: Millis = Millis(1_790_000_000_000);
const JOB: JobId = JobId::new([7; 16]);
/// Nothing takes so long.
const SOON: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_hours(24);

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.join("ledger"),
        key_file: folder.join("ledger.key"),
        head_copies: vec![folder.join("head")],
        retention: DAY * 100,
        forward: None,
        server: "https://fhir.example/fhir".to_owned(),
        fault: None,
    }
}

fn copies(settings: &Settings) -> Arc<Copies> {
    Arc::new(Copies::new(&settings.head_copies))
}

struct Bench {
    folder: TempDir,
    settings: Arc<Settings>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Arc::new(settings(folder.path()));
        Self { folder, settings }
    }

    fn open(&self, now: Millis) -> Result<Files, OpenError> {
        Files::open(&self.settings, &copies(&self.settings), now, None)
    }

    /// A ledger with one record of each kind, and its head copied.
    fn filled() -> Self {
        let bench = Self::new();
        let mut files = bench.open(NOW).expect("it can be begun");
        for event in every_event(&files) {
            files.append(NOW.into(), vec![event]).expect("room");
        }
        files.copy_head().wait(SOON);
        bench
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.settings.folder, &self.settings.key_file).expect("the key is there")
    }

    fn verify(&self) -> Findings {
        let copies = self.settings.head_copies.iter().map(|copy| ("the copy".to_owned(), copy_in(copy)));
        self.reader().verify(&copies.collect::<Vec<_>>())
    }

    /// The files of records in their order.
    fn segments(&self) -> Vec<PathBuf> {
        let segments = folder::segments(&self.settings.folder).expect("a folder");
        segments.into_iter().map(|segment| segment.path).collect()
    }

    fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let read = self.reader().read(|record, _| {
            records.push(record);
            Ok::<_, ReadError>(())
        });
        read.expect("it can be read");
        records
    }
}

fn actor() -> Actor {
    Actor {
        client: Some(ClientId::parse("research,{}'warehouse").expect("a name")),
        scopes: Some(Scopes::parse("system/*.rs system/Patient.rs?name=canary").expect("scopes")),
        peer: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
    }
}

/// One of each kind but of those that a file begins with.
fn every_event(files: &Files) -> Vec<Event> {
    let at = Instant::from(NOW);
    let ended = Ended { job: JOB, actor: actor() };
    let counts = BTreeMap::from([(ResourceType::PATIENT, 3), (ResourceType::GROUP, 1)]);
    let contents = Contents { counts, deletions: 1, files: 3, bytes: 300, digest: "00".into() };
    let mut gathering = Gathering::new(Arc::clone(&files.keys), &files_folder(files), JOB);
    gathering.add((0..3).map(|number| IdHash::of(ResourceType::PATIENT, &patient(number)))).expect("room");
    let patients = gathering.finish(false).expect("room");
    let denied = Denied { route: Asked::Token, job: None, actor: Actor::default(), status: 400, code: "a".into() };
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let more = DeniedMore {
        since: Some(at),
        count: 2,
        by_status: BTreeMap::from([("401".into(), 2)]),
        by_peer: BTreeMap::from([(peer, 2)]),
        other_peers: 0,
    };
    vec![
        Event::KickOff(KickOff {
            job: JOB,
            actor: actor(),
            level: ExportLevel::Group(Id::parse("g1").expect("an id")),
            types: vec![ResourceType::PATIENT],
            since: Some(at),
            until: None,
            filters: BTreeMap::from([(
                ResourceType::PATIENT,
                vec![vec![("name".into(), Hidden::Clear("canary".to_owned()))]],
            )]),
            request: Hidden::Clear("https://fhir.example/fhir/$export?_typeFilter=Patient?name=canary".to_owned()),
            patients: Some(Hidden::Clear("canary-1,canary-2".to_owned())),
        }),
        Event::Denied(denied),
        Event::DeniedMore(more),
        Event::Finished(Finished {
            job: JOB,
            actor: actor(),
            transaction_time: at,
            contents: contents.clone(),
            patients,
        }),
        Event::Failed { job: JOB, code: IssueType::Processing },
        Event::Manifest(ManifestRead {
            job: JOB,
            actor: actor(),
            links: Links::Storage,
            issued: 3,
            until: at,
            contents,
        }),
        Event::LinkIssued(LinkIssued { job: JOB, actor: actor(), file: "Patient-00001.ndjson".into(), until: at }),
        Event::FileBegun(FileBegun {
            job: JOB,
            actor: Actor::default(),
            file: "Patient-00001.ndjson".into(),
            by: Key::Link,
            from: 0,
            to: 100,
        }),
        Event::FileEnded(FileEnded {
            job: JOB,
            file: "Patient-00001.ndjson".into(),
            begun: 8,
            bytes: 100,
            whole: true,
        }),
        Event::Deleted(ended.clone()),
        Event::Expired(ended.clone()),
        Event::Revoked(ended),
        Event::Purged { job: JOB },
    ]
}

fn files_folder(files: &Files) -> PathBuf {
    files.settings().folder.clone()
}

fn patient(number: u32) -> Id {
    Id::parse(&format!("p{number}")).expect("an id")
}

#[test]
fn what_was_recorded_is_read_back_and_says_nothing_that_was_to_be_hidden() {
    let bench = Bench::filled();
    let findings = bench.verify();
    assert_eq!(findings.problems, [""; 0]);
    assert_eq!(findings.notes, [""; 0]);
    let records = bench.records();
    assert_eq!(records.len() as u64, findings.records);
    let numbers: Vec<_> = records.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, (1..=findings.records).collect::<Vec<_>>());
    let text = fs::read_to_string(&bench.segments()[0]).expect("text");
    assert!(!text.contains("canary") && !text.contains("_typeFilter"), "{text}");
    assert_eq!(text.lines().count(), records.len(), "one line for each");
    let Event::KickOff(KickOff { actor: read, request: Hidden::Hash(hash), .. }) = &records[2].event else {
        panic!("{:?}", records[2]);
    };
    assert_eq!((&read.client, read.peer, hash.len()), (&actor().client, actor().peer, 32));
    let scopes = read.scopes.as_ref().map(ToString::to_string).expect("scopes");
    assert!(scopes.starts_with("system/*.rs system/Patient.rs?name=") && scopes.len() == 51, "{scopes}");
    for (number, event) in [(0, "begun"), (1, "opened"), (5, "finished")] {
        let line: serde_json::Value = serde_json::from_str(text.lines().nth(number).expect("a line")).expect("JSON");
        assert_eq!(line["event"], event);
        assert_eq!(line["mac"].as_str().map(str::len), Some(64));
    }
}

#[test]
fn every_record_is_an_audit_event_with_what_r4_requires() {
    let bench = Bench::filled();
    let mut told = 0;
    for record in bench.records() {
        let Some(event) = audit_event::audit_event(&record, "https://fhir.example/fhir") else {
            assert!(matches!(record.event, Event::Begun { .. }));
            continue;
        };
        told += 1;
        assert_eq!(event["resourceType"], "AuditEvent");
        assert!(event["type"]["code"].is_string() && event["subtype"][0]["code"].is_string(), "{event}");
        assert!(event["recorded"].as_str().is_some_and(|at| Instant::parse(at).is_ok()), "{event}");
        assert!(["C", "R", "U", "D", "E"].contains(&event["action"].as_str().unwrap_or_default()), "{event}");
        assert!(["0", "4", "8", "12"].contains(&event["outcome"].as_str().unwrap_or_default()), "{event}");
        assert!(event["source"]["observer"]["display"].is_string(), "{event}");
        let agents = event["agent"].as_array().expect("agents");
        assert!(!agents.is_empty() && agents.iter().all(|agent| agent["requestor"].is_boolean()), "{event}");
        let one_asks = agents.iter().filter(|agent| agent["requestor"] == true).count();
        assert_eq!(one_asks, 1, "{event}");
        for entity in event["entity"].as_array().into_iter().flatten() {
            let details = entity["detail"].as_array().into_iter().flatten();
            assert!(entity["what"].is_object() || entity["detail"].is_array(), "{event}");
            for detail in details {
                assert!(detail["type"].is_string() && detail["valueString"].is_string(), "{event}");
            }
        }
    }
    assert_eq!(told, 14);
}

#[test]
fn two_processes_do_not_write_one_ledger() {
    let bench = Bench::new();
    let first = bench.open(NOW).expect("it can be begun");
    assert!(matches!(bench.open(NOW), Err(OpenError::Locked)));
    drop(first);
    bench.open(NOW).expect("it is free again");
}

#[test]
fn what_cannot_be_written_leaves_nothing_and_the_next_one_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    // How many times it is asked before it is full: of each write before and after.
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let disk = Arc::clone(&left);
    let fault = Fault(Arc::new(move || {
        let asked = disk.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        asked.map(drop).map_err(|_| std::io::ErrorKind::StorageFull.into())
    }));
    let settings = Arc::new(Settings { fault: Some(fault), ..settings(folder.path()) });
    let mut files = Files::open(&settings, &copies(&settings), NOW, None).expect("it can be begun");
    let bench = Bench { folder, settings };
    let all = every_event(&files);
    for event in &all {
        let before = fs::read(&bench.segments()[0]).expect("it is there");
        for writes in [0, 1] {
            left.store(writes, Ordering::SeqCst);
            files.append(NOW.into(), vec![event.clone(), event.clone()]).expect_err("it is full");
            assert_eq!(fs::read(&bench.segments()[0]).expect("it is there"), before, "nobody reads what is no record");
        }
        left.store(usize::MAX, Ordering::SeqCst);
        let records = files.append(NOW.into(), vec![event.clone()]).expect("there is room again");
        assert_eq!(records.len(), 1);
    }
    files.copy_head().wait(SOON);
    let findings = bench.verify();
    assert!(findings.problems.is_empty(), "{findings:?}");
    assert_eq!(findings.records, all.len() as u64 + 2, "each of them once");
    assert!(bench.folder.path().exists());
}

/// Two files must never go on from the same record, whatever becomes of the second one.
#[test]
fn a_file_that_could_not_be_begun_is_the_next_one_all_the_same() {
    let bench = Bench::new();
    let mut files = bench.open(NOW).expect("it can be begun");
    let next = folder::segment(&bench.settings.folder, files.last.seq + 1).path;
    let later = Millis(NOW.0 + 40 * 24 * 3_600_000);
    fs::create_dir(&next).expect("it can be made");
    let purged = || vec![Event::Purged { job: JOB }];
    files.append(later.into(), purged()).expect_err("something is in its place");
    files.append(NOW.into(), purged()).expect_err("also if the clock is set back");
    fs::remove_dir(&next).expect("it is empty");
    fs::write(&next, "{\"seq\":3,").expect("a part of it");
    files.append(NOW.into(), purged()).expect("what is there in part goes");
    files.copy_head().wait(SOON);
    assert_eq!(bench.segments().len(), 2);
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
}

#[test]
fn what_somebody_else_writes_to_the_file_is_noticed_at_once() {
    for change in ["grow", "shrink", "replace", "remove"] {
        let bench = Bench::new();
        let mut files = bench.open(NOW).expect("it can be begun");
        let path = bench.segments().remove(0);
        let good = fs::read(&path).expect("it is there");
        let known = files.head();
        match change {
            "grow" => fs::write(&path, [&good[..], b"x"].concat()).expect("it can be written"),
            "shrink" => fs::write(&path, &good[..good.len() - 300]).expect("it can be written"),
            "replace" => {
                fs::remove_file(&path).expect("it is there");
                fs::write(&path, &good).expect("it can be written");
            }
            _ => fs::remove_file(&path).expect("it is there"),
        }
        let purged = || vec![Event::Purged { job: JOB }];
        assert_eq!(files.append(NOW.into(), purged()).expect_err(change).kind(), std::io::ErrorKind::NotFound);
        drop(files);
        // It is looked at anew, and gone on with only if everything is there.
        let again = Files::open(&bench.settings, &copies(&bench.settings), NOW, Some(known));
        assert_eq!(again.is_ok(), change == "replace" || change == "grow", "{change}");
    }
}

#[test]
fn old_records_go_in_whole_files_and_what_is_left_can_be_verified() {
    let bench = Bench::new();
    let month = |number: i64| Millis(NOW.0 + number * 31 * 24 * 3_600_000);
    let mut lists = Vec::new();
    let mut files = bench.open(month(0)).expect("it can be begun");
    for number in 0..6_u8 {
        let job = JobId::new([number; 16]);
        let mut gathering = Gathering::new(Arc::clone(&files.keys), &bench.settings.folder, job);
        gathering.add([IdHash::of(ResourceType::PATIENT, &patient(number.into()))]).expect("room");
        let patients = gathering.finish(false).expect("room");
        let list = folder::list_of(&bench.settings.folder, job, &patients.sha256);
        let at = month(number.into());
        let contents = Contents::default();
        let finished = Finished { job, actor: actor(), transaction_time: at.into(), contents, patients };
        files.append(at.into(), vec![Event::Finished(finished)]).expect("room");
        lists.push(list);
    }
    assert_eq!(bench.segments().len(), 6, "one for each month");
    files.retire(month(3)).expect("nothing is too old");
    assert_eq!(bench.segments().len(), 6);
    files.retire(month(5)).expect("some are");
    files.copy_head().wait(SOON);
    let left = bench.segments();
    assert_eq!(left.len(), 5, "what lies between is kept");
    assert_eq!(lists.iter().map(|list| list.exists()).collect::<Vec<_>>(), [false, true, true, true, true, true]);
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
    files.retire(month(7)).expect("more are");
    files.copy_head().wait(SOON);
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
    let left = bench.segments();
    assert_eq!(left.len(), 4, "with the one that says so");
    drop(files);
    // What nobody has retired is missed, wherever it stood.
    for missing in &left {
        let text = fs::read(missing).expect("it is there");
        fs::remove_file(missing).expect("it is there");
        assert!(!bench.verify().problems.is_empty(), "{}", missing.display());
        fs::write(missing, text).expect("it can be written");
    }
    assert!(bench.verify().problems.is_empty());
    // A clock that is set far ahead removes nothing.
    let mut files = bench.open(month(100)).expect("it goes on");
    files.retire(month(100)).expect("nothing is removed");
    assert_eq!(bench.segments().len(), left.len() + 1);
    // Nor does one that is set back do harm.
    files.append(month(1).into(), vec![Event::Purged { job: JOB }]).expect("room");
    files.copy_head().wait(SOON);
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
}

/// A clock that was wrong for a while, over restarts, makes young records old by its reckoning, in whichever direction.
#[test]
fn while_the_clock_has_jumped_nothing_is_removed_whatever_is_started_again() {
    let month = |number: i64| Millis(NOW.0 + number * 31 * 24 * 3_600_000);
    // When it is opened, one after the other, and how many files are there once it has looked for what is old.
    let forward = [(0, 1), (1, 2), (40, 3), (40, 3), (41, 4), (42, 5), (43, 6), (45, 4)];
    // The last of them is when what was recorded before it was set back is old, too.
    let backward = [(0, 1), (-50, 2), (-50, 2), (-49, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 5)];
    let off_for_long = [(0, 1), (3, 2), (3, 2), (4, 3), (6, 4), (8, 3)];
    for times in [&forward[..], &backward[..], &off_for_long[..]] {
        let bench = Bench::new();
        for (at, expected) in times {
            let mut files = bench.open(month(*at)).expect("it goes on");
            files.retire(month(*at)).expect("it can look");
            files.copy_head().wait(SOON);
            drop(files);
            assert_eq!(bench.segments().len(), *expected, "at {at} of {times:?}");
            assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
        }
    }
}

#[test]
fn patients_are_found_in_the_exports_that_hold_them() {
    let bench = Bench::new();
    let mut files = bench.open(NOW).expect("it can be begun");
    let exports = [(1, vec![0, 1], false), (2, vec![1, 2], false), (3, vec![2], true)];
    for (number, patients, anybody) in exports {
        let job = JobId::new([number; 16]);
        let mut gathering = Gathering::new(Arc::clone(&files.keys), &bench.settings.folder, job);
        gathering
            .add(patients.into_iter().map(|number| IdHash::of(ResourceType::PATIENT, &patient(number))))
            .expect("room");
        let patients = gathering.finish(anybody).expect("room");
        let (at, contents) = (NOW.into(), Contents::default());
        let finished = Finished { job, actor: actor(), transaction_time: at, contents, patients };
        files.append(at, vec![Event::Finished(finished)]).expect("room");
    }
    // Of a fourth one there is no record but that something of it was disclosed; of a fifth one not even that.
    let (at, file) = (Instant::from(NOW), "Patient-00001.ndjson");
    let link = |job| LinkIssued { job: JobId::new([job; 16]), actor: actor(), file: file.into(), until: at };
    let failed = Event::Failed { job: JobId::new([5; 16]), code: IssueType::Processing };
    files.append(at, vec![Event::LinkIssued(link(1)), Event::LinkIssued(link(4)), failed]).expect("room");
    for (number, expected) in [
        (0, vec![(1, Share::Listed), (3, Share::Possible)]),
        (1, vec![(1, Share::Listed), (2, Share::Listed), (3, Share::Possible)]),
        (2, vec![(2, Share::Listed), (3, Share::Listed)]),
        (3, vec![(3, Share::Possible)]),
    ] {
        let found = bench.reader().exports_of(&patient(number)).expect("it can be read");
        let expected: BTreeMap<_, _> = expected
            .into_iter()
            .chain([(4, Share::Unknown)])
            .map(|(job, share)| (JobId::new([job; 16]), share))
            .collect();
        assert_eq!(found, expected, "{number}");
    }
}

/// An export that is finished, lost in a crash before its job store knows, and finished again.
#[test]
fn of_an_export_that_was_finished_twice_each_record_keeps_its_list() {
    let month = |number: i64| Millis(NOW.0 + number * 31 * 24 * 3_600_000);
    let bench = Bench::new();
    let mut files = bench.open(month(0)).expect("it can be begun");
    for (at, who) in [(0, vec![0]), (1, vec![0, 1]), (2, vec![0, 1])] {
        let mut gathering = Gathering::new(Arc::clone(&files.keys), &bench.settings.folder, JOB);
        let hashes = who.into_iter().map(|number| IdHash::of(ResourceType::PATIENT, &patient(number)));
        gathering.add(hashes).expect("room");
        if at == 1 {
            // Made, and never recorded: what was recorded before is as it was.
            gathering.finish(false).expect("room");
            files.copy_head().wait(SOON);
            assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
            continue;
        }
        let patients = gathering.finish(false).expect("room");
        let (transaction_time, contents) = (month(at).into(), Contents::default());
        let finished = Finished { job: JOB, actor: actor(), transaction_time, contents, patients };
        files.append(month(at).into(), vec![Event::Finished(finished)]).expect("room");
    }
    for at in 3..5 {
        files.append(month(at).into(), vec![Event::Purged { job: JobId::new([9; 16]) }]).expect("room");
    }
    files.copy_head().wait(SOON);
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
    // The first of the two records goes, with its list, and the other one keeps its own.
    files.retire(month(6)).expect("some are old");
    files.copy_head().wait(SOON);
    assert!(!bench.records().iter().any(|record| record.at.floor_millis() < month(1)), "it is gone");
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
    let found = bench.reader().exports_of(&patient(1)).expect("it can be read");
    assert_eq!(found, BTreeMap::from([(JOB, Share::Listed)]));
}

/// Lists had one name for all of an export.
#[test]
fn the_lists_of_an_earlier_version_are_found() {
    let bench = Bench::new();
    let mut files = bench.open(NOW).expect("it can be begun");
    let mut gathering = Gathering::new(Arc::clone(&files.keys), &bench.settings.folder, JOB);
    gathering.add([IdHash::of(ResourceType::PATIENT, &patient(1))]).expect("room");
    let patients = gathering.finish(false).expect("room");
    let named = folder::list_of(&bench.settings.folder, JOB, &patients.sha256);
    fs::rename(named, folder::unnamed_list_of(&bench.settings.folder, JOB)).expect("it can be renamed");
    let finished =
        Finished { job: JOB, actor: actor(), transaction_time: NOW.into(), contents: Contents::default(), patients };
    files.append(NOW.into(), vec![Event::Finished(finished)]).expect("room");
    files.copy_head().wait(SOON);
    assert!(bench.verify().problems.is_empty(), "{:?}", bench.verify());
    let found = bench.reader().exports_of(&patient(1)).expect("it can be read");
    assert_eq!(found, BTreeMap::from([(JOB, Share::Listed)]));
}

#[test]
fn a_head_is_known_by_its_seal() {
    let bench = Bench::filled();
    let files = bench.open(NOW).expect("it goes on");
    let sealed = files.head().sealed(&files.keys);
    assert_eq!(Head::open(&files.keys, &sealed), Some(files.head()));
    for index in 0..sealed.len() - 1 {
        let mut bad = sealed.clone();
        bad[index] ^= 1;
        assert_eq!(Head::open(&files.keys, &bad), None, "byte {index}");
    }
    let broken = Broken::Mac.to_string();
    assert!(broken.contains("changed"), "{broken}");
}
