//! What an access token of an external issuer has to claim, be it in a JWT or told by the issuer (SEC-11). Pure.
//!
//! An issuer has other tokens beside those for backend services, with the same signature: of users, of apps, about who has
//! logged in. Whatever shows that a token is one of those makes it worth nothing here.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::fhir::datatypes::Millis;
use crate::smart::client::ClientId;

/// How far an issuer's clock may be ahead of ours, in seconds. What has expired by ours has expired.
const LEEWAY: i64 = 60;
/// Most claims of a token, and most scopes in it.
const MOST_CLAIMS: usize = 200;
const MOST_SCOPES: usize = 400;
/// What tokens of users and apps carry (`sid`: whoever has a session has logged in), what ID tokens do, and what is good only
/// with a key that was not shown (RFC 7800).
const FORBIDDEN: [&str; 9] = ["patient", "launch", "fhirUser", "nonce", "sid", "at_hash", "c_hash", "s_hash", "cnf"];
/// Claims by which some issuers tell their tokens apart, and what they say of an access token of a backend service: `typ` of
/// Keycloak, `token_type` of RFC 7662, `token_use` of Cognito, `idtyp` of Entra ID.
const KINDS: [(&str, &str); 4] =
    [("typ", "bearer"), ("token_type", "bearer"), ("token_use", "access"), ("idtyp", "app")];

/// What is expected of every token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// `iss`, letter by letter.
    pub(crate) issuer: String,
    /// What `aud` has to name, letter by letter.
    pub(crate) audience: String,
    /// The claims that name the client. Never `sub`: what that means differs from issuer to issuer.
    pub(crate) client: Vec<String>,
    /// The claims that may hold the scopes: the first that is there does.
    pub(crate) scope: Vec<String>,
    /// What words of that stand for, where an issuer cannot express scopes.
    pub(crate) scope_map: BTreeMap<String, String>,
    /// Claims that have to be there, each with this text.
    pub(crate) required: BTreeMap<String, String>,
}

/// How it is known what a token claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It says so itself.
    ByToken,
    /// Its issuer says so, which need not say who it is.
    ByIssuer,
}

/// The claims of a token, each once.
pub(crate) struct Claims(BTreeMap<String, Value>);

/// What a token says whose claims are as they have to be. What it is worth depends on what its client may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) client: ClientId,
    /// Its scopes, as a client would ask for them.
    pub(crate) scope: String,
    /// In seconds since 1970, exclusive.
    expires: i64,
}

/// Why a token is worth nothing. It is logged; whoever sent it learns only that it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token says not when it expires, or has expired")]
    Expired,
    #[error("`iat` or `nbf` of the token lies in the future, or is no time")]
    NotYet,
    #[error("the token is none of a backend service: it has the claim `{0}`")]
    Forbidden(&'static str),
    #[error("the token is none of a backend service by its claim `{0}`")]
    Kind(&'static str),
    #[error("the token is one of a user: its scopes say so")]
    User,
    #[error("the token lacks one of smart.issuer.claims.required")]
    Required,
    #[error("the token names no client, or more than one")]
    Client,
    #[error("the token's scopes cannot be read")]
    Scope,
}

impl Claims {
    /// What the token says.
    ///
    /// # Errors
    /// [`Unfit`] for the first thing that is wrong.
    pub(crate) fn check(&self, rules: &Rules, told: Told, now: Millis) -> Result<Presented, Unfit> {
        match (self.get("iss"), told) {
            (None, Told::ByIssuer) => {}
            (Some(Value::String(issuer)), _) if *issuer == rules.issuer => {}
            _ => return Err(Unfit::Issuer),
        }
        if !self.names(&rules.audience) {
            return Err(Unfit::Audience);
        }
        let seconds = now.0.div_euclid(1000);
        let expires = self.time("exp").and_then(Result::ok).ok_or(Unfit::Expired)?;
        if expires <= seconds {
            return Err(Unfit::Expired);
        }
        for name in ["iat", "nbf"] {
            match self.time(name) {
                None => {}
                Some(Ok(time)) if time <= seconds.saturating_add(LEEWAY) => {}
                Some(_) => return Err(Unfit::NotYet),
            }
        }
        self.check_kind(rules)?;
        Ok(Presented { client: self.client(rules)?, scope: self.scope(rules)?, expires })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    fn names(&self, audience: &str) -> bool {
        match self.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
            Some(_) | None => false,
        }
    }

    /// A time in whole seconds; RFC 7519 allows fractions.
    fn time(&self, name: &str) -> Option<Result<i64, ()>> {
        /// The year 9999.
        const LATEST: f64 = 253_402_300_800.0;
        self.get(name).map(|value| {
            let time = value.as_f64().map(f64::floor).filter(|time| (0.0..LATEST).contains(time)).ok_or(())?;
            #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is far below 2^52")]
            Ok(time as i64)
        })
    }

    /// Whether it is an access token of a backend service.
    fn check_kind(&self, rules: &Rules) -> Result<(), Unfit> {
        if let Some(name) = FORBIDDEN.into_iter().find(|name| self.0.contains_key(*name)) {
            return Err(Unfit::Forbidden(name));
        }
        for (name, expected) in KINDS {
            if self.0.contains_key(name) && !self.text(name).is_some_and(|own| own.eq_ignore_ascii_case(expected)) {
                return Err(Unfit::Kind(name));
            }
        }
        let has = |(name, text): (&String, &String)| self.text(name) == Some(text);
        if rules.required.iter().all(has) { Ok(()) } else { Err(Unfit::Required) }
    }

    /// The client that it was issued to: all claims that name one name the same.
    fn client(&self, rules: &Rules) -> Result<ClientId, Unfit> {
        let mut named = rules.client.iter().filter_map(|name| self.get(name));
        let first = named.next().and_then(Value::as_str).ok_or(Unfit::Client)?;
        if named.any(|other| other.as_str() != Some(first)) {
            return Err(Unfit::Client);
        }
        ClientId::parse(first).map_err(|_| Unfit::Client)
    }

    /// Its scopes, with what words of an issuer's own stand for.
    fn scope(&self, rules: &Rules) -> Result<String, Unfit> {
        let words: Vec<&str> = match rules.scope.iter().find_map(|name| self.get(name)) {
            None => Vec::new(),
            Some(Value::String(text)) => text.split(' ').filter(|word| !word.is_empty()).collect(),
            Some(Value::Array(list)) => {
                let word = |word: &'_ Value| word.as_str().is_some_and(|word| !word.contains(' '));
                if !list.iter().all(word) {
                    return Err(Unfit::Scope);
                }
                list.iter().filter_map(Value::as_str).collect()
            }
            Some(_) => return Err(Unfit::Scope),
        };
        if words.len() > MOST_SCOPES {
            return Err(Unfit::Scope);
        }
        let is_of_user = |word: &&str| {
            ["patient/", "user/", "launch/"].iter().any(|context| word.starts_with(context))
                || matches!(*word, "launch" | "fhirUser")
        };
        if words.iter().any(is_of_user) {
            return Err(Unfit::User);
        }
        let meant = |word: &str| rules.scope_map.get(word).map_or_else(|| word.to_owned(), Clone::clone);
        Ok(words.into_iter().map(meant).collect::<Vec<_>>().join(" "))
    }
}

impl Presented {
    /// Whether it has not expired yet.
    pub(crate) fn is_good(&self, now: Millis) -> bool {
        now.0.div_euclid(1000) < self.expires
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    // Of two that are named alike another reader may take the other one.
                    if claims.len() == MOST_CLAIMS || claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim twice, or too many"));
                    }
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests;
