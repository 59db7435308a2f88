//! What narrows the resources of one type: `Observation?category=laboratory&date=ge2020`, whether somebody wishes it or may
//! have no more. It is read to the last character, held against what may stand in it, and written anew: nothing of
//! somebody's text is ever sent (SEC-21).

mod text;
mod value;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::capability::ParameterKind;
use super::resource_type::ResourceType;
use super::search::SearchQuery;
pub(crate) use text::values;

/// Parameters that all have to hold, sorted and each once. Without any it is a filter that lets everything pass. Its `Debug`
/// shows no value: they may tell of patients (SEC-41).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Filter(Vec<(Box<str>, Box<str>)>);

/// A filter of one type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TypeFilter {
    pub(crate) resource_type: ResourceType,
    pub(crate) filter: Filter,
}

/// Why a text is no filter that can be used. What it repeats of the text are names, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("a filter begins with a resource type and a `?`, as in `Observation?category=laboratory`")]
    NoType,
    #[error("`{0}` is not a resource type")]
    UnknownType(String),
    #[error("a filter is made of `name=value`, several joined by `&`, and none of them is empty")]
    Shape,
    #[error("of `{0}` one of the values is empty, which a server may take for any")]
    Empty(String),
    #[error("`{0}` has a value that is none of its kind")]
    Kind(String),
    #[error("it has characters that no parameter has")]
    Characters,
    #[error("it has an escape that is none, or one that was escaped once more")]
    Escape,
    #[error("it is longer than {MOST_BYTES} bytes, or has more than {MOST_PARAMETERS} parameters")]
    TooLong,
    #[error("`{0}` has a modifier, which is not supported")]
    Modifier(String),
    #[error("`{0}` leads to other resources, which is not supported")]
    Chain(String),
    #[error("`{0}` does not tell resources of one type apart, or is how they are read, and may not be used to filter")]
    NotAFilter(String),
}

/// How often values are escaped where a filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// Once, as in a URL.
    Once,
    /// No more, but for a comma: the text was unescaped already, and clients escape commas twice (interop 5).
    CommasOnly,
}

/// Bytes of one filter as it is sent: searches have to fit into URLs beside it.
pub(crate) const MOST_BYTES: usize = 1_000;
/// Parameters of one filter.
const MOST_PARAMETERS: usize = 16;
/// Filters of one list, and of one type.
pub(crate) const MOST_FILTERS: usize = 64;
/// Bytes of one filter as it is sent to us, with its type: three may stand for one.
const LONGEST_TEXT: usize = 3 * MOST_BYTES + 64;
/// Longest name: so short that the hashes of as many values as there may be fit beside their names (SEC-43).
const LONGEST_NAME: usize = 40;
/// Longest name that is repeated to whoever sent it.
const LONGEST_ECHO: usize = 64;
/// What may be used to filter of what begins with `_`. The rest concerns how an answer looks, whole searches, or is ours.
const OF_ALL_TYPES: [&str; 4] = ["_profile", "_security", "_source", "_tag"];

impl Filter {
    /// What lets everything pass.
    pub(crate) const ALL: Self = Self(Vec::new());

    /// Reads `name=value`, several joined by `&`.
    ///
    /// # Errors
    /// [`FilterError`] for the first thing that is wrong.
    pub(crate) fn parse(text: &str, escapes: Escapes) -> Result<Self, FilterError> {
        // Three bytes may stand for one.
        if text.len() > 3 * MOST_BYTES {
            return Err(FilterError::TooLong);
        }
        let pairs = text.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').ok_or(FilterError::Shape)?;
            let (name, value) = (text::unescaped(name, escapes)?, text::unescaped(value, escapes)?);
            check_name(&name)?;
            if !values(&value).into_iter().all(value::says_something) {
                return Err(FilterError::Empty(name));
            }
            if value.chars().any(char::is_control) {
                return Err(FilterError::Characters);
            }
            Ok((name.into_boxed_str(), value.into_boxed_str()))
        });
        let mut pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        pairs.sort_unstable();
        pairs.dedup();
        let filter = Self(pairs);
        if filter.0.len() > MOST_PARAMETERS || filter.sent_bytes() > MOST_BYTES {
            return Err(FilterError::TooLong);
        }
        Ok(filter)
    }

    /// Whether everything passes.
    pub(crate) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// What passes both.
    ///
    /// # Errors
    /// [`FilterError::TooLong`] if that is more than one search may say.
    pub(crate) fn and(&self, other: &Self) -> Result<Self, FilterError> {
        let mut pairs: Vec<_> = self.0.iter().chain(&other.0).cloned().collect();
        pairs.sort_unstable();
        pairs.dedup();
        let both = Self(pairs);
        let is_too_long = both.0.len() > MOST_PARAMETERS || both.sent_bytes() > MOST_BYTES;
        if is_too_long { Err(FilterError::TooLong) } else { Ok(both) }
    }

    /// Whether all that passes `other` passes this, as far as it can be told without knowing any resource: it asks for nothing
    /// that the other does not ask for.
    pub(crate) fn is_as_wide_as(&self, other: &Self) -> bool {
        self.0.iter().all(|pair| other.0.contains(pair))
    }

    /// Whether each value is one of its parameter's kind, as far as that can be told without the server.
    ///
    /// # Errors
    /// [`FilterError::Kind`] for the first one that is not.
    pub(crate) fn check_kind(&self, name: &str, kind: ParameterKind) -> Result<(), FilterError> {
        let mut all = self.pairs().filter(|(own, _)| *own == name).flat_map(|(_, list)| values(list));
        if all.all(|value| value::fits(kind, value)) { Ok(()) } else { Err(FilterError::Kind(echo(name))) }
    }

    /// `query`, narrowed by this.
    pub(crate) fn narrow(&self, query: SearchQuery) -> SearchQuery {
        self.pairs().fold(query, |query, (name, value)| query.param(name.to_owned(), value.to_owned()))
    }

    /// The same with another value for the pair at `place`.
    pub(crate) fn with_value(&self, place: usize, value: &str) -> Self {
        let mut pairs = self.0.clone();
        if let Some((_, own)) = pairs.get_mut(place) {
            *own = value.into();
        }
        Self(pairs)
    }

    /// The same with other values.
    pub(crate) fn hiding(&self, hide: impl Fn(&str) -> String) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), hide(value).into())).collect())
    }

    /// What it takes of a URL.
    pub(crate) fn sent_bytes(&self) -> usize {
        let query = self.narrow(SearchQuery::new(ResourceType::PATIENT)).to_query();
        query.len() + usize::from(!query.is_empty())
    }
}

impl TypeFilter {
    /// Reads `Type?name=value`.
    ///
    /// # Errors
    /// [`FilterError`] for the first thing that is wrong.
    pub(crate) fn parse(text: &str, escapes: Escapes) -> Result<Self, FilterError> {
        let (name, query) = text.split_once('?').ok_or(FilterError::NoType)?;
        let resource_type = ResourceType::parse(name).ok_or_else(|| FilterError::UnknownType(echo(name)))?;
        Ok(Self { resource_type, filter: Filter::parse(query, escapes)? })
    }

    /// Reads a list as the first two releases of the guide have it: a comma begins another filter only where what follows is
    /// `Type?`. Every other one is a part of a value.
    ///
    /// # Errors
    /// [`FilterError`] for the first thing that is wrong.
    pub(crate) fn parse_list(text: &str, escapes: Escapes) -> Result<Vec<Self>, FilterError> {
        if text.len() > MOST_FILTERS * LONGEST_TEXT {
            return Err(FilterError::TooLong);
        }
        let parts = text::split_list(text);
        if parts.len() > MOST_FILTERS {
            return Err(FilterError::TooLong);
        }
        parts.into_iter().map(|part| Self::parse(part, escapes)).collect()
    }
}

/// Whether it is a name that a filter may have.
pub(crate) fn is_name(name: &str) -> bool {
    check_name(name).is_ok()
}

/// Letters, digits, `-` and `_`; what else a search may do with a name is told apart, for whoever wonders why it is refused.
fn check_name(name: &str) -> Result<(), FilterError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'.');
    if name.is_empty() {
        return Err(FilterError::Shape);
    }
    if name.len() > LONGEST_NAME && !name.contains([':', '.']) {
        return Err(FilterError::TooLong);
    }
    if !name.bytes().all(plain) {
        return Err(FilterError::Characters);
    }
    if name.starts_with('_') && !OF_ALL_TYPES.contains(&name) {
        return Err(FilterError::NotAFilter(echo(name)));
    }
    match (name.contains('.'), name.contains(':')) {
        (true, _) => Err(FilterError::Chain(echo(name))),
        (false, true) => Err(FilterError::Modifier(echo(name))),
        (false, false) => Ok(()),
    }
}

fn echo(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_ECHO).collect()
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        write!(f, "Filter(by {})", names.join(", "))
    }
}

impl fmt::Display for Filter {
    /// As it stands behind the `?`, with as few escapes as there may be: a scope shows it so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.pairs().enumerate() {
            let and = if number == 0 { "" } else { "&" };
            write!(f, "{and}{name}={}", text::escaped(value))?;
        }
        Ok(())
    }
}

impl fmt::Display for TypeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?{}", self.resource_type, self.filter)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::ALL);
        }
        Self::parse(&text, Escapes::Once).map_err(serde::de::Error::custom)
    }
}

impl Serialize for TypeFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TypeFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, Escapes::Once).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
