//! The end of a job: the proof, the file of outcomes, and the commit after which the manifest can be read.

use std::collections::{BTreeMap, BTreeSet};

use super::worker::{Worker, WorkerError};
use crate::bulk::manifest::{Method, OutcomeLine, TypeProof};
use crate::fhir::attachment::Left;
use crate::fhir::datatypes::Millis;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, SliceRecord};
use crate::job::{Complete, Job, JobState};
use crate::plan::slice::Phase;
use crate::plan::{Assumption, Boundary, Cohort, Strategy};
use crate::smart::admit::Grant;
use crate::smart::policy::Policy;

impl Worker {
    /// Writes the outcomes and completes the job.
    pub(super) async fn finish(&mut self, job: &Job, expires: Millis) -> Result<(), WorkerError> {
        let unreadable = self.files.unreadable().await?;
        let mut proof = self.proof();
        let mut short: BTreeMap<_, _> = proof.iter().map(|(name, proof)| (*name, proof.short)).collect();
        let (named, others): (BTreeSet<_>, BTreeSet<_>) =
            unreadable.into_iter().partition(|reference| self.may_name(reference.resource_type));
        for reference in &others {
            *short.entry(reference.resource_type).or_default() += 1;
        }
        for reference in named.iter().chain(&others) {
            if let Some(proof) = proof.get_mut(&reference.resource_type) {
                proof.short += 1;
            }
        }
        let kept_back = self.files.slices().map(|record| record.kept_back).fold(0, u64::saturating_add);
        if kept_back > 0 {
            // For the operator: whoever has the export may not know.
            tracing::info!(export.job_id = %job.id, times = kept_back, "policy has kept resources back");
        }
        let base = self.base(job).await?;
        let deletions = self.deletions(base.as_ref()).await?;
        if self.drain.is_cancelled() && (!deletions.untold.is_empty() || deletions.left_out) {
            // It may be the stop that kept the server from telling.
            return Err(WorkerError::Draining);
        }
        let mut lines = vec![OutcomeLine::proof(&proof)];
        lines.extend(self.refused_patients());
        match &self.plan.boundary {
            Boundary::NoHistory(names) => lines.push(OutcomeLine::not_as_of(names)),
            Boundary::Narrowed(names) => lines.push(OutcomeLine::not_as_of_narrowed(names)),
            Boundary::NoLoss | Boundary::AsOf => {}
        }
        lines.extend(job.kickoff.ignored.iter().map(OutcomeLine::ignored));
        lines.extend(self.unproven(&proof));
        lines.extend(self.running.refused.iter().map(|(name, issues)| OutcomeLine::refused(*name, issues)));
        let short = short.into_iter().filter(|(_, short)| *short > 0);
        lines.extend(short.map(|(name, short)| OutcomeLine::short(name, short)));
        lines.extend(named.iter().map(OutcomeLine::unreadable));
        let said = self.files.outcomes_said().await?;
        lines.extend(said.iter().map(|(issue, times)| match Left::of(issue) {
            Some(left) => OutcomeLine::left_as_references(left, *times),
            None => OutcomeLine::upstream(issue, *times),
        }));
        if self.running.members_left_out {
            lines.push(OutcomeLine::members_left_out());
        }
        if self.plan.is_organized && self.plan.cohort == Cohort::AllPatients {
            lines.push(OutcomeLine::only_blocks());
        }
        if self.leaves_patients_out(job) {
            lines.push(OutcomeLine::patients_left_out());
        }
        if !deletions.untold.is_empty() {
            lines.push(OutcomeLine::untold_deletions(&deletions.untold));
        }
        // Where single resources are kept back, this would tell of them.
        if deletions.left_out && !self.reader.grant.keeps_back_resources() {
            lines.push(OutcomeLine::withheld_deletions());
        }
        if self.reader.grant.keeps_back_resources() || job.owner.policy().is_some_and(Policy::keeps_back) {
            lines.push(OutcomeLine::within_policy());
        }
        let mut severities = BTreeMap::new();
        for line in &lines {
            *severities.entry(line.severity()).or_default() += 1;
        }
        let lines = lines.into_iter().map(Grant::admit_outcome).collect();
        let mut files = self.files.closing(FileContent::Outcomes, lines).await?;
        if !deletions.lines.is_empty() {
            files.extend(self.files.closing(FileContent::Deletions, deletions.lines).await?);
        }
        files.extend(self.note_held(job, base.as_ref(), &deletions.gone).await?);
        let complete = Complete {
            transaction_time: self.plan.horizon.transaction_time(),
            proof,
            severities,
            pages: self.files.pages().to_vec(),
            expires,
        };
        // Before anybody can read the manifest (SEC-43).
        Box::pin(self.files.disclose(job, &files, deletions.patients)).await?;
        let state = Some(JobState::Complete(complete));
        Ok(self.files.complete(files, state).await?)
    }

    /// Whether it is to be said that patients who were asked for are not exported: also where that would tell of somebody
    /// who is kept back, or of patients to whoever may not have all Patient resources (SEC-25, SEC-26).
    fn leaves_patients_out(&self, job: &Job) -> bool {
        let all_patients = || job.owner.may_hold(ResourceType::PATIENT, &[Filter::ALL]);
        let may_not_know = || self.reader.grant.keeps_back_resources() || !all_patients();
        self.running.patients_left_out || (job.kickoff.patients.is_some() && may_not_know())
    }

    /// Whether a resource of this type that nobody saw may be named: only where all that was asked for belongs to the export
    /// (SEC-26). Elsewhere it may name others too, and under `_until` it may be too new.
    fn may_name(&self, resource_type: ResourceType) -> bool {
        if self.reader.grant.keeps_back_resources() {
            return false;
        }
        let plan = &self.plan;
        let is_only_referred_to = plan.context.contains(&resource_type) && !plan.types.contains_key(&resource_type);
        let is_asked_by_id =
            resource_type == ResourceType::PATIENT || plan.others.contains_key(&resource_type) || is_only_referred_to;
        plan.horizon.until.is_none()
            && match plan.cohort {
                Cohort::Everything => true,
                Cohort::Members(_) => is_asked_by_id,
                Cohort::AllPatients => false,
            }
    }

    /// Per type, the sums over all slices that were accepted; the weakest method that any of them needed.
    fn proof(&self) -> BTreeMap<ResourceType, TypeProof> {
        let empty = || TypeProof {
            method: Method::Counted,
            expected: 0,
            received: 0,
            written: 0,
            repeated: 0,
            withheld: 0,
            reread: 0,
            short: 0,
        };
        let mut proof: BTreeMap<_, _> = self.plan.types.keys().map(|name| (*name, empty())).collect();
        for record in self.files.slices() {
            let sum = proof.entry(record.slice.resource_type).or_insert_with(empty);
            sum.method = sum.method.max(record.method);
            // SEC-26: what policy keeps back counts as if it was not there.
            let received = record.received.saturating_sub(record.kept_back);
            let mut expected = record.expected.saturating_sub(record.kept_back);
            if self.reader.grant.keeps_back_resources() {
                // What was counted and has moved is received by another slice: some of that may be kept back.
                expected = expected.min(received.saturating_add(record.short).saturating_add(record.unreadable));
            }
            sum.expected = sum.expected.saturating_add(expected);
            sum.received = sum.received.saturating_add(received);
            sum.written = sum.written.saturating_add(record.written);
            sum.repeated = sum.repeated.saturating_add(record.repeated);
            sum.withheld = sum.withheld.saturating_add(record.withheld);
            sum.reread += u64::from(record.reread);
            sum.short = sum.short.saturating_add(record.short);
        }
        for (name, sum) in &mut proof {
            if self.assumed(*name, sum).next().is_some() {
                sum.method = Method::Unproven;
            }
        }
        proof
    }

    /// What the proof of a type takes for granted.
    fn assumed(&self, name: ResourceType, proof: &TypeProof) -> impl Iterator<Item = Assumption> {
        let assumed = self.plan.types.get(&name).into_iter().flat_map(|plan| plan.assumed.iter().copied());
        // A resource that was found by its patient is a witness, however late it came.
        let found = proof.received > 0;
        assumed.filter(move |assumption| match assumption {
            Assumption::NoWitness => !found,
            Assumption::NoFiltered => !self.is_found_by_each_filter(name),
            Assumption::NoTarget => !self.is_found_by_target(name),
            Assumption::RefusedLinks | Assumption::Everything | Assumption::OutsideCompartment => true,
        })
    }

    /// Whether each filter of a type was proven when the plan was made, or by what came by it.
    fn is_found_by_each_filter(&self, name: ResourceType) -> bool {
        let filters = self.plan.filters.get(&name).into_iter().flatten();
        self.plan.steps(name).into_iter().flatten().zip(filters).all(|(number, planned)| {
            let of_step =
                |record: &SliceRecord| record.slice.resource_type == name && record.slice.filter == Some(number);
            planned.is_proven || self.files.slices().any(|record| of_step(record) && record.received > 0)
        })
    }

    /// Whether anything of a type came by what it is about.
    fn is_found_by_target(&self, name: ResourceType) -> bool {
        let mut of_type = self.files.slices().filter(|record| record.slice.resource_type == name);
        of_type.any(|record| record.slice.phase == Phase::Associated && record.received > 0)
    }

    /// That the server refuses some patients, if it does.
    fn refused_patients(&self) -> Option<OutcomeLine> {
        let refused = self.files.slices().filter(|record| record.refused);
        let (patients, types): (BTreeSet<_>, BTreeSet<_>) =
            refused.filter_map(|record| Some((record.slice.patients()?.start, record.slice.resource_type))).unzip();
        let types: Vec<_> = types.into_iter().collect();
        (!patients.is_empty()).then(|| OutcomeLine::refused_patients(patients.len(), &types))
    }

    /// Why types are unproven, one line for each reason.
    fn unproven(&self, proof: &BTreeMap<ResourceType, TypeProof>) -> Vec<OutcomeLine> {
        let mut reasons: BTreeMap<Assumption, Vec<ResourceType>> = BTreeMap::new();
        let mut narrowed = Vec::new();
        for (name, proof) in proof {
            for assumption in self.assumed(*name, proof) {
                reasons.entry(assumption).or_default().push(*name);
            }
            let strategy = self.plan.types.get(name).map(|plan| &plan.strategy);
            let is_narrowed = matches!(strategy, Some(Strategy::Patients { searches, .. }) if !searches.is_empty());
            if is_narrowed && proof.method == Method::Unproven {
                narrowed.push(*name);
            }
        }
        let mut lines: Vec<_> = reasons
            .iter()
            .map(|(assumption, names)| match assumption {
                Assumption::NoWitness => OutcomeLine::without_witness(names),
                Assumption::NoFiltered => OutcomeLine::without_filtered(names),
                Assumption::NoTarget => OutcomeLine::without_target(names),
                Assumption::RefusedLinks => OutcomeLine::refused_links(names),
                Assumption::Everything => OutcomeLine::by_records(names),
                Assumption::OutsideCompartment => OutcomeLine::outside_compartment(names),
            })
            .collect();
        if !narrowed.is_empty() {
            lines.push(OutcomeLine::narrowed(&narrowed));
        }
        lines
    }
}
