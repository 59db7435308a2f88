//! Object keys from instance, job, content, number and epoch. Letters, digits, `-`, `_`, `.` and `/` only: other
//! characters break signed links on two clouds.

use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileNo, FileRecord, FileState};
use crate::job::{Epoch, JobId};
use crate::smart::delivery::ClientFolder;

/// The folder of one job, which may lie in one of its client's.
pub(crate) fn folder(instance: &str, client: Option<&ClientFolder>, job: JobId) -> String {
    match client {
        Some(client) => format!("{instance}/{client}/{job}"),
        None => format!("{instance}/{job}"),
    }
}

/// The key of one data object in a job's folder. The epoch keeps a worker that lost its lease from writing over its
/// successor.
pub(crate) fn object(folder: &str, content: FileContent, no: FileNo, epoch: Epoch) -> String {
    format!("{folder}/{}-{:05}.{}.ndjson", content_name(content), no.0, epoch.0)
}

/// The key of the sidecar beside a data object.
pub(crate) fn sidecar(object: &str) -> String {
    format!("{}.ids", object.strip_suffix(".ndjson").unwrap_or(object))
}

/// The name of the checkpoint object that says what the job is: its record and its plan.
pub(crate) const JOB_CHECKPOINT: &str = "job.checkpoint";

/// The name of the checkpoint object of a job's commit of this number; the first one is 1.
pub(crate) fn commit_checkpoint(number: u32) -> String {
    format!("{number:05}.checkpoint")
}

/// The object at the top that says whose output it is.
pub(crate) const MARKER: &str = "offtake.instance";
/// How that object begins.
pub(crate) const MARK: &[u8] = b"offtake-instance-1\n";

/// The key of the copy of the ledger's head.
pub(crate) fn ledger_head(instance: &str) -> String {
    format!("{instance}/ledger.head")
}

/// The folder that doctor tries the output in.
pub(crate) const DOCTOR: &str = "doctor";

/// What an object in a job's folder can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectName<'a> {
    Data {
        content: FileContent,
        /// The name without its extension, which the sidecar shares.
        stem: &'a str,
    },
    Sidecar {
        content: FileContent,
        stem: &'a str,
    },
    JobCheckpoint,
    CommitCheckpoint(u32),
}

impl<'a> ObjectName<'a> {
    /// What `name` says, if it is one that we give.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        if name == JOB_CHECKPOINT {
            return Some(Self::JobCheckpoint);
        }
        let (stem, extension) = name.rsplit_once('.')?;
        if extension == "checkpoint" {
            let number = stem.parse().ok().filter(|number| *number > 0 && commit_checkpoint(*number) == name)?;
            return Some(Self::CommitCheckpoint(number));
        }
        let (numbered, epoch) = stem.rsplit_once('.')?;
        let (content, no) = numbered.rsplit_once('-')?;
        let (no, epoch): (u32, u32) = (no.parse().ok()?, epoch.parse().ok()?);
        let content = match content {
            "deleted" => FileContent::Deletions,
            "OperationOutcome" => FileContent::Outcomes,
            "held" => FileContent::Held,
            "blocks" => FileContent::Blocks,
            name => FileContent::Resources(ResourceType::parse(name)?),
        };
        if stem != format!("{}-{no:05}.{epoch}", content_name(content)) {
            return None;
        }
        match extension {
            "ndjson" => Some(Self::Data { content, stem }),
            "ids" => Some(Self::Sidecar { content, stem }),
            _ => None,
        }
    }
}

impl FileRecord {
    /// Every object that this record may have left in the output.
    pub(crate) fn keys(&self) -> Vec<String> {
        match &self.state {
            FileState::Open { key, .. } => vec![key.clone(), sidecar(key)],
            FileState::Complete(file) => {
                let object = file.object.iter().map(|object| object.key.clone());
                object.chain(file.sidecar.clone()).collect()
            }
        }
    }
}

/// The name under which a file is fetched.
pub(crate) fn file_name(content: FileContent, no: FileNo) -> String {
    format!("{}-{:05}.ndjson", content_name(content), no.0)
}

/// The number in a file's name, if it is one of ours.
pub(crate) fn parse_file_name(name: &str) -> Option<FileNo> {
    let (_, no) = name.strip_suffix(".ndjson")?.rsplit_once('-')?;
    (no.len() >= 5 && no.bytes().all(|byte| byte.is_ascii_digit())).then(|| no.parse().ok().map(FileNo))?
}

fn content_name(content: FileContent) -> &'static str {
    match content {
        FileContent::Resources(resource_type) => resource_type.as_str(),
        FileContent::Deletions => "deleted",
        FileContent::Outcomes => "OperationOutcome",
        FileContent::Held => "held",
        FileContent::Blocks => "blocks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_objects_are_named_ndjson() {
        let content = FileContent::Resources(ResourceType::PATIENT);
        let job = JobId::new([1; 16]);
        let client = "research".parse().expect("a folder");
        assert_eq!(folder("0a1b", Some(&client), job), "0a1b/research/01010101010101010101010101010101");
        let key = object(&folder("0a1b", None, job), content, FileNo(7), Epoch(2));
        assert_eq!(key, "0a1b/01010101010101010101010101010101/Patient-00007.2.ndjson");
        assert_eq!(sidecar(&key), "0a1b/01010101010101010101010101010101/Patient-00007.2.ids");
        assert_eq!(parse_file_name(&file_name(content, FileNo(7))), Some(FileNo(7)));
        for name in
            ["Patient-7.ndjson", "Patient-00007", "00007.ndjson", "Patient-+0007.ndjson", "Patient-99999999999.ndjson"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_object_is_known_by_its_name_and_by_no_other_spelling() {
        let content = FileContent::Resources(ResourceType::PATIENT);
        let stem = "Patient-00007.2";
        for (name, expected) in [
            ("Patient-00007.2.ndjson", Some(ObjectName::Data { content, stem })),
            ("Patient-00007.2.ids", Some(ObjectName::Sidecar { content, stem })),
            (
                "deleted-100000.1.ndjson",
                Some(ObjectName::Data { content: FileContent::Deletions, stem: "deleted-100000.1" }),
            ),
            (
                "OperationOutcome-00000.1.ndjson",
                Some(ObjectName::Data { content: FileContent::Outcomes, stem: "OperationOutcome-00000.1" }),
            ),
            ("blocks-00003.1.ndjson", Some(ObjectName::Data { content: FileContent::Blocks, stem: "blocks-00003.1" })),
            (JOB_CHECKPOINT, Some(ObjectName::JobCheckpoint)),
            ("00012.checkpoint", Some(ObjectName::CommitCheckpoint(12))),
            ("123456.checkpoint", Some(ObjectName::CommitCheckpoint(123_456))),
            ("00000.checkpoint", None),
            ("012.checkpoint", None),
            ("+0012.checkpoint", None),
            ("Patient-7.2.ndjson", None),
            ("Patient-00007.02.ndjson", None),
            ("Patient-00007.ndjson", None),
            ("patient-00007.2.ndjson", None),
            ("../Patient-00007.2.ndjson", None),
            ("Patient-00007.2.ndjson#1", None),
            ("Patient-00007.2.txt", None),
            ("", None),
        ] {
            assert_eq!(ObjectName::parse(name), expected, "{name}");
        }
    }
}
