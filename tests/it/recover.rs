//! The job store is lost, and `offtake jobs recover` rebuilds it from what lies beside the output.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::hmac;
use sample_upstream::{Running, SampleUpstream, Settings};
use serde_json::{Value, json};

use crate::client::{Client, Manifest, Poll};
use crate::exact::{self, Exported, Moment};
use crate::process::{Options, Process, until};
use crate::support::listener;

/// Small pages and small files, so that an export has many commits.
const OPTIONS: Options =
    Options { upstream: "page_max_resources: 20", output: "file_max_resources: 40, file_max_age_seconds: 2" };
const PATH: &str = "/$export";
/// Commits that a running export has made when it is met in its middle.
const SOME: usize = 3;

/// A server, and a process before it.
struct World {
    upstream: SampleUpstream,
    server: Running,
    process: Process,
    client: Client,
    began: Moment,
}

/// An export and the folder of its files.
struct Export {
    status: String,
    id: String,
    folder: PathBuf,
}

impl World {
    async fn new() -> anyhow::Result<Self> {
        let upstream = SampleUpstream::new(Settings { max_count: Some(20), ..Settings::default() });
        upstream.generate(12);
        let server = upstream.serve(listener().await).await;
        let process = Process::start(&server.base_url, OPTIONS).await?;
        let began = Moment::of(&upstream);
        Ok(Self { upstream, server, process, client: Client::new(), began })
    }

    /// A finished export.
    async fn complete(&self) -> anyhow::Result<(Export, Manifest)> {
        let status = self.process.kick_off(&self.client, PATH).await?;
        let manifest = self.process.finished(&self.client, &status).await?;
        Ok((self.export(status)?, manifest))
    }

    /// An export that has made some commits, and has not ended when the process is killed.
    async fn killed_in_its_middle(&mut self) -> anyhow::Result<Export> {
        self.upstream.update_settings(|settings| settings.latency = Duration::from_millis(150));
        let status = self.process.kick_off(&self.client, PATH).await?;
        let export = until("the export has begun", async || Ok(self.export(status.clone()).ok())).await?;
        until("some commits", async || Ok((export.commits()? >= SOME).then_some(()))).await?;
        let poll = self.client.poll(&export.status).await?;
        ensure!(matches!(poll, Poll::Running(_)), "it has ended: {poll:?}");
        self.process.kill()?;
        self.upstream.update_settings(|settings| settings.latency = Duration::ZERO);
        Ok(export)
    }

    fn export(&self, status: String) -> anyhow::Result<Export> {
        let id = status.rsplit('/').next().unwrap_or_default().to_owned();
        let folder = self.process.output().join(self.instance()?).join(&id);
        ensure!(folder.is_dir(), "there is no folder of it yet");
        Ok(Export { status, id, folder })
    }

    /// The name of the only folder in the output.
    fn instance(&self) -> anyhow::Result<String> {
        let names = fs::read_dir(self.process.output())?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<Result<Vec<_>, _>>()?;
        names.retain(|name| !exact::is_of_the_instance(&name.to_string_lossy()));
        let [name] = names.as_slice() else { anyhow::bail!("not one instance: {names:?}") };
        Ok(name.to_string_lossy().into_owned())
    }

    fn lose_store(&self) -> anyhow::Result<()> {
        Ok(fs::remove_dir_all(self.process.state().join("jobs"))?)
    }

    /// What the command prints: its table, or why it did nothing.
    fn recover(&self, instance: &str, more: &[&str]) -> anyhow::Result<Result<String, String>> {
        let done = self.process.run(&[&["jobs", "recover", "--instance", instance], more].concat())?;
        let (told, failed) = (String::from_utf8(done.stdout)?, String::from_utf8(done.stderr)?);
        Ok(if done.status.success() { Ok(told) } else { Err(failed) })
    }

    /// Waits for the end of an export, and fails unless it is exact and nothing else is left in its folder.
    async fn check(&self, export: &Export) -> anyhow::Result<Manifest> {
        let manifest = self.process.finished(&self.client, &export.status).await?;
        let exported = Exported::fetch(&self.client, manifest).await?;
        exported.judge(PATH, self.began, &self.upstream.versions()).with_context(|| self.process.log())?;
        exact::check_folder(&export.folder, &exported.manifest)?;
        Ok(exported.manifest)
    }

    async fn is_gone(&self, export: &Export) -> anyhow::Result<()> {
        until("its folder is removed", async || Ok((!export.folder.exists()).then_some(()))).await?;
        let poll = self.client.poll(&export.status).await?;
        ensure!(matches!(poll, Poll::Other(code, _) if code == 404), "{poll:?}");
        Ok(())
    }

    /// At the end: after all are deleted nothing is left.
    async fn delete(self, exports: &[&Export]) -> anyhow::Result<()> {
        for export in exports {
            self.client.delete(&export.status).await?;
            self.is_gone(export).await?;
        }
        let left = exact::files_below(&self.process.output())?;
        ensure!(left.is_empty(), "{left:?}");
        self.server.stop().await;
        Ok(())
    }
}

impl Export {
    /// So many checkpoint objects of commits there are.
    fn commits(&self) -> anyhow::Result<usize> {
        let files = exact::files_below(&self.folder)?;
        let is_commit = |name: &&String| name.ends_with(".checkpoint") && *name != "job.checkpoint";
        Ok(files.iter().filter(is_commit).count())
    }

    fn commit(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number:05}.checkpoint"))
    }
}

/// What a manifest says but for the signatures of its links.
fn unsigned(manifest: &Manifest) -> Value {
    let mut whole = manifest.whole.clone();
    for kind in ["output", "error"] {
        for file in whole[kind].as_array_mut().into_iter().flatten() {
            file["url"] = file["url"].as_str().unwrap_or_default().split('?').next().into();
        }
    }
    whole
}

/// The lines of a table: what it counts.
fn count(table: &str, what: &str) -> Option<usize> {
    table.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_rebuilt_and_every_export_is_what_it_was() {
    rebuild().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn rebuild() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let (complete, manifest) = world.complete().await?;
    let link = &manifest.output[0].url;
    let content = world.client.download(link).await?;
    let (deleted, deleted_manifest) = world.complete().await?;
    let instance = world.instance()?;

    // Its clean-up comes upon something that it cannot remove: that it was deleted has been said by then.
    let name = deleted_manifest.output[0].url.split('?').next().and_then(|path| path.rsplit('/').next());
    let stem = name.and_then(|name| name.strip_suffix(".ndjson")).context("a name")?.to_owned();
    let files = exact::files_below(&deleted.folder)?;
    let object = files.iter().find(|file| file.starts_with(&stem) && file.ends_with(".ndjson")).context("a file")?;
    let object = deleted.folder.join(object);
    let bytes = fs::read(&object)?;
    fs::remove_file(&object)?;
    fs::create_dir(&object)?;
    world.client.delete(&deleted.status).await?;

    let refused = world.recover(&instance, &[])?.expect_err("the process is running");
    ensure!(refused.contains("another process uses the job store"), "{refused}");
    let running = world.killed_in_its_middle().await?;
    let before = running.commits()?;
    fs::remove_dir(&object)?;
    fs::write(&object, bytes)?;
    let refused = world.recover(&instance, &[])?.expect_err("the store is not lost");
    ensure!(refused.contains("holds 3 jobs: it is not lost"), "{refused}");

    // All of the state is lost but a copy of the key.
    let key = world.process.output().with_file_name("copy.key");
    fs::copy(world.process.state().join("checkpoint.key"), &key)?;
    fs::remove_dir_all(world.process.state())?;
    let key = key.to_str().context("a path")?.to_owned();
    for (instance, more, expected) in [
        ("0123456789abcdef", vec!["--key-file", &key], format!("it holds {instance}")),
        ("../0123456789abc", vec!["--key-file", &key], "16 digits".to_owned()),
        (&instance, vec![], "give a copy of it by --key-file".to_owned()),
    ] {
        let refused = world.recover(instance, &more)?.expect_err("nothing can be rebuilt so");
        ensure!(refused.contains(&expected), "{refused}");
    }
    let other = world.process.output().with_file_name("other.key");
    fs::write(&other, [9; 32])?;
    let refused = world.recover(&instance, &["--key-file", other.to_str().context("a path")?])?;
    let refused = refused.expect_err("the key is another one");
    ensure!(refused.contains("none of the 3 jobs"), "{refused}");

    let before_recovery = exact::files_below(&world.process.output())?;
    let table = world.recover(&instance, &["--key-file", &key])?.map_err(anyhow::Error::msg)?;
    for (what, expected) in
        [("jobs that go on", 1), ("jobs complete", 1), ("jobs failed", 0), ("jobs deleted", 1), ("objects refused", 0)]
    {
        ensure!(count(&table, what) == Some(expected), "{what}:\n{table}");
    }
    ensure!(exact::files_below(&world.process.output())? == before_recovery, "it only reads the output");

    world.process.restart()?;
    let rebuilt = world.check(&complete).await?;
    ensure!(unsigned(&rebuilt) == unsigned(&manifest), "the manifest differs");
    ensure!(world.client.download(&rebuilt.output[0].url).await? == content, "a file differs");
    world.check(&running).await?;
    let first = exact::files_below(&running.folder)?.into_iter().filter(|name| name.ends_with(".1.ndjson")).count();
    ensure!(first > 0 && before >= SOME, "what was in completed files was read again");
    world.is_gone(&deleted).await?;
    world.process.stop()?;
    let refused = world.recover(&instance, &[])?.expect_err("the store is there");
    ensure!(refused.contains("it is not lost"), "{refused}");
    world.process.restart()?;
    world.check(&complete).await?;
    world.delete(&[&complete, &running]).await
}

/// SEC-32: authenticated, naming keys of their own job only, and each in its own place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_objects_that_were_meddled_with_are_refused_by_name() {
    meddle().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn meddle() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let (untouched, manifest) = world.complete().await?;
    let (copied, _) = world.complete().await?;
    let (greedy, _) = world.complete().await?;
    let (unsaid, _) = world.complete().await?;
    let changed = world.killed_in_its_middle().await?;
    let instance = world.instance()?;

    // One bit of one that follows on others and that others follow on.
    let mut bytes = fs::read(changed.commit(2))?;
    *bytes.last_mut().context("it is not empty")? ^= 1;
    fs::write(changed.commit(2), bytes)?;
    // One of another job.
    fs::copy(untouched.commit(1), copied.commit(1))?;
    // One of somebody who has the key, about a file of another job.
    let last = greedy.commit(greedy.commits()?);
    let name = last.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
    let mut commit = read(&last)?;
    let victim = exact::files_below(&untouched.folder)?;
    let victim = victim.iter().find(|name| name.starts_with("OperationOutcome")).context("a file of outcomes")?;
    let object = &mut commit["files"][0]["state"]["complete"]["object"];
    ensure!(object["key"].is_string(), "{object}");
    object["key"] = json!(format!("{instance}/{}/{victim}", untouched.id));
    let key = fs::read(world.process.state().join("checkpoint.key"))?;
    fs::write(&last, seal(&key, [&instance, &greedy.id, &name], &commit))?;
    // What a job is, of another job.
    fs::copy(untouched.folder.join("job.checkpoint"), unsaid.folder.join("job.checkpoint"))?;

    world.lose_store()?;
    let table = world.recover(&instance, &[])?.map_err(anyhow::Error::msg)?;
    for (what, expected) in [("jobs that go on", 2), ("jobs complete", 1), ("jobs failed", 1), ("left as it is", 1)] {
        ensure!(count(&table, what) == Some(expected), "{what}:\n{table}");
    }
    let meddled = "it was changed, is in another's place, or was written with another key";
    for (export, name, reason) in [
        (&changed, "00002.checkpoint", meddled),
        (&changed, "00003.checkpoint", "it follows on one that cannot be used"),
        (&copied, "00001.checkpoint", meddled),
        (&greedy, &name, "it names objects of others"),
        (&unsaid, "job.checkpoint", meddled),
    ] {
        ensure!(table.contains(&format!("  {}/{name}: {reason}\n", export.id)), "{name}: {reason}:\n{table}");
    }

    world.process.restart()?;
    // One goes back to the first commit, one to the last but one, and both end well.
    world.check(&changed).await?;
    world.check(&greedy).await?;
    ensure!(unsigned(&world.check(&untouched).await?) == unsigned(&manifest), "the manifest differs");
    // A manifest that cannot be given as it was is not given at all.
    let poll = world.client.poll(&copied.status).await?;
    ensure!(
        matches!(&poll, Poll::Other(code, said) if *code == 500 && said.contains("start a new export")),
        "{poll:?}"
    );
    until("its files are removed", async || {
        Ok((exact::files_below(&copied.folder)? == ["job.checkpoint"]).then_some(()))
    })
    .await?;
    // Of this one nothing is known, and nothing is touched.
    let poll = world.client.poll(&unsaid.status).await?;
    ensure!(matches!(poll, Poll::Other(code, _) if code == 404), "{poll:?}");
    ensure!(unsaid.commits()? > 0, "its objects are gone");
    fs::remove_dir_all(&unsaid.folder)?;
    world.delete(&[&untouched, &copied, &greedy, &changed]).await
}

fn read(path: &Path) -> anyhow::Result<Value> {
    exact::checkpoint(path)
}

/// A checkpoint object as the program would write it.
fn seal(key: &[u8], place: [&str; 3], value: &Value) -> Vec<u8> {
    let magic = b"offtake-checkpoint-1\n";
    let json = value.to_string().into_bytes();
    let mut text = magic.to_vec();
    for part in place {
        text.extend_from_slice(format!("{}:{part}\n", part.len()).as_bytes());
    }
    text.extend_from_slice(&json);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &text);
    [magic, tag.as_ref(), &json].concat()
}
