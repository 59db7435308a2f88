//! `offtake ledger export`, `verify` and `who`, by the built program, beside one that serves.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sample_upstream::{SampleUpstream, Settings};
use serde_json::Value;

use crate::client::Client;
use crate::process::{Options, Process, until};
use crate::support::listener;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What `who` says of a patient: by export, whether it is told to hold data of theirs.
fn who(process: &Process, patient: &str) -> BTreeMap<String, String> {
    let run = process.run(&["ledger", "who", "--patient", patient]).expect("it runs");
    assert!(run.status.success(), "{}", text(&run.stderr));
    let said = text(&run.stdout);
    let exports = said.lines().filter_map(|line| line.strip_prefix("export ")?.split_once(' '));
    exports.map(|(job, said)| (job.to_owned(), said.to_owned())).collect()
}

async fn export(process: &Process, below: &str) -> (String, String) {
    let client = Client::new();
    let status =
        until("a kick-off is taken", async || Ok(client.kick_off(&format!("{}{below}", process.base)).await.ok()));
    let status = status.await.expect("a kick-off");
    let manifest = process.finished(&client, &status).await.expect("an export");
    for file in &manifest.output {
        client.download(&file.url).await.expect("a file");
    }
    (status.rsplit('/').next().expect("an id").to_owned(), status)
}

fn segment(process: &Process) -> PathBuf {
    let folder = process.state().with_file_name("ledger");
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|kind| kind == "ndjson")).min().expect("a file")
}

#[tokio::test]
async fn each_patient_of_an_export_is_found_in_it_and_nobody_else() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(4);
    // She is in no Group, and has nothing but an observation.
    upstream.insert_raw(r#"{"resourceType":"Patient","id":"outside"}"#).expect("a patient");
    let observation = r#"{"resourceType":"Observation","id":"of-outside","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/outside"}}"#;
    upstream.insert_raw(observation).expect("an observation");
    let server = upstream.serve(listener().await).await;
    let mut process = Process::start(&server.base_url, Options::default()).await.expect("it starts");
    let patients: Vec<_> = upstream.resources(Some("Patient")).iter().map(|stored| stored.id.clone()).collect();
    let members: Vec<_> = patients.iter().filter(|id| *id != "outside").cloned().collect();
    assert!(members.len() >= 4);
    let (of_group, status) = export(&process, "/Group/all/$export?_type=Observation,Condition").await;
    let (of_blocks, _) =
        export(&process, "/Group/all/$export?_type=Observation,Condition&organizeOutputBy=Patient").await;
    let (of_patients, _) = export(&process, "/Patient/$export?_type=Observation").await;
    let (of_system, _) = export(&process, "/$export?_type=Patient").await;
    let (of_all, _) = export(&process, "/$export?_type=Observation").await;
    Client::new().delete(&status).await.expect("it is deleted");
    process.stop().expect("it stops");
    process.restart().expect("it starts");
    for patient in &patients {
        let found = who(&process, patient);
        let holds = |job: &str| found.get(job).is_some_and(|said| said.starts_with("holds data"));
        let has_data = |types: &[&str]| {
            let of = |name: &&str| upstream.resources(Some(name));
            let mut resources = types.iter().flat_map(of);
            resources.any(|stored| stored.body.contains(&format!("Patient/{patient}\"")))
        };
        assert_eq!(holds(&of_group), members.contains(patient) && has_data(&["Observation", "Condition"]), "{patient}");
        assert_eq!(holds(&of_blocks), holds(&of_group), "{patient}: in blocks as well");
        assert_eq!(holds(&of_patients), has_data(&["Observation"]), "{patient}");
        assert!(holds(&of_system), "{patient}");
        assert!(!holds(&of_all) && found[&of_all].contains("whole server"), "{patient}: {found:?}");
    }
    let nobody = who(&process, "nobody");
    assert_eq!(nobody.keys().collect::<Vec<_>>(), [&of_all], "it may hold data of anybody");
    let run = process.run(&["ledger", "who", "--patient", &members[0]]).expect("it runs");
    let said = text(&run.stdout);
    for expected in [
        "kicked off by anybody from 127.0.0.1",
        "manifest read by",
        "is sent to",
        "bytes were sent, to its end",
        "deleted by",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let run = process.run(&["ledger", "who", "--patient", "Patient/1"]).expect("it runs");
    assert!(!run.status.success() && text(&run.stderr).contains("logical id"), "{}", text(&run.stderr));
    process.stop().expect("it stops");
    server.stop().await;
}

#[tokio::test]
async fn what_was_answered_is_in_the_ledger_however_the_process_ends() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let server = upstream.serve(listener().await).await;
    let mut process = Process::start(&server.base_url, Options::default()).await.expect("it starts");
    let mut accepted = Vec::new();
    for _ in 0..4 {
        let client = Client::new();
        let kick_off = format!("{}/$export?_type=Patient", process.base);
        let status = until("a kick-off is taken", async || Ok(client.kick_off(&kick_off).await.ok()));
        accepted.push(status.await.expect("a kick-off"));
        let others = (0..8).map(|_| {
            let kick_off = kick_off.clone();
            tokio::spawn(async move { Client::new().kick_off(&kick_off).await.ok() })
        });
        let others: Vec<_> = others.collect();
        process.kill().expect("it is killed");
        for other in others {
            accepted.extend(other.await.expect("it did not panic"));
        }
        process.restart().expect("it starts");
    }
    let client = Client::new();
    for status in &accepted {
        process.finished(&client, status).await.expect("it goes on");
    }
    let run = process.run(&["ledger", "verify"]).expect("it runs");
    assert!(run.status.success(), "{}", text(&run.stdout));
    let records = super::records(&process.state().with_file_name("ledger"));
    for kind in ["kick_off", "manifest"] {
        let jobs: Vec<_> = super::of_kind(&records, kind).iter().map(|record| record["job"].clone()).collect();
        let missing: Vec<_> = accepted
            .iter()
            .filter(|status| !jobs.iter().any(|job| job.as_str() == status.rsplit('/').next()))
            .collect();
        assert!(missing.is_empty(), "{kind}: {missing:?} of {accepted:?}");
    }
    process.stop().expect("it stops");
    server.stop().await;
}

#[tokio::test]
async fn a_ledger_is_verified_and_exported_while_it_is_written() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let server = upstream.serve(listener().await).await;
    let mut process = Process::start(&server.base_url, Options::default()).await.expect("it starts");
    export(&process, "/$export?_type=Patient").await;
    let run = process.run(&["ledger", "verify"]).expect("it runs");
    assert!(run.status.success(), "{}{}", text(&run.stdout), text(&run.stderr));
    assert!(text(&run.stdout).contains("the ledger is good"), "{}", text(&run.stdout));
    let run = process.run(&["ledger", "export"]).expect("it runs");
    assert!(run.status.success(), "{}", text(&run.stderr));
    let events: Vec<Value> = text(&run.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.len() >= 6, "{}", events.len());
    for event in &events {
        assert_eq!(event["resourceType"], "AuditEvent");
        for required in ["type", "recorded", "agent", "source", "action", "outcome"] {
            assert!(!event[required].is_null(), "{required}: {event}");
        }
    }
    let disclosed = events.iter().filter(|event| event["type"]["code"] == "110106").count();
    assert!(disclosed >= 3, "{disclosed} of {}", events.len());
    let first = events[0]["recorded"].as_str().expect("an instant");
    let count = |arguments: &[&str]| {
        let run = process.run(&[&["ledger", "export"], arguments].concat()).expect("it runs");
        assert!(run.status.success(), "{}", text(&run.stderr));
        text(&run.stdout).lines().count()
    };
    assert_eq!(count(&["--since", first]), events.len());
    assert_eq!(count(&["--until", first]), 0);
    assert_eq!(count(&["--since", "2900-01-01T00:00:00Z"]), 0);
    // After a stop in good order the head lies beside the output.
    process.stop().expect("it stops");
    let path = segment(&process);
    let good = std::fs::read_to_string(&path).expect("text");
    let run = process.run(&["ledger", "verify"]).expect("it runs");
    assert!(run.status.success() && !text(&run.stdout).contains("note"), "{}", text(&run.stdout));
    let lines: Vec<_> = good.split_inclusive('\n').collect();
    for (what, bad, said) in [
        ("cut", lines[..lines.len() - 1].concat(), "missing at the end"),
        ("changed", good.replacen("127.0.0.1", "127.0.0.2", 1), "was changed"),
        ("without one", [&lines[..2], &lines[3..]].concat().concat(), "line 3"),
    ] {
        std::fs::write(&path, bad).expect("it can be written");
        let run = process.run(&["ledger", "verify"]).expect("it runs");
        assert_eq!(run.status.code(), Some(1), "{what}");
        assert!(text(&run.stdout).contains(said), "{what}: {}", text(&run.stdout));
    }
    std::fs::write(&path, good).expect("it can be written");
    let run = process.run(&["ledger", "verify"]).expect("it runs");
    assert!(run.status.success(), "{}", text(&run.stdout));
    server.stop().await;
}
