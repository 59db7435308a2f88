//! Whether a storage gives to anybody what it is to keep (SEC-31).

use http::{HeaderMap, StatusCode, header};
use url::Url;

use super::cloud::doors::{Answer, Doors, Unanswered};
use super::{Output, layout};
use crate::clock::Clock;

/// How a storage meets somebody who has no right to what is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Visit {
    #[default]
    Untried,
    /// As it should be.
    Refused(u16),
    /// It may be refused at another time, or somebody else spoke for the storage.
    Unclear(u16),
    Unanswered(String),
    /// It was given.
    Open,
}

impl Visit {
    pub(super) fn of(answer: &Result<Answer, Unanswered>) -> Self {
        Self::if_given(answer, |_| true)
    }

    /// The same, where a page of somebody else, such as one to log in at, is nothing that was given.
    fn if_given(answer: &Result<Answer, Unanswered>, is_it: impl Fn(&[u8]) -> bool) -> Self {
        match answer {
            Ok(answer) if answer.status.is_success() && !is_it(&answer.body) => Self::Unclear(answer.status.as_u16()),
            Ok(answer) => Self::of_status(answer.status),
            Err(Unanswered(why)) => Self::Unanswered(why.clone()),
        }
    }

    fn of_status(status: StatusCode) -> Self {
        match status {
            _ if status.is_success() => Self::Open,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Self::Unclear(status.as_u16()),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Self::Unclear(status.as_u16()),
            _ if status.is_client_error() => Self::Refused(status.as_u16()),
            _ => Self::Unclear(status.as_u16()),
        }
    }

    /// How bad it is.
    fn weight(&self) -> u8 {
        match self {
            Self::Untried => 0,
            Self::Refused(_) => 1,
            Self::Unclear(_) => 2,
            Self::Unanswered(_) => 3,
            Self::Open => 4,
        }
    }

    fn worse(self, other: Self) -> Self {
        if other.weight() > self.weight() { other } else { self }
    }
}

/// What anybody gets of a storage, at each of its addresses: the worst of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exposure {
    /// An object without a signature.
    pub(crate) object: Visit,
    /// A list of what there is.
    pub(crate) list: Visit,
    /// How much the storage's clock is ahead of ours.
    pub(crate) ahead_millis: Option<i64>,
}

impl Exposure {
    pub(crate) fn is_open(&self) -> bool {
        self.object == Visit::Open || self.list == Visit::Open
    }

    pub(crate) fn is_proven_private(&self) -> bool {
        matches!((&self.object, &self.list), (Visit::Refused(_), Visit::Refused(_)))
    }
}

impl Output {
    /// What anybody gets of the mark that says whose output this is; `None` where nobody but us can ask.
    pub(crate) async fn exposure_of_marker(&self, clock: &dyn Clock) -> Option<Exposure> {
        self.exposure(Some((layout::MARKER, layout::MARK)), clock).await
    }

    /// The same of any object that is there, and how it begins, or of the list alone.
    pub(super) async fn exposure(&self, object: Option<(&str, &[u8])>, clock: &dyn Clock) -> Option<Exposure> {
        let doors = &self.cloud.as_ref()?.doors;
        let (key, begin) = object.unzip();
        let objects = key.map(|key| doors.objects(self.path(key).as_ref())).unwrap_or_default();
        let lists = doors.lists(&self.prefix);
        let is_object = |body: &[u8]| begin.is_some_and(|begin| body.starts_with(begin));
        let (objects, lists) =
            tokio::join!(visit(doors, &objects, is_object, clock), visit(doors, &lists, is_list, clock));
        let ahead_millis = objects.ahead_millis.or(lists.ahead_millis);
        Some(Exposure { object: objects.worst, list: lists.worst, ahead_millis })
    }
}

struct Visits {
    worst: Visit,
    ahead_millis: Option<i64>,
}

/// Whether it is how S3 and Google answer when they list, or how Azure does.
fn is_list(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("<ListBucketResult") || text.contains("<EnumerationResults")
}

async fn visit(doors: &Doors, urls: &[Url], is_it: impl Fn(&[u8]) -> bool, clock: &dyn Clock) -> Visits {
    let mut visits = Visits { worst: Visit::Untried, ahead_millis: None };
    let answers = futures_util::future::join_all(urls.iter().map(|url| doors.get(url, None))).await;
    for answer in answers {
        visits.worst = visits.worst.worse(Visit::if_given(&answer, &is_it));
        if let Ok(answer) = &answer {
            visits.ahead_millis = visits.ahead_millis.or(ahead_millis(&answer.headers, clock));
        }
    }
    visits
}

/// How much the clock of who just answered is ahead of ours.
pub(super) fn ahead_millis(headers: &HeaderMap, clock: &dyn Clock) -> Option<i64> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let date = chrono::DateTime::parse_from_rfc2822(date).ok()?.timestamp_millis();
    Some(date.saturating_sub(clock.unix_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_one() {
        for (status, expected) in [
            (200, Visit::Open),
            (204, Visit::Open),
            (206, Visit::Open),
            (301, Visit::Unclear(301)),
            (400, Visit::Refused(400)),
            (401, Visit::Refused(401)),
            (403, Visit::Refused(403)),
            (404, Visit::Refused(404)),
            (407, Visit::Unclear(407)),
            (409, Visit::Refused(409)),
            (429, Visit::Unclear(429)),
            (503, Visit::Unclear(503)),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(Visit::of_status(status), expected);
        }
        let exposure = |object, list| Exposure { object, list, ahead_millis: None };
        let refused = Visit::Refused(403);
        assert!(exposure(refused.clone(), refused.clone()).is_proven_private());
        for other in [Visit::Untried, Visit::Open, Visit::Unclear(503), Visit::Unanswered("no".to_owned())] {
            let is_open = other == Visit::Open;
            for seen in [exposure(refused.clone(), other.clone()), exposure(other.clone(), refused.clone())] {
                assert!(!seen.is_proven_private() && seen.is_open() == is_open, "{seen:?}");
            }
            assert_eq!(refused.clone().worse(other.clone()), other.worse(refused.clone()));
        }
    }

    #[test]
    fn a_page_of_somebody_else_is_not_what_was_asked_for() {
        let answer =
            |status, body: &str| Ok(Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() });
        for (body, expected) in [
            ("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"a\"/>", Visit::Open),
            ("\u{feff}<?xml?><EnumerationResults ContainerName=\"a\">", Visit::Open),
            ("<html>Please log in</html>", Visit::Unclear(200)),
            ("", Visit::Unclear(200)),
        ] {
            assert_eq!(Visit::if_given(&answer(StatusCode::OK, body), is_list), expected, "{body}");
            let refused = answer(StatusCode::FORBIDDEN, body);
            assert_eq!(Visit::if_given(&refused, is_list), Visit::Refused(403), "{body}");
        }
    }

    #[test]
    fn a_clock_is_compared_by_the_date() {
        let clock = crate::clock::ManualClock::new(1_767_225_600_000);
        let mut headers = HeaderMap::new();
        assert_eq!(ahead_millis(&headers, &clock), None);
        headers.insert(header::DATE, header::HeaderValue::from_static("Thu, 01 Jan 2026 00:10:00 GMT"));
        assert_eq!(ahead_millis(&headers, &clock), Some(600_000));
        headers.insert(header::DATE, header::HeaderValue::from_static("yesterday"));
        assert_eq!(ahead_millis(&headers, &clock), None);
    }
}
