//! Access tokens as searches need them: one for all, kept until shortly before it expires, asked for by one search for all
//! others, and after a failure not sooner than its pause.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;

use super::endpoint::{Issued, NotIssued, TokenEndpoint, TokenError};
use crate::clock::{self, Clock};
use crate::telemetry::error_chain;
use crate::upstream::retry;

/// How long a token may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// A token is replaced so long before its end, or when a fifth of its time is left.
const AHEAD: Duration = Duration::from_mins(1);
/// Nor is it shown so shortly before its end: a request takes a moment.
const LAST: Duration = Duration::from_secs(5);

/// The tokens of one endpoint. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: TokenEndpoint,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    /// Who asks for the next one.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    token: Option<Arc<Token>>,
    /// Tokens that there were.
    tokens: u64,
    /// Failures in a row, and until when nobody tries again.
    failures: u32,
    failing: Option<(Duration, Arc<TokenError>)>,
}

/// One token.
pub(super) struct Token {
    /// `Bearer` and the token itself.
    pub(super) value: HeaderValue,
    pub(super) number: u64,
    /// By the monotonic clock: when it is replaced, and when it is used no more.
    renewed_at: Duration,
    ends_at: Duration,
}

/// How it stands with the token at a moment.
enum Standing {
    Good(Arc<Token>),
    /// It is good, and will not be for long.
    Aging(Arc<Token>),
    Failing(Arc<TokenError>),
    Wanted,
}

impl Tokens {
    pub(crate) fn new(endpoint: TokenEndpoint, clock: Arc<dyn Clock>) -> Self {
        let (known, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { endpoint, clock, known, turn }) }
    }

    /// A token that is good at this moment.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn token(&self) -> Result<Arc<Token>, Arc<TokenError>> {
        match self.standing() {
            Standing::Good(token) => Ok(token),
            Standing::Failing(error) => Err(error),
            Standing::Aging(token) => match self.inner.turn.try_lock() {
                // The others go on with the old one.
                Ok(_turn) => Ok(self.renew().await.unwrap_or(token)),
                Err(_another_asks) => Ok(token),
            },
            Standing::Wanted => {
                let _turn = self.inner.turn.lock().await;
                match self.standing() {
                    Standing::Good(token) | Standing::Aging(token) => Ok(token),
                    Standing::Failing(error) => Err(error),
                    Standing::Wanted => self.renew().await,
                }
            }
        }
    }

    /// The server does not take this token any more.
    pub(super) fn forget(&self, number: u64) {
        let mut known = self.inner.known();
        // Another search may have replaced it already.
        if known.token.as_ref().is_some_and(|token| token.number == number) {
            known.token = None;
            drop(known);
            tracing::info!("the upstream refused an access token before its time; another one is asked for");
        }
    }

    fn standing(&self) -> Standing {
        let now = self.inner.clock.monotonic();
        let known = self.inner.known();
        let failing = known.failing.as_ref().filter(|(until, _)| now < *until);
        match (&known.token, failing) {
            (Some(token), None) if (token.renewed_at..token.ends_at).contains(&now) => {
                Standing::Aging(Arc::clone(token))
            }
            (Some(token), _) if now < token.ends_at => Standing::Good(Arc::clone(token)),
            (_, Some((_, error))) => Standing::Failing(Arc::clone(error)),
            (_, None) => Standing::Wanted,
        }
    }

    async fn renew(&self) -> Result<Arc<Token>, Arc<TokenError>> {
        let Inner { endpoint, clock, .. } = &*self.inner;
        let asked_at = clock.monotonic();
        let issued = tokio::select! {
            issued = endpoint.ask() => issued,
            () = clock.sleep(PATIENCE) => Err(NotIssued { error: TokenError::Slow, asked: None }),
        };
        let jitter = clock::random().map_or(0, u64::from_le_bytes);
        let mut known = self.inner.known();
        let issued = issued.and_then(|issued| {
            let number = known.tokens + 1;
            Token::new(&issued, number, asked_at, jitter).ok_or(NotIssued { error: TokenError::NoToken, asked: None })
        });
        match issued {
            Ok(token) => {
                let token = Arc::new(token);
                let is_back = known.failures > 0;
                *known = Known { token: Some(Arc::clone(&token)), tokens: token.number, failures: 0, failing: None };
                drop(known);
                if is_back {
                    tracing::info!("there is an access token for the upstream again");
                } else {
                    tracing::debug!("an access token for the upstream was issued");
                }
                Ok(token)
            }
            Err(NotIssued { error, asked }) => {
                known.failures = known.failures.saturating_add(1);
                let pause = retry::pause(known.failures, asked, jitter);
                let error = Arc::new(error);
                known.failing = Some((clock.monotonic().saturating_add(pause), Arc::clone(&error)));
                let failures = known.failures;
                drop(known);
                tracing::warn!(
                    failures,
                    pause_ms = pause.as_millis(),
                    error = error_chain(&*error),
                    "no access token for the upstream was issued"
                );
                Err(error)
            }
        }
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// `jitter` is a random number: many processes that began together do not all ask at once.
    fn new(issued: &Issued, number: u64, asked_at: Duration, jitter: u64) -> Option<Self> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", issued.token)).ok()?;
        value.set_sensitive(true);
        let ahead = (issued.lifetime / 5).min(AHEAD);
        let half = u64::try_from(ahead.as_millis() / 2).unwrap_or(0).max(1);
        let ahead = ahead + Duration::from_millis(jitter % half);
        let before_its_end = |time| asked_at + issued.lifetime.saturating_sub(time);
        let (renewed_at, ends_at) = (before_its_end(ahead), before_its_end((issued.lifetime / 20).min(LAST)));
        Some(Self { value, number, renewed_at, ends_at })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_it_ends_and_not_long_before() {
        for (lifetime, earliest, latest) in
            [(300_000, 210_000, 240_000), (3_600_000, 3_510_000, 3_540_000), (1_000, 700, 800)]
        {
            for jitter in [0, 1, u64::MAX / 3, u64::MAX] {
                let issued = Issued { token: "a".to_owned(), lifetime: Duration::from_millis(lifetime) };
                let token = Token::new(&issued, 1, Duration::from_secs(7), jitter).expect("a value");
                let renewed = token.renewed_at.saturating_sub(Duration::from_secs(7)).as_millis();
                assert!((earliest..=latest).contains(&renewed), "{lifetime} {jitter}: {renewed}");
                assert!(token.renewed_at < token.ends_at);
                assert!(token.ends_at < Duration::from_secs(7) + issued.lifetime);
                assert!(token.value.is_sensitive());
            }
        }
    }
}
