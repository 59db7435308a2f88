//! Who is in a cohort that filters tell: nobody by a filter that the server is not seen to heed (SEC-21).

use std::collections::BTreeSet;

use super::{PlanError, Planner};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::capability::{Capability, ParameterKind};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, LocalReference, Millis};
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::Job;
use crate::job::cohort::{CohortOfJob, MemberSearch};
use crate::plan::Cohort;
use crate::profile::Profile;
use crate::smart::admit::Grant;
use crate::upstream::client::Upstream;
use crate::upstream::group::{GroupError, Members};
use crate::upstream::probe::{self, FilterProbeError, Listing, Trial};

impl Planner {
    /// The patients whom a filter of Patient finds.
    pub(in crate::engine) async fn found_by(&self, filter: &Filter, profile: &Profile) -> Result<Members, PlanError> {
        let resource_type = ResourceType::PATIENT;
        let trial = self.try_filter(&self.upstream, resource_type, filter).await?;
        let listing = self.listing(profile);
        let patients = probe::all_patients(&self.upstream, listing, filter).await?;
        relied_on(trial, resource_type, filter, patients.is_empty())?;
        Ok(Members { patients, ..Members::default() })
    }

    /// Who is in a client's cohort: those among its members, if it names any, whom all of its searches find.
    pub(in crate::engine) async fn members_of(
        &self,
        job: &Job,
        cohort: &CohortOfJob,
        now: Millis,
        profile: &Profile,
    ) -> Result<Members, PlanError> {
        let (mut found, mut left_out) = (None, 0);
        if let Some(listed) = &cohort.members {
            let mut all = listed.patients.clone();
            for group in &listed.groups {
                let members = Box::pin(self.members(job, group, now, profile)).await?;
                left_out += members.left_out;
                all.extend(members.patients);
            }
            found = Some(all);
        }
        // Patients themselves are the fewest.
        let (first, then): (Vec<_>, Vec<_>) =
            cohort.searches.iter().partition(|search| search.resource_type == ResourceType::PATIENT);
        for search in first.into_iter().chain(then) {
            if found.as_ref().is_some_and(BTreeSet::is_empty) {
                break;
            }
            let passing = self.found_by_any(job, search, profile).await?;
            found = Some(match found {
                None => passing,
                Some(found) => found.intersection(&passing).cloned().collect(),
            });
        }
        // Without any filter it would be everybody (SEC-25).
        let patients: Vec<_> = found.filter(|_| !cohort.searches.is_empty()).into_iter().flatten().collect();
        if patients.len() > self.most_members {
            return Err(GroupError::TooLarge(self.most_members).into());
        }
        Ok(Members { patients, left_out, ..Members::default() })
    }

    /// The patients whom any filter of a search finds: themselves, or by what lies in their compartments.
    async fn found_by_any(
        &self,
        job: &Job,
        MemberSearch { resource_type, filters }: &MemberSearch,
        profile: &Profile,
    ) -> Result<BTreeSet<Id>, PlanError> {
        let resource_type = *resource_type;
        let bases: Vec<String> = self.upstream.bases().into_iter().map(str::to_owned).collect();
        // What is kept back from this client tells it nothing, be it by whom it finds.
        let grant = Grant::new(Cohort::Everything, job.compartments, vec![resource_type], Vec::new(), bases.clone());
        let grant = grant.within(job.owner.policy(), self.rights.consent());
        let subjects = |entry: &Entry| {
            if grant.bars(entry) { Vec::new() } else { subjects(entry, job.compartments, &bases) }
        };
        let mut all = BTreeSet::new();
        for filter in filters {
            let trial = self.try_filter(&self.upstream, resource_type, filter).await?;
            let query = filter.narrow(SearchQuery::new(resource_type));
            let scope = Scope::of(resource_type).with_references();
            let found = probe::subjects(&self.upstream, self.listing(profile), &query, scope, &subjects).await?;
            relied_on(trial, resource_type, filter, found.is_of_nothing)?;
            all.extend(found.patients);
        }
        Ok(all)
    }

    /// Why the searches of a cohort cannot be relied on, before there is one.
    pub(in crate::engine) async fn cannot_find_members(&self, searches: &[MemberSearch]) -> Result<(), PlanError> {
        let upstream = self.upstream.urgent();
        for MemberSearch { resource_type, filters } in searches {
            for filter in filters {
                self.try_filter(&upstream, *resource_type, filter).await?;
            }
        }
        Ok(())
    }

    pub(super) fn listing(&self, profile: &Profile) -> Listing {
        Listing {
            counts: profile.counts,
            links_are_stable: profile.links_are_stable(),
            page_resources: self.page_resources,
            most: self.most_members,
        }
    }

    /// Tries a filter by a search for all of a type.
    async fn try_filter(
        &self,
        upstream: &Upstream,
        resource_type: ResourceType,
        filter: &Filter,
    ) -> Result<Trial, PlanError> {
        let statement = |source| PlanError::Statement { resource_type, source: Box::new(source) };
        let capability = self.profiler.capability().await.map_err(statement)?;
        let kinds = kinds(&capability, resource_type, filter)?;
        let all = [SearchQuery::new(resource_type)];
        Ok(probe::filter(upstream, resource_type, &all, filter, &kinds).await?)
    }
}

/// The kinds of a filter's parameters, of which each value has to be one.
fn kinds(
    capability: &Capability,
    resource_type: ResourceType,
    filter: &Filter,
) -> Result<Vec<ParameterKind>, FilterProbeError> {
    let kind = |name: &str| {
        let parameter = || name.to_owned();
        let kind = capability.parameter(resource_type, name);
        let kind = kind.ok_or_else(|| FilterProbeError::Unlisted { resource_type, parameter: parameter() })?;
        // A server that passes over what it cannot read finds everybody.
        let checked = filter.check_kind(name, kind);
        checked.map_err(|_| FilterProbeError::Unproven { resource_type, parameter: parameter() })?;
        Ok(kind)
    };
    filter.names().map(kind).collect()
}

/// Where no witness was found nobody may be found.
fn relied_on(trial: Trial, resource_type: ResourceType, filter: &Filter, is_of_nothing: bool) -> Result<(), PlanError> {
    match trial {
        Trial::Nothing if !is_of_nothing => {
            let parameter = filter.names().next().unwrap_or_default().to_owned();
            Err(FilterProbeError::Unproven { resource_type, parameter }.into())
        }
        Trial::Nothing | Trial::Proven => Ok(()),
    }
}

/// The patients in whose compartments a resource lies; a patient is its own.
fn subjects(entry: &Entry, compartments: Compartments, bases: &[String]) -> Vec<Id> {
    if entry.resource_type == ResourceType::PATIENT {
        return vec![entry.id.clone()];
    }
    let bases: Vec<&str> = bases.iter().map(String::as_str).collect();
    let is_link = |path: &str| compartments.links(entry.resource_type).any(|link| link.paths.contains(&path));
    let linked = entry.references.iter().filter(|reference| is_link(&reference.path));
    let targets = linked.filter_map(|reference| LocalReference::parse_on(&reference.target, &bases));
    targets.filter(|target| target.resource_type == ResourceType::PATIENT).map(|target| target.id).collect()
}
