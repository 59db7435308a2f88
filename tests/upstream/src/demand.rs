//! What whoever asks has to show, and a token endpoint that issues what can be shown.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};

use crate::answer::{Answer, Refusal};
use crate::route::BASE_PATH;
use crate::upstream::SampleUpstream;

/// What has to be shown for anything below the base but the SMART configuration; else the answer is 401.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Demand {
    /// Nothing: the server trusts its network.
    #[default]
    Nothing,
    /// This header with this value.
    Header {
        /// Its name, in lower case.
        name: &'static str,
        /// Its value, letter by letter.
        value: String,
    },
    /// An access token that the endpoint at `/token` has issued, which the SMART configuration names. It issues one for every
    /// form that has what SMART asks for; whether an assertion is signed by whom it says is for tests to look at.
    Token {
        /// How long a token is good.
        lifetime: Duration,
        /// What the endpoint answers instead: a status and an error of OAuth.
        refusal: Option<(u16, &'static str)>,
    },
}

/// Tokens that were issued and are good.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    good: Vec<(String, DateTime<Utc>)>,
    issued: usize,
}

impl Tokens {
    pub(crate) fn issued(&self) -> usize {
        self.issued
    }

    pub(crate) fn revoke(&mut self) {
        self.good.clear();
    }

    fn issue(&mut self, now: DateTime<Utc>, lifetime: Duration) -> String {
        self.issued += 1;
        let token = format!("sample-token-{}", self.issued);
        self.good.retain(|(_, until)| *until > now);
        self.good.push((token.clone(), now + lifetime));
        token
    }

    fn is_good(&self, token: &str, now: DateTime<Utc>) -> bool {
        self.good.iter().any(|(good, until)| good == token && *until > now)
    }
}

/// The answer to a request that does not show what is demanded, or that is for what there is to be shown. `path` is that of
/// the request, and `authority` what it was sent to.
pub(crate) fn answer(
    upstream: &SampleUpstream,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    form: &str,
    authority: &str,
) -> Option<Answer> {
    let settings = upstream.settings();
    let is_configuration = path == format!("{BASE_PATH}/.well-known/smart-configuration");
    let shows = match &settings.demand {
        Demand::Nothing => true,
        Demand::Header { name, value } => headers.get_all(*name).iter().eq([value.as_str()]),
        Demand::Token { lifetime, refusal } => {
            if path == "/token" && method == Method::POST {
                return Some(token(upstream, form, *lifetime, *refusal));
            }
            if is_configuration {
                let endpoint = settings.token_endpoint.clone().unwrap_or_else(|| format!("http://{authority}/token"));
                let document = serde_json::json!({ "token_endpoint": endpoint, "capabilities": ["launch-ehr"] });
                return Some(Answer::plain("application/json", document.to_string()));
            }
            let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            upstream.tokens().is_good(value.strip_prefix("Bearer ").unwrap_or_default(), upstream.now())
        }
    };
    if shows || is_configuration {
        return None;
    }
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "login", "nothing is given to whoever has nothing to show");
    Some(Answer::from(refusal).with(WWW_AUTHENTICATE, "Bearer realm=\"sample\""))
}

fn token(upstream: &SampleUpstream, form: &str, lifetime: Duration, refusal: Option<(u16, &str)>) -> Answer {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let value = |name: &str| pairs.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value.as_str());
    let is_good = value("grant_type") == "client_credentials"
        && value("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        && value("client_assertion").split('.').count() == 3
        && !value("scope").is_empty();
    let refusal = refusal.or((!is_good).then_some((400, "invalid_request")));
    let (status, body) = if let Some((status, error)) = refusal {
        (status, serde_json::json!({ "error": error, "error_description": "s3cret words" }))
    } else {
        let token = upstream.tokens().issue(upstream.now(), lifetime);
        let (seconds, scope) = (lifetime.as_secs(), value("scope"));
        let answer =
            serde_json::json!({ "access_token": token, "token_type": "bearer", "expires_in": seconds, "scope": scope });
        (200, answer)
    };
    let answer = Answer::plain("application/json", body.to_string()).with(CACHE_CONTROL, "no-store");
    let answer = if status == 503 { answer.with(RETRY_AFTER, "1") } else { answer };
    Answer { status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), ..answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_its_end_or_its_revocation() {
        let (mut tokens, now) = (Tokens::default(), DateTime::<Utc>::UNIX_EPOCH);
        let token = tokens.issue(now, Duration::from_secs(10));
        assert!(tokens.is_good(&token, now) && !tokens.is_good("another", now));
        assert!(!tokens.is_good(&token, now + Duration::from_secs(10)));
        tokens.revoke();
        assert!(!tokens.is_good(&token, now));
        assert_eq!(tokens.issued(), 1);
    }
}
