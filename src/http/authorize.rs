//! From the bearer token of a request to who makes it, and the answers of a resource server (RFC 6750, section 3).

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::places::Place;
use super::problem::Problem;
use super::{Access, Edge, witness};
use crate::fhir::resource_type::ResourceType;
use crate::job::Job;
use crate::smart::external::{ExternalIssuer, Purpose};
use crate::smart::scope::{self, Actions};
use crate::smart::server::{AuthorizationServer, Caller};

/// How long a request waits until fewer tokens of its peer are asked about.
const ASKING_PATIENCE: Duration = Duration::from_secs(5);

/// Why a request is not let in. What is wrong with a token is logged, not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("an access token is needed: send it as `Authorization: Bearer …`")]
    NoToken,
    #[error("an access token is sent in the `Authorization` header, and nowhere else")]
    Misplaced,
    #[error("the access token is not good, or no longer")]
    Token,
}

/// SM-035, SM-036: whoever has no good token is told so before anything else is looked at.
pub(super) async fn caller(edge: &Edge, head: &Parts) -> Result<Caller, Problem> {
    caller_for(edge, head, Purpose::Other).await
}

/// The same for a purpose that may want to have it known anew what a token is worth.
pub(super) async fn caller_for(edge: &Edge, head: &Parts, purpose: Purpose) -> Result<Caller, Problem> {
    let token = || {
        let token = bearer(&head.headers, head.uri.query());
        let token = token.map_err(|denied| Problem::denied(denied, edge.access.realm()))?;
        edge.check_clock()?;
        Ok::<_, Problem>(token)
    };
    let caller = match &edge.access {
        Access::Open { .. } => Caller::Anybody,
        Access::Server(server) => by_our_token(edge, server, token()?.to_owned(), head).await?,
        Access::External(issuer) => by_their_token(edge, issuer, token()?.to_owned(), head, purpose).await?,
    };
    if let Caller::Client(authorization) = &caller {
        witness::saw(head, authorization.client(), Some(authorization.scopes()));
    }
    Ok(caller)
}

/// A place for a token of this peer while it is looked at.
async fn place(edge: &Edge, head: &Parts) -> Result<Place, Problem> {
    let busy = || Problem::unavailable("too many of your access tokens are looked at");
    tokio::select! {
        place = edge.asking.take(witness::peer(head)) => place.map_err(|_| busy()),
        () = edge.clock.sleep(ASKING_PATIENCE) => Err(busy()),
    }
}

async fn by_our_token(
    edge: &Edge,
    server: &Arc<AuthorizationServer>,
    token: String,
    head: &Parts,
) -> Result<Caller, Problem> {
    let place = place(edge, head).await?;
    let verifier = Arc::clone(server);
    // Signatures are verified where exports work: ordinary requests do not wait for it. Until then the place is taken: whoever
    // breaks off has no more of them verified at once.
    let verified = edge.runtime.spawn(async move {
        let _place = place;
        verifier.authorize(&token)
    });
    match verified.await {
        Ok(Ok(authorization)) => Ok(Caller::Client(authorization)),
        Ok(Err(error)) => {
            tracing::info!(reason = %error, "an access token was refused");
            Err(Problem::denied(Denied::Token, edge.access.realm()))
        }
        Err(_ended) => Err(Problem::internal()),
    }
}

async fn by_their_token(
    edge: &Edge,
    issuer: &Arc<ExternalIssuer>,
    token: String,
    head: &Parts,
    purpose: Purpose,
) -> Result<Caller, Problem> {
    // Whoever sends token after token that the issuer has to be asked about takes nobody else's turn.
    let place = if issuer.is_asked() { Some(place(edge, head).await?) } else { None };
    let verifier = Arc::clone(issuer);
    // Where exports work, as above; and what was asked is learnt, whether anybody waits for it or not. Until then its place is
    // taken: whoever breaks off gains none.
    let asking = async move {
        let _place = place;
        verifier.authorize(&token, purpose).await
    };
    let verified = edge.runtime.spawn(asking).await;
    let refusal = match verified {
        Ok(Ok(authorization)) => return Ok(Caller::Client(authorization)),
        Ok(Err(refusal)) => refusal,
        Err(_ended) => return Err(Problem::internal()),
    };
    tracing::info!(reason = %refusal, "an access token was refused");
    Err(if refusal.is_of_issuer() {
        Problem::unavailable("the issuer of access tokens cannot be asked at the moment")
    } else if refusal.is_of_scope() {
        insufficient(edge, "system/*.rs")
    } else {
        Problem::denied(Denied::Token, edge.access.realm())
    })
}

/// Fails unless the caller may export all of these types.
pub(super) fn require(
    edge: &Edge,
    caller: &Caller,
    types: impl IntoIterator<Item = ResourceType>,
) -> Result<(), Problem> {
    let lacks = caller.lacks(types);
    if lacks.is_empty() { Ok(()) } else { Err(insufficient(edge, &scope::wanted(lacks))) }
}

/// Fails unless the caller may have all that an export holds of these types (SEC-15).
pub(super) fn require_of(
    edge: &Edge,
    caller: &Caller,
    job: &Job,
    types: impl IntoIterator<Item = ResourceType>,
) -> Result<(), Problem> {
    let uncovered: Vec<_> = types.into_iter().filter(|name| !caller.covers(*name, job.filters_of(*name))).collect();
    if uncovered.is_empty() { Ok(()) } else { Err(insufficient(edge, &scope::wanted(uncovered))) }
}

/// Fails unless the caller may read whatever Group there is: nothing can hold the members of one to a filter.
pub(super) fn require_groups(edge: &Edge, caller: &Caller) -> Result<(), Problem> {
    let Caller::Client(client) = caller else { return Ok(()) };
    if !client.scopes().permit(ResourceType::GROUP, Actions::READ) {
        return Err(insufficient(edge, "system/Group.r"));
    }
    if client.policy().required(ResourceType::GROUP).next().is_some() {
        return Err(Problem::not_by_policy("this client may have a part of all Groups only, and no Group's members"));
    }
    Ok(())
}

/// SM-037: the token is good, and does not permit this.
pub(super) fn insufficient(edge: &Edge, wanted: &str) -> Problem {
    let text = "the access token's scopes do not permit this; what is needed stands in `WWW-Authenticate`";
    let more = format!(", error=\"insufficient_scope\", scope=\"{wanted}\"");
    Problem::new(StatusCode::FORBIDDEN, "forbidden", text)
        .with_header(header::WWW_AUTHENTICATE, challenge(edge.access.realm(), &more))
}

impl Problem {
    fn denied(denied: Denied, base: &str) -> Self {
        let (status, code, more) = match denied {
            Denied::NoToken => (StatusCode::UNAUTHORIZED, "login", ""),
            Denied::Misplaced => (StatusCode::BAD_REQUEST, "invalid", ", error=\"invalid_request\""),
            Denied::Token => (StatusCode::UNAUTHORIZED, "login", ", error=\"invalid_token\""),
        };
        Self::new(status, code, denied).with_header(header::WWW_AUTHENTICATE, challenge(base, more))
    }
}

fn challenge(base: &str, more: &str) -> HeaderValue {
    // A base and scopes are visible ASCII without quotes.
    HeaderValue::try_from(format!("Bearer realm=\"{base}\"{more}")).unwrap_or(HeaderValue::from_static("Bearer"))
}

/// The bearer token of a request, of which nothing is known yet.
fn bearer<'a>(headers: &'a HeaderMap, query: Option<&str>) -> Result<&'a str, Denied> {
    if query.is_some_and(|query| query.split('&').any(|pair| names_token(pair.split('=').next().unwrap_or_default()))) {
        return Err(Denied::Misplaced);
    }
    let value = headers.get(header::AUTHORIZATION).ok_or(Denied::NoToken)?;
    let value = value.to_str().map_err(|_| Denied::Token)?;
    let (scheme, token) = value.trim().split_once(' ').unwrap_or((value, ""));
    // Of other schemes we know nothing: whoever sends one has no token of ours.
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::NoToken);
    }
    Ok(token.trim_start())
}

/// `access_token`, escaped or not.
fn names_token(name: &str) -> bool {
    let plain = crate::smart::form::Form::parse(name.as_bytes());
    plain.is_ok_and(|form| form.has("access_token"))
}

/// The answer to such a request.
pub(super) fn ours_is_not_for_others(base: &str) -> Problem {
    let text = "an access token of this server is for bulk exports only, and is not passed on to the FHIR server";
    Problem::new(StatusCode::UNAUTHORIZED, "login", text)
        .with_header(header::WWW_AUTHENTICATE, challenge(base, ", error=\"invalid_token\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_in_one_header_and_nowhere_else() {
        for (authorization, query, expected) in [
            (Some("Bearer abc"), None, Ok("abc")),
            (Some("bearer  abc"), Some("_type=Patient"), Ok("abc")),
            (Some("Bearer"), None, Ok("")),
            (None, None, Err(Denied::NoToken)),
            (Some("Basic abc"), None, Err(Denied::NoToken)),
            (Some("abc"), None, Err(Denied::NoToken)),
            (Some("Bearer abc"), Some("access_token=abc"), Err(Denied::Misplaced)),
            (None, Some("_type=Patient&access%5Ftoken=abc"), Err(Denied::Misplaced)),
            (Some("Bearer abc"), Some("x=access_token"), Ok("abc")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = authorization {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(bearer(&headers, query), expected, "{authorization:?} {query:?}");
        }
    }
}
