//! The parameters of a kick-off, from a query string or a `Parameters` resource, with the place of each.

use serde::Deserialize;

use super::KickoffError;

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

/// Parameters of one kick-off.
const MOST: usize = 1_000;

impl Parameter {
    /// The value as text, if it is of the type that `name` has.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, KickoffError> {
        match (&self.value, name) {
            (Value::Query(text), _) | (Value::Instant(text), "_since" | "_until") => Ok(text),
            (Value::String(text), "_type" | "_outputFormat") => Ok(text),
            (Value::String(_) | Value::Instant(_) | Value::Other, _) => {
                Err(KickoffError::Kind { location: self.location.clone(), name })
            }
        }
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

pub(super) fn from_body(body: &[u8]) -> Result<Vec<Parameter>, ParametersError> {
    let located = |error: serde_json::Error| ParametersError::Json { line: error.line(), column: error.column() };
    let value: serde_json::Value = serde_json::from_slice(body).map_err(located)?;
    let resource = Resource::deserialize(value).map_err(|_| ParametersError::NotParameters)?;
    if resource.resource_type != "Parameters" {
        return Err(ParametersError::NotParameters);
    }
    if resource.parameter.len() > MOST {
        return Err(ParametersError::TooMany);
    }
    let parameter = |(index, sent): (usize, Sent)| {
        let location = format!("Parameters.parameter[{index}]");
        if sent.part.is_some() {
            return Err(ParametersError::Shape { location });
        }
        let Some(name) = sent.name else { return Err(ParametersError::Shape { location }) };
        let value = match (sent.value_string, sent.value_instant) {
            (Some(text), None) => Value::String(text),
            (None, Some(text)) => Value::Instant(text),
            (None, None) | (Some(_), Some(_)) => Value::Other,
        };
        Ok(Parameter { name, location, value })
    };
    resource.parameter.into_iter().enumerate().map(parameter).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource_type: String,
    #[serde(default)]
    parameter: Vec<Sent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    name: Option<String>,
    value_string: Option<String>,
    value_instant: Option<String>,
    part: Option<serde::de::IgnoredAny>,
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
