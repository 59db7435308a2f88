//! An external issuer: access tokens that somebody else issues, verified by its keys or by asking it (SEC-11).
//!
//! What a token is worth is what its client may have here, and no more; who is no client of ours has nothing, whatever its
//! token says.

pub(crate) mod claims;
pub(crate) mod introspection;
pub(crate) mod metadata;
mod published;
pub(crate) mod token;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use url::Url;

use super::discovery;
use super::fetch::{FetchError, Fetcher};
use super::jwk::{JwksError, KeySet};
use super::jws::Alg;
use super::server::{Authorization, Clients, NotAuthorized, Registry};
use crate::clock::{self, Clock};
use claims::{Presented, Rules};
use introspection::{AskError, Introspection, NoAnswer, Question};
use metadata::{Metadata, MetadataError, addresses};
use published::{Failure, Published};
use token::{JwtError, Unverified};

/// Knows what the tokens of an external issuer are worth.
pub(crate) struct ExternalIssuer {
    /// The FHIR base, without a slash at its end.
    base: String,
    registry: Arc<Registry>,
    verifier: RwLock<Arc<Verifier>>,
}

/// What is known of an issuer.
pub(crate) struct Issuer {
    pub(crate) rules: Rules,
    /// Where it is, as it is asked.
    pub(crate) url: Url,
    /// Where clients get their tokens, if that is said.
    pub(crate) token_endpoint: Option<Url>,
    pub(crate) way: Way,
}

/// How its tokens are verified. Addresses that are not said are those of its metadata.
pub(crate) enum Way {
    Keys { accepted: Vec<Alg>, jwks_uri: Option<Url> },
    Asking { endpoint: Option<Url>, introspection: Box<Introspection> },
}

/// One way to verify, with what was fetched for it.
pub(crate) struct Verifier {
    issuer: Issuer,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    keys: Published<KeySet>,
    metadata: Published<Metadata>,
}

/// What a token is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For something that is not undone: whoever can be asked is asked.
    Kickoff,
    Other,
}

/// Why a token opens nothing. It is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Jwt(#[from] JwtError),
    #[error(transparent)]
    Asked(#[from] AskError),
    #[error(transparent)]
    Client(#[from] NotAuthorized),
    #[error("the issuer's keys cannot be had")]
    NoKeys,
    #[error("it is not known where the issuer is to be asked")]
    NoEndpoint,
}

impl Refusal {
    /// Whether nothing is known of the token, as its issuer cannot be asked.
    pub(crate) fn is_of_issuer(&self) -> bool {
        matches!(self, Self::NoKeys | Self::NoEndpoint | Self::Asked(AskError::Unavailable))
    }

    /// Whether the token is good, and opens nothing here.
    pub(crate) fn is_of_scope(&self) -> bool {
        matches!(self, Self::Client(NotAuthorized::NoScope))
    }
}

/// Why something that an issuer publishes cannot be used. It is logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishedError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what came {0}")]
    Keys(JwksError),
    #[error(
        "what came has no key that is for one of smart.issuer.algorithms and for signatures, and no certificate alone"
    )]
    NoKey,
    #[error("what came {0}")]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Asked(#[from] NoAnswer),
    #[error("smart.issuer.{0} is not set, and the issuer's metadata cannot be had or does not name it")]
    Nowhere(&'static str),
}

impl Failure for PublishedError {
    fn withdraws(&self) -> bool {
        matches!(self, Self::NoKey | Self::Keys(JwksError::Private(_)))
    }
}

impl ExternalIssuer {
    pub(crate) fn new(base: &str, clients: Clients, verifier: Verifier) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { base, registry: Arc::new(Registry::new(clients)), verifier: RwLock::new(Arc::new(verifier)) }
    }

    /// Replaces all that is known of the issuer: every token is held against that from now on (SEC-14).
    pub(crate) fn use_verifier(&self, verifier: Verifier) {
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifier);
    }

    /// Has what it publishes fetched anew when it is needed next; what there is stays as long as that cannot be had.
    pub(crate) fn look_again(&self) {
        let verifier = self.verifier();
        verifier.keys.look_again();
        verifier.metadata.look_again();
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Whether it has to be asked about each of its tokens.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.verifier().issuer.way, Way::Asking { .. })
    }

    fn verifier(&self) -> Arc<Verifier> {
        Arc::clone(&self.verifier.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What whoever holds a token may do.
    ///
    /// # Errors
    /// [`Refusal`] if that is nothing, or not known.
    pub(crate) async fn authorize(&self, token: &str, purpose: Purpose) -> Result<Authorization, Refusal> {
        let presented = self.verifier().verify(token, purpose).await?;
        // Only now: who is registered here is told to nobody but the issuer's own (SEC-12).
        Ok(self.registry.authorize(&presented.client, &presented.scope)?)
    }

    /// `.well-known/smart-configuration`, for clients that are to find the issuer; `None` if it is not known where that is.
    pub(crate) async fn document(&self) -> Option<String> {
        let (verifier, clients) = (self.verifier(), self.registry.clients());
        let scopes = clients.values().map(|client| &client.scopes);
        if let Some(endpoint) = &verifier.issuer.token_endpoint {
            return Some(discovery::of_another(endpoint.as_str(), None, None, scopes));
        }
        let metadata = verifier.metadata().await?;
        let Metadata { token_endpoint, token_auth_methods, token_auth_algorithms, .. } = &*metadata;
        let endpoint = token_endpoint.as_ref()?;
        Some(discovery::of_another(
            endpoint.as_str(),
            token_auth_methods.clone(),
            token_auth_algorithms.clone(),
            scopes,
        ))
    }
}

impl Verifier {
    pub(crate) fn new(issuer: Issuer, fetcher: Fetcher, clock: Arc<dyn Clock>) -> Self {
        let (keys, metadata) =
            (Published::new("keys", Arc::clone(&clock)), Published::new("metadata", Arc::clone(&clock)));
        Self { issuer, fetcher, clock, keys, metadata }
    }

    async fn verify(&self, token: &str, purpose: Purpose) -> Result<Presented, Refusal> {
        let rules = &self.issuer.rules;
        match &self.issuer.way {
            Way::Keys { accepted, .. } => {
                let token = Unverified::parse(token, accepted)?;
                // Whatever says of itself that it is not for us has nothing fetched, and no signature verified.
                let presented = token.check(rules, clock::now(&*self.clock))?;
                let keys = self.keys.get(|keys| token.is_by_one_of(keys), self.fetch_keys()).await;
                let keys = keys.ok_or(Refusal::NoKeys)?;
                token.verify(&keys)?;
                Ok(presented)
            }
            Way::Asking { endpoint, introspection } => {
                let published;
                let endpoint = if let Some(endpoint) = endpoint {
                    endpoint
                } else {
                    published = self.metadata().await;
                    let known = published.as_ref().and_then(|metadata| metadata.introspection_endpoint.as_ref());
                    known.ok_or(Refusal::NoEndpoint)?
                };
                let question = Question { fetcher: &self.fetcher, endpoint, rules };
                Ok(match purpose {
                    Purpose::Kickoff => introspection.anew(token, &question).await?,
                    Purpose::Other => introspection.recent(token, &question).await?,
                })
            }
        }
    }

    async fn fetch_keys(&self) -> Result<(KeySet, Duration), PublishedError> {
        let Way::Keys { accepted, jwks_uri } = &self.issuer.way else {
            return Err(PublishedError::Nowhere("jwks_uri"));
        };
        let published;
        let uri = if let Some(uri) = jwks_uri {
            uri
        } else {
            published = self.metadata().await;
            let known = published.as_ref().and_then(|metadata| metadata.jwks_uri.as_ref());
            known.ok_or(PublishedError::Nowhere("jwks_uri"))?
        };
        let came = self.fetcher.get(uri).await?;
        let keys = KeySet::parse_fetched(&came.json, accepted).map_err(|error| match error {
            JwksError::NoKey => PublishedError::NoKey,
            other => PublishedError::Keys(other),
        })?;
        Ok((keys, came.lifetime))
    }

    async fn metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.get(|_| true, self.fetch_metadata()).await
    }

    async fn fetch_metadata(&self) -> Result<(Metadata, Duration), PublishedError> {
        let [first, second] = addresses(&self.issuer.url);
        let came = match self.fetcher.get(&first).await {
            Ok(came) => came,
            // The other place is asked only where the first one is known to be empty.
            Err(FetchError::Status(status)) if status.is_client_error() => self.fetcher.get(&second).await?,
            Err(error) => return Err(error.into()),
        };
        Ok((Metadata::parse(&came.json, &self.issuer.rules.issuer)?, came.lifetime))
    }

    /// Tries what has to be had of the issuer; gives what that is.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) async fn examine(&self) -> Result<&'static str, PublishedError> {
        let is_said = match &self.issuer.way {
            Way::Keys { jwks_uri, .. } => jwks_uri.is_some(),
            Way::Asking { endpoint, .. } => endpoint.is_some(),
        };
        if !is_said {
            // By itself, so that it is told what is wrong with them.
            self.fetch_metadata().await?;
        }
        match &self.issuer.way {
            Way::Keys { .. } => {
                self.fetch_keys().await?;
                Ok("its keys can be had, and some of them are for smart.issuer.algorithms")
            }
            Way::Asking { endpoint, introspection } => {
                let published = self.metadata().await;
                let known = published.as_ref().and_then(|metadata| metadata.introspection_endpoint.as_ref());
                let endpoint = endpoint.as_ref().or(known).ok_or(PublishedError::Nowhere("introspection.endpoint"))?;
                let question = Question { fetcher: &self.fetcher, endpoint, rules: &self.issuer.rules };
                introspection.examine(&question).await?;
                Ok("it knows us, and says what tokens are worth")
            }
        }
    }
}

impl fmt::Debug for ExternalIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalIssuer").field("base", &self.base).finish_non_exhaustive()
    }
}
