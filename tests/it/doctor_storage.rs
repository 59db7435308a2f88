//! What `offtake doctor` says of the storage: on local disk, of which nothing has to be started.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;

use crate::client::Client;
use crate::exact::paths_below;
use crate::process::{Options, Process};
use crate::support::listener;

/// A server to export and a folder of an output.
struct World {
    server: Running,
    folder: TempDir,
}

/// What doctor says of the storage, and whether it found all fit.
struct Said {
    storage: String,
    is_fit: bool,
}

impl World {
    async fn new() -> Self {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(1);
        let server = upstream.serve(listener().await).await;
        Self { server, folder: tempfile::tempdir().expect("a folder of its own") }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    fn make_output(&self, mode: u32) {
        fs::DirBuilder::new().mode(mode).create(self.output()).expect("it is made");
        fs::set_permissions(self.output(), fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    async fn doctor(&self, min_free: &str) -> Said {
        let at = self.folder.path().display();
        let config = self.folder.path().join("offtake.yaml");
        let yaml = format!(
            "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: {} }}\n\
             output: {{ location: file://{at}/output, min_free_bytes: {min_free} }}\nstore: {{ path: {at}/state }}\n",
            self.server.base_url
        );
        fs::write(&config, yaml).expect("the disk takes it");
        said(&config, &self.folder.path().display().to_string()).await
    }
}

async fn said(config: &Path, folder: &str) -> Said {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_offtake"));
    doctor.arg("doctor").arg("--config").arg(config);
    let ended = tokio::task::spawn_blocking(move || doctor.output().expect("it runs")).await.expect("no panic");
    let text = String::from_utf8(ended.stdout).expect("text");
    let (_, storage) = text.split_once("storage  ").expect("a report on the storage");
    Said { storage: format!("storage  {storage}").replace(folder, "DIR"), is_fit: ended.status.success() }
}

/// The room on the disk is that of the machine.
fn without_room(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("room          ") {
        Some(rest) => {
            format!("room          N{}\n", rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).trim_start())
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn the_whole_report_on_local_disk() {
    let world = World::new().await;
    world.make_output(0o700);
    let said = world.doctor("0").await;
    let (before, room) =
        without_room(&said.storage).split_once("room ").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("it says so");
    let (room, after) = room.split_once('\n').expect("a line");
    assert_eq!(before + after, GOOD);
    assert!(room.contains("is free; exports pause below 0 MiB (output.min_free_bytes)"), "{room}");
    assert!(said.is_fit);
    assert_eq!(paths_below(&world.output()).expect("it is there"), Vec::<PathBuf>::new(), "nothing is left");
    world.server.stop().await;
}

const GOOD: &str = concat!(
    "storage       file://DIR/output\n",
    "output        nobody's        serve makes it its own when it starts\n",
    "folder        private         nobody else may look into it\n",
    "write         works           a small object was written and read back, and lies on the disk (fsync)\n",
    "parts         works           an upload in two parts was put together and read across them\n",
    "links         ours            each opens one file for 3600 s; a changed, exchanged or expired one opens none\n",
    "delete        works           what was written is gone\n",
    "              works           removing what is not there is no error\n",
);

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named_and_none_is_made() {
    let world = World::new().await;
    let missing = world.doctor("0").await;
    assert!(missing.is_fit && missing.storage.contains("folder        missing  "), "{}", missing.storage);
    assert!(!world.output().exists() && !world.folder.path().join("state").exists(), "doctor makes nothing");
    world.make_output(0o755);
    let exposed = world.doctor("0").await;
    let expected = "unfit           the output folder DIR/output is open to others; make it 0700";
    assert!(!exposed.is_fit && exposed.storage.contains(expected), "{}", exposed.storage);
    fs::set_permissions(world.output(), fs::Permissions::from_mode(0o700)).expect("it is ours");
    let short = world.doctor("8000000GiB").await;
    assert!(!short.is_fit && short.storage.contains("so exports pause until there is more"), "{}", short.storage);
    world.server.stop().await;
}

/// SEC-32: of an output of others nothing is written; beside our own exports nothing is disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_of_others_is_left_alone_and_our_own_is_tried_beside_exports() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let server = upstream.serve(listener().await).await;
    let process = Process::start(&server.base_url, Options::default()).await.expect("it starts");
    let client = Client::new();
    let status = process.kick_off(&client, "/$export").await.expect("it is accepted");
    process.finished(&client, &status).await.expect("it ends");
    let before = paths_below(&process.output()).expect("it is there");
    let ours = process.run(&["doctor"]).expect("it runs");
    let text = String::from_utf8_lossy(&ours.stdout).into_owned();
    assert!(ours.status.success() && text.contains("output        ours   "), "{text}");
    assert!(text.contains("delete        works  "), "{text}");

    let stranger = process.beside(|_| Ok(())).expect("it starts");
    let theirs = stranger.run(&["doctor"]).expect("it runs");
    let text = String::from_utf8_lossy(&theirs.stdout).into_owned();
    assert!(!theirs.status.success() && text.contains("output        another's  "), "{text}");
    assert!(!text.contains("write  "), "{text}");
    assert_eq!(paths_below(&process.output()).expect("it is there"), before);
    drop((process, stranger));
    server.stop().await;
}
