//! What counting shows beyond the pages: what windows cannot see of a type, and whether anything has changed since kick-off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::worker::{Worker, WorkerError};
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::plan::Strategy;
use crate::plan::filter::FilterNo;
use crate::plan::slice::{Phase, Scope, Slice, Window};

/// Triples of counts until two in succession agree.
const MOST_TRIPLES: usize = 10;

impl Worker {
    /// Three counts in this order, until two triples running agree: at or after W, below W, all. What the last
    /// has over the other two no window can see. While somebody writes no two may ever agree. What is changed between the first
    /// two counts neither sees, so that a triple has more over than what is hidden: where nothing was made or deleted in all
    /// the time, the least of two of the same kind is believed. Where something was, a triple may have less over as well, and
    /// the one in the middle is.
    pub(super) async fn find_gaps(&mut self, types: &[ResourceType]) -> Result<(), WorkerError> {
        self.progress.count();
        let reader = self.reader.clone();
        let until = self.plan.horizon.windows_until;
        let empty = self.plan.types.iter().filter(|(_, plan)| plan.is_empty()).map(|(name, _)| *name);
        let empty: Arc<BTreeSet<_>> = Arc::new(empty.collect());
        let steps = types.iter().flat_map(|name| self.plan.steps(*name).into_iter().map(|filter| (*name, filter)));
        let steps: Vec<_> = steps.collect();
        let gaps = self
            .each(&steps, move |(resource_type, filter)| {
                let (reader, empty) = (reader.clone(), Arc::clone(&empty));
                async move {
                    let (after, before, all) = scopes(resource_type, filter, until);
                    if empty.contains(&resource_type) && reader.count(&all).await?.unwrap_or(0) == 0 {
                        return Ok(0);
                    }
                    let mut last: Option<[u64; 3]> = None;
                    let (mut over, mut alls) = (Vec::new(), BTreeSet::new());
                    for _ in 0..MOST_TRIPLES {
                        let mut triple = [0; 3];
                        for (count, slice) in triple.iter_mut().zip([&after, &before, &all]) {
                            let Some(counted) = reader.count(slice).await? else { return Ok(0) };
                            *count = counted;
                        }
                        let [after, before, all] = triple;
                        alls.insert(all);
                        let gap = |all: u64| all.saturating_sub(before.saturating_add(after));
                        // Nothing at all was there at the last count: then nothing is hidden.
                        if last == Some(triple) || all == 0 {
                            return Ok(gap(all));
                        }
                        if let Some([_, _, earlier]) = last {
                            // What was deleted since the first count of this triple was there before it.
                            over.push(gap(all.max(earlier)));
                        }
                        last = Some(triple);
                    }
                    over.sort_unstable();
                    let believed = if alls.len() == 1 { 1 } else { over.len() / 2 };
                    Ok(over.get(believed).copied().unwrap_or(0))
                }
            })
            .await?;
        let mut found: BTreeMap<ResourceType, u64> = BTreeMap::new();
        for ((name, _), gap) in gaps.into_iter().filter(|(_, gap)| *gap > 0) {
            let known = found.entry(name).or_default();
            *known = gap.max(*known);
        }
        if found.iter().any(|(name, gap)| self.running.gaps.get(name) < Some(gap)) {
            for (name, gap) in found {
                let known = self.running.gaps.entry(name).or_default();
                *known = gap.max(*known);
            }
            self.save().await?;
        }
        Ok(())
    }

    /// The types that need no sweep; one that is narrowed does: what begins to match is counted nowhere else. Of those read by
    /// windows: nothing lies at or after W, and neither their count nor what any window holds has changed since kick-off; asked
    /// in the order in which nothing can slip through. Of those read by patients, which no change moves in time: nothing lies at
    /// or after where the sweep would begin.
    pub(super) async fn quiet(&self, types: &BTreeSet<ResourceType>) -> Result<BTreeSet<ResourceType>, WorkerError> {
        let windows: BTreeSet<_> = self
            .types_by(|strategy| matches!(strategy, Strategy::Windows))
            .into_iter()
            .filter(|name| types.contains(name) && !self.plan.is_filtered(*name))
            .collect();
        if self.plan.profile.counts.is_none() {
            return Ok(BTreeSet::new());
        }
        let mut quiet = self.unchanged(windows).await?;
        for counted in self.counted_now(|name| quiet.contains(&name)).await? {
            if counted.has_changed() {
                quiet.remove(&counted.resource_type());
            }
        }
        let quiet = self.unchanged(quiet).await?;
        let reader = self.reader.clone();
        let until = self.plan.horizon.windows_until;
        let types: Vec<_> = quiet.into_iter().collect();
        let sweep_from = Millis(until.0.saturating_sub(self.plan.horizon.lag_millis));
        // Those that cannot be counted without a patient are swept.
        let counted = |name: &ResourceType| {
            !self.plan.is_filtered(*name) && self.plan.types.get(name).is_some_and(|plan| plan.baseline.is_some())
        };
        let mut by_patients = self.types_by(|strategy| matches!(strategy, Strategy::Patients { .. }));
        by_patients.retain(counted);
        let asked: Vec<_> =
            types.iter().map(|name| (*name, until)).chain(by_patients.iter().map(|name| (*name, sweep_from))).collect();
        let after = self
            .each(&asked, move |(resource_type, from)| {
                let reader = reader.clone();
                async move { Ok(reader.count(&scopes(resource_type, None, from).0).await?) }
            })
            .await?;
        let after = after.into_iter().map(|((name, _), count)| (name, count));
        Ok(after.into_iter().filter(|(_, count)| *count == Some(0)).map(|(name, _)| name).collect())
    }

    async fn unchanged(&self, types: BTreeSet<ResourceType>) -> Result<BTreeSet<ResourceType>, WorkerError> {
        let reader = self.reader.clone();
        let until = self.plan.horizon.windows_until;
        let types: Vec<_> = types.into_iter().collect();
        let all = self
            .each(&types, move |resource_type| {
                let reader = reader.clone();
                async move { Ok(reader.count(&scopes(resource_type, None, until).2).await?) }
            })
            .await?;
        let baseline = |name: &ResourceType| self.plan.types.get(name).and_then(|plan| plan.baseline);
        Ok(all
            .into_iter()
            .filter(|(name, count)| count.is_some() && *count == baseline(name))
            .map(|(name, _)| name)
            .collect())
    }
}

/// What lies at or after `until`, what lies before it, and all of the step.
fn scopes(resource_type: ResourceType, filter: Option<FilterNo>, until: Millis) -> (Slice, Slice, Slice) {
    let slice = |window| Slice { phase: Phase::Gap, resource_type, filter, scope: Scope::Window(window) };
    let after = slice(Window { from: Some(until), until: None });
    let before = slice(Window { from: None, until: Some(until) });
    (after, before, slice(Window::ALL))
}
