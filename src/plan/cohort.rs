//! Per level: which searches reach which patients, in what batches.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ExportPlan;
use super::slice::{Scope, Slice};
use crate::fhir::datatypes::Id;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::Manner;
use crate::profile::Profile;

/// How many patients one search asks for at most; a batch that does not fit a page is halved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lists {
    pub(crate) patients: usize,
    /// Their ids and what stands around them.
    pub(crate) bytes: usize,
}

impl Lists {
    /// Several in one search are not proven to be found.
    pub(crate) const NONE: Self = Self { patients: 1, bytes: 0 };
    /// Below the 2 kB that every server and gateway takes as a URL.
    pub(crate) const IN_A_URL: Self = Self { patients: 50, bytes: 1_700 };
    /// What is asked for by POST.
    pub(crate) const IN_A_FORM: Self = Self { patients: 200, bytes: 10_000 };

    /// The same, with no more than so many bytes.
    pub(crate) fn within(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.min(bytes), ..self }
    }

    /// The same where so many bytes stand beside it.
    pub(crate) fn beside(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.saturating_sub(bytes), ..self }
    }
}

impl ExportPlan {
    /// Those whom searches of a type ask for in batches of which each is of newcomers or of others.
    pub(super) fn batches(&self, resource_type: ResourceType, lists: Lists) -> Vec<Range<u32>> {
        let (asked, newcomers) = (self.asked_of(resource_type), self.newcomers_of(resource_type));
        if newcomers.is_empty() {
            return batches(asked, lists);
        }
        let is_new = |id: &Id| newcomers.0.binary_search(id).is_ok();
        let mut begin = 0;
        let runs = asked.chunk_by(|one, next| is_new(one) == is_new(next)).flat_map(|run| {
            let first = begin;
            begin += u32::try_from(run.len()).unwrap_or(u32::MAX);
            batches(run, lists).into_iter().map(move |batch| first + batch.start..first + batch.end)
        });
        runs.collect()
    }

    /// The first and the last of those whom searches of a type by `link` ask for, so many as a URL may name.
    pub(crate) fn some_asked_by(&self, link: &str, resource_type: ResourceType) -> Vec<&[Id]> {
        let in_a_url = self.lists_in_a_url(resource_type);
        let lists = self.lists(link, resource_type);
        let lists = Lists { patients: lists.patients.min(in_a_url.patients), ..lists.within(in_a_url.bytes) };
        let asked = self.asked_of(resource_type);
        let batches = batches(asked, lists);
        let last = batches.last().filter(|_| batches.len() > 1);
        let ends = batches.first().into_iter().chain(last);
        ends.filter_map(|batch| asked.get(batch.start as usize..batch.end as usize)).collect()
    }

    /// How many patients one search of a type by `link` may ask for.
    pub(super) fn lists(&self, link: &str, resource_type: ResourceType) -> Lists {
        let Profile { id_lists, or_lists, post, .. } = self.profile;
        match link {
            "_id" if id_lists => Lists::IN_A_URL.beside(self.filter_bytes(resource_type)),
            "_id" => Lists::NONE,
            _ if or_lists && post => Lists::IN_A_FORM,
            _ if or_lists => self.lists_in_a_url(resource_type),
            _ => Lists::NONE,
        }
    }

    fn lists_in_a_url(&self, resource_type: ResourceType) -> Lists {
        let most = self.profile.url_most_bytes.and_then(|most| usize::try_from(most).ok());
        Lists::IN_A_URL.within(most.unwrap_or(usize::MAX)).beside(self.filter_bytes(resource_type))
    }

    /// How the searches of a slice are sent: by POST what is too long for a URL, where that is known to be the same.
    pub(crate) fn manner(&self, slice: &Slice) -> Manner {
        match &slice.scope {
            Scope::Patients { link, members, .. } if self.profile.post && members.len() > 1 && &**link != "_id" => {
                let asked = self.asked_of(slice.resource_type);
                let asked = asked.get(members.start as usize..members.end as usize).unwrap_or_default();
                let in_a_url = batches(asked, self.lists_in_a_url(slice.resource_type)).len() <= 1;
                if in_a_url { Manner::Get } else { Manner::Post }
            }
            Scope::Patients { .. }
            | Scope::Record { .. }
            | Scope::Window(_)
            | Scope::Ids { .. }
            | Scope::Targets { .. } => Manner::Get,
        }
    }
}

/// What stands around an id: a comma and `Patient/`, escaped.
pub(crate) const AROUND: usize = 13;

/// `members` in batches.
pub(crate) fn batches(members: &[Id], lists: Lists) -> Vec<Range<u32>> {
    batches_by(members, lists, |member| member.as_str().len() + AROUND)
}

/// What is listed in batches, each of which takes so many bytes.
pub(super) fn batches_by<T>(listed: &[T], lists: Lists, taken: impl Fn(&T) -> usize) -> Vec<Range<u32>> {
    let mut batches: Vec<Range<u32>> = Vec::new();
    let mut bytes = 0;
    for (number, one) in (0..).zip(listed) {
        bytes += taken(one);
        match batches.last_mut() {
            Some(batch) if batch.len() < lists.patients && bytes <= lists.bytes => batch.end = number + 1,
            Some(_) | None => {
                bytes = taken(one);
                batches.push(number..number + 1);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize, length: usize) -> Vec<Id> {
        (0..count).map(|number| Id::parse(&format!("{number:0length$}")).expect("digits")).collect()
    }

    /// DS-009: an empty Group yields no search at all, never one without a filter.
    #[test]
    fn no_member_means_no_batch() {
        assert_eq!(batches(&[], Lists::IN_A_URL), vec![]);
        assert_eq!(batches(&ids(1, 3), Lists::IN_A_URL), vec![0..1]);
    }

    #[test]
    fn batches_fit_into_a_url_and_leave_nobody_out() {
        assert_eq!(batches(&ids(120, 3), Lists::IN_A_URL), vec![0..50, 50..100, 100..120]);
        assert_eq!(batches(&ids(3, 3), Lists::NONE), vec![0..1, 1..2, 2..3]);
        let uuids = batches(&ids(100, 36), Lists::IN_A_URL);
        assert!(uuids.iter().all(|batch| batch.len() * (36 + AROUND) <= Lists::IN_A_URL.bytes), "{uuids:?}");
        let short = batches(&ids(100, 36), Lists::IN_A_URL.within(200));
        assert!(short.iter().all(|batch| batch.len() == 4), "{short:?}");
        assert_eq!(batches(&ids(450, 36), Lists::IN_A_FORM), vec![0..200, 200..400, 400..450]);
        let longest = batches(&ids(100, 64), Lists::IN_A_URL);
        assert_eq!(longest.iter().map(ExactSizeIterator::len).sum::<usize>(), 100, "{longest:?}");
        assert!(longest.windows(2).all(|pair| pair[0].end == pair[1].start), "{longest:?}");
    }
}
