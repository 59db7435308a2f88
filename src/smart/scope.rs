//! Scopes of SMART App Launch: `system/Patient.rs` (v2) and `system/Patient.read` (v1). Pure.
//!
//! What is granted is always within what was asked for *and* within what the client is registered for. Only reading
//! is granted, and of Group also to make and to delete, where somebody is registered for it: there is nothing else to write
//! here. A scope with a query (`system/Observation.rs?category=…`) narrows its type: each
//! search of it carries the query (SM-032). One that cannot be enforced is [told apart](Asked::Filtered) and never granted.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fhir::filter::{Escapes, Filter};
use crate::fhir::resource_type::ResourceType;

/// Longest text of scopes that is read or granted: a token travels in a header.
const LONGEST: usize = 5_000;
/// Most scopes in one text.
const MOST: usize = 400;

/// The actions of a scope, as bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Actions(u8);

impl Actions {
    const NONE: Self = Self(0);
    /// Reading one resource.
    pub(crate) const READ: Self = Self(1);
    /// Both that an export needs: `r` and `s`.
    pub(crate) const EXPORT: Self = Self(3);
    /// Making one: granted of Group only, by its name.
    pub(crate) const CREATE: Self = Self(4);
    /// Deleting one, likewise.
    pub(crate) const DELETE: Self = Self(16);
    /// `u` is known and never granted.
    const LETTERS: [(char, u8); 5] = [('c', 4), ('r', 1), ('u', 8), ('d', 16), ('s', 2)];

    /// A subset of `cruds` in that order, or one of the words of v1.
    fn parse(text: &str) -> Option<(Self, Notation)> {
        let v1 = |bits| Some((Self(bits), Notation::V1));
        match text {
            "read" => return v1(3),
            "write" => return v1(28),
            "*" => return v1(31),
            _ => {}
        }
        let mut letters = Self::LETTERS.iter();
        let mut bits = 0;
        for letter in text.chars() {
            // Looking on from where the last one was: the order counts (SM-031).
            bits |= letters.find(|(known, _)| *known == letter)?.1;
        }
        (bits != 0).then_some((Self(bits), Notation::V2))
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = Self::LETTERS.iter().filter(|(_, bit)| self.0 & bit != 0);
        letters.map(|(letter, _)| letter).try_for_each(|letter| write!(f, "{letter}"))
    }
}

/// How a scope is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Notation {
    V1,
    V2,
}

/// Which types a scope reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reach {
    /// `*`, also types that come later.
    All,
    One(ResourceType),
}

impl Reach {
    /// Whether it reaches all that another one does.
    fn includes(self, other: Self) -> bool {
        match self {
            Self::All => true,
            Self::One(_) => self == other,
        }
    }
}

/// One scope of the `system/` context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Scope {
    reach: Reach,
    actions: Actions,
    notation: Notation,
    /// What of its one type it permits.
    filter: Filter,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reach {
            Reach::All => f.write_str("system/*.")?,
            Reach::One(name) => write!(f, "system/{name}.")?,
        }
        // v1 has a word for both together only.
        match self.notation {
            Notation::V1 if self.actions == Actions::EXPORT => f.write_str("read")?,
            Notation::V1 | Notation::V2 => write!(f, "{:?}", self.actions)?,
        }
        if self.filter.is_all() { Ok(()) } else { write!(f, "?{}", self.filter) }
    }
}

/// One word of what a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Plain(Scope),
    /// With a query that cannot be enforced.
    Filtered,
    /// Of another context, of a type that there is not, or anything else.
    Foreign,
}

impl Asked {
    fn parse(word: &str) -> Self {
        let (plain, query) = match word.split_once('?') {
            Some((plain, query)) => (plain, Some(query)),
            None => (word, None),
        };
        let scope = plain.strip_prefix("system/").and_then(|rest| rest.split_once('.')).and_then(|(name, actions)| {
            let reach = if name == "*" { Reach::All } else { Reach::One(ResourceType::parse(name)?) };
            let (actions, notation) = Actions::parse(actions)?;
            Some(Scope { reach, actions, notation, filter: Filter::ALL })
        });
        match (scope, query.map(|query| Filter::parse(query, Escapes::Once))) {
            (Some(scope), None) => Self::Plain(scope),
            // One search asks for one type.
            (Some(scope), Some(Ok(filter))) if scope.reach != Reach::All => Self::Plain(Scope { filter, ..scope }),
            (Some(_), Some(_)) => Self::Filtered,
            (None, _) => Self::Foreign,
        }
    }
}

/// What a client is registered for, or a token permits: the union of its scopes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scopes(Vec<Scope>);

/// Why there are no scopes in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScopeError {
    #[error("names no scope")]
    Empty,
    #[error("is longer than {LONGEST} characters or {MOST} scopes")]
    TooLong,
    #[error("holds characters that no scope has")]
    Characters,
    #[error(
        "holds a scope with a query that cannot be enforced: one type and plain parameters, as in \
         `system/Observation.rs?category=laboratory`"
    )]
    Filtered,
    #[error("holds something else than `system/Type.rs`, `system/*.rs` and the like")]
    Foreign,
    #[error("permits nothing that an export could do: reading and searching (`rs`)")]
    Nothing,
}

/// Whose a text of scopes is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Somebody's, who may send anything.
    Theirs,
    /// A record of ours: what was once kept is read, however long it became.
    Ours,
}

/// The words of a text of scopes.
fn words(text: &str, whose: Whose) -> Result<impl Iterator<Item = &str>, ScopeError> {
    // RFC 6749, 3.3: %x21 / %x23-5B / %x5D-7E, with single spaces in between; we take several.
    let is_plain = |byte: u8| (byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) || byte == b' ';
    if !text.bytes().all(is_plain) {
        return Err(ScopeError::Characters);
    }
    let words = || text.split(' ').filter(|word| !word.is_empty());
    if whose == Whose::Theirs && (text.len() > 4 * LONGEST || words().nth(MOST).is_some()) {
        return Err(ScopeError::TooLong);
    }
    if words().next().is_none() { Err(ScopeError::Empty) } else { Ok(words()) }
}

impl Scopes {
    /// What a client is registered for, or what one of our own tokens says: every word must be understood.
    ///
    /// # Errors
    /// [`ScopeError`] for the first thing that is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, ScopeError> {
        Self::read(text, Whose::Theirs)
    }

    fn read(text: &str, whose: Whose) -> Result<Self, ScopeError> {
        let scopes = words(text, whose)?.map(|word| match Asked::parse(word) {
            Asked::Plain(scope) => Ok(scope),
            Asked::Filtered => Err(ScopeError::Filtered),
            Asked::Foreign => Err(ScopeError::Foreign),
        });
        let scopes = Self(scopes.collect::<Result<_, _>>()?);
        if scopes.reads_nothing() { Err(ScopeError::Nothing) } else { Ok(scopes) }
    }

    fn reads_nothing(&self) -> bool {
        self.0.iter().all(|scope| scope.actions.and(Actions::EXPORT) == Actions::NONE)
    }

    /// The same without whatever is no reading.
    pub(crate) fn reading(&self) -> Self {
        let reading = |scope: &Scope| Scope { actions: scope.actions.and(Actions::EXPORT), ..scope.clone() };
        Self(self.0.iter().map(reading).filter(|scope| scope.actions != Actions::NONE).collect())
    }

    /// What is granted to a client that is registered for these and asks for `text` (SM-024, SM-029): of each word what
    /// it may have, and v1 for v1 (SM-030). Words that name nothing of ours are passed over, as a client that asks for
    /// twenty types is served with those that there are.
    ///
    /// # Errors
    /// [`ScopeError`] if nothing is left.
    pub(crate) fn grant(&self, text: &str) -> Result<Self, ScopeError> {
        let mut granted: Vec<Scope> = Vec::new();
        let mut seen = BTreeSet::new();
        for word in words(text, Whose::Theirs)? {
            let Asked::Plain(asked) = Asked::parse(word) else { continue };
            granted.extend(self.within(&asked).into_iter().filter(|scope| seen.insert(scope.clone())));
        }
        let granted = Self(granted);
        if granted.reads_nothing() {
            return Err(ScopeError::Nothing);
        }
        if granted.to_string().len() > LONGEST { Err(ScopeError::TooLong) } else { Ok(granted) }
    }

    /// What of these holds of `other` still: a token is worth no more than what its client may have now. It is nothing where
    /// that is more than anybody may be granted: whoever was granted something else before has to ask anew.
    pub(crate) fn and(&self, other: &Self) -> Option<Self> {
        let mut seen = BTreeSet::new();
        let both = self.0.iter().flat_map(|scope| other.within(scope)).filter(|scope| seen.insert(scope.clone()));
        let both = Self(both.take(MOST + 1).collect());
        let may_be_granted = !both.0.is_empty() && both.0.len() <= MOST && both.to_string().len() <= 4 * LONGEST;
        may_be_granted.then_some(both)
    }

    /// The part of `asked` that these cover.
    fn within(&self, asked: &Scope) -> Vec<Scope> {
        let grantable = match asked.reach {
            Reach::One(ResourceType::GROUP) if asked.filter.is_all() => {
                Actions::EXPORT.or(Actions::CREATE).or(Actions::DELETE)
            }
            Reach::One(_) | Reach::All => Actions::EXPORT,
        };
        let actions = asked.actions.and(grantable);
        // What one of these lets pass as a whole needs no second filter of another one: what was granted stays as it is.
        let lets_all_pass = |own: &Scope| {
            own.reach == asked.reach && own.actions.has(actions) && own.filter.is_as_wide_as(&asked.filter)
        };
        if !asked.filter.is_all() && actions != Actions::NONE && self.0.iter().any(lets_all_pass) {
            return vec![Scope { actions, ..asked.clone() }];
        }
        let reaches: Vec<Reach> = match asked.reach {
            // Asked for all: all if that may be had, and else each that may.
            Reach::All => {
                let whole = self.of_all().and(actions);
                let own = self.0.iter().filter(|scope| scope.filter.is_all()).map(|scope| scope.reach);
                let more = own.filter(|reach| self.of(*reach).and(actions) != whole);
                std::iter::once(Reach::All).chain(more).collect()
            }
            one @ Reach::One(_) => vec![one],
        };
        let whole = reaches.into_iter().map(|reach| {
            let actions = self.of(reach).and(actions);
            Scope { reach, actions, notation: asked.notation, filter: asked.filter.clone() }
        });
        let narrowed = self.0.iter().filter(|scope| !scope.filter.is_all() && asked.reach.includes(scope.reach));
        let narrowed = narrowed.filter_map(|scope| {
            let actions = scope.actions.and(actions);
            // What the type may be had by as a whole needs no filter.
            let filter = scope.filter.and(&asked.filter).ok().filter(|_| !self.of(scope.reach).has(actions))?;
            // v1 has no queries.
            Some(Scope { reach: scope.reach, actions, notation: Notation::V2, filter })
        });
        whole.chain(narrowed).filter(|scope| scope.actions != Actions::NONE).collect()
    }

    fn of_all(&self) -> Actions {
        self.of(Reach::All)
    }

    /// What all together permit of a reach, whatever its resources are.
    fn of(&self, reach: Reach) -> Actions {
        let covers = |scope: &&Scope| scope.filter.is_all() && scope.reach.includes(reach);
        self.0.iter().filter(covers).fold(Actions::NONE, |sum, scope| sum.or(scope.actions))
    }

    /// What of a type may be exported: nothing without any of these, else what any of them lets pass.
    pub(crate) fn alternatives(&self, resource_type: ResourceType) -> Vec<Filter> {
        let whole = self.of(Reach::One(resource_type));
        if whole.has(Actions::EXPORT) {
            return vec![Filter::ALL];
        }
        let mut alternatives: Vec<Filter> = Vec::new();
        for scope in self.0.iter().filter(|scope| scope.reach == Reach::One(resource_type) && !scope.filter.is_all()) {
            let is_known = alternatives.iter().any(|known| known.is_as_wide_as(&scope.filter));
            if whole.or(scope.actions).has(Actions::EXPORT) && !is_known {
                alternatives.retain(|known| !scope.filter.is_as_wide_as(known));
                alternatives.push(scope.filter.clone());
            }
        }
        alternatives
    }

    /// The types of which these permit a part.
    pub(crate) fn narrowed(&self) -> impl Iterator<Item = ResourceType> {
        let narrowed = self.0.iter().filter(|scope| !scope.filter.is_all());
        narrowed.filter_map(|scope| match scope.reach {
            Reach::One(name) => Some(name),
            Reach::All => None,
        })
    }

    /// Whether all of a type that passes any of `filters` may be exported.
    pub(crate) fn cover(&self, resource_type: ResourceType, filters: &[Filter]) -> bool {
        let alternatives = self.alternatives(resource_type);
        filters.iter().all(|filter| alternatives.iter().any(|own| own.is_as_wide_as(filter)))
            && !alternatives.is_empty()
    }

    /// The same with other values in what narrows them: for who may not know them.
    pub(crate) fn hiding(&self, hide: impl Fn(&str) -> String) -> Self {
        let hidden = |scope: &Scope| Scope { filter: scope.filter.hiding(&hide), ..scope.clone() };
        Self(self.0.iter().map(hidden).collect())
    }

    /// Whether these permit `actions` on all of a type.
    pub(crate) fn permit(&self, resource_type: ResourceType, actions: Actions) -> bool {
        self.of(Reach::One(resource_type)).has(actions)
    }

    /// Whether resources of this type may be exported, if perhaps not all of them.
    pub(crate) fn may_export(&self, resource_type: ResourceType) -> bool {
        !self.alternatives(resource_type).is_empty()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{scope}")?;
        }
        Ok(())
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text, Whose::Ours).map_err(serde::de::Error::custom)
    }
}

/// The scopes that would permit to export these types, for whoever was refused.
pub(crate) fn wanted(types: impl IntoIterator<Item = ResourceType>) -> String {
    let words: Vec<_> = types.into_iter().map(|name| format!("system/{name}.rs")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests;
