//! The ledger as a process uses it: many at once, beside another process, handed on, and changed underneath.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;

use super::*;
use crate::clock::watch::ClockWatch;
use crate::clock::{Clock, SystemClock};
use crate::ledger::{Ledger, LedgerError, Target};

fn start(settings: Settings) -> Ledger {
    Ledger::start(settings, ClockWatch::new(Arc::new(SystemClock)), &tokio::runtime::Handle::current())
}

fn purged(number: u8) -> Event {
    Event::Purged { job: JobId::new([number; 16]) }
}

fn verified(folder: &Path) -> Findings {
    let settings = settings(folder);
    let reader = Reader::open(&settings.folder, &settings.key_file).expect("the key is there");
    let copies = settings.head_copies.iter().map(|copy| ("the copy".to_owned(), copy_in(copy)));
    reader.verify(&copies.collect::<Vec<_>>())
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = SystemClock.monotonic() + SOON;
    while !is_so().await {
        assert!(SystemClock.monotonic() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whoever_asks_at_the_same_time_gets_a_record_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = start(settings(folder.path()));
    let all = (0..200).map(|number| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.append(purged(number)).await.expect("room") })
    });
    let mut numbers = BTreeSet::new();
    for one in all.collect::<Vec<_>>() {
        numbers.insert(one.await.expect("it did not panic"));
    }
    assert_eq!(numbers, (3..203).collect());
    ledger.close().await;
    assert_eq!(ledger.append(purged(0)).await, Err(LedgerError::Unusable), "it is closed");
    let findings = verified(folder.path());
    assert_eq!((findings.records, findings.problems.len()), (202, 0), "{findings:?}");
}

/// On this one thread nothing is written until all of them have asked.
#[tokio::test]
async fn refusals_leave_places_to_others_and_no_note_is_lost_where_there_are_none() {
    const NOTES: usize = 1_500;
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = start(settings(folder.path()));
    let peer = |number: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).expect("few")));
    let denied = (0..NOTES).map(|number| {
        let actor = Actor { peer: Some(peer(number)), ..Actor::default() };
        ledger.deny(Denied { route: Asked::Token, job: None, actor, status: 401, code: "a".into() })
    });
    let notes = (0..NOTES).map(|number| ledger.note(purged(u8::try_from(number % 250).expect("few"))));
    let denied = futures_util::future::join_all(denied);
    tokio::join!(denied, futures_util::future::join_all(notes));
    ledger.close().await;
    let settings = settings(folder.path());
    let reader = Reader::open(&settings.folder, &settings.key_file).expect("the key is there");
    let (mut noted, mut refused) = (0, 0);
    let read = reader.read(|record, _| {
        match record.event {
            Event::Purged { .. } => noted += 1,
            Event::Denied(_) => refused += 1,
            Event::DeniedMore(more) => refused += more.count,
            _ => {}
        }
        Ok::<_, ReadError>(())
    });
    read.expect("it can be read");
    assert_eq!((noted, refused), (NOTES, NOTES as u64));
}

/// However long they are together, and whatever one of them is: on this one thread nothing is written until all have asked.
#[tokio::test]
async fn what_is_long_leaves_room_to_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = start(settings(folder.path()));
    let long = |bytes: usize| {
        let version = "x".repeat(bytes).into();
        Event::Opened { version, cut: 0, copies_missing: 0, copies_foreign: 0 }
    };
    let noted = futures_util::future::join_all((0..20).map(|_| ledger.note(long(70_000))));
    let too_long = ledger.note(long(2 << 20));
    let events = [long(400_000), long(400_000), long(400_000), long(2 << 20), purged(1)];
    let appended = futures_util::future::join_all(events.map(|event| ledger.append(event)));
    let (_, (), appended) = tokio::join!(noted, too_long, appended);
    let is_there: Vec<_> = appended.iter().map(Result::is_ok).collect();
    assert_eq!(is_there, [true, true, true, false, true], "{appended:?}");
    ledger.append(purged(2)).await.expect("what is too long keeps nobody");
    ledger.close().await;
    let findings = verified(folder.path());
    assert_eq!((findings.records, findings.problems.len()), (2 + 20 + 3 + 2, 0), "{findings:?}");
}

#[tokio::test]
async fn a_second_process_waits_until_the_first_one_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = start(settings(folder.path()));
    first.append(purged(1)).await.expect("room");
    let second = start(settings(folder.path()));
    assert_eq!(second.append(purged(2)).await, Err(LedgerError::Unusable));
    first.append(purged(3)).await.expect("it goes on");
    first.close().await;
    until("the second one goes on", async || second.append(purged(4)).await.is_ok()).await;
    second.close().await;
    let findings = verified(folder.path());
    assert!(findings.problems.is_empty(), "{findings:?}");
}

#[tokio::test]
async fn what_is_changed_underneath_stops_it_until_that_is_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = settings(folder.path());
    settings.head_copies.clear();
    let records = settings.folder.clone();
    let ledger = start(settings);
    ledger.append(purged(1)).await.expect("room");
    let path = folder::segments(&records).expect("a folder").remove(0).path;
    let good = fs::read(&path).expect("it is there");
    fs::write(&path, &good[..good.len() - 5]).expect("it can be written");
    for number in 2..4 {
        assert_eq!(ledger.append(purged(number)).await, Err(LedgerError::Unusable), "a record is missing");
    }
    fs::write(&path, &good).expect("it can be written");
    until("it goes on", async || ledger.append(purged(9)).await.is_ok()).await;
    ledger.close().await;
    let reader = Reader::open(&records, &folder.path().join("ledger.key")).expect("the key is there");
    assert!(reader.verify(&[]).problems.is_empty());
}

#[tokio::test]
async fn records_are_handed_on_and_nobody_waits_for_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, socket) = (folder.path().join("audit.ndjson"), folder.path().join("log"));
    let syslog = UnixDatagram::bind(&socket).expect("a socket");
    syslog.set_read_timeout(Some(SOON)).expect("it can be set");
    for (name, target) in [
        ("file", Target::File(file.clone())),
        ("unix", Target::Unix(socket)),
        ("nowhere", Target::Unix(folder.path().join("nowhere"))),
        ("udp", Target::Udp("127.0.0.1:9".to_owned())),
    ] {
        let own = folder.path().join(name);
        fs::create_dir(&own).expect("it can be made");
        let ledger = start(Settings { forward: Some(target), ..settings(&own) });
        ledger.append(purged(1)).await.expect("room");
        ledger.append(purged(2)).await.expect("room");
        ledger.close().await;
    }
    let whole = async || fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == 3);
    until("all are in the file", whole).await;
    for line in fs::read_to_string(&file).expect("text").lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["resourceType"], "AuditEvent");
    }
    let received = tokio::task::spawn_blocking(move || {
        let mut received = Vec::new();
        for _ in 0..3 {
            let mut buffer = vec![0; 64 * 1024];
            let length = syslog.recv(&mut buffer).expect("a message");
            received.push(String::from_utf8(buffer[..length].to_vec()).expect("text"));
        }
        received
    });
    for message in received.await.expect("it did not panic") {
        assert!(message.starts_with("<109>1 20"), "{message}");
        let (head, event) = message.split_once("- \u{feff}").expect("a head and a text");
        assert!(head.contains(" offtake ") && head.ends_with(" ledger "), "{head}");
        assert!(serde_json::from_str::<serde_json::Value>(event).is_ok(), "{event}");
    }
}
