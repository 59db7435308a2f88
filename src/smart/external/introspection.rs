//! Access tokens that only their issuer understands: it is asked what they are worth (RFC 7662).
//!
//! What it said is relied on for half a minute at most, and for a kick-off it is asked anew (SEC-11).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode};
use moka::future::Cache;
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use super::claims::{Claims, Presented, Rules, Told, Unfit};
use crate::clock::{self, Clock};
use crate::smart::fetch::{FetchError, Fetcher};
use crate::smart::private_jwk::{JWT_BEARER, PrivateKey};
use crate::smart::signing_key::CannotSign;
use crate::telemetry::error_chain;

/// How long an answer is relied on.
const LIFETIME: Duration = Duration::from_secs(30);
/// How long nobody else asks about a token of which nothing could be learnt.
const PAUSE: Duration = Duration::from_secs(1);
/// What answers are kept take at most, in bytes.
const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// Questions at the same time, and how long one waits for its turn.
const TURNS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest token that is asked about.
const LONGEST: usize = 16 * 1024;

/// Asks what tokens are worth.
pub(crate) struct Introspection {
    credential: Credential,
    clock: Arc<dyn Clock>,
    kept: Cache<[u8; 32], Arc<Answer>>,
    turns: Semaphore,
}

/// How we show to an issuer who we are. Its `Debug` shows nothing of it.
pub(crate) enum Credential {
    /// A name and a password (`client_secret_basic`).
    Secret(HeaderValue),
    /// An assertion that we sign (`private_key_jwt`), for `audience` or the address that is asked.
    Key { client_id: String, key: PrivateKey, audience: Option<String> },
}

impl Credential {
    /// RFC 6749, 2.3.1: both are escaped as in a form before they are put together.
    pub(crate) fn secret(client_id: &str, secret: &str) -> Option<Self> {
        let escape = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let both = BASE64_STANDARD.encode(format!("{}:{}", escape(client_id), escape(secret)));
        let mut value = HeaderValue::try_from(format!("Basic {both}")).ok()?;
        value.set_sensitive(true);
        Some(Self::Secret(value))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// Why it is not known what a token is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("the issuer says that the token is not active")]
    Inactive,
    #[error("the token is longer than any that is asked about, or holds what no token does")]
    NoToken,
    #[error(transparent)]
    Claims(#[from] Unfit),
    #[error("the issuer cannot be asked, or its answer is none")]
    Unavailable,
}

/// Why an issuer did not say what a token is worth. It is logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what came is no JSON object with `active`")]
    Shape,
    #[error("no assertion could be signed")]
    Sign(#[from] CannotSign),
    #[error("no assertion could be made")]
    Random(#[from] clock::NoRandomness),
}

/// What was learnt of a token, and when it was asked.
struct Answer {
    asked: Duration,
    result: Result<Presented, AskError>,
}

impl Answer {
    fn is_good(&self, now: Duration) -> bool {
        let lifetime = if self.result == Err(AskError::Unavailable) { PAUSE } else { LIFETIME };
        now.saturating_sub(self.asked) < lifetime
    }

    fn bytes(&self) -> u32 {
        let scope = self.result.as_ref().map_or(0, |presented| presented.scope.len());
        u32::try_from(scope).unwrap_or(u32::MAX).saturating_add(512)
    }
}

/// Where, and what for.
pub(crate) struct Question<'a> {
    pub(crate) fetcher: &'a Fetcher,
    pub(crate) endpoint: &'a Url,
    pub(crate) rules: &'a Rules,
}

impl Introspection {
    pub(crate) fn new(credential: Credential, clock: Arc<dyn Clock>) -> Self {
        let weigher = |_: &[u8; 32], answer: &Arc<Answer>| answer.bytes();
        let kept = Cache::builder().weigher(weigher).max_capacity(MOST_BYTES).build();
        Self { credential, clock, kept, turns: Semaphore::new(TURNS) }
    }

    /// What a token says, if it is good: as the issuer has said within the last half minute.
    ///
    /// # Errors
    /// [`AskError`]
    pub(crate) async fn recent(&self, token: &str, question: &Question<'_>) -> Result<Presented, AskError> {
        let hash = hash(token)?;
        let now = self.clock.monotonic();
        let answer = async { Arc::new(self.ask(token, question).await) };
        // Of several who want to know at once one asks for all.
        let entry = self.kept.entry(hash).or_insert_with_if(answer, |old| !old.is_good(now)).await;
        let presented = entry.into_value().result.clone()?;
        if presented.is_good(clock::now(&*self.clock)) { Ok(presented) } else { Err(Unfit::Expired.into()) }
    }

    /// The same as the issuer says now.
    ///
    /// # Errors
    /// [`AskError`]
    pub(crate) async fn anew(&self, token: &str, question: &Question<'_>) -> Result<Presented, AskError> {
        let hash = hash(token)?;
        let answer = Arc::new(self.ask(token, question).await);
        if answer.result != Err(AskError::Unavailable) {
            // Whoever asks next learns no less than this one did.
            self.kept.insert(hash, Arc::clone(&answer)).await;
        }
        answer.result.clone()
    }

    async fn ask(&self, token: &str, question: &Question<'_>) -> Answer {
        let turn = tokio::select! {
            turn = self.turns.acquire() => turn.ok(),
            () = self.clock.sleep(PATIENCE) => None,
        };
        let asked = self.clock.monotonic();
        let result = if let Some(_turn) = turn {
            self.told(token, question).await
        } else {
            tracing::warn!("the issuer of access tokens is asked about more of them than it answers");
            Err(AskError::Unavailable)
        };
        // An answer is as old as its question; nothing else is to be asked while there is none.
        let asked = if result == Err(AskError::Unavailable) { self.clock.monotonic() } else { asked };
        Answer { asked, result }
    }

    async fn told(&self, token: &str, question: &Question<'_>) -> Result<Presented, AskError> {
        let claims = match self.claims(token, question).await {
            Ok(claims) => claims,
            // What it cannot be asked about at all, such as a token of another kind.
            Err(NoAnswer::Fetch(FetchError::Status(StatusCode::BAD_REQUEST))) => return Err(AskError::Inactive),
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(error, "the issuer of access tokens does not say what one is worth");
                return Err(AskError::Unavailable);
            }
        };
        if claims.get("active") != Some(&Value::Bool(true)) {
            return Err(AskError::Inactive);
        }
        Ok(claims.check(question.rules, Told::ByIssuer, clock::now(&*self.clock))?)
    }

    /// Tries whether the issuer knows us and answers.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub(crate) async fn examine(&self, question: &Question<'_>) -> Result<(), NoAnswer> {
        self.claims("offtake-doctor", question).await.map(drop)
    }

    async fn claims(&self, token: &str, question: &Question<'_>) -> Result<Claims, NoAnswer> {
        let Question { fetcher, endpoint, .. } = question;
        let (form, authorization) = self.form(token, endpoint)?;
        let json = fetcher.post(endpoint, form, authorization).await?;
        read(&json).ok_or(NoAnswer::Shape)
    }

    /// The question about a token, and what shows who asks it.
    fn form(&self, token: &str, endpoint: &Url) -> Result<(String, Option<HeaderValue>), NoAnswer> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token).append_pair("token_type_hint", "access_token");
        let authorization = match &self.credential {
            Credential::Secret(authorization) => Some(authorization.clone()),
            Credential::Key { client_id, key, audience } => {
                let audience = audience.as_deref().unwrap_or(endpoint.as_str());
                let now = clock::now(&*self.clock).0.div_euclid(1_000);
                let assertion = key.assertion(client_id, audience, now, clock::random()?)?;
                form.append_pair("client_id", client_id).append_pair("client_assertion_type", JWT_BEARER);
                form.append_pair("client_assertion", &assertion);
                None
            }
        };
        Ok((form.finish(), authorization))
    }
}

/// The members of an answer that says whether a token is active.
fn read(json: &[u8]) -> Option<Claims> {
    let claims: Claims = serde_json::from_slice(json).ok()?;
    claims.get("active").is_some_and(Value::is_boolean).then_some(claims)
}

/// What a token is remembered by.
fn hash(token: &str) -> Result<[u8; 32], AskError> {
    // RFC 6750, 2.1: b64token.
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    if token.is_empty() || token.len() > LONGEST || !token.bytes().all(is_plain) {
        return Err(AskError::NoToken);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    Ok(hash)
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection").finish_non_exhaustive()
    }
}
