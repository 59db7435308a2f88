//! SEC-40: whom an export is for is sealed under a key of its own, and the key goes with the export.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use offtake::testing::ManualClock;
use offtake::{Clock, SystemClock};
use sample_upstream::{Running, SampleUpstream, Settings};
use serde_json::{Value, json};

use crate::client::{Client, Manifest, Poll};
use crate::process::{Options, Process, until};
use crate::raw;
use crate::support::{App, listener};

/// What every patient's id begins with.
const CANARY: &str = "sealed-canary-";
const MEMBERS: usize = 30;
const OPTIONS: Options = Options { upstream: "page_max_resources: 20", output: "file_max_resources: 40" };
const GROUP: &str = "/Group/the-group-of-canaries/$export?_type=Patient,Observation";

fn id(number: usize) -> String {
    format!("{CANARY}{number:03}")
}

/// A Group, and more patients than it has members.
fn upstream() -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings { max_count: Some(20), ..Settings::default() });
    let insert = |resource: Value| upstream.insert_raw(&resource.to_string()).expect("a resource");
    let reference = |number| json!({ "reference": format!("Patient/{}", id(number)) });
    for number in 0..2 * MEMBERS {
        insert(json!({ "resourceType": "Patient", "id": id(number) }));
        let (subject, code) = (reference(number), json!({ "text": "x" }));
        let of = format!("of-{number}");
        insert(json!({ "resourceType": "Observation", "id": of, "status": "final", "code": code, "subject": subject }));
    }
    let members: Vec<_> = (0..MEMBERS).map(|number| json!({ "entity": reference(number) })).collect();
    let group = "the-group-of-canaries";
    insert(json!({ "resourceType": "Group", "id": group, "type": "person", "actual": true, "member": members }));
    upstream
}

/// Names the first of them.
fn parameters(count: usize) -> Vec<u8> {
    let named =
        |number| json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{}", id(number)) } });
    let types = json!({ "name": "_type", "valueString": "Patient,Observation" });
    let parameters: Vec<_> = (0..count).map(named).chain([types]).collect();
    json!({ "resourceType": "Parameters", "parameter": parameters }).to_string().into_bytes()
}

/// The files below a folder that hold a text, packed or not.
fn holding(folder: &Path, text: &str) -> anyhow::Result<Vec<PathBuf>> {
    ensure!(folder.is_dir(), "{} is not there", folder.display());
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // It went while this looked.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            match fs::read(&path) {
                Ok(bytes) if memchr::memmem::find(&offtake::testing::legible(&bytes), text.as_bytes()).is_some() => {
                    found.push(path);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(found)
}

struct World {
    upstream: SampleUpstream,
    server: Running,
    process: Process,
    client: Client,
}

impl World {
    async fn new() -> anyhow::Result<Self> {
        let upstream = upstream();
        let server = upstream.serve(listener().await).await;
        let process = Process::start(&server.base_url, OPTIONS).await?;
        Ok(Self { upstream, server, process, client: Client::new() })
    }

    fn answers_at_once(&self) {
        self.upstream.update_settings(|settings| settings.latency = Duration::ZERO);
    }

    /// An export of the first `count` patients, named in the kick-off.
    async fn of_named(&self, count: usize) -> anyhow::Result<String> {
        let host = self.process.base.trim_start_matches("http://").trim_end_matches("/fhir").to_owned();
        let headers = [raw::KICKOFF[0], raw::KICKOFF[1], ("Content-Type", "application/fhir+json")];
        let path = "/fhir/Patient/$export";
        let answer = raw::ask(&host, &raw::request("POST", path, &host, &headers, &parameters(count))).await;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(answer.header("content-location").to_owned())
    }

    /// Both kinds of exports, in the middle of which the process is killed.
    async fn killed(&mut self) -> anyhow::Result<[String; 2]> {
        let hung = self.hang_once_planned();
        let by_group = self.process.kick_off(&self.client, GROUP).await?;
        self.hangs(&by_group, &hung).await?;
        self.answers_at_once();
        let hung = self.hang_once_planned();
        let named = self.of_named(MEMBERS).await?;
        self.hangs(&named, &hung).await?;
        self.process.kill()?;
        self.answers_at_once();
        Ok([by_group, named])
    }

    /// Once one more export is planned, the next request is answered, and none that comes after it. Gives how many requests there
    /// were by then.
    fn hang_once_planned(&self) -> Arc<OnceLock<usize>> {
        let (output, upstream) = (self.process.output(), self.upstream.clone());
        let before = planned(&output);
        let hung = Arc::new(OnceLock::new());
        let told = Arc::clone(&hung);
        self.upstream.first_when(
            move |_| planned(&output) > before,
            move || {
                upstream.update_settings(|settings| settings.latency = Duration::from_hours(1));
                let _first = told.set(upstream.requests().len());
            },
        );
        hung
    }

    /// Waits until an export has asked for what is not answered.
    async fn hangs(&self, status: &str, hung: &OnceLock<usize>) -> anyhow::Result<()> {
        until("the export hangs", async || {
            Ok(hung.get().filter(|before| self.upstream.requests().len() > **before).map(|_| ()))
        })
        .await?;
        let poll = self.client.poll(status).await?;
        ensure!(matches!(poll, Poll::Running(_)), "it has ended: {poll:?}");
        Ok(())
    }

    /// Nothing but the files for clients tells of anybody.
    fn tells_nobody(&self) -> anyhow::Result<()> {
        let state = holding(&self.process.state(), CANARY)?;
        ensure!(state.is_empty(), "{state:?}");
        let mut output = holding(&self.process.output(), CANARY)?;
        output.retain(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
        ensure!(output.is_empty(), "{output:?}");
        // The same look finds what is kept in the clear.
        ensure!(!holding(&self.process.state(), "the-group-of-canaries")?.is_empty(), "the Group is not found either");
        Ok(())
    }

    /// Fails unless an export ends well and holds the members and nobody else.
    async fn ends_well(&self, status: &str) -> anyhow::Result<Manifest> {
        let manifest = self.process.finished(&self.client, status).await?;
        let (mut patients, mut observations) = (BTreeSet::new(), 0);
        for file in &manifest.output {
            let lines = self.client.download(&file.url).await?;
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let resource: Value = serde_json::from_slice(line)?;
                match file.resource_type.as_str() {
                    "Patient" => drop(patients.insert(resource["id"].as_str().context("an id")?.to_owned())),
                    _ => observations += 1,
                }
            }
        }
        ensure!(patients == (0..MEMBERS).map(id).collect(), "{patients:?}");
        ensure!(observations == MEMBERS, "{observations} observations");
        Ok(manifest)
    }

    fn keys(&self) -> PathBuf {
        self.process.state().join("job-keys")
    }

    fn key(&self, status: &str) -> PathBuf {
        self.keys().join(format!("{}.key", id_of(status)))
    }

    fn recover(&self, more: &[&str]) -> anyhow::Result<String> {
        let mut names = fs::read_dir(self.process.output())?;
        let instance = names
            .find_map(|entry| entry.ok().filter(|entry| entry.path().is_dir())?.file_name().into_string().ok())
            .context("an instance")?;
        let done = self.process.run(&[&["jobs", "recover", "--instance", &instance], more].concat())?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }
}

/// Exports that are planned: each has a checkpoint in a folder of its own, in that of its instance.
fn planned(output: &Path) -> usize {
    let below = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let exports = below(output).flat_map(|instance| below(&instance).collect::<Vec<_>>());
    exports.filter(|export| export.join("job.checkpoint").is_file()).count()
}

fn id_of(status: &str) -> &str {
    status.rsplit('/').next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_an_export_is_for_is_in_no_byte_of_the_state_or_of_a_checkpoint() {
    canaries().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn canaries() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let exports = world.killed().await?;
    world.tells_nobody()?;
    for status in &exports {
        let mode = |path: &Path| anyhow::Ok(fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!((mode(&world.key(status))?, mode(&world.keys())?) == (0o600, 0o700), "others can read it");
    }
    world.process.restart()?;
    for status in &exports {
        world.ends_well(status).await?;
    }
    ensure!(world.process.limits()?.lines().any(|line| {
        line.strip_prefix("Max core file size")
            .is_some_and(|line| line.split_whitespace().take(2).all(|word| word == "0"))
    }));
    world.tells_nobody()?;
    ensure!(!holding(&world.process.output(), CANARY)?.is_empty(), "the files for clients tell of them");
    // A restart on finished exports changes nothing.
    world.process.stop()?;
    world.process.restart()?;
    for status in &exports {
        world.ends_well(status).await?;
        ensure!(world.key(status).is_file());
        world.client.delete(status).await?;
        ensure!(!world.key(status).exists(), "the key is there after the answer");
    }
    until("all is removed", async || Ok(holding(&world.process.output(), CANARY)?.is_empty().then_some(()))).await?;
    world.tells_nobody()?;
    ensure!(fs::read_dir(world.keys())?.count() == 0);
    world.server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_key_is_lost_fails_and_says_so_and_no_other_one_does() {
    lost().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn lost() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let complete = [world.process.kick_off(&world.client, GROUP).await?, world.of_named(MEMBERS).await?];
    for status in &complete {
        world.ends_well(status).await?;
    }
    let exports = world.killed().await?;
    let [by_group, named] = &exports;
    fs::remove_file(world.key(by_group))?;
    // That of another export opens nothing of this one.
    fs::copy(world.key(&complete[0]), world.key(named))?;
    fs::remove_file(world.key(&complete[1]))?;
    world.process.restart()?;
    for status in &exports {
        let told = until("it has failed", async || {
            Ok(match world.client.poll(status).await {
                Ok(Poll::Other(code, told)) if code == 500 => Some(told),
                Ok(Poll::Complete(_)) => anyhow::bail!("it has ended well"),
                Ok(Poll::Running(_) | Poll::Other(..)) | Err(_) => None,
            })
        })
        .await?;
        ensure!(told.contains("the key that the patients of this export are sealed with is lost"), "{told}");
        ensure!(!told.contains(CANARY), "{told}");
    }
    for status in &complete {
        world.ends_well(status).await?;
    }
    ensure!(!world.process.whole_log().contains(CANARY));
    for status in complete.iter().chain(&exports) {
        world.client.delete(status).await?;
    }
    until("all is removed", async || Ok(holding(&world.process.output(), CANARY)?.is_empty().then_some(()))).await?;
    world.server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_rebuilt_with_the_keys_and_without_them_it_is_said() {
    recovered().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn recovered() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let complete = world.process.kick_off(&world.client, GROUP).await?;
    world.ends_well(&complete).await?;
    let exports = world.killed().await?;
    let copies = tempfile::tempdir()?;
    let key = copies.path().join("checkpoint.key");
    fs::copy(world.process.state().join("checkpoint.key"), &key)?;
    for status in &exports {
        fs::copy(world.key(status), copies.path().join(format!("{}.key", id_of(status))))?;
    }
    let more = ["--key-file", key.to_str().context("a path")?];
    fs::remove_dir_all(world.process.state())?;
    let table = world.recover(&more)?;
    for status in &exports {
        let said = format!("{}: the key that its patients are sealed with is not in job-keys", id_of(status));
        ensure!(table.contains(&said), "{table}");
    }
    ensure!(!table.contains(id_of(&complete)) && !table.contains(CANARY), "{table}");

    fs::remove_dir_all(world.process.state().join("jobs"))?;
    for status in &exports {
        fs::copy(copies.path().join(format!("{}.key", id_of(status))), world.key(status))?;
    }
    let table = world.recover(&[])?;
    ensure!(!table.contains("job-keys"), "{table}");
    world.process.restart()?;
    for status in exports.iter().chain([&complete]) {
        world.ends_well(status).await?;
    }
    world.tells_nobody()?;
    world.server.stop().await;
    Ok(())
}

/// It is destroyed when the export expires, by whatever clock.
#[tokio::test]
async fn the_key_of_an_export_goes_when_it_expires() {
    let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
    let one_hour = |config: &mut offtake::Config| config.export.output_ttl = Duration::from_hours(1);
    let app = App::with_clock(upstream(), one_hour, Arc::clone(&clock) as Arc<dyn Clock>).await;
    let keys = app.folder.path().join("state/job-keys");
    let ready = async || app.ask("GET", &format!("/$bulk-status/{}", "0".repeat(32)), &[], b"").await.status != 503;
    until("bulk requests are answered", async || Ok(ready().await.then_some(()))).await.expect("it starts");
    app.export(GROUP).await.expect("an export");
    let count = || fs::read_dir(&keys).expect("a folder").count();
    assert_eq!(count(), 1);
    // Where nobody is named there is nothing to seal.
    app.export("/$export?_type=Patient").await.expect("an export");
    assert_eq!(count(), 1);
    clock.advance(Duration::from_mins(59));
    assert_eq!(count(), 1);
    until("it has expired", async || {
        clock.advance(Duration::from_secs(30));
        Ok((count() == 0).then_some(()))
    })
    .await
    .expect("the key goes");
    app.stop().await;
}
