//! Group members: who they are at the moment of kick-off (spec section 6.4).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::client::{Room, SearchError, Upstream};
use crate::fhir::bundle::Scope;
use crate::fhir::datatypes::{Id, Instant, LocalReference, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::plan::Others;

/// Groups within groups that one export expands.
const MOST_GROUPS: usize = 100;
/// How long it may take to find out who was in one of them before.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is in a Group now.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Sorted; the empty list is an answer too.
    pub(crate) patients: Vec<Id>,
    /// Those of them who were no members at the instant that was asked about, or may have been none. Sorted.
    pub(crate) newcomers: Vec<Id>,
    /// Members that are no patients and nobody's, such as practitioners and devices.
    pub(crate) others: BTreeMap<ResourceType, Others>,
    /// Members of types that are no members by themselves, or that no reference of ours leads to.
    pub(crate) left_out: u64,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { patients, newcomers, others, left_out } = self;
        let others: usize = others.values().map(|others| others.all.0.len()).sum();
        let (patients, new) = (patients.len(), newcomers.len());
        write!(f, "Members({patients} patients, {new} of them new, {others} others, {left_out} left out)")
    }
}

/// Why a Group cannot be exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// It is not there, or we may not see it: the same answer for both.
    #[error("there is no such Group")]
    Unknown,
    #[error("the Group is not active")]
    Inactive,
    /// It says who belongs by traits, and lists nobody.
    #[error("the Group has characteristics and no list of members; only lists are supported")]
    Characteristics,
    /// A modifier extension changes its meaning in a way that we do not know.
    #[error("the Group carries a modifier extension that is not supported")]
    ModifierExtension,
    #[error("the Group has more than {0} members")]
    TooLarge(usize),
    #[error("the Group contains more than {MOST_GROUPS} other groups")]
    TooDeep,
    /// It is a cohort of ours.
    #[error("the file of the cohort's identifiers cannot be read")]
    Identifiers,
    #[error("the upstream's Group cannot be read")]
    Malformed,
    #[error("the Group could not be fetched")]
    Upstream(#[source] SearchError),
}

/// Which moments membership is judged at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    pub(crate) now: Millis,
    /// It is to be told who was no member at this instant.
    pub(crate) since: Option<Instant>,
}

/// Resolves the members of a Group and of the groups in it that it may be `expanded` to.
pub(crate) async fn members(
    upstream: &Upstream,
    id: &Id,
    most: usize,
    when: When,
    expanded: &(dyn Fn(&Id) -> bool + Sync),
) -> Result<Members, GroupError> {
    let bases = upstream.bases();
    let mut found = Found { most, ..Found::default() };
    found.groups.insert(id.clone(), false);
    found.waiting.push_back(id.clone());
    while let Some(next) = found.waiting.pop_front() {
        let is_root = next == *id;
        let Some(body) = read(upstream, &next).await? else {
            if is_root {
                return Err(GroupError::Unknown);
            }
            found.left_out += 1;
            continue;
        };
        let group = Group::parse(&body, &next)?;
        let checked = group.check()?;
        if is_root {
            checked?;
        } else if checked.is_err() {
            found.left_out += 1;
            continue;
        }
        let is_new = found.groups.get(&next).copied().unwrap_or_default();
        let then = match when.since {
            // Whoever came by a group that is new is.
            Some(since) if !is_new => group.then(upstream, &next, since).await,
            Some(_) | None => Then::Nobody,
        };
        group.each_member(|member| {
            if !member.is_current(when.now) {
                return;
            }
            let is_new =
                |target: &LocalReference| when.since.is_some_and(|since| is_new || then.lacks(&member, target, since));
            match member.target(&bases) {
                Some(target) if target.resource_type == ResourceType::PATIENT => {
                    let is_new = is_new(&target);
                    found.patient(target.id, is_new);
                }
                Some(target) if target.resource_type == ResourceType::GROUP && expanded(&target.id) => {
                    let is_new = is_new(&target);
                    found.group(target.id, is_new);
                }
                Some(target) if target.resource_type.is_member_by_itself() => {
                    let is_new = is_new(&target);
                    found.other(target, is_new);
                }
                Some(_) | None => found.left_out += 1,
            }
        })?;
        found.check()?;
    }
    Ok(found.members())
}

async fn read(upstream: &Upstream, id: &Id) -> Result<Option<Vec<u8>>, GroupError> {
    upstream.read(ResourceType::GROUP, id).await.map_err(|error| match error {
        SearchError::Refused { .. } => GroupError::Unknown,
        SearchError::TooLarge { .. }
        | SearchError::GaveUp { .. }
        | SearchError::Failing { .. }
        | SearchError::Link
        | SearchError::Unauthorized => GroupError::Upstream(error),
    })
}

/// What was found so far, and what is still to be read. Of patients and groups it is known whether they are new: they are
/// not if any way leads to them by which they were members before.
#[derive(Default)]
struct Found {
    most: usize,
    patients: BTreeMap<Id, bool>,
    others: BTreeMap<LocalReference, bool>,
    groups: BTreeMap<Id, bool>,
    waiting: VecDeque<Id>,
    left_out: u64,
}

impl Found {
    fn patient(&mut self, id: Id, is_new: bool) {
        // One more than may be is enough to know that it is too many.
        if self.count() <= self.most {
            let known = self.patients.entry(id).or_insert(is_new);
            *known &= is_new;
        }
    }

    fn other(&mut self, member: LocalReference, is_new: bool) {
        if self.count() <= self.most {
            let known = self.others.entry(member).or_insert(is_new);
            *known &= is_new;
        }
    }

    fn count(&self) -> usize {
        self.patients.len() + self.others.len()
    }

    fn group(&mut self, id: Id, is_new: bool) {
        if self.groups.len() > MOST_GROUPS {
            return;
        }
        let known = self.groups.get(&id).copied();
        // Once more, if those in it turn out to be no newcomers.
        if known.is_none_or(|was_new| was_new && !is_new) {
            self.groups.insert(id.clone(), is_new);
            self.waiting.push_back(id);
        }
    }

    fn check(&self) -> Result<(), GroupError> {
        if self.count() > self.most {
            return Err(GroupError::TooLarge(self.most));
        }
        if self.groups.len() > MOST_GROUPS { Err(GroupError::TooDeep) } else { Ok(()) }
    }

    fn members(self) -> Members {
        let newcomers = self.patients.iter().filter(|(_, is_new)| **is_new).map(|(id, _)| id.clone()).collect();
        let mut others: BTreeMap<ResourceType, Others> = BTreeMap::new();
        // In their order, in which those of one type are sorted.
        for (LocalReference { resource_type, id }, is_new) in self.others {
            let of_type = others.entry(resource_type).or_default();
            if is_new {
                of_type.newcomers.0.push(id.clone());
            }
            of_type.all.0.push(id);
        }
        Members { newcomers, others, patients: self.patients.into_keys().collect(), left_out: self.left_out }
    }
}

/// Who was in one Group at an instant.
enum Then {
    /// As now: it has not changed since.
    AsNow,
    /// These, as its history tells.
    These(BTreeSet<LocalReference>),
    /// Nobody, or nobody knows whom.
    Nobody,
}

impl Then {
    /// Whether a member was none at that instant, or may have been none.
    fn lacks(&self, member: &Member, target: &LocalReference, since: Instant) -> bool {
        let start = member.period.as_ref().and_then(|period| period.start.as_deref());
        match (start, self) {
            // Since when somebody belongs to it may be written down later, and a pause may end.
            (_, Self::These(members)) if !members.contains(target) => true,
            // What it says itself goes before what was written when. In doubt within a day, say, they are new.
            (Some(start), _) => bound(start, true).is_none_or(|start| start > since.floor_millis()),
            (None, Self::AsNow | Self::These(_)) => false,
            (None, Self::Nobody) => true,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group<'a> {
    #[serde(default, borrow)]
    resource_type: Cow<'a, str>,
    #[serde(default, borrow)]
    id: Cow<'a, str>,
    active: Option<bool>,
    /// R4: without it there are no members but traits.
    actual: Option<bool>,
    /// R5: `definitional` or `enumerated`.
    #[serde(borrow)]
    membership: Option<Cow<'a, str>>,
    /// As it came: a list of a million is never held in parts.
    #[serde(borrow)]
    member: Option<&'a RawValue>,
    #[serde(default)]
    characteristic: Vec<IgnoredAny>,
    #[serde(default)]
    modifier_extension: Vec<IgnoredAny>,
    #[serde(borrow)]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow)]
    last_updated: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    entity: Option<Entity>,
    inactive: Option<bool>,
    period: Option<Period>,
    #[serde(default)]
    modifier_extension: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Entity {
    reference: Option<String>,
}

#[derive(Deserialize)]
struct Period {
    start: Option<String>,
    end: Option<String>,
}

impl<'a> Group<'a> {
    /// SEC-23: whatever else comes under a Group's address says nothing of its members.
    fn parse(body: &'a [u8], id: &Id) -> Result<Self, GroupError> {
        let group: Self = serde_json::from_slice(body).map_err(|_| GroupError::Malformed)?;
        let is_it = group.resource_type == ResourceType::GROUP.as_str() && group.id == id.as_str();
        if is_it { Ok(group) } else { Err(GroupError::Malformed) }
    }

    /// Who was in it at an instant.
    async fn then(&self, upstream: &Upstream, id: &Id, since: Instant) -> Then {
        let changed = self.meta.as_ref().and_then(|meta| Instant::parse(meta.last_updated.as_deref()?).ok());
        if changed.is_some_and(|changed| changed <= since) {
            return Then::AsNow;
        }
        let scope = Scope::of(ResourceType::GROUP);
        // Whatever fails here means no more than that nobody knows.
        let upstream = upstream.within(PATIENCE);
        let Ok(Some(version)) = upstream.version_at(ResourceType::GROUP, id, since, scope, Room::Share).await else {
            return Then::Nobody;
        };
        let Ok(before) = Group::parse(&version.line, id) else { return Then::Nobody };
        // One that could not be exported had nobody in it that an export could have held.
        if !matches!(before.check(), Ok(Ok(()))) {
            return Then::Nobody;
        }
        let bases = upstream.bases();
        let mut members = BTreeSet::new();
        let read = before.each_member(|member| {
            if member.is_current(since.floor_millis()) {
                members.extend(member.target(&bases));
            }
        });
        if read.is_ok() { Then::These(members) } else { Then::Nobody }
    }

    /// Whether it is one that can be exported: inside, why not; outside, that its list cannot be read.
    fn check(&self) -> Result<Result<(), GroupError>, GroupError> {
        let mut members = 0_u64;
        self.each_member(|_| members += 1)?;
        let is_of_traits = self.actual == Some(false) || self.membership.as_deref() == Some("definitional");
        Ok(if self.active == Some(false) {
            Err(GroupError::Inactive)
        } else if !self.modifier_extension.is_empty() {
            Err(GroupError::ModifierExtension)
        } else if members == 0 && (!self.characteristic.is_empty() || is_of_traits) {
            Err(GroupError::Characteristics)
        } else {
            Ok(())
        })
    }

    /// Hands on one member after the other.
    fn each_member(&self, take: impl FnMut(Member)) -> Result<(), GroupError> {
        let Some(list) = self.member else { return Ok(()) };
        let mut list = serde_json::Deserializer::from_str(list.get());
        list.deserialize_seq(EachMember(take)).map_err(|_| GroupError::Malformed)
    }
}

struct EachMember<F>(F);

impl<'de, F: FnMut(Member)> Visitor<'de> for EachMember<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of members")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some(member) = members.next_element()? {
            (self.0)(member);
        }
        Ok(())
    }
}

impl Member {
    /// DS-010: neither inactive, nor ended, nor yet to come. What cannot be read of a period counts as outside:
    /// nobody is exported on a guess.
    fn is_current(&self, now: Millis) -> bool {
        if self.inactive == Some(true) || !self.modifier_extension.is_empty() {
            return false;
        }
        let Some(period) = &self.period else { return true };
        let begun = period.start.as_deref().is_none_or(|start| bound(start, false).is_some_and(|start| start <= now));
        let open = period.end.as_deref().is_none_or(|end| bound(end, true).is_some_and(|end| now <= end));
        begun && open
    }

    fn target(&self, bases: &[&str]) -> Option<LocalReference> {
        LocalReference::parse_on(self.entity.as_ref()?.reference.as_deref()?, bases)
    }
}

/// The first moment that a FHIR `dateTime` of any precision covers, or the last one; dates without a zone are UTC.
fn bound(text: &str, last: bool) -> Option<Millis> {
    use chrono::{Days, Months, NaiveDate, NaiveTime};
    if text.contains('T') {
        return Instant::parse(text).ok().map(Instant::floor_millis);
    }
    let first = |year, month, day| NaiveDate::from_ymd_opt(year, month, day);
    let part =
        |range: std::ops::Range<usize>| text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let year: i32 = part(0..4)?.parse().ok()?;
    let (begin, next) = match text.len() {
        4 => (first(year, 1, 1)?, first(year + 1, 1, 1)?),
        7 => {
            let begin = first(year, part(5..7)?.parse().ok()?, 1)?;
            (begin, begin.checked_add_months(Months::new(1))?)
        }
        10 => {
            let begin = first(year, part(5..7)?.parse().ok()?, part(8..10)?.parse().ok()?)?;
            (begin, begin.checked_add_days(Days::new(1))?)
        }
        _ => return None,
    };
    let millis = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
    Some(Millis(if last { millis(next) - 1 } else { millis(begin) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), GroupError> {
        let group: Group<'_> = serde_json::from_str(json).expect("a Group");
        group.check()?
    }

    /// DS-010
    #[test]
    fn inactive_ended_and_future_members_are_left_out() {
        let now = Instant::parse("2026-06-15T12:00:00Z").expect("an instant").floor_millis();
        for (member, expected) in [
            (r"{}", true),
            (r#"{"inactive":true}"#, false),
            (r#"{"inactive":false}"#, true),
            (r#"{"period":{"start":"2026-06-15"}}"#, true),
            (r#"{"period":{"start":"2026-06-16"}}"#, false),
            (r#"{"period":{"end":"2026-06-15"}}"#, true),
            (r#"{"period":{"end":"2026-06"}}"#, true),
            (r#"{"period":{"end":"2025"}}"#, false),
            (r#"{"period":{"end":"2026-06-15T11:59:59Z"}}"#, false),
            (r#"{"period":{"end":"nonsense"}}"#, false),
            (r#"{"modifierExtension":[{"url":"x"}]}"#, false),
        ] {
            let member: Member = serde_json::from_str(member).expect("a member");
            assert_eq!(member.is_current(now), expected);
        }
    }

    /// DS-009, spec 6.4: whoever is not listed is not exported.
    #[test]
    fn a_group_without_a_list_is_refused_unless_it_is_simply_empty() {
        assert!(check(r#"{"actual":true}"#).is_ok());
        assert!(check(r#"{"actual":false,"member":[{}]}"#).is_ok());
        assert!(matches!(check(r#"{"actual":false,"characteristic":[{}]}"#), Err(GroupError::Characteristics)));
        assert!(matches!(check(r#"{"actual":false,"member":[]}"#), Err(GroupError::Characteristics)));
        assert!(matches!(check(r#"{"membership":"definitional"}"#), Err(GroupError::Characteristics)));
        assert!(check(r#"{"membership":"definitional","member":[{}]}"#).is_ok());
        assert!(check(r#"{"membership":"enumerated"}"#).is_ok());
        assert!(matches!(check(r#"{"active":false,"member":[{}]}"#), Err(GroupError::Inactive)));
        assert!(matches!(check(r#"{"modifierExtension":[{}]}"#), Err(GroupError::ModifierExtension)));
        assert!(matches!(check(r#"{"member":5}"#), Err(GroupError::Malformed)));
    }
}
