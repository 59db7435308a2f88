//! One question on its way: with patience where it may help, within its room and its turn, to the bytes of its answer.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;

use super::{Channel, Failure, Inner, MOST_AHEAD_MILLIS, Manners, Room, SearchError, Seen, Upstream};
use crate::body;
use crate::clock;
use crate::fhir::bundle::{Page, PageError, Scope};
use crate::fhir::datatypes::{Millis, parse_http_date};
use crate::fhir::resource_type::ResourceType;
use crate::upstream::budget::Reservation;
use crate::upstream::buffers::Buffer;
use crate::upstream::connect::WasCompressed;
use crate::upstream::credentials::Refused;
use crate::upstream::gate::{Patient, Place, Refusal};
use crate::upstream::limit::Outcome;
use crate::upstream::media::Media;
use crate::upstream::retry;

/// Failures of one question running, until it is given back.
const GIVEN_BACK_AFTER: u32 = 3;

/// What is asked of the upstream: a path and query below its authority, and a form if it is posted.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) target: &'a str,
    pub(super) form: Option<&'a str>,
    /// How parameters are handled can be preferred of searches only.
    pub(super) is_search: bool,
    /// Bytes of an answer.
    pub(super) most: usize,
}

impl<'a> Ask<'a> {
    pub(super) fn get(target: &'a str) -> Self {
        Self { target, form: None, is_search: false, most: usize::MAX }
    }

    pub(super) fn search(target: &'a str) -> Self {
        Self { is_search: true, ..Self::get(target) }
    }
}

/// One try's result, where it was not good.
pub(super) enum Miss {
    Again { failure: Failure, asked: Option<Duration> },
    Final(SearchError),
}

/// A good answer's bytes.
pub(super) struct Raw {
    pub(super) bytes: Buffer,
    pub(super) date: Option<Millis>,
    pub(super) reservation: Reservation,
}

impl Upstream {
    /// Asks until there is an answer that `read` can use, or patience ends. Neither memory nor a place is held in the
    /// pauses, and only tries, pauses after them and pauses because the server is away count against patience: not
    /// quiet hours, nor room made for others.
    pub(super) async fn patiently<T>(
        &self,
        ask: Ask<'_>,
        room: &Room,
        read: impl Fn(Raw) -> Result<T, Miss>,
    ) -> Result<T, SearchError> {
        let Inner { clock, gate, .. } = &*self.inner;
        let after = self.give_up_after();
        let gave_up = |source| SearchError::GaveUp { after, source };
        let (mut failures, mut failing, mut spent) = (0, 0, Duration::ZERO);
        let mut paused_before = None;
        loop {
            let (reservation, place) = self.enter(*room).await?;
            let began = clock.monotonic();
            let (failure, asked) = match self.once(ask, reservation, place).await.and_then(&read) {
                Ok(answer) => return Ok(answer),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::Again { failure, asked }) => (failure, asked),
            };
            failures += 1;
            failing = if failure.is_of_the_question() { failing + 1 } else { 0 };
            if self.gives_back && failing >= GIVEN_BACK_AFTER {
                return Err(SearchError::Failing { source: failure });
            }
            let jitter = clock::random().map_or(0, u64::from_le_bytes);
            let pause = retry::pause(failures, asked, jitter);
            spent += clock.monotonic().saturating_sub(began) + pause;
            let paused = gate.paused();
            let away = paused.saturating_sub(*paused_before.get_or_insert(paused));
            if spent + away > after {
                return Err(gave_up(failure));
            }
            tracing::info!(failures, pause_ms = pause.as_millis(), reason = %failure, "a search failed and is tried again");
            tokio::select! {
                () = clock.sleep(pause) => {}
                () = gate.closed() => return Err(gave_up(Failure::Stopping)),
            }
        }
    }

    /// Waits for leave to search and for memory, holding neither while it waits for the other.
    async fn enter(&self, room: Room) -> Result<(Reservation, Place), SearchError> {
        let Inner { gate, budget, .. } = &*self.inner;
        if self.is_urgent {
            return Ok((budget.share().await, gate.enter_now()));
        }
        let no_room = SearchError::TooLarge { bytes: 0, alone: false };
        let patient = if room == Room::Free { Patient::No } else { Patient::Yes };
        loop {
            match gate.ready(patient).await {
                Ok(()) => {}
                Err(Refusal::NotSoon) => return Err(no_room),
                Err(Refusal::Closed) => {
                    return Err(SearchError::GaveUp { after: self.give_up_after(), source: Failure::Stopping });
                }
            }
            let reservation = match room {
                Room::Share => budget.share().await,
                Room::Alone => budget.all().await,
                Room::Free => match budget.try_share() {
                    Some(reservation) => reservation,
                    None => return Err(no_room),
                },
            };
            if let Some(place) = gate.enter() {
                return Ok((reservation, place));
            }
        }
    }

    async fn once(&self, ask: Ask<'_>, reservation: Reservation, place: Place) -> Result<Raw, Miss> {
        let media = self.inner.media.now();
        let received = self.receive(ask, media, reservation).await;
        let outcome = match &received {
            Ok((head, raw)) => Some(outcome(head, raw.date)),
            Err(Miss::Final(_)) => Some(Outcome::Failed),
            Err(Miss::Again { failure, .. }) => match failure {
                Failure::Connection(_) | Failure::Silence(_) => Some(Outcome::NotThere),
                Failure::CutShort(_) => Some(Outcome::Broken),
                Failure::Status(_) | Failure::Cached | Failure::Page(_) | Failure::Stopping => Some(Outcome::Failed),
                // The server was not asked, and has shown nothing.
                Failure::Credentials(_) => None,
            },
        };
        match outcome {
            Some(outcome) => place.end(outcome),
            None => drop(place),
        }
        let (head, raw) = received?;
        match retry::of_status(head.status) {
            retry::Verdict::Good => Ok(raw),
            retry::Verdict::Again => {
                let asked = retry::asked(head.status, &head.headers, raw.date);
                Err(Miss::Again { failure: Failure::Status(head.status), asked })
            }
            retry::Verdict::Final if head.status == StatusCode::NOT_ACCEPTABLE && self.inner.media.refused(media) => {
                Err(Miss::Again { failure: Failure::Status(head.status), asked: None })
            }
            retry::Verdict::Final => {
                let issues = match Page::parse(raw.bytes, Scope::of(ResourceType::OPERATION_OUTCOME)) {
                    Err(PageError::Outcome(issues)) => issues,
                    Ok(_) | Err(_) => Vec::new(),
                };
                Err(Miss::Final(SearchError::Refused { status: head.status, issues }))
            }
        }
    }

    /// One question and its whole answer, whatever its status.
    async fn receive(&self, ask: Ask<'_>, media: Media, mut reservation: Reservation) -> Result<(Parts, Raw), Miss> {
        let again = |failure| Miss::Again { failure, asked: None };
        let timeout = self.inner.patience.timeout;
        let silence = |_| again(Failure::Silence(timeout));
        let (head, mut stream) = self.send(ask, media).await?.into_parts();
        let Seen { compressed, http2, skew, told } = &self.inner.seen;
        compressed.fetch_or(head.extensions.get::<WasCompressed>().is_some(), Ordering::Relaxed);
        http2.store(head.version == http::Version::HTTP_2, Ordering::Relaxed);
        let date = header(&head.headers, &header::DATE).and_then(parse_http_date);
        if let Some(date) = date {
            let ahead = date.0.saturating_sub(self.inner.clock.unix_millis());
            *skew.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, self.inner.clock.monotonic()));
            self.inner.date.fetch_max(date.0, Ordering::Relaxed);
            self.inner.ahead.store(ahead.clamp(0, MOST_AHEAD_MILLIS), Ordering::Relaxed);
        }
        if head.headers.get("x-cache").is_some_and(|value| value.as_bytes().starts_with(b"HIT")) {
            return Err(again(Failure::Cached));
        }
        let mut bytes = self.inner.buffers.take();
        loop {
            let frame = tokio::time::timeout(timeout, stream.frame()).await.map_err(silence)?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| again(Failure::CutShort(error)))?;
            let Ok(data) = frame.into_data() else { continue };
            let needed = bytes.len() + data.len();
            if needed > ask.most.min(self.most) {
                return Err(Miss::Final(SearchError::TooLarge { bytes: needed, alone: true }));
            }
            if needed > reservation.bytes() && !reservation.grow(needed) {
                return Err(Miss::Final(SearchError::TooLarge { bytes: needed, alone: reservation.is_all() }));
            }
            bytes.extend(&data);
        }
        Ok((head, Raw { bytes: bytes.settled(), date, reservation }))
    }

    /// Sends one question with what it has to show; once more with something else, if the server does not accept that.
    async fn send(&self, ask: Ask<'_>, media: Media) -> Result<http::Response<body::Body>, Miss> {
        let Inner { channel: Channel { client, credentials }, patience, .. } = &*self.inner;
        let again = |failure| Miss::Again { failure, asked: None };
        let mut is_second = false;
        loop {
            let mut request = self.request(ask, media).map_err(|_| Miss::Final(SearchError::Link))?;
            let shown = credentials.put_on(&mut request).await;
            let shown = shown.map_err(|error| again(Failure::Credentials(error)))?;
            let sent = tokio::time::timeout(patience.timeout, client.send(request)).await;
            let sent = sent.map_err(|_| again(Failure::Silence(patience.timeout)))?;
            let answer = sent.map_err(|error| again(Failure::Connection(error)))?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            match credentials.refused(shown) {
                Refused::NothingShown => return Ok(answer),
                Refused::AskAgain if !is_second => is_second = true,
                Refused::AskAgain | Refused::Final => return Err(Miss::Final(SearchError::Unauthorized)),
            }
        }
    }

    /// SEC-01: these headers, what the credentials are, and no others; nothing is taken from a client's request.
    fn request(&self, ask: Ask<'_>, media: Media) -> Result<http::Request<body::Body>, http::Error> {
        let base = &self.inner.base;
        let authority = &base[url::Position::BeforeHost..url::Position::AfterPort];
        let url = |target: &str| format!("{}://{authority}{target}", base.scheme());
        let (request, body) = match ask.form {
            None => (http::Request::get(url(&media.target(ask.target))), body::empty()),
            Some(form) => {
                let request = http::Request::post(url(ask.target));
                let form = media.target(&format!("?{form}")).trim_start_matches('?').to_owned();
                (request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), body::full(form))
            }
        };
        let mut request = request
            .header(header::ACCEPT, media.accept())
            // A server's cache has been seen to mix up `lt` with `le`; `no-store` has been seen to cut lists short.
            .header(header::CACHE_CONTROL, "no-cache");
        let Manners { lenient, plain } = &self.inner.manners;
        if ask.is_search && self.strict.unwrap_or_else(|| !lenient.load(Ordering::Relaxed)) {
            request = request.header("prefer", "handling=strict");
        }
        if plain.load(Ordering::Relaxed) {
            request = request.header(header::ACCEPT_ENCODING, "identity");
        }
        request.body(body)
    }
}

/// What an answer's head says about asking for more.
fn outcome(head: &Parts, date: Option<Millis>) -> Outcome {
    let asked = retry::asked(head.status, &head.headers, date);
    match (head.status, retry::of_status(head.status)) {
        (StatusCode::TOO_MANY_REQUESTS, _) => Outcome::TooMany { asked },
        (StatusCode::SERVICE_UNAVAILABLE, _) => Outcome::Unavailable { asked },
        (StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, _) => Outcome::NotThere,
        (_, retry::Verdict::Again) => Outcome::Failed,
        (_, retry::Verdict::Good | retry::Verdict::Final) => Outcome::Answered,
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
