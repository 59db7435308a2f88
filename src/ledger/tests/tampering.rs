//! What is done to a ledger behind its back is found, and what a crash has left is told from it.

use super::*;

#[test]
fn each_byte_that_was_changed_is_found() {
    let bench = Bench::new();
    let mut files = bench.open(NOW).expect("it can be begun");
    let few =
        every_event(&files).into_iter().filter(|event| matches!(event, Event::Finished(_) | Event::Purged { .. }));
    files.append(NOW.into(), few.collect()).expect("room");
    files.copy_head().wait(SOON);
    let path = bench.segments().remove(0);
    let good = fs::read(&path).expect("it is there");
    for (index, byte) in good.iter().enumerate() {
        let mut bad = good.clone();
        bad[index] ^= if index % 2 == 0 { 1 } else { 32 };
        fs::write(&path, bad).expect("it can be written");
        assert!(!bench.verify().problems.is_empty(), "byte {index}, {:?}", char::from(*byte));
    }
    fs::write(&path, good).expect("it can be written");
    assert!(bench.verify().problems.is_empty());
    let mut lists = fs::read_dir(folder::patients(&bench.settings.folder)).expect("a folder");
    let list = lists.next().expect("a list").expect("an entry").path();
    let good = fs::read(&list).expect("a list");
    fs::write(&list, &good[16..]).expect("it can be written");
    assert!(bench.verify().problems[0].contains("was changed"), "{:?}", bench.verify());
    fs::remove_file(&list).expect("it is there");
    assert!(bench.verify().problems[0].contains("is missing"), "{:?}", bench.verify());
}

#[test]
fn each_line_that_is_missing_or_elsewhere_or_there_twice_is_found() {
    let bench = Bench::filled();
    let path = bench.segments().remove(0);
    let good = fs::read_to_string(&path).expect("text");
    let lines: Vec<_> = good.split_inclusive('\n').collect();
    let check = |lines: Vec<&str>, what: String| {
        fs::write(&path, lines.concat()).expect("it can be written");
        let findings = bench.verify();
        assert!(!findings.problems.is_empty(), "{what}");
        findings.problems
    };
    for number in 0..lines.len() {
        let mut without = lines.clone();
        let line = without.remove(number);
        check(without.clone(), format!("without {number}"));
        for place in (0..lines.len()).filter(|place| *place != number) {
            let mut moved = without.clone();
            moved.insert(place, line);
            check(moved, format!("{number} at {place}"));
        }
        let mut twice = lines.clone();
        twice.insert(number, line);
        check(twice, format!("{number} twice"));
        let problems = check(lines[..number].to_vec(), format!("cut before {number}"));
        assert!(problems.iter().any(|problem| problem.contains("missing at the end")), "{problems:?}");
    }
    fs::remove_file(&path).expect("it is there");
    assert!(!bench.verify().problems.is_empty(), "no file at all");
}

#[test]
fn another_key_opens_nothing() {
    let bench = Bench::filled();
    fs::write(&bench.settings.key_file, [1; 32]).expect("it can be written");
    assert!(!bench.verify().problems.is_empty());
    assert!(matches!(bench.open(NOW), Err(OpenError::Read(_))));
    fs::write(&bench.settings.key_file, [1; 31]).expect("it can be written");
    assert!(matches!(bench.open(NOW), Err(OpenError::Read(ReadError::NoKey))));
    fs::remove_file(&bench.settings.key_file).expect("it is there");
    assert!(matches!(bench.open(NOW), Err(OpenError::KeyLost(_))), "no other key is made");
    assert!(!bench.settings.key_file.exists());
}

/// A crash leaves a part of the last write, or zeros: nobody was told that it was recorded.
#[test]
fn what_a_crash_has_left_is_cut_off_and_nothing_else_is() {
    let bench = Bench::filled();
    fs::remove_file(&bench.settings.head_copies[0]).expect("it is there");
    let path = bench.segments().remove(0);
    let good = fs::read(&path).expect("it is there");
    let last_line = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
    let records = bench.records().len() as u64;
    let opened = |text: &[u8]| {
        fs::write(&path, text).expect("it can be written");
        let opened = bench.open(NOW).map(|files| files.last.seq);
        let cut = opened.as_ref().ok().map(|_| {
            let Some(Record { event: Event::Opened { cut, .. }, .. }) = bench.records().pop() else {
                panic!("it does not say that it was opened");
            };
            cut
        });
        (opened, cut)
    };
    for end in last_line + 1..good.len() {
        let (last, cut) = opened(&good[..end]);
        assert_eq!((last.expect("it goes on"), cut), (records, Some((end - last_line) as u64)), "at {end}");
        let zeros = [&good[..end], &[0; 4096]].concat();
        let (last, cut) = opened(&zeros);
        assert_eq!((last.expect("it goes on"), cut), (records, Some((zeros.len() - last_line) as u64)));
    }
    let (last, cut) = opened(&good);
    assert_eq!((last.expect("it goes on"), cut), (records + 1, Some(0)));
    // Whole lines were acknowledged: whatever is wrong with one of them, nothing is written after it.
    let mut changed = good.clone();
    changed[last_line + 10] ^= 1;
    let more = [&good[..], b"{\"seq\":99}\n"].concat();
    for text in [changed, more, [&good[..], b"\0\0\n"].concat(), [&good[..], &vec![b'x'; 2 << 20]].concat()] {
        assert!(matches!(opened(&text), (Err(OpenError::Read(ReadError::Broken { .. })), None)));
    }
}

#[test]
fn a_ledger_that_was_cut_short_is_not_gone_on_with() {
    let bench = Bench::filled();
    let path = bench.segments().remove(0);
    let good = fs::read_to_string(&path).expect("text");
    let lines: Vec<_> = good.split_inclusive('\n').collect();
    for number in 1..lines.len() {
        fs::write(&path, lines[..number].concat()).expect("it can be written");
        assert!(matches!(bench.open(NOW), Err(OpenError::Truncated { .. })), "{number} lines");
    }
    // Nor is another one begun in its place, nor the copy lost.
    fs::remove_file(&path).expect("it is there");
    assert!(matches!(bench.open(NOW), Err(OpenError::Truncated { .. })));
    assert!(bench.verify().problems.iter().any(|problem| problem.contains("missing at the end")));
    fs::remove_dir_all(&bench.settings.folder).expect("it is there");
    assert!(matches!(bench.open(NOW), Err(OpenError::Truncated { .. })));
    fs::remove_file(&bench.settings.head_copies[0]).expect("it is still there");
    bench.open(NOW).expect("an operator has decided");
}

#[test]
fn a_copy_of_another_ledger_is_not_written_over() {
    let bench = Bench::filled();
    let copy = &bench.settings.head_copies[0];
    let head = fs::read(copy).expect("a copy");
    let other = Bench::filled();
    for text in [fs::read(&other.settings.head_copies[0]).expect("a copy"), b"{}".to_vec(), Vec::new()] {
        fs::write(copy, &text).expect("it can be written");
        let files = bench.open(NOW).expect("what is not authentic proves nothing");
        files.copy_head().wait(SOON);
        drop(files);
        assert_eq!(fs::read(copy).expect("a copy"), text);
        assert!(bench.verify().problems[0].contains("cannot be authenticated"));
    }
    fs::write(copy, &head).expect("it can be written");
    bench.open(NOW).expect("it goes on").copy_head().wait(SOON);
    assert_ne!(fs::read(copy).expect("a copy"), head, "one from before is replaced");
    assert!(bench.verify().problems.is_empty());
}

/// A pipe that nobody writes to is like a mount of a machine that has gone: whoever opens it waits.
#[test]
fn a_copy_that_does_not_answer_holds_nothing_up_and_is_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hanging, good) = (folder.path().join("hanging"), folder.path().join("head"));
    let settings = Arc::new(Settings { head_copies: vec![hanging.clone(), good.clone()], ..settings(folder.path()) });
    let bench = Bench { folder, settings };
    bench.open(NOW).expect("it can be begun").copy_head().wait(SOON);
    fs::remove_file(&hanging).expect("a copy");
    let made = std::process::Command::new("mkfifo").arg(&hanging).status().expect("it is there");
    assert!(made.success());
    let before = fs::read(&good).expect("a copy");
    let copies = Copies::new(&bench.settings.head_copies).with_patience(Duration::from_secs(1));
    let mut files = Files::open(&bench.settings, &Arc::new(copies), NOW, None).expect("it is left aside");
    files.append(NOW.into(), vec![Event::Purged { job: JOB }]).expect("it goes on");
    files.copy_head().wait(Duration::from_secs(1));
    assert_ne!(fs::read(&good).expect("a copy"), before, "the other one is written");
    drop(files);
    let Some(Record { event: Event::Opened { copies_missing, copies_foreign, .. }, .. }) =
        bench.records().into_iter().rev().nth(1)
    else {
        panic!("it does not say that it was opened");
    };
    assert_eq!((copies_missing, copies_foreign), (1, 0));
    let findings = bench.reader().verify(&[("the copy".to_owned(), copy_in(&good))]);
    assert_eq!(findings.problems, [""; 0]);
    assert!(findings.notes[0].contains("at 1 starts"), "{findings}");
    // One that is there and cannot be read is not passed over.
    fs::write(&good, [b'x'; 5_000]).expect("it can be written");
    let findings = bench.reader().verify(&[("the copy".to_owned(), copy_in(&good))]);
    assert!(findings.problems[0].contains("cannot be read"), "{findings}");
}
