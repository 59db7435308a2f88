//! What counting shows beyond the pages: what windows cannot see of a type, and whether anything has changed since kick-off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::read::{ReadError, Reader};
use super::worker::{Worker, WorkerError};
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::plan::filter::FilterNo;
use crate::plan::slice::{Phase, Scope, Slice, Window};
use crate::plan::{Strategy, TypePlan};

/// Triples of counts until two in succession agree.
const MOST_TRIPLES: usize = 10;

impl Worker {
    /// Looks for what no window can see, and gives the types of which nothing lay at or after W.
    pub(super) async fn find_gaps(&mut self, types: &[ResourceType]) -> Result<BTreeSet<ResourceType>, WorkerError> {
        self.progress.count();
        let reader = self.reader.clone();
        let until = self.plan.horizon.windows_until;
        let steps = types.iter().flat_map(|name| self.plan.steps(*name).into_iter().map(|filter| (*name, filter)));
        let steps: Vec<_> = steps.collect();
        let plan = Arc::clone(&self.plan);
        let found = self
            .each(&steps, move |(resource_type, filter)| {
                let (reader, scopes) = (reader.clone(), Scopes::new(resource_type, filter, until));
                let was_empty = plan.types.get(&resource_type).is_some_and(TypePlan::is_empty);
                async move { if was_empty { late(&reader, &scopes).await } else { hidden(&reader, &scopes).await } }
            })
            .await?;
        let mut still: BTreeSet<_> = types.iter().copied().collect();
        let mut gaps: BTreeMap<ResourceType, u64> = BTreeMap::new();
        for ((name, _), Hidden { resources, is_still }) in found {
            if !is_still {
                still.remove(&name);
            }
            if resources > 0 {
                let known = gaps.entry(name).or_default();
                *known = resources.max(*known);
            }
        }
        if gaps.iter().any(|(name, gap)| self.running.gaps.get(name) < Some(gap)) {
            for (name, gap) in gaps {
                let known = self.running.gaps.entry(name).or_default();
                *known = gap.max(*known);
            }
            self.save().await?;
        }
        Ok(still)
    }

    /// Those of these types read by windows of which nothing lies at or after W.
    pub(super) async fn still(&self, types: &[ResourceType]) -> Result<BTreeSet<ResourceType>, WorkerError> {
        if self.plan.profile.counts.is_none() {
            return Ok(BTreeSet::new());
        }
        let until = self.plan.horizon.windows_until;
        let types = types.iter().filter(|name| !self.plan.is_filtered(**name));
        self.nothing_after(types.map(|name| (*name, until)).collect()).await
    }

    /// The types that need no sweep; one that is narrowed does: what begins to match is counted nowhere else. Of those read by
    /// windows: nothing lay at or after W before what any window holds was counted again, that had not changed (both are so of
    /// `still`), their count has not changed since kick-off, and once more nothing lies at or after W: what moved away before
    /// its window was read would be seen there. Of those read by patients, which no change moves in time: nothing lies at or
    /// after where the sweep would begin.
    pub(super) async fn quiet(
        &self,
        types: &BTreeSet<ResourceType>,
        still: &BTreeSet<ResourceType>,
    ) -> Result<BTreeSet<ResourceType>, WorkerError> {
        if self.plan.profile.counts.is_none() {
            return Ok(BTreeSet::new());
        }
        let mut windows = self.types_by(|strategy| matches!(strategy, Strategy::Windows));
        windows.retain(|name| types.contains(name) && still.contains(name) && !self.plan.is_filtered(*name));
        let is_empty = |name: &ResourceType| self.plan.types.get(name).is_some_and(TypePlan::is_empty);
        // Where nothing was just now, nothing lies after W, and nothing has changed.
        let (empty, windows): (Vec<_>, Vec<_>) = windows.into_iter().partition(is_empty);
        let windows = self.unchanged(windows).await?;
        let until = self.plan.horizon.windows_until;
        let sweep_from = Millis(until.0.saturating_sub(self.plan.horizon.lag_millis));
        // Those that cannot be counted without a patient are swept.
        let counted = |name: &ResourceType| {
            !self.plan.is_filtered(*name) && self.plan.types.get(name).is_some_and(|plan| plan.baseline.is_some())
        };
        let mut by_patients = self.types_by(|strategy| matches!(strategy, Strategy::Patients { .. }));
        by_patients.retain(counted);
        let asked: Vec<_> = windows
            .iter()
            .map(|name| (*name, until))
            .chain(by_patients.iter().map(|name| (*name, sweep_from)))
            .collect();
        let mut quiet = self.nothing_after(asked).await?;
        quiet.extend(empty);
        Ok(quiet)
    }

    /// Those of these types of which nothing lies at or after these times.
    async fn nothing_after(&self, asked: Vec<(ResourceType, Millis)>) -> Result<BTreeSet<ResourceType>, WorkerError> {
        let reader = self.reader.clone();
        let after = self
            .each(&asked, move |(resource_type, from)| {
                let reader = reader.clone();
                async move { Ok(reader.count(&Scopes::new(resource_type, None, from).after).await?) }
            })
            .await?;
        let after = after.into_iter().map(|((name, _), count)| (name, count));
        Ok(after.filter(|(_, count)| *count == Some(0)).map(|(name, _)| name).collect())
    }

    /// Those of which as many are there as at kick-off.
    async fn unchanged(&self, types: Vec<ResourceType>) -> Result<Vec<ResourceType>, WorkerError> {
        let reader = self.reader.clone();
        let until = self.plan.horizon.windows_until;
        let all = self
            .each(&types, move |resource_type| {
                let reader = reader.clone();
                async move { Ok(reader.count(&Scopes::new(resource_type, None, until).all).await?) }
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

/// What of a step no window can see.
struct Hidden {
    resources: u64,
    /// Nothing lay at or after W.
    is_still: bool,
}

/// The scopes that are counted of a step.
struct Scopes {
    after: Slice,
    before: Slice,
    all: Slice,
}

impl Scopes {
    /// What lies at or after `until`, what lies before it, and all of the step.
    fn new(resource_type: ResourceType, filter: Option<FilterNo>, until: Millis) -> Self {
        let slice = |window| Slice { phase: Phase::Gap, resource_type, filter, scope: Scope::Window(window) };
        Self {
            after: slice(Window { from: Some(until), until: None }),
            before: slice(Window { from: None, until: Some(until) }),
            all: slice(Window::ALL),
        }
    }
}

/// Of a type that was planned as an empty one and so has been read by no window: what lies before W is hidden. A server that
/// had not seen it yet, or one of two that had not, counted none.
async fn late(reader: &Reader, scopes: &Scopes) -> Result<Hidden, ReadError> {
    let nothing = |is_still| Ok(Hidden { resources: 0, is_still });
    let Some(all) = reader.count(&scopes.all).await? else { return nothing(false) };
    if all == 0 {
        return nothing(true);
    }
    match reader.count(&scopes.before).await? {
        Some(before) => Ok(Hidden { resources: before, is_still: false }),
        None => nothing(false),
    }
}

/// All, what lies before W, that again, and all once more: if they are as many, nothing is hidden, as what lies before W only becomes
/// less between the first two; but for what is committed late, of which just as many would have to come as are hidden, and to go again
/// before the last one. What lies before W is counted twice so that two replicas that are asked in turn both tell of it. Where it is
/// not so, three counts follow in this order, until two triples running agree: at or after W,
/// before W, all. What the last has over the other two no window can see. While somebody writes no two may ever agree. What is
/// changed between the first two counts neither sees, so that a triple has more over than what is hidden: where nothing was
/// made or deleted in all the time, the least of two of the same kind is believed. Where something was, a triple may have
/// less over as well, and the one in the middle is.
async fn hidden(reader: &Reader, scopes: &Scopes) -> Result<Hidden, ReadError> {
    let nothing = |is_still| Ok(Hidden { resources: 0, is_still });
    let Some(all) = reader.count(&scopes.all).await? else { return nothing(false) };
    // Nothing at all is there: then nothing is hidden.
    if all == 0 {
        return nothing(true);
    }
    let mut agree = true;
    for scope in [&scopes.before, &scopes.before, &scopes.all] {
        agree = agree && reader.count(scope).await? == Some(all);
    }
    if agree {
        return nothing(true);
    }
    let mut last: Option<[u64; 3]> = None;
    let (mut over, mut alls) = (Vec::new(), BTreeSet::new());
    for _ in 0..MOST_TRIPLES {
        let mut triple = [0; 3];
        for (count, slice) in triple.iter_mut().zip([&scopes.after, &scopes.before, &scopes.all]) {
            let Some(counted) = reader.count(slice).await? else { return nothing(false) };
            *count = counted;
        }
        let [after, before, all] = triple;
        alls.insert(all);
        let gap = |all: u64| all.saturating_sub(before.saturating_add(after));
        if last == Some(triple) || all == 0 {
            return Ok(Hidden { resources: gap(all), is_still: after == 0 });
        }
        if let Some([_, _, earlier]) = last {
            // What was deleted since the first count of this triple was there before it.
            over.push(gap(all.max(earlier)));
        }
        last = Some(triple);
    }
    over.sort_unstable();
    let believed = if alls.len() == 1 { 1 } else { over.len() / 2 };
    Ok(Hidden { resources: over.get(believed).copied().unwrap_or(0), is_still: false })
}
