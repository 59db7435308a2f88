//! Who is registered; and the authorization server: who has proven to be one of them, and what a token of ours permits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::access_token::{AccessToken, TokenError, TokenKeys};
use super::assertion::{AssertionError, Authenticated, Expected, Registered, Unverified, Use};
use super::client::{ClientId, JwksUri, Owner};
use super::delivery::{Delivery, LinkMode};
use super::discovery::Endpoints;
use super::jwk::KeySet;
use super::key_source::KeySource;
use super::narrowing;
use super::policy::{Level, Policy, Quotas};
use super::scope::{ScopeError, Scopes};
use super::signing_key::CannotSign;
use crate::bulk::shape::Release;
use crate::clock::{self, Clock};
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::filter::{Filter, FilterError};
use crate::fhir::resource_type::ResourceType;

/// A registered client.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) scopes: Scopes,
    pub(crate) keys: ClientKeys,
    /// Where files go that it asks for from now on.
    pub(crate) delivery: Delivery,
    /// What its manifests list, where that is another thing than for the others.
    pub(crate) links: Option<LinkMode>,
    /// The release of the guide whose operation it calls, if it may call no other.
    pub(crate) release: Option<Release>,
    /// What of that it may have.
    pub(crate) policy: Arc<Policy>,
    pub(crate) quotas: Quotas,
}

/// Where a client's keys come from.
#[derive(Debug, Clone)]
pub(crate) enum ClientKeys {
    /// They were given to us.
    Registered(KeySet),
    /// They are fetched from its `jwks_uri`.
    At(JwksUri),
    /// They could not be read at the start: nobody can prove to be the client until they can.
    Unreadable,
    /// They are an external issuer's affair.
    Elsewhere,
}

/// The clients as they are now.
pub(crate) type Clients = BTreeMap<ClientId, Arc<Client>>;

/// Who is registered, whoever issues their tokens.
pub(crate) struct Registry {
    clients: RwLock<Arc<Clients>>,
}

/// Issues tokens, and knows what they are worth.
pub(crate) struct AuthorizationServer {
    endpoints: Endpoints,
    /// What `aud` of an assertion may name.
    audiences: [String; 2],
    registry: Arc<Registry>,
    keys: RwLock<Arc<TokenKeys>>,
    source: RwLock<Arc<KeySource>>,
    lifetime: Duration,
    clock: Arc<dyn Clock>,
}

/// What a request may do, and for whom. Only a token of a client that is registered makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorization {
    client: ClientId,
    scopes: Scopes,
    policy: Arc<Policy>,
}

impl Authorization {
    pub(crate) fn client(&self) -> &ClientId {
        &self.client
    }

    pub(crate) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// In `open` mode: whoever reaches us.
    Anybody,
    Client(Authorization),
}

impl Caller {
    /// Whose an export is that is kicked off now.
    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Anybody => Owner::Open,
            Self::Client(Authorization { client, scopes, policy }) => {
                Owner::Client { id: client.clone(), scopes: scopes.clone(), policy: Policy::clone(policy) }
            }
        }
    }

    /// Whether an export is the caller's own.
    pub(crate) fn owns(&self, owner: &Owner) -> bool {
        match (self, owner) {
            (Self::Anybody, Owner::Open) => true,
            (Self::Client(caller), Owner::Client { id, .. }) => caller.client == *id,
            (Self::Anybody, Owner::Client { .. }) | (Self::Client(_), Owner::Open) => false,
        }
    }

    /// Whether the caller's policy permits to export a Group, also as a part of another one.
    pub(crate) fn permits_group(&self, id: &Id) -> bool {
        match self {
            Self::Anybody => true,
            Self::Client(client) => client.policy.permits_group(id),
        }
    }

    /// The types of which the caller may have a part only.
    pub(crate) fn narrowed(&self) -> BTreeSet<ResourceType> {
        match self {
            Self::Anybody => BTreeSet::new(),
            Self::Client(Authorization { scopes, policy, .. }) => {
                let required = policy.required.iter().map(|required| required.resource_type);
                scopes.narrowed().chain(required).collect()
            }
        }
    }

    /// What of a type is exported where the caller wishes for what any of `wishes` lets pass.
    ///
    /// # Errors
    /// [`FilterError`] if that takes too many searches, or too long ones.
    pub(crate) fn filters(&self, name: ResourceType, wishes: &[Filter]) -> Result<Vec<Filter>, FilterError> {
        match self {
            Self::Anybody => narrowing::alternatives(&[Filter::ALL], [], wishes),
            Self::Client(Authorization { scopes, policy, .. }) => {
                narrowing::alternatives(&scopes.alternatives(name), policy.required(name), wishes)
            }
        }
    }

    /// Which patients the caller may have anything of, whether it may have Patient resources or not.
    ///
    /// # Errors
    /// [`FilterError`] if that takes too many searches, or too long ones.
    pub(crate) fn patients(&self) -> Result<Vec<Filter>, FilterError> {
        match self {
            Self::Anybody => Ok(vec![Filter::ALL]),
            Self::Client(Authorization { scopes, policy, .. }) => {
                let rights = scopes.alternatives(ResourceType::PATIENT);
                let rights = if rights.is_empty() { vec![Filter::ALL] } else { rights };
                narrowing::alternatives(&rights, policy.required(ResourceType::PATIENT), &[])
            }
        }
    }

    /// What of a type the caller's scopes permit.
    pub(crate) fn scoped(&self, name: ResourceType) -> Vec<Filter> {
        match self {
            Self::Anybody => vec![Filter::ALL],
            Self::Client(client) => client.scopes.alternatives(name),
        }
    }

    /// Whether the caller may filter a type by a parameter.
    pub(crate) fn may_filter_by(&self, name: ResourceType, parameter: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::Client(client) => client.policy.may_filter_by(name, parameter),
        }
    }

    /// Whether the caller's scopes permit all of a type that passes any of `filters` (SEC-15).
    pub(crate) fn covers(&self, name: ResourceType, filters: &[Filter]) -> bool {
        match self {
            Self::Anybody => true,
            Self::Client(client) => client.scopes.cover(name, filters),
        }
    }

    /// Those of `types` that the caller may not export.
    pub(crate) fn lacks(&self, types: impl IntoIterator<Item = ResourceType>) -> Vec<ResourceType> {
        match self {
            Self::Anybody => Vec::new(),
            Self::Client(Authorization { scopes, .. }) => {
                types.into_iter().filter(|name| !scopes.may_export(*name)).collect()
            }
        }
    }
}

/// An assertion that was looked at.
pub(crate) struct Checked {
    /// By which it is remembered whether it was used.
    pub(crate) hash: [u8; 32],
    /// The client that has signed it, or why it is worth nothing.
    pub(crate) result: Result<(ClientId, Use), AssertionError>,
}

/// Why no token is issued to a client that has proven who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("the scope {0}")]
    Scope(#[from] ScopeError),
    #[error("the client is registered no more")]
    Revoked,
    #[error(transparent)]
    Sign(#[from] CannotSign),
}

/// Why whoever holds a good token may do nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAuthorized {
    #[error("the token's client is not registered")]
    Unknown,
    #[error("the token's scopes permit nothing that its client is registered for")]
    NoScope,
    #[error("the token's scope {0}")]
    Scope(ScopeError),
}

/// A token and what is said with it. (No `Debug`: whoever has the token has what it opens.)
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) scopes: Scopes,
    pub(crate) lifetime: Duration,
}

impl AuthorizationServer {
    pub(crate) fn new(
        base: &str,
        clients: Clients,
        keys: TokenKeys,
        source: KeySource,
        lifetime: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let endpoints = Endpoints::below(base);
        // Some clients name the base's other endpoint, where they use that one.
        let audiences = [endpoints.token.clone(), endpoints.introspection.clone()];
        let (registry, keys) = (Arc::new(Registry::new(clients)), RwLock::new(Arc::new(keys)));
        let source = RwLock::new(Arc::new(source));
        Self { endpoints, audiences, registry, keys, source, lifetime, clock }
    }

    /// Has the keys of clients from there from now on.
    pub(crate) fn use_source(&self, source: KeySource) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(source);
    }

    /// Signs by other keys from now on.
    pub(crate) fn use_keys(&self, keys: TokenKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    pub(crate) fn keys(&self) -> Arc<TokenKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn source(&self) -> Arc<KeySource> {
        Arc::clone(&self.source.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    fn clients(&self) -> Arc<Clients> {
        self.registry.clients()
    }
}

impl Registry {
    pub(crate) fn new(clients: Clients) -> Self {
        Self { clients: RwLock::new(Arc::new(clients)) }
    }

    /// Replaces all clients: every token is held against the new ones from now on (SEC-14).
    pub(crate) fn replace(&self, clients: Clients) {
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(clients);
    }

    /// The client of this name, as it is registered now.
    pub(crate) fn client(&self, id: &ClientId) -> Option<Arc<Client>> {
        self.clients().get(id).cloned()
    }

    /// What a client may do by a token of these scopes: what both permit.
    ///
    /// # Errors
    /// [`NotAuthorized`] if that is nothing.
    pub(crate) fn authorize(&self, id: &ClientId, scope: &str) -> Result<Authorization, NotAuthorized> {
        let client = self.client(id).ok_or(NotAuthorized::Unknown)?;
        let scopes = client.scopes.grant(scope).map_err(|error| match error {
            ScopeError::Empty | ScopeError::Nothing => NotAuthorized::NoScope,
            ScopeError::TooLong | ScopeError::Characters | ScopeError::Filtered | ScopeError::Foreign => {
                NotAuthorized::Scope(error)
            }
        })?;
        Ok(Authorization { client: id.clone(), scopes, policy: client.policy.clone() })
    }

    /// Who is registered.
    pub(crate) fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.clients.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the client of an export may have now all that it could have when it kicked off.
    pub(crate) fn is_as_wide(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Open => false,
            Owner::Client { id, scopes, policy } => self.clients().get(id).is_some_and(|client| {
                scopes.and(&client.scopes).as_ref() == Some(scopes) && client.policy.is_as_wide_as(policy)
            }),
        }
    }

    /// Whether the client of an export is registered still, for all these types as far as they pass their filters, and for what
    /// else it was kicked off for (SEC-14).
    pub(crate) fn covers<'a>(
        &self,
        owner: &Owner,
        level: Level,
        group: Option<&Id>,
        types: impl IntoIterator<Item = (ResourceType, &'a [Filter])>,
    ) -> bool {
        match owner {
            Owner::Open => false,
            Owner::Client { id, policy, .. } => {
                let client = self.clients().get(id).cloned();
                client.is_some_and(|client| {
                    let may_hold = |(name, filters)| {
                        client.scopes.cover(name, filters)
                            && client.policy.permits_type(name)
                            && client.policy.lets_pass(name, filters)
                    };
                    client.policy.covers(policy, level, group) && types.into_iter().all(may_hold)
                })
            }
        }
    }

    /// Whether the client of an export may filter now by all that it has filtered by, but for what was required of it then: what
    /// passed tells of what stands there (SEC-14, SEC-21).
    pub(crate) fn may_filter_by<'a>(
        &self,
        owner: &Owner,
        filters: impl IntoIterator<Item = (ResourceType, &'a Filter)>,
    ) -> bool {
        let Owner::Client { id, policy: then, .. } = owner else { return true };
        self.client(id).is_none_or(|client| client.policy.may_still_filter(then, filters))
    }

    /// How much a client may have now; nothing is said of one that is registered no more.
    pub(crate) fn quotas(&self, client: &ClientId) -> Quotas {
        self.clients().get(client).map(|client| client.quotas).unwrap_or_default()
    }

    /// Where files go that a caller asks for now.
    pub(crate) fn delivery(&self, caller: &Caller) -> Delivery {
        match caller {
            Caller::Anybody => Delivery::default(),
            Caller::Client(Authorization { client, .. }) => {
                self.clients().get(client).map(|client| client.delivery.clone()).unwrap_or_default()
            }
        }
    }

    /// What the manifests of an export list, if its client has a wish of its own.
    pub(crate) fn links(&self, owner: &Owner) -> Option<LinkMode> {
        match owner {
            Owner::Open => None,
            Owner::Client { id, .. } => self.clients().get(id)?.links,
        }
    }

    /// The release whose operation a caller has to call, if it may call no other.
    pub(crate) fn release(&self, caller: &Caller) -> Option<Release> {
        match caller {
            Caller::Anybody => None,
            Caller::Client(Authorization { client, .. }) => self.clients().get(client)?.release,
        }
    }

    /// Whether there is a client whose manifests list this.
    pub(crate) fn anybody_has(&self, mode: LinkMode) -> bool {
        self.clients().values().any(|client| client.links == Some(mode))
    }
}

impl AuthorizationServer {
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// `.well-known/smart-configuration`
    pub(crate) fn document(&self) -> String {
        let clients = self.clients();
        self.endpoints.document(clients.values().map(|client| &client.scopes))
    }

    /// Our JWK Set.
    pub(crate) fn jwks(&self) -> String {
        self.keys().jwks(clock::now(&*self.clock))
    }

    /// Looks at an assertion; whether it was used before is for the caller to find out. `client_id` is what the form says.
    pub(crate) async fn check(&self, jwt: &str, client_id: Option<&str>, remembered_since: Millis) -> Checked {
        let unverified = match Unverified::parse(jwt) {
            Ok(unverified) => unverified,
            Err(error) => return Checked { hash: [0; 32], result: Err(error) },
        };
        let hash = unverified.hash();
        if client_id.is_some_and(|named| named != unverified.client()) {
            return Checked { hash, result: Err(AssertionError::Names) };
        }
        let clients = self.clients();
        let id = ClientId::parse(unverified.client()).ok();
        let client = id.and_then(|id| clients.get(&id)).map(Arc::as_ref);
        let result = self.verify(&unverified, client, remembered_since).await;
        Checked { hash, result }
    }

    async fn verify(
        &self,
        unverified: &Unverified<'_>,
        client: Option<&Client>,
        remembered_since: Millis,
    ) -> Result<(ClientId, Use), AssertionError> {
        let expected = || Expected { audiences: &self.audiences, now: clock::now(&*self.clock), remembered_since };
        let Some(client) = client else {
            let unknown = AssertionError::UnknownClient;
            return unverified.verify(Err(unknown), expected()).and(Err(unknown));
        };
        let verified = match &client.keys {
            ClientKeys::Registered(keys) => unverified.verify(Ok(Registered { keys, jwks_uri: None }), expected()),
            ClientKeys::Unreadable | ClientKeys::Elsewhere => {
                unverified.verify(Err(AssertionError::NoKeys), expected())
            }
            ClientKeys::At(uri) => {
                let by = |keys| Ok(Registered { keys, jwks_uri: Some(uri.as_str()) });
                let source = self.source();
                match source.keys(&client.id, uri.url(), |keys| unverified.is_by_one_of(keys)).await {
                    None => unverified.verify(Err(AssertionError::NoKeys), expected()),
                    Some(found) => match unverified.verify(by(&found.set), expected()) {
                        // Too old to be relied on: the key may be there no more.
                        Ok(_) | Err(AssertionError::Forgotten) if !found.is_fresh => {
                            let anew = source.anew(&client.id, uri.url()).await.ok_or(AssertionError::NoKeys)?;
                            unverified.verify(by(&anew.set), expected())
                        }
                        verified => verified,
                    },
                }
            }
        };
        verified.map(|used| (client.id.clone(), used))
    }

    /// A token for a client that has proven who it is, for those of the scopes that it may have.
    ///
    /// # Errors
    /// [`IssueError::Scope`] if that is none.
    pub(crate) fn issue(&self, client: &Authenticated, scope: &str, jti: [u8; 16]) -> Result<Issued, IssueError> {
        let clients = self.clients();
        let client = clients.get(client.client()).ok_or(IssueError::Revoked)?;
        let scopes = client.scopes.grant(scope)?;
        let issued = clock::now(&*self.clock).0.div_euclid(1000);
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(0);
        let token = AccessToken { client: client.id.clone(), scopes, issued, expires: issued.saturating_add(lifetime) };
        let signed = token.sign(&self.keys(), &self.endpoints.base, jti)?;
        Ok(Issued { token: signed, scopes: token.scopes, lifetime: self.lifetime })
    }

    /// What a token says and its client may have now.
    ///
    /// # Errors
    /// [`TokenError`] if it is worth nothing.
    pub(crate) fn inspect(&self, token: &str) -> Result<AccessToken, TokenError> {
        let token = AccessToken::verify(token, &self.keys(), &self.endpoints.base, clock::now(&*self.clock))?;
        let clients = self.clients();
        let client = clients.get(&token.client).ok_or(TokenError::Revoked)?;
        let scopes = token.scopes.and(&client.scopes).ok_or(TokenError::Revoked)?;
        Ok(AccessToken { scopes, ..token })
    }

    /// What whoever holds a token may do (SM-035).
    ///
    /// # Errors
    /// [`TokenError`] if it is worth nothing.
    pub(crate) fn authorize(&self, token: &str) -> Result<Authorization, TokenError> {
        let AccessToken { client, scopes, .. } = self.inspect(token)?;
        let policy = self.clients().get(&client).map(|known| Arc::clone(&known.policy));
        Ok(Authorization { policy: policy.ok_or(TokenError::Revoked)?, client, scopes })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthorizationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationServer").field("base", &self.endpoints.base).finish_non_exhaustive()
    }
}
