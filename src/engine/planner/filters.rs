//! What narrows the types of a job: held against what the server lists, and proven on what it holds, before anything is read.

use std::collections::BTreeMap;

use super::{PlanError, Planner};
use crate::bulk::kickoff::names_patients;
use crate::engine::narrow;
use crate::fhir::capability::Capability;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::Job;
use crate::plan::filter::PlannedFilter;
use crate::plan::{Assumption, ExportPlan, Strategy};
use crate::smart::policy::Level;
use crate::upstream::client::SearchError;
use crate::upstream::probe::{self, FilterProbeError, Trial};

impl Planner {
    /// The filters of a job, none of them proven yet. Those of types that are not to be had narrow nothing.
    pub(super) async fn filters(&self, job: &Job) -> Result<BTreeMap<ResourceType, Vec<PlannedFilter>>, PlanError> {
        let Some(first) = job.filters.keys().next() else { return Ok(BTreeMap::new()) };
        let capability = self
            .profiler
            .capability()
            .await
            .map_err(|source| PlanError::Statement { resource_type: *first, source: Box::new(source) })?;
        Ok(planned(job, &capability)?)
    }

    /// Proves each filter of a plan, and counts what it finds.
    pub(super) async fn prove_filters(&self, plan: &mut ExportPlan) -> Result<(), PlanError> {
        let mut filters = std::mem::take(&mut plan.filters);
        filters.retain(|name, _| plan.types.contains_key(name) || plan.context.contains(name));
        for (resource_type, filters) in &mut filters {
            let resource_type = *resource_type;
            if matches!(plan.types.get(&resource_type).map(|plan| &plan.strategy), Some(Strategy::Records)) {
                return Err(FilterProbeError::Records { resource_type }.into());
            }
            for planned in filters.iter_mut() {
                never_twice(plan, resource_type, &planned.filter)?;
                let trial = narrow::try_on(&self.upstream, plan, resource_type, planned, None, &[]).await?;
                planned.is_proven = trial == Trial::Proven;
                let Some(method) = plan.profile.counts else { continue };
                let query = planned.filter.narrow(SearchQuery::new(resource_type));
                planned.baseline = match self.upstream.count(&query, method).await {
                    Ok((count, _)) => count,
                    Err(SearchError::Refused { .. } | SearchError::Failing { .. } | SearchError::TooLarge { .. }) => {
                        None
                    }
                    Err(source) => return Err(PlanError::Search { resource_type, source }),
                };
            }
        }
        for (name, filters) in &filters {
            if let Some(plan) = plan.types.get_mut(name)
                && filters.iter().any(|planned| !planned.is_proven)
            {
                plan.assumed.insert(Assumption::NoFiltered);
            }
        }
        plan.filters = filters;
        Ok(())
    }

    /// Why a filter of a job cannot be relied on, as far as that can be told before there is a plan: whoever asks is told at
    /// once. What wants a patient to be answered the job finds out.
    pub(in crate::engine) async fn cannot_be_narrowed(&self, job: &Job) -> Option<FilterProbeError> {
        if job.filters.is_empty() {
            return None;
        }
        let capability = self.profiler.capability().await.ok()?;
        let upstream = self.upstream.urgent();
        let filters = match planned(job, &capability) {
            Ok(filters) => filters,
            Err(error) => return Some(error),
        };
        for (name, filters) in filters {
            for PlannedFilter { filter, kinds, .. } in filters {
                let all = SearchQuery::new(name);
                let bases = async {
                    if is_read_by_ids(job, name) {
                        narrow::by_ids(&upstream, all, &filter, Vec::new()).await
                    } else {
                        Ok(vec![all])
                    }
                };
                let tried = match bases.await {
                    Ok(bases) => probe::filter(&upstream, name, &bases, &filter, &kinds).await,
                    Err(error) => Err(error),
                };
                match tried {
                    Ok(Trial::Proven | Trial::Nothing)
                    | Err(FilterProbeError::Refused { .. } | FilterProbeError::Search { .. }) => {}
                    Err(error) => return Some(error),
                }
            }
        }
        None
    }
}

/// Whether an export asks for resources of a type by their ids: members of a Group, and what comes along.
fn is_read_by_ids(job: &Job, name: ResourceType) -> bool {
    let names_members = job.kickoff.level.group().is_some() || job.kickoff.patients.is_some();
    let is_member = name == ResourceType::PATIENT || name.is_member_by_itself();
    !job.types.contains(&name) || (names_members && is_member)
}

/// A search by patient that names another one as well is one that the server may take for either.
fn never_twice(plan: &ExportPlan, resource_type: ResourceType, filter: &Filter) -> Result<(), FilterProbeError> {
    let Some(Strategy::Patients { .. }) = plan.types.get(&resource_type).map(|plan| &plan.strategy) else {
        return Ok(());
    };
    let named = filter.names().find(|name| names_patients(Level::Patient, plan.compartments, resource_type, name));
    named.map_or(Ok(()), |name| Err(FilterProbeError::NamesPatients { resource_type, parameter: name.to_owned() }))
}

/// What the server lists of the parameters of a job's filters.
fn planned(job: &Job, capability: &Capability) -> Result<BTreeMap<ResourceType, Vec<PlannedFilter>>, FilterProbeError> {
    let of = |name: ResourceType, filter: &Filter| {
        let kinds = filter.names().map(|parameter| {
            let unlisted = || FilterProbeError::Unlisted { resource_type: name, parameter: parameter.to_owned() };
            capability.parameter(name, parameter).ok_or_else(unlisted)
        });
        let kinds = kinds.collect::<Result<_, _>>()?;
        Ok(PlannedFilter { filter: filter.clone(), kinds, is_proven: false, baseline: None })
    };
    let filters = job.filters.iter().map(|(name, filters)| {
        let filters = filters.iter().map(|filter| of(*name, filter)).collect::<Result<_, _>>()?;
        Ok((*name, filters))
    });
    filters.collect()
}
