//! The parameters of a kick-off, from a query string or a `Parameters` resource, with the place of each.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::KickoffError;
use super::shape::ORGANIZED;

/// One parameter as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: String,
    /// `http.<name>` or `Parameters.parameter[n]`.
    pub(super) location: String,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// From a query: it has no type.
    Query(String),
    String(String),
    Instant(String),
    /// The literal reference of a `Reference` that has one.
    Reference(String),
    Code(String),
    Coding {
        system: Option<String>,
        code: String,
    },
    Boolean(bool),
    Integer(u64),
    /// None, or of a type that no supported parameter has.
    Other,
}

/// Why there are no parameters to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParametersError {
    Json { line: usize, column: usize },
    NotParameters,
    TooMany,
    Shape { location: String },
    Query,
}

/// Parameters in one query.
const MOST: usize = 1_000;
/// Parameters in one body, where most of so many name patients.
const MOST_IN_BODY: usize = 10_000;

impl Parameter {
    /// Whether it was percent-decoded, so that a space may be a `+` that nobody escaped.
    pub(super) fn is_from_query(&self) -> bool {
        matches!(self.value, Value::Query(_))
    }

    /// The value as text, if it is of the type that `name` has.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, KickoffError> {
        match (&self.value, name) {
            (Value::Query(text), _) | (Value::Instant(text), "_since" | "_until") => Ok(text),
            (Value::String(text), "_elements" | "_type" | "_typeFilter" | "_outputFormat" | ORGANIZED) => Ok(text),
            (
                Value::String(_)
                | Value::Instant(_)
                | Value::Reference(_)
                | Value::Code(_)
                | Value::Coding { .. }
                | Value::Boolean(_)
                | Value::Integer(_)
                | Value::Other,
                _,
            ) => Err(KickoffError::Kind { location: self.location.clone(), name }),
        }
    }

    /// The value of one that is true or false.
    pub(super) fn truth(&self, name: &'static str) -> Result<bool, KickoffError> {
        match &self.value {
            Value::Boolean(truth) => Ok(*truth),
            Value::Query(text) if text == "true" => Ok(true),
            Value::Query(text) if text == "false" => Ok(false),
            Value::Query(_)
            | Value::String(_)
            | Value::Instant(_)
            | Value::Reference(_)
            | Value::Code(_)
            | Value::Coding { .. }
            | Value::Integer(_)
            | Value::Other => Err(KickoffError::Kind { location: self.location.clone(), name }),
        }
    }

    /// The system, if it says one, and the code of a parameter that is a `code` to 3.0 and a `Coding` in 4.0.
    pub(super) fn coding(&self, name: &'static str) -> Result<(Option<&str>, &str), KickoffError> {
        match &self.value {
            Value::Query(code) | Value::Code(code) => Ok((None, code)),
            Value::Coding { system, code } => Ok((system.as_deref(), code)),
            Value::String(_)
            | Value::Instant(_)
            | Value::Reference(_)
            | Value::Boolean(_)
            | Value::Integer(_)
            | Value::Other => Err(KickoffError::Kind { location: self.location.clone(), name }),
        }
    }

    /// The literal reference that it holds; `None` if it is of another type.
    pub(super) fn reference(&self) -> Option<&str> {
        match &self.value {
            Value::Reference(reference) => Some(reference),
            Value::Query(_)
            | Value::String(_)
            | Value::Instant(_)
            | Value::Code(_)
            | Value::Coding { .. }
            | Value::Boolean(_)
            | Value::Integer(_)
            | Value::Other => None,
        }
    }

    /// The value of one that is a number of bytes, and not 0.
    pub(super) fn bytes(&self, name: &'static str) -> Result<u64, KickoffError> {
        let number = match &self.value {
            Value::Integer(number) => Some(*number),
            Value::Query(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            Value::Query(_)
            | Value::String(_)
            | Value::Instant(_)
            | Value::Reference(_)
            | Value::Code(_)
            | Value::Coding { .. }
            | Value::Boolean(_)
            | Value::Other => None,
        };
        let kind = || KickoffError::Kind { location: self.location.clone(), name };
        number.filter(|number| *number > 0).ok_or_else(kind)
    }
}

pub(super) fn from_query(query: &str) -> Result<Vec<Parameter>, ParametersError> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let parameters = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let shown: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
        Ok(Parameter { location: format!("http.{shown}"), name, value: Value::Query(value) })
    });
    let parameters = parameters.take(MOST + 1).collect::<Result<Vec<_>, _>>()?;
    if parameters.len() > MOST { Err(ParametersError::TooMany) } else { Ok(parameters) }
}

/// Reads a body without ever holding more of it than [`MOST_IN_BODY`] parameters, whatever it is made of.
pub(super) fn from_body(body: &[u8]) -> Result<Vec<Parameter>, ParametersError> {
    let text = std::str::from_utf8(body).map_err(|error| not_text(&body[..error.valid_up_to()]))?;
    let located = |error: serde_json::Error| ParametersError::Json { line: error.line(), column: error.column() };
    let IgnoredAny = serde_json::from_str(text).map_err(located)?;
    let resource: Resource<'_> = object(text).ok_or(ParametersError::NotParameters)?;
    if resource.resource_type != "Parameters" {
        return Err(ParametersError::NotParameters);
    }
    let Some(list) = resource.parameter else { return Ok(Vec::new()) };
    let list: List<'_> = serde_json::from_str(list.get())
        .map_err(|_| ParametersError::Shape { location: "Parameters.parameter".to_owned() })?;
    if list.has_more {
        return Err(ParametersError::TooMany);
    }
    list.sent.into_iter().enumerate().map(|(index, sent)| one(index, sent)).collect()
}

fn one(index: usize, sent: &RawValue) -> Result<Parameter, ParametersError> {
    let location = format!("Parameters.parameter[{index}]");
    let Some(sent) = object::<Sent<'_>>(sent.get()) else { return Err(ParametersError::Shape { location }) };
    let Sent { name: Some(name), part: None, modifier_extension: None, .. } = sent else {
        return Err(ParametersError::Shape { location });
    };
    let values = [
        sent.value_string,
        sent.value_instant,
        sent.value_reference,
        sent.value_code,
        sent.value_coding,
        sent.value_boolean,
        sent.value_positive_int,
        sent.value_integer,
    ];
    // One value, and of one type.
    let value = if values.iter().flatten().count() != 1 {
        Value::Other
    } else if let Some(text) = sent.value_string {
        read(text, Value::String)
    } else if let Some(text) = sent.value_instant {
        read(text, Value::Instant)
    } else if let Some(truth) = sent.value_boolean {
        read(truth, Value::Boolean)
    } else if let Some(code) = sent.value_code {
        read(code, Value::Code)
    } else if let Some(coding) = sent.value_coding {
        let coding = object::<Coding>(coding.get());
        coding.map_or(Value::Other, |Coding { system, code }| Value::Coding { system, code })
    } else if let Some(number) = sent.value_positive_int.or(sent.value_integer) {
        read(number, Value::Integer)
    } else {
        let reference = sent.value_reference.and_then(|reference| object::<Reference>(reference.get()));
        reference.map_or(Value::Other, |reference| Value::Reference(reference.reference))
    };
    Ok(Parameter { name, location, value })
}

fn read<'a, T: Deserialize<'a>>(value: &'a RawValue, of: impl FnOnce(T) -> Value) -> Value {
    serde_json::from_str(value.get()).map_or(Value::Other, of)
}

/// A JSON object; an array of the same values in their order, which serde would take as well, is none.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()
}

/// Where a text ends that goes on with bytes that are no UTF-8.
fn not_text(good: &[u8]) -> ParametersError {
    let line = good.split(|byte| *byte == b'\n');
    let column = line.clone().next_back().map_or(0, <[u8]>::len) + 1;
    ParametersError::Json { line: line.count(), column }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    #[serde(borrow)]
    resource_type: Cow<'a, str>,
    #[serde(borrow)]
    parameter: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    name: Option<String>,
    #[serde(borrow)]
    value_string: Option<&'a RawValue>,
    #[serde(borrow)]
    value_instant: Option<&'a RawValue>,
    #[serde(borrow)]
    value_reference: Option<&'a RawValue>,
    #[serde(borrow)]
    value_code: Option<&'a RawValue>,
    #[serde(borrow)]
    value_coding: Option<&'a RawValue>,
    #[serde(borrow)]
    value_boolean: Option<&'a RawValue>,
    #[serde(borrow)]
    value_positive_int: Option<&'a RawValue>,
    #[serde(borrow)]
    value_integer: Option<&'a RawValue>,
    part: Option<IgnoredAny>,
    /// It may turn the parameter's meaning round.
    modifier_extension: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Reference {
    reference: String,
}

#[derive(Deserialize)]
struct Coding {
    system: Option<String>,
    code: String,
}

/// The first of a body's parameters, and whether there are more than may be.
struct List<'a> {
    sent: Vec<&'a RawValue>,
    has_more: bool,
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = List<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of parameters")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<'de>, A::Error> {
                let mut list = List { sent: Vec::new(), has_more: false };
                while list.sent.len() < MOST_IN_BODY {
                    let Some(sent) = elements.next_element()? else { return Ok(list) };
                    list.sent.push(sent);
                }
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    list.has_more = true;
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

/// Decodes a piece of a query once; a `+` is a space.
fn decode(text: &str) -> Result<String, ParametersError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(ParametersError::Query) };
                decoded.push(u8::try_from(high * 16 + low).map_err(|_| ParametersError::Query)?);
            }
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map_err(|_| ParametersError::Query)
}
