use super::*;
use crate::output::cloud::Credential;
use crate::output::examine::{Fetched, LinkFindings, Step, UploadList};
use crate::output::exposure::{Exposure, Visit};
use crate::output::signing::LinkKey;

fn good() -> Opened {
    Opened {
        owner: Owner::Us,
        room: None,
        signing: Some(Signing { credential: Credential::Key, longest: Duration::from_hours(7 * 24) }),
        own_links: None,
        link_ttl: Duration::from_hours(1),
        is_acknowledged: false,
        folder: "doctor/0a1b".to_owned(),
        findings: Findings {
            write: Step::Done,
            parts: Step::Done,
            uploads: UploadList::Listed,
            exposure: Some(Exposure {
                object: Visit::Refused(403),
                list: Visit::Refused(403),
                ahead_millis: Some(900),
            }),
            link: Some(LinkFindings {
                host: "files.hospital.example".to_owned(),
                whole: Fetched::Good,
                content_type: Some("application/fhir+ndjson".to_owned()),
                cache_control: Some("private, no-store, no-transform".to_owned()),
                range: Fetched::Good,
                changed: Visit::Refused(403),
                other: Visit::Refused(403),
                removed: Visit::Refused(404),
            }),
            delete: Step::Done,
            delete_again: Step::Done,
            is_cut: false,
            cleaned: Step::Done,
        },
    }
}

fn of(change: impl FnOnce(&mut Opened)) -> Storage {
    let mut opened = good();
    change(&mut opened);
    Storage { location: "s3://bulk/exports".to_owned(), state: State::Opened(Box::new(opened)) }
}

fn link(opened: &mut Opened) -> &mut LinkFindings {
    opened.findings.link.as_mut().expect("it signs")
}

fn exposure(opened: &mut Opened) -> &mut Exposure {
    opened.findings.exposure.as_mut().expect("anybody can ask")
}

#[test]
fn the_whole_report_of_a_good_storage() {
    let storage = of(|_| {});
    assert_eq!(storage.to_string(), GOOD);
    assert!(storage.is_fit() && storage.alarm().is_none());
}

const GOOD: &str = concat!(
    "storage       s3://bulk/exports\n",
    "output        ours            it is marked by this instance and its job store\n",
    "bare URL      refused         without a signature nobody gets a file (403)\n",
    "list          refused         without a signature nobody sees what there is (403)\n",
    "write         works           a small object was written and read back\n",
    "parts         works           an upload in two parts was put together and read across them\n",
    "uploads       listed          what a crash leaves of uploads is found and ended\n",
    "links         3600 s          is how long they are good; signed by a key that stays: 604800 s at most\n",
    "link          good            files.hospital.example gave what was written\n",
    "content type  kept            application/fhir+ndjson\n",
    "Cache-Control kept            nobody on the way keeps or repacks files\n",
    "Range         works           a download that was cut goes on where it was\n",
    "signature     refused         with one character changed it opens nothing (403)\n",
    "other object  refused         a signature opens one file only (403)\n",
    "delete        works           what was written is gone\n",
    "              works           removing what is not there is no error\n",
    "removed file  refused         a link ends with its file (404)\n",
    "clock         agrees          with ours\n",
);

/// Each with the line that says so, and whether exports must not go there.
#[test]
fn what_is_wrong_is_said_and_what_is_unfit_is() {
    type Change = fn(&mut Opened);
    let rows: [(Change, &str, bool); 19] = [
        (|opened| exposure(opened).object = Visit::Open, "bare URL      OPEN            the storage gives it to", true),
        (|opened| exposure(opened).list = Visit::Open, "list          OPEN            the storage gives it to", true),
        (
            |opened| {
                exposure(opened).list = Visit::Open;
                opened.is_acknowledged = true;
            },
            "anybody (acknowledged by output.public_bucket)\n",
            false,
        ),
        (|opened| link(opened).changed = Visit::Open, "signature     OPEN ", true),
        (|opened| link(opened).other = Visit::Open, "other object  OPEN ", true),
        (|opened| link(opened).removed = Visit::Open, "removed file  OPEN ", true),
        (|opened| link(opened).changed = Visit::Unclear(503), "signature     unclear         503 is no refusal", true),
        (
            |opened| link(opened).whole = Fetched::Status(403),
            "link          REFUSED         files.hospital.example answered 403: look at output.public_endpoint",
            true,
        ),
        (
            |opened| link(opened).whole = Fetched::Failed("no route".to_owned()),
            "link          FAILS           files.hospital.example could not be asked from here: no route\n",
            true,
        ),
        (|opened| link(opened).range = Fetched::Other, "Range         WRONG ", true),
        (
            |opened| link(opened).range = Fetched::Status(200),
            "Range         ignored         a download that was cut begins",
            false,
        ),
        (|opened| link(opened).cache_control = None, "Cache-Control changed ", false),
        (
            |opened| opened.findings.uploads = UploadList::Unlisted,
            "uploads       not listed      what a crash leaves of",
            false,
        ),
        (
            |opened| opened.findings.parts = Step::Failed("403 Forbidden".to_owned()),
            "parts         FAILS           files of more than 5 MiB cannot be written: 403 Forbidden\n",
            true,
        ),
        (
            |opened| opened.findings.cleaned = Step::Failed("no answer".to_owned()),
            "              left            remove doctor/0a1b yourself: no answer\n",
            true,
        ),
        (
            |opened| exposure(opened).ahead_millis = Some(-30_000),
            "clock         30 s            behind ours: set both by the same time",
            false,
        ),
        (|opened| exposure(opened).ahead_millis = Some(600_900), "clock         600 s           ahead of ours", true),
        (
            |opened| {
                let longest = Duration::from_mins(4);
                opened.signing = Some(Signing { credential: Credential::Temporary, longest });
            },
            "links         240 s           is how long they are good, and not for 3600 s as configured; signed by temporary",
            false,
        ),
        (
            |opened| opened.room = Some(Room { free: 5 * 1024 * 1024, kept: 1024 * 1024 * 1024 }),
            "room          5 MiB           is free: less than 1024 MiB, so exports pause until there is more\n",
            true,
        ),
    ];
    for (change, line, is_unfit) in rows {
        let storage = of(change);
        let text = storage.to_string();
        assert!(text.contains(line), "no {line:?} in\n{text}");
        assert_eq!(storage.is_fit(), !is_unfit, "{text}");
    }
}

/// Before all else, and in one sentence.
#[test]
fn a_public_bucket_is_called_one() {
    let alarm = |change: fn(&mut Opened)| of(change).alarm().expect("it is public");
    assert!(alarm(|opened| exposure(opened).list = Visit::Open).starts_with(
        "the bucket is public: anybody can list what is in it without a signature. Make it private before"
    ));
    assert!(alarm(|opened| exposure(opened).object = Visit::Open).contains("anybody can read what is in it without"));
    let both = |opened: &mut Opened| {
        exposure(opened).object = Visit::Open;
        exposure(opened).list = Visit::Open;
        opened.is_acknowledged = true;
    };
    assert!(
        alarm(both).contains("list what is in it and read it without a signature (output.public_bucket: acknowledged)")
    );
}

#[test]
fn an_output_of_others_was_only_looked_at() {
    let storage = of(|opened| {
        opened.owner = Owner::SomebodyElse;
        let exposure = opened.findings.exposure.take();
        opened.findings = Findings { exposure, ..Findings::default() };
    });
    let expected = concat!(
        "storage       s3://bulk/exports\n",
        "output        another's       offtake.instance names another instance or job store: nothing was written; give this one \
         an output of its own\n",
        "bare URL      refused         without a signature nobody gets a file (403)\n",
        "list          refused         without a signature nobody sees what there is (403)\n",
    );
    assert_eq!(storage.to_string(), expected);
    assert!(!storage.is_fit());
    for (state, is_fit) in [(State::Missing, true), (State::Unopened("it is open to others".to_owned()), false)] {
        let storage = Storage { location: "file:///x".to_owned(), state };
        assert_eq!(storage.is_fit(), is_fit, "{storage}");
    }
}

#[test]
fn our_own_links_are_tried_with_another_key_too() {
    let keys = |byte| LinkKeys::new(LinkKey::new("1", &[byte; 32]).expect("an id"), None);
    assert!(own_links_hold(&keys(1), &keys(2)));
    assert!(!own_links_hold(&keys(1), &keys(1)), "another's links would be ours");
}
