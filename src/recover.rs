//! Rebuilds a lost job store from the checkpoint objects beside the output, when an operator asks for it (SEC-32). Only
//! the new store is written; the output is left as it is.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;

use crate::job::checkpoint::FileRecord;
use crate::job::store::{Restored, Store, StoreError};
use crate::job::{JobId, JobState};
use crate::output::checkpoint::rebuild::{self, Folder, Rebuilt};
use crate::output::checkpoint::{CheckpointKey, Commit, JobSheet, MOST_BYTES, Place, Refused};
use crate::output::layout::{self, ObjectName};
use crate::output::{Output, OutputError};
use crate::plan::kept::KeptPlan;
use crate::smart::delivery::ClientFolder;
use crate::store::keys::{JobKeys, KeyError};

/// What was rebuilt, and what was not.
#[derive(Debug, Default)]
pub(crate) struct Report {
    waiting_or_running: usize,
    /// Jobs among those whose key is not there: nobody knows any more whom they are for, and they fail when they are taken up.
    sealed: Vec<JobId>,
    complete: usize,
    failed: usize,
    deleted: usize,
    /// Complete files of jobs that go on or are complete.
    files: usize,
    /// Objects that are not used, by `job/name`, and why.
    refused: Vec<(String, Refused)>,
    /// Folders of jobs of which nothing can be said, and objects that are not ours. They stay where they are.
    left_alone: Vec<String>,
}

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("the output holds nothing of an instance {instance}; it holds {}", told(.known))]
    UnknownInstance { instance: String, known: Vec<String> },
    #[error("no job of instance {0} has checkpoint objects in the output")]
    NoCheckpoints(String),
    #[error(
        "none of the {jobs} jobs of instance {instance} can be authenticated: most likely they were written with another \
         checkpoint.key; move this one away and give that one by --key-file"
    )]
    WrongKey { instance: String, jobs: usize },
    #[error("could not read the output")]
    Output(#[from] OutputError),
    #[error("could not write the new job store")]
    Store(#[from] StoreError),
    #[error("could not look for the keys of exports")]
    Key(#[from] KeyError),
}

/// Instances named where an unknown one was asked for.
const MOST_NAMED: usize = 10;

/// Records in `store`, which is empty, every job of `instance` whose checkpoint objects `key` authenticates. What is sealed in
/// them stays so; `keys` are what the jobs need to go on.
pub(crate) async fn recover(
    output: &Output,
    store: &dyn Store,
    instance: &str,
    key: &CheckpointKey,
    keys: &JobKeys,
) -> Result<Report, RecoverError> {
    let instances = output.folders(None).await?;
    if !instances.iter().any(|found| found == instance) {
        let known = instances.into_iter().take(MOST_NAMED).collect();
        return Err(RecoverError::UnknownInstance { instance: instance.to_owned(), known });
    }
    let mut report = Report::default();
    let (mut sheets, mut jobs) = (0, 0);
    for (client, name) in folders(output, instance).await? {
        let Ok(id) = name.parse::<JobId>() else {
            report.left_alone.push(name);
            continue;
        };
        let folder = layout::folder(instance, client.as_ref(), id);
        let source = Source { output, instance, key, id, client, folder };
        let found = output.folder(&source.folder).await?;
        sheets += usize::from(found.objects.contains_key(layout::JOB_CHECKPOINT));
        match source.rebuild(&found, &mut report).await? {
            Some(rebuilt) => {
                jobs += 1;
                report.count(&rebuilt);
                if needs_key(&rebuilt.restored) {
                    match keys.of(id).await {
                        Ok(_) => {}
                        Err(error) if error.is_lost() => report.sealed.push(id),
                        Err(error) => return Err(error.into()),
                    }
                }
                store.restore(rebuilt.restored).await?;
            }
            None => report.left_alone.push(name),
        }
    }
    match (jobs, sheets) {
        (0, 0) => Err(RecoverError::NoCheckpoints(instance.to_owned())),
        (0, jobs) => Err(RecoverError::WrongKey { instance: instance.to_owned(), jobs }),
        _ => Ok(report),
    }
}

/// The folders of an instance that may be jobs', also those within the folders of clients.
async fn folders(output: &Output, instance: &str) -> Result<Vec<(Option<ClientFolder>, String)>, OutputError> {
    let mut found = Vec::new();
    for name in output.folders(Some(instance)).await? {
        match name.parse::<ClientFolder>() {
            Ok(client) => {
                let within = output.folders(Some(&format!("{instance}/{client}"))).await?;
                found.extend(within.into_iter().map(|name| (Some(client.clone()), name)));
            }
            Err(_) => found.push((None, name)),
        }
    }
    Ok(found)
}

/// The folder of one job.
struct Source<'a> {
    output: &'a Output,
    instance: &'a str,
    key: &'a CheckpointKey,
    id: JobId,
    client: Option<ClientFolder>,
    folder: String,
}

impl Source<'_> {
    /// The job as far as it can be rebuilt; `None` if nothing can be said of it.
    async fn rebuild(&self, found: &Folder, report: &mut Report) -> Result<Option<Rebuilt>, OutputError> {
        let id = self.id;
        let refuse = |report: &mut Report, name: &str, reason| report.refused.push((format!("{id}/{name}"), reason));
        let Some(sheet) = self.open::<JobSheet>(found, layout::JOB_CHECKPOINT).await? else { return Ok(None) };
        // Else it would go on, or be removed, in another folder than the one it lies in.
        let is_at_home = |sheet: &JobSheet| sheet.job.id == id && sheet.job.delivery.folder == self.client;
        let sheet = match sheet.and_then(|sheet| if is_at_home(&sheet) { Ok(sheet) } else { Err(Refused::Content) }) {
            Ok(sheet) => sheet,
            Err(reason) => {
                refuse(report, layout::JOB_CHECKPOINT, reason);
                return Ok(None);
            }
        };
        let mut commits = BTreeMap::new();
        for name in found.objects.keys() {
            let Some(ObjectName::CommitCheckpoint(number)) = ObjectName::parse(name) else { continue };
            let Some(opened) = self.open::<Commit>(found, name).await? else { continue };
            match opened.and_then(|commit| commit.check(&self.folder, number).map(|()| commit)) {
                Ok(commit) => drop(commits.insert(number, commit)),
                Err(reason) => refuse(report, name, reason),
            }
        }
        match rebuild::rebuild(&self.folder, found, sheet, commits) {
            Ok(rebuilt) => {
                for (number, reason) in &rebuilt.refused {
                    refuse(report, &layout::commit_checkpoint(*number), *reason);
                }
                report.left_alone.extend(rebuilt.foreign.iter().map(|name| format!("{id}/{name}")));
                Ok(Some(rebuilt))
            }
            Err(reason) => {
                refuse(report, layout::JOB_CHECKPOINT, reason);
                Ok(None)
            }
        }
    }

    /// What the object of this name says, once it is authenticated; `None` if there is none.
    async fn open<T: DeserializeOwned>(
        &self,
        found: &Folder,
        name: &str,
    ) -> Result<Option<Result<T, Refused>>, OutputError> {
        match found.objects.get(name) {
            None => Ok(None),
            Some(size) if *size > MOST_BYTES => Ok(Some(Err(Refused::TooLarge))),
            Some(_) => {
                let bytes = self.output.get(&format!("{}/{name}", self.folder)).await?;
                Ok(Some(self.key.open(Place { instance: self.instance, job: self.id, name }, &bytes)))
            }
        }
    }
}

impl Report {
    fn count(&mut self, rebuilt: &Rebuilt) {
        let restored = &rebuilt.restored;
        match restored.job.state {
            JobState::Accepted | JobState::Running(_) => self.waiting_or_running += 1,
            JobState::Complete(_) => self.complete += 1,
            JobState::Failed(_) => self.failed += 1,
            JobState::Deleted => self.deleted += 1,
        }
        self.files += restored.files.iter().filter(|file| is_listed(file)).count();
    }
}

/// Whether a job goes on, and only with those whom it is for.
fn needs_key(restored: &Restored) -> bool {
    let Restored { job, plan, .. } = restored;
    job.state.is_active() && (job.kickoff.is_sealed() || matches!(plan, Some(KeptPlan::Sealed(_))))
}

fn is_listed(file: &FileRecord) -> bool {
    file.object().is_some()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "jobs that go on   {:>8}", self.waiting_or_running)?;
        if !self.sealed.is_empty() {
            writeln!(f, "  but for         {:>8}", self.sealed.len())?;
            let said = "the key that its patients are sealed with is not in job-keys; put it back, or the export fails at the start";
            self.sealed.iter().try_for_each(|id| writeln!(f, "  {id}: {said}"))?;
        }
        writeln!(f, "jobs complete     {:>8}", self.complete)?;
        writeln!(f, "jobs failed       {:>8}", self.failed)?;
        writeln!(f, "jobs deleted      {:>8}", self.deleted)?;
        writeln!(f, "files             {:>8}", self.files)?;
        writeln!(f, "objects refused   {:>8}", self.refused.len())?;
        for (name, reason) in &self.refused {
            writeln!(f, "  {}: {reason}", plain(name))?;
        }
        writeln!(f, "left as it is     {:>8}", self.left_alone.len())?;
        self.left_alone.iter().try_for_each(|name| writeln!(f, "  {}", plain(name)))
    }
}

/// A name that others may have chosen, as a terminal may see it.
fn plain(name: &str) -> String {
    name.chars().take(200).map(|character| if character.is_ascii_graphic() { character } else { '?' }).collect()
}

fn told(known: &[String]) -> String {
    let known: Vec<_> = known.iter().map(|name| plain(name)).collect();
    if known.is_empty() { "nothing at all".to_owned() } else { known.join(", ") }
}
