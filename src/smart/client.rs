//! Who a client is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use super::policy::Policy;
use super::scope::Scopes;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;

/// The name under which a client is registered. Its order is that of its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(Arc<str>);

/// A text that is no client's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client_id has 1 to 128 visible ASCII characters, none of them a quote or a backslash")]
pub(crate) struct NotAClientId;

/// Longest name.
const LONGEST: usize = 128;

impl ClientId {
    /// # Errors
    /// [`NotAClientId`]
    pub(crate) fn parse(text: &str) -> Result<Self, NotAClientId> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if text.is_empty() || text.len() > LONGEST || !text.bytes().all(is_plain) {
            return Err(NotAClientId);
        }
        Ok(Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for it where names have one length.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.as_bytes());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Where a client publishes its keys: as it was registered, letter by letter, and as it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUri {
    text: String,
    url: Url,
}

impl JwksUri {
    /// What `jku` of an assertion has to be (spec 7.2, step 6).
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

impl FromStr for JwksUri {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { text: text.to_owned(), url: text.parse()? })
    }
}

impl From<Url> for JwksUri {
    fn from(url: Url) -> Self {
        Self { text: url.to_string(), url }
    }
}

impl Serialize for JwksUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for JwksUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whose an export is, and what it may hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one for each export, which is larger by far")]
pub(crate) enum Owner {
    /// Of whoever may ask at all, in `open` mode: there are no clients. So are exports from before there were any.
    #[default]
    Open,
    /// Of one client, within the scopes of the token that it was kicked off with and the policy of that time. A record from
    /// before there were policies had none.
    Client {
        id: ClientId,
        scopes: Scopes,
        #[serde(default, skip_serializing_if = "Policy::is_open")]
        policy: Policy,
    },
}

impl Owner {
    /// Whether both are the same: what one has received is nobody else's to know.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Open, Self::Open) => true,
            (Self::Client { id, .. }, Self::Client { id: other, .. }) => id == other,
            (Self::Open, Self::Client { .. }) | (Self::Client { .. }, Self::Open) => false,
        }
    }

    /// Whether resources of this type may be a part of the export, if perhaps not all of them.
    pub(crate) fn may_hold_some(&self, resource_type: ResourceType) -> bool {
        match self {
            Self::Open => true,
            Self::Client { scopes, policy, .. } => {
                scopes.may_export(resource_type) && policy.permits_type(resource_type)
            }
        }
    }

    /// Whether all of this type that passes any of `filters` may be a part of the export.
    pub(crate) fn may_hold(&self, resource_type: ResourceType, filters: &[Filter]) -> bool {
        match self {
            Self::Open => true,
            Self::Client { scopes, policy, .. } => {
                scopes.cover(resource_type, filters)
                    && policy.permits_type(resource_type)
                    && policy.lets_pass(resource_type, filters)
            }
        }
    }

    /// The policy that it was kicked off under, if there are policies.
    pub(crate) fn policy(&self) -> Option<&Policy> {
        match self {
            Self::Open => None,
            Self::Client { policy, .. } => Some(policy),
        }
    }

    /// The client, if there is one.
    pub(crate) fn client(&self) -> Option<&ClientId> {
        match self {
            Self::Open => None,
            Self::Client { id, .. } => Some(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_bounded() {
        for good in ["research-warehouse", "https://client.example/id", "a", &"x".repeat(128)] {
            assert_eq!(ClientId::parse(good).map(|id| id.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", " ", "a b", "a\n", "ü", "a\"b", "a\\b", &"x".repeat(129)] {
            assert_eq!(ClientId::parse(bad), Err(NotAClientId), "{bad:?}");
        }
    }

    /// SEC-20, SEC-21: an export that is not narrowed by its right holds nothing of the type.
    #[test]
    fn an_export_holds_no_more_of_a_type_than_its_right_lets_pass() {
        use crate::fhir::filter::Escapes;
        let owner = |scopes: &str, required: &str| {
            let policy = format!(r#"{{"required":[{required}]}}"#);
            let json = format!(r#"{{"client":{{"id":"a","scopes":"{scopes}","policy":{policy}}}}}"#);
            serde_json::from_str::<Owner>(&json).expect("a record")
        };
        let male = || vec![Filter::parse("gender=male", Escapes::Once).expect("a filter")];
        let active = r#""Patient?active=true""#;
        for (owner, filters, some, all) in [
            (Owner::Open, vec![Filter::ALL], true, true),
            (owner("system/*.rs", ""), vec![Filter::ALL], true, true),
            (owner("system/Patient.rs?gender=male", ""), vec![Filter::ALL], true, false),
            (owner("system/Patient.rs?gender=male", ""), male(), true, true),
            (owner("system/Patient.rs?gender=other", ""), male(), true, false),
            (owner("system/*.rs", active), vec![Filter::ALL], true, false),
            (owner("system/*.rs", active), male(), true, false),
            (owner("system/Observation.rs", ""), male(), false, false),
        ] {
            let patient = ResourceType::PATIENT;
            assert_eq!((owner.may_hold_some(patient), owner.may_hold(patient, &filters)), (some, all), "{owner:?}");
        }
    }

    #[test]
    fn a_record_from_before_there_were_clients_is_of_open_mode() {
        let owner = |json: &str| serde_json::from_str::<Owner>(json).expect("a record");
        assert_eq!(owner(r#""open""#), Owner::default());
        let client = owner(r#"{"client":{"id":"a","scopes":"system/Patient.rs"}}"#);
        assert!(!client.is_same(&Owner::Open) && !Owner::Open.is_same(&client));
        assert!(client.is_same(&owner(r#"{"client":{"id":"a","scopes":"system/*.rs"}}"#)));
        assert!(!client.is_same(&owner(r#"{"client":{"id":"b","scopes":"system/Patient.rs"}}"#)));
        assert_eq!(owner(&serde_json::to_string(&client).expect("plain values")), client);
    }
}
