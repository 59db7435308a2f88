//! What files tell of themselves: what they hold, refer to and say.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{Files, FilesError};
use crate::engine::associated::Exported;
use crate::fhir::datatypes::LocalReference;
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileNo, FileRecord, StoredObject};
use crate::job::index::IdHash;
use crate::job::{Job, JobId};
use crate::output::OutputError;

impl Files {
    /// Every job that the store knows, without the patients that kick-offs name.
    pub(in crate::engine) async fn jobs(&self) -> Result<Vec<Job>, FilesError> {
        Ok(self.services.store.jobs().await?)
    }

    /// One of them as a whole; none if its key is lost.
    pub(in crate::engine) async fn whole_job(&self, id: JobId) -> Result<Option<Job>, FilesError> {
        let Some(job) = self.services.store.job(id).await? else { return Ok(None) };
        match self.services.opened(job).await {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.is_lost() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a job has noted what its client holds.
    pub(in crate::engine) async fn held_by(&self, job: JobId) -> Result<Option<StoredObject>, FilesError> {
        let files = self.services.store.files(job).await?;
        Ok(files.iter().find(|file| file.content == FileContent::Held).and_then(FileRecord::object).cloned())
    }

    /// Streams an object.
    pub(in crate::engine) async fn read(
        &self,
        object: &StoredObject,
    ) -> Result<BoxStream<'static, Result<Bytes, OutputError>>, FilesError> {
        Ok(self.services.output.stream(&object.key, 0..object.bytes).await?)
    }

    /// The complete files of resources: their types and objects.
    pub(in crate::engine) fn data(&self) -> Vec<(ResourceType, StoredObject)> {
        let data = self.complete.iter().filter_map(|record| match record.content {
            FileContent::Resources(resource_type) => Some((resource_type, record.object()?.clone())),
            FileContent::Blocks | FileContent::Deletions | FileContent::Outcomes | FileContent::Held => None,
        });
        data.collect()
    }

    /// The complete files of resources of all types but one, in the order of their numbers.
    pub(in crate::engine) fn all_but(&self, other: ResourceType) -> Vec<(FileNo, ResourceType, StoredObject)> {
        let data = self.complete.iter().filter_map(|record| match record.content {
            FileContent::Resources(name) if name != other => Some((record.no, name, record.object()?.clone())),
            FileContent::Resources(_) | FileContent::Blocks => None,
            FileContent::Deletions | FileContent::Outcomes | FileContent::Held => None,
        });
        let mut data: Vec<_> = data.collect();
        data.sort_unstable_by_key(|(no, ..)| *no);
        data
    }

    /// What all complete files hold at this moment, for readers.
    pub(in crate::engine) fn exported(&self) -> Exported {
        let mut keys: HashMap<ResourceType, Vec<String>> = HashMap::new();
        for record in &self.complete {
            if let (FileContent::Resources(name), Some(key)) = (record.content, record.sidecar()) {
                keys.entry(name).or_default().push(key.to_owned());
            }
        }
        Exported::new(Arc::clone(&self.holdings), keys)
    }

    /// What the lines of complete files refer to, each once, in the order of the files' numbers. Files that come later
    /// have higher numbers, so that a place in this list means the same in every life of the job.
    pub(in crate::engine) async fn references(&self) -> Result<Vec<LocalReference>, FilesError> {
        let mut seen = HashSet::new();
        let mut ordered = Vec::new();
        let mut complete: Vec<_> = self.complete.iter().collect();
        complete.sort_unstable_by_key(|record| record.no);
        for key in complete.into_iter().filter_map(FileRecord::sidecar) {
            let sidecar = self.services.sidecar(key).await?;
            ordered
                .extend(sidecar.notes.references.iter().filter(|reference| seen.insert((*reference).clone())).cloned());
        }
        Ok(ordered)
    }

    /// What the upstream said inside of good answers, once per kind, with how often it was said.
    pub(in crate::engine) async fn outcomes_said(&self) -> Result<BTreeMap<Issue, u64>, FilesError> {
        let mut said = BTreeMap::new();
        for key in self.complete.iter().filter_map(FileRecord::sidecar) {
            for (issue, times) in &self.services.sidecar(key).await?.notes.outcomes {
                *said.entry(issue.clone()).or_default() += times;
            }
        }
        Ok(said)
    }

    /// Resources that the upstream failed to give whenever they were asked for.
    pub(in crate::engine) async fn unreadable(&self) -> Result<BTreeSet<LocalReference>, FilesError> {
        let mut failed: BTreeMap<ResourceType, BTreeSet<LocalReference>> = BTreeMap::new();
        for key in self.complete.iter().filter_map(FileRecord::sidecar) {
            for reference in &self.services.sidecar(key).await?.notes.unreadable {
                failed.entry(reference.resource_type).or_default().insert(reference.clone());
            }
        }
        let mut unreadable = BTreeSet::new();
        for (resource_type, references) in failed {
            let hashes: Vec<_> = references.iter().map(|failed| IdHash::of(resource_type, &failed.id)).collect();
            let came = self.are_complete(resource_type, &hashes).await?;
            unreadable.extend(references.into_iter().zip(came).filter(|(_, came)| !came).map(|(failed, _)| failed));
        }
        Ok(unreadable)
    }

    /// Which of `ids` a complete file holds.
    pub(in crate::engine) async fn are_complete(
        &self,
        resource_type: ResourceType,
        ids: &[IdHash],
    ) -> Result<Vec<bool>, FilesError> {
        let holding = self.complete.iter().filter(|record| record.may_hold(resource_type));
        let sidecars: Vec<_> = holding.filter_map(FileRecord::sidecar).collect();
        Ok(self.holdings.hold(&sidecars, ids).await?)
    }
}
