//! What is recorded: one event with its number and its time, as one line of JSON. Pure.
//!
//! Nothing in a record is taken from a resource, and nothing is text of whoever asks: names of clients, types, exports and
//! files are checked where they come from, and what a request asks for beyond them is kept as a keyed hash (SEC-43).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chain::Mac;
use crate::bulk::cohort::{CohortId, Definition};
use crate::bulk::kickoff::{ExportLevel, NamedPatients};
use crate::fhir::datatypes::{Id, Instant};
use crate::fhir::filter::Filter;
use crate::fhir::outcome::IssueType;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileRecord};
use crate::job::{Job, JobId, Owner};
use crate::smart::client::ClientId;
use crate::smart::scope::Scopes;

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Counted from 1, without a gap.
    pub(crate) seq: u64,
    /// By our clock. What came first is told by `seq`: a clock can be set back.
    pub(crate) at: Instant,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The first record of each file: what the one before it ended with.
    Begun { previous: Mac },
    /// A process has opened the ledger; `cut` bytes of a record were removed that nobody was told of. So many copies of the
    /// head could not be read, or were not of this ledger.
    Opened {
        version: Box<str>,
        cut: u64,
        #[serde(default, skip_serializing_if = "is_none")]
        copies_missing: u64,
        #[serde(default, skip_serializing_if = "is_none")]
        copies_foreign: u64,
    },
    /// A kick-off was permitted: an export is about to be recorded.
    KickOff(KickOff),
    /// A request was refused.
    Denied(Denied),
    /// So many more requests were refused that they are only counted.
    DeniedMore(DeniedMore),
    /// An export is about to be complete: what it holds.
    Finished(Finished),
    /// An export was given up; nothing of it was ever listed but on pages that were read while it ran.
    Failed { job: JobId, code: IssueType },
    /// The manifest is about to be sent: the links in it are issued.
    Manifest(ManifestRead),
    /// A link of the storage's to one file is about to be sent to whoever showed a token.
    LinkIssued(LinkIssued),
    /// The first byte of a file is about to be sent.
    FileBegun(FileBegun),
    /// No more bytes of it are sent.
    FileEnded(FileEnded),
    /// A client has deleted its export.
    Deleted(Ended),
    /// The time of an export has come.
    Expired(Ended),
    /// The client of an export may not have it any more.
    Revoked(Ended),
    /// A cohort is about to be made by a client.
    CohortMade(CohortMade),
    /// It was not made after all.
    CohortFailed { cohort: CohortId, code: IssueType },
    /// A client has deleted its cohort.
    CohortDeleted(CohortDeleted),
    /// Everything of an export is removed.
    Purged { job: JobId },
    /// Everything before this record was kept for long enough and is removed.
    Retired { first: u64 },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Actor {
    /// None in `open` mode, and where nobody has shown who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<ClientId>,
    /// What its token permitted when the export was kicked off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scopes: Option<Scopes>,
    /// Where the request came from, by its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<IpAddr>,
}

impl Actor {
    pub(crate) fn of(owner: &Owner, peer: Option<IpAddr>) -> Self {
        match owner {
            Owner::Open => Self { client: None, scopes: None, peer },
            Owner::Client { id, scopes, .. } => Self { client: Some(id.clone()), scopes: Some(scopes.clone()), peer },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KickOff {
    pub(crate) job: JobId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
    pub(crate) level: ExportLevel,
    pub(crate) types: Vec<ResourceType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Instant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Instant>,
    /// What narrows each type: of each of its filters the parameters and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) filters: BTreeMap<ResourceType, Vec<Narrowed>>,
    /// The whole kick-off URL, with all that it filters by.
    pub(crate) request: Hidden,
    /// The patients that were asked for, sorted and with commas between their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patients: Option<Hidden>,
}

impl KickOff {
    pub(crate) fn of(job: &Job, peer: Option<IpAddr>) -> Self {
        Self {
            job: job.id,
            actor: Actor::of(&job.owner, peer),
            level: job.kickoff.level.clone(),
            types: job.types.clone(),
            since: job.kickoff.since,
            until: job.kickoff.until,
            filters: job
                .filters
                .iter()
                .map(|(name, filters)| (*name, filters.iter().map(recorded).collect()))
                .collect(),
            request: Hidden::Clear(job.request.clone()),
            patients: job.kickoff.patients.as_ref().map(|patients| match patients {
                NamedPatients::Clear(ids) => Hidden::Clear(ids.iter().map(Id::as_str).collect::<Vec<_>>().join(",")),
                // Whoever records a kick-off has just read it. That somebody was named is said in any case.
                NamedPatients::Sealed(_) => Hidden::Clear(String::new()),
            }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CohortMade {
    pub(crate) cohort: CohortId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
    /// Of each filter the type, the parameters and their values. All of them have to hold.
    pub(crate) filters: Vec<(ResourceType, Narrowed)>,
    /// The members that are named, sorted and with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) members: Option<Hidden>,
}

impl CohortMade {
    pub(crate) fn of(cohort: CohortId, definition: &Definition, actor: Actor) -> Self {
        let filters = definition.filters.iter().map(|filter| (filter.resource_type, recorded(&filter.filter)));
        let members = definition.members.as_ref().map(|listed| {
            let patients = listed.patients.iter().map(|id| format!("Patient/{id}"));
            let named: Vec<_> = patients.chain(listed.groups.iter().map(|id| format!("Group/{id}"))).collect();
            Hidden::Clear(named.join(","))
        });
        Self { cohort, actor, filters: filters.collect(), members }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CohortDeleted {
    pub(crate) cohort: CohortId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
}

/// The parameters of one filter, and their values.
type Narrowed = Vec<(Box<str>, Hidden)>;

fn recorded(filter: &Filter) -> Narrowed {
    filter.pairs().map(|(name, value)| (name.into(), Hidden::Clear(value.to_owned()))).collect()
}

/// A text of which a keyed hash is kept: whoever knows it and has the key can find it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Hidden {
    /// Not hashed yet; it is never written.
    Clear(String),
    Hash(Box<str>),
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Clear(_) => Err(serde::ser::Error::custom("a text that is to be hidden is not")),
            Self::Hash(hash) => serializer.serialize_str(hash),
        }
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|hash| Self::Hash(hash.into()))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Denied {
    pub(crate) route: Asked,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<JobId>,
    #[serde(flatten)]
    pub(crate) actor: Actor,
    pub(crate) status: u16,
    /// The code of the issue, or the `error` of RFC 6749.
    pub(crate) code: Box<str>,
}

/// What was asked for: never the path itself, which may hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    KickOff,
    Status,
    Delete,
    File,
    Token,
    Introspection,
    /// To make a cohort, or to delete one.
    Cohort,
    /// A path that could be taken for one of ours, or for two different ones.
    Path,
    /// Something of the FHIR server's, with a token of ours.
    PassThrough,
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeniedMore {
    /// When the first of them was.
    pub(crate) since: Option<Instant>,
    pub(crate) count: u64,
    pub(crate) by_status: BTreeMap<Box<str>, u64>,
    /// Of those that asked most often, and of all others together.
    pub(crate) by_peer: BTreeMap<IpAddr, u64>,
    pub(crate) other_peers: u64,
}

/// What files hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) counts: BTreeMap<ResourceType, u64>,
    #[serde(default)]
    pub(crate) deletions: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// SHA-256 over number and SHA-256 of each file, in the order of their numbers.
    pub(crate) digest: Box<str>,
}

impl Contents {
    /// Of those among `files` that clients may fetch.
    pub(crate) fn of(files: &[FileRecord]) -> Self {
        let mut contents = Self::default();
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut listed: Vec<_> = files.iter().filter(|file| file.content.is_for_clients()).collect();
        listed.sort_unstable_by_key(|file| file.no);
        for (file, object) in listed.into_iter().filter_map(|file| Some((file, file.object()?))) {
            match file.content {
                FileContent::Resources(_) | FileContent::Blocks => {
                    for (name, lines) in file.types() {
                        *contents.counts.entry(name).or_default() += lines;
                    }
                }
                FileContent::Deletions => contents.deletions += object.lines,
                FileContent::Outcomes | FileContent::Held => {}
            }
            contents.files += 1;
            contents.bytes += object.bytes;
            digest.update(format!("{} {}\n", file.no.0, object.sha256).as_bytes());
        }
        contents.digest = super::chain::hex(digest.finish().as_ref()).into();
        contents
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) job: JobId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
    pub(crate) transaction_time: Instant,
    #[serde(flatten)]
    pub(crate) contents: Contents,
    pub(crate) patients: Patients,
}

/// Whose data an export holds. The list itself is a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patients {
    /// Patients in the list.
    pub(crate) listed: u64,
    /// Of the file of the list.
    pub(crate) sha256: Box<str>,
    /// There may be data of any patient that the server had: a System export of more than Patient resources.
    pub(crate) anybody: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ManifestRead {
    pub(crate) job: JobId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
    pub(crate) links: Links,
    /// How many links of that kind are in it.
    pub(crate) issued: u64,
    /// Until when they are good.
    pub(crate) until: Instant,
    #[serde(flatten)]
    pub(crate) contents: Contents,
}

/// What a link opens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Links {
    /// A file in the storage: that it is issued is all that we see of the disclosure.
    Storage,
    /// A file, from us: what is fetched is recorded.
    Ours,
    /// Nothing without a token: what is fetched or led on to is recorded.
    WithToken,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkIssued {
    pub(crate) job: JobId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
    pub(crate) file: Box<str>,
    pub(crate) until: Instant,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileBegun {
    pub(crate) job: JobId,
    /// Whoever shows a token; with a link, whose export it is.
    #[serde(flatten)]
    pub(crate) actor: Actor,
    pub(crate) file: Box<str>,
    pub(crate) by: Key,
    /// Where in the stored file it begins, and where it ends.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What has opened a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    Link,
    Token,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileEnded {
    pub(crate) job: JobId,
    pub(crate) file: Box<str>,
    /// The number of the record of its beginning.
    pub(crate) begun: u64,
    /// What the connection took of it, as it was sent.
    pub(crate) bytes: u64,
    /// Whether it came to its end.
    pub(crate) whole: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) job: JobId,
    #[serde(flatten)]
    pub(crate) actor: Actor,
}

/// Digits of the hash of a value in a scope.
const HASH_OF_SCOPE: usize = 16;

impl Event {
    /// Hides what is not for the ledger.
    pub(super) fn hide(&mut self, hash: impl Fn(&str) -> String) {
        if let Self::KickOff(KickOff { request, patients, filters, .. }) = self {
            let values = filters.values_mut().flatten().flatten().map(|(_, value)| value);
            for hidden in values.chain(patients).chain([request]) {
                if let Hidden::Clear(clear) = hidden {
                    *hidden = Hidden::Hash(hash(clear).into());
                }
            }
        }
        if let Self::CohortMade(CohortMade { filters, members, .. }) = self {
            let values = filters.iter_mut().flat_map(|(_, narrowed)| narrowed).map(|(_, value)| value);
            for hidden in values.chain(members) {
                if let Hidden::Clear(clear) = hidden {
                    *hidden = Hidden::Hash(hash(clear).into());
                }
            }
        }
        if let Some(Actor { scopes: Some(scopes), .. }) = self.actor_mut() {
            // Short: a token may have many of them, and each record names them.
            *scopes = scopes.hiding(|value| hash(value).chars().take(HASH_OF_SCOPE).collect());
        }
    }

    fn actor_mut(&mut self) -> Option<&mut Actor> {
        match self {
            Self::KickOff(KickOff { actor, .. })
            | Self::Denied(Denied { actor, .. })
            | Self::Finished(Finished { actor, .. })
            | Self::Manifest(ManifestRead { actor, .. })
            | Self::LinkIssued(LinkIssued { actor, .. })
            | Self::FileBegun(FileBegun { actor, .. })
            | Self::Deleted(Ended { actor, .. })
            | Self::Expired(Ended { actor, .. })
            | Self::Revoked(Ended { actor, .. })
            | Self::CohortMade(CohortMade { actor, .. })
            | Self::CohortDeleted(CohortDeleted { actor, .. }) => Some(actor),
            Self::Begun { .. }
            | Self::Opened { .. }
            | Self::DeniedMore(_)
            | Self::Failed { .. }
            | Self::FileEnded(_)
            | Self::CohortFailed { .. }
            | Self::Purged { .. }
            | Self::Retired { .. } => None,
        }
    }

    /// Whose export it is about.
    pub(crate) fn job(&self) -> Option<JobId> {
        match self {
            Self::KickOff(KickOff { job, .. })
            | Self::Finished(Finished { job, .. })
            | Self::Failed { job, .. }
            | Self::Manifest(ManifestRead { job, .. })
            | Self::LinkIssued(LinkIssued { job, .. })
            | Self::FileBegun(FileBegun { job, .. })
            | Self::FileEnded(FileEnded { job, .. })
            | Self::Deleted(Ended { job, .. })
            | Self::Expired(Ended { job, .. })
            | Self::Revoked(Ended { job, .. })
            | Self::Purged { job } => Some(*job),
            Self::Denied(denied) => denied.job,
            Self::Begun { .. }
            | Self::Opened { .. }
            | Self::DeniedMore(_)
            | Self::CohortMade(_)
            | Self::CohortFailed { .. }
            | Self::CohortDeleted(_)
            | Self::Retired { .. } => None,
        }
    }

    /// Who asked, where somebody did.
    pub(crate) fn actor(&self) -> Option<&Actor> {
        match self {
            Self::KickOff(KickOff { actor, .. })
            | Self::Denied(Denied { actor, .. })
            | Self::Finished(Finished { actor, .. })
            | Self::Manifest(ManifestRead { actor, .. })
            | Self::LinkIssued(LinkIssued { actor, .. })
            | Self::FileBegun(FileBegun { actor, .. })
            | Self::Deleted(Ended { actor, .. })
            | Self::Expired(Ended { actor, .. })
            | Self::Revoked(Ended { actor, .. })
            | Self::CohortMade(CohortMade { actor, .. })
            | Self::CohortDeleted(CohortDeleted { actor, .. }) => Some(actor),
            Self::Begun { .. }
            | Self::Opened { .. }
            | Self::DeniedMore(_)
            | Self::Failed { .. }
            | Self::FileEnded(_)
            | Self::CohortFailed { .. }
            | Self::Purged { .. }
            | Self::Retired { .. } => None,
        }
    }
}
