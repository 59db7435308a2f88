//! Searches: one question in, one validated page out, with patience where it may help.

mod binary;
mod error;
pub(crate) mod history;
pub(crate) mod own_export;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;

use super::budget::{Budget, Reservation};
use super::connect::{SearchClient, WasCompressed};
use super::credentials::{Credentials, Refused};
use super::gate::{Gate, Patient, Place, Refusal};
use super::limit::{Outcome, Reason};
use super::media::{Media, MediaInUse};
use super::{link, retry};
use crate::body;
use crate::clock::{self, Clock};
use crate::fhir::bundle::{Page, PageError, Scope};
use crate::fhir::datatypes::{Id, Millis, parse_http_date};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Manner, SearchQuery};
use crate::profile::{CountMethod, Profile, Protocol, StrictHandling};

pub(crate) use error::{Failure, SearchError};

/// The upstream as exports see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstream {
    inner: Arc<Inner>,
    /// Another patience than that of most questions.
    patience: Option<Duration>,
    /// A question that fails by itself is soon given back, to be asked in parts.
    gives_back: bool,
    is_urgent: bool,
    /// `Prefer: handling=strict` or not, whatever holds for other questions.
    strict: Option<bool>,
}

struct Inner {
    channel: Channel,
    base: url::Url,
    /// The base that requests pass through to; another one than `base` where exports are read from a replica.
    known_as: Box<str>,
    gate: Gate,
    budget: Budget,
    clock: Arc<dyn Clock>,
    patience: Patience,
    /// How far the upstream's clock is ahead of ours, in milliseconds, as its last `Date` told.
    ahead: AtomicI64,
    /// The latest `Date` of an answer, in Unix milliseconds; zero before the first.
    date: AtomicI64,
    media: MediaInUse,
    manners: Manners,
    seen: Seen,
    /// The base that the server itself writes into links and references, where it says so.
    advertised: OnceLock<Box<str>>,
}

/// How searches reach the upstream, and what they show it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) client: SearchClient,
    pub(crate) credentials: Credentials,
}

/// How everything is asked: as a profile says.
#[derive(Debug, Default)]
struct Manners {
    /// Searches do not carry `Prefer: handling=strict`.
    lenient: AtomicBool,
    /// Compressed answers are not wanted.
    plain: AtomicBool,
}

/// What was seen of answers on the way.
#[derive(Debug, Default)]
struct Seen {
    compressed: AtomicBool,
    http2: AtomicBool,
    /// How far the upstream's clock is ahead of ours or behind it, as its last `Date` told; there is none before.
    skew: Mutex<Option<i64>>,
    /// The upstream's clock and our monotonic one when it was told last.
    told: Mutex<Option<(Millis, Duration)>>,
}

/// An upstream's clock is not believed further ahead of ours than a day.
const MOST_AHEAD_MILLIS: i64 = 24 * 3_600_000;
/// Failures of one question running, until it is given back.
const GIVEN_BACK_AFTER: u32 = 3;

/// How long a question is asked again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// No byte of an answer for this long is a failure.
    pub(crate) timeout: Duration,
    /// A question that has failed for this long is given up.
    pub(crate) give_up_after: Duration,
}

/// What one page may take of the memory budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A reader's share, and more if more is free.
    Share,
    /// The same if it is free at this moment, else the answer counts as too large: for who holds some already.
    Free,
    /// All of it: a page that fits nowhere else.
    Alone,
}

/// One page, and the memory that it takes.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) page: Page,
    /// The upstream's `Date`, to the second.
    pub(crate) date: Option<Millis>,
    pub(crate) reservation: Reservation,
}

/// Bytes that the buffer of an answer is made for, whatever comes. Only what is used of them is taken from the system,
/// nothing is copied as the buffer fills, and above 32 MiB glibc gives all of it back to the system once it is dropped;
/// buffers that grew by doubling were seen to leave its arenas with twice the budget of all pages.
const BUFFER: usize = 33 * 1024 * 1024;

/// What is asked of the upstream: a path and query below its authority, and a form if it is posted.
#[derive(Clone, Copy)]
struct Ask<'a> {
    target: &'a str,
    form: Option<&'a str>,
    /// How parameters are handled can be preferred of searches only.
    is_search: bool,
    /// Bytes of an answer.
    most: usize,
}

impl<'a> Ask<'a> {
    fn get(target: &'a str) -> Self {
        Self { target, form: None, is_search: false, most: usize::MAX }
    }

    fn search(target: &'a str) -> Self {
        Self { is_search: true, ..Self::get(target) }
    }
}

/// One try's result, where it was not good.
enum Miss {
    Again { failure: Failure, asked: Option<Duration> },
    Final(SearchError),
}

/// A good answer's bytes.
struct Raw {
    bytes: Vec<u8>,
    date: Option<Millis>,
    reservation: Reservation,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Upstream {
    pub(crate) fn new(
        channel: Channel,
        base: url::Url,
        known_as: Box<str>,
        gate: Gate,
        budget: Budget,
        clock: Arc<dyn Clock>,
        patience: Patience,
    ) -> Self {
        let (ahead, date) = (AtomicI64::new(0), AtomicI64::new(0));
        let (media, advertised) = (MediaInUse::default(), OnceLock::new());
        let (manners, seen) = (Manners::default(), Seen::default());
        let inner = Inner {
            channel,
            base,
            known_as,
            gate,
            budget,
            clock,
            patience,
            ahead,
            date,
            media,
            manners,
            seen,
            advertised,
        };
        Self { inner: Arc::new(inner), patience: None, gives_back: false, is_urgent: false, strict: None }
    }

    /// What its searches show.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.inner.channel.credentials
    }

    /// From now on everything is asked as `profile` says.
    pub(crate) fn heed(&self, profile: &Profile) {
        let Manners { lenient, .. } = &self.inner.manners;
        lenient.store(profile.strict == StrictHandling::Refused, Ordering::Relaxed);
    }

    /// From now on no answer need be compressed.
    pub(crate) fn ask_for_plain(&self) {
        self.inner.manners.plain.store(true, Ordering::Relaxed);
    }

    /// The same upstream, each search of which carries `Prefer: handling=strict` or not.
    pub(crate) fn strictly(&self, strict: bool) -> Self {
        Self { strict: Some(strict), ..self.clone() }
    }

    /// Whether an answer came compressed.
    pub(crate) fn compresses(&self) -> bool {
        self.inner.seen.compressed.load(Ordering::Relaxed)
    }

    /// How far the upstream's clock is ahead of ours, in milliseconds, as its latest `Date` tells, which has whole seconds.
    pub(crate) fn skew_millis(&self) -> Option<i64> {
        *self.inner.seen.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is by the upstream's latest `Date`, however our wall clock was set since.
    pub(crate) fn its_time(&self) -> Option<Millis> {
        let told = *self.inner.seen.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.map(|(date, at)| date.saturating_add(self.inner.clock.monotonic().saturating_sub(at)))
    }

    /// What the connection spoke that the latest answer came by.
    pub(crate) fn protocol(&self) -> Protocol {
        if self.inner.seen.http2.load(Ordering::Relaxed) { Protocol::Http2 } else { Protocol::Http1 }
    }

    /// The base that is asked, without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        self.inner.base.as_str().trim_end_matches('/')
    }

    /// The same for single questions that a client of ours waits for: they are asked at once, whatever exports wait for.
    pub(crate) fn urgent(&self) -> Self {
        Self { is_urgent: true, ..self.clone() }
    }

    /// From now on no search waits for what may last, and none that fails is tried again: the process is stopping.
    pub(crate) fn stop_waiting(&self) {
        self.inner.gate.close();
    }

    /// What searches wait for at this moment, if it is something that may last.
    pub(crate) fn waiting(&self) -> Option<Reason> {
        self.inner.gate.waiting()
    }

    /// The same upstream, asked with this patience: for what an export can do without.
    pub(crate) fn within(&self, give_up_after: Duration) -> Self {
        Self { patience: Some(give_up_after), ..self.clone() }
    }

    /// What the upstream's clock showed in its latest answer, to the second; `None` if it never told. It is later now.
    pub(crate) fn date(&self) -> Option<Millis> {
        Some(Millis(self.inner.date.load(Ordering::Relaxed))).filter(|date| date.0 > 0)
    }

    /// Waits before a question is asked once more.
    pub(crate) async fn rest(&self, pause: Duration) {
        self.inner.clock.sleep(pause).await;
    }

    /// The same upstream, for who can ask in parts: [`SearchError::Failing`] instead of patience where the server is there
    /// and fails to answer this very question.
    pub(crate) fn giving_back(&self) -> Self {
        Self { gives_back: true, ..self.clone() }
    }

    /// Notes the base that the server says is its own. The first one is kept.
    pub(crate) fn advertise(&self, base: &str) {
        let _kept = self.inner.advertised.set(base.trim_end_matches('/').into());
    }

    /// The bases that absolute references to this server begin with, without a slash at their end: the one that it is
    /// asked at, the one that requests pass through to, and the one that it advertises.
    pub(crate) fn bases(&self) -> Vec<&str> {
        let own = self.base();
        let mut bases = vec![own];
        bases.extend([&*self.inner.known_as].into_iter().filter(|base| *base != own));
        bases.extend(self.inner.advertised.get().map(|base| &**base).filter(|base| !bases.contains(base)));
        bases
    }

    /// The upstream's time, or ours where that is later: what it stamps now is not after it.
    pub(crate) fn now(&self) -> Millis {
        Millis(clock::now(&*self.inner.clock).0.saturating_add(self.inner.ahead.load(Ordering::Relaxed)))
    }

    /// The first page of a search.
    pub(crate) async fn page(&self, query: &SearchQuery, scope: Scope, room: Room) -> Result<Answer, SearchError> {
        let (base, name, params) = (self.base_path(), query.resource_type(), query.to_query());
        if let Some(patient) = query.patient() {
            let target = format!("{base}/{}/{patient}/$everything?{params}", ResourceType::PATIENT);
            return self.answer(Ask::search(&target), scope, room).await;
        }
        match query.manner() {
            Manner::Get => self.answer(Ask::search(&format!("{base}/{name}?{params}")), scope, room).await,
            Manner::Post => {
                let target = format!("{base}/{name}/_search");
                self.answer(Ask { form: Some(&params), ..Ask::search(&target) }, scope, room).await
            }
        }
    }

    /// The page that a `next` link leads to.
    pub(crate) async fn next(&self, next: &str, scope: Scope, room: Room) -> Result<Answer, SearchError> {
        let target = link::anchor(self.base_path(), next).ok_or(SearchError::Link)?;
        self.answer(Ask::search(&target), scope, room).await
    }

    /// How many resources a search finds, and the upstream's date; `None` where the answer has no number.
    pub(crate) async fn count(
        &self,
        query: &SearchQuery,
        method: CountMethod,
    ) -> Result<(Option<u64>, Option<Millis>), SearchError> {
        let query = match method {
            CountMethod::Summary => query.clone().summary_count(),
            CountMethod::Accurate => query.clone().count(1).total_accurate(),
        };
        let answer = self.page(&query, Scope::of(query.resource_type()), Room::Share).await?;
        // A number beside an error counts what was left.
        if answer.page.is_troubled() {
            return Err(SearchError::Refused { status: StatusCode::OK, issues: answer.page.outcomes });
        }
        // A server that sends resources in spite of `_summary=count` has not understood it, and has not counted.
        let ignored = method == CountMethod::Summary && !answer.page.entries.is_empty();
        Ok((answer.page.total.filter(|_| !ignored), answer.date))
    }

    /// One resource as the upstream sends it; `None` if it is not there or deleted.
    pub(crate) async fn read(&self, resource_type: ResourceType, id: &Id) -> Result<Option<Vec<u8>>, SearchError> {
        let target = format!("{}/{resource_type}/{id}", self.base_path());
        match self.patiently(Ask::get(&target), &Room::Share, |raw| Ok(raw.bytes)).await {
            Err(SearchError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The capability statement.
    pub(crate) async fn metadata(&self) -> Result<Vec<u8>, SearchError> {
        let target = format!("{}/metadata", self.base_path());
        self.patiently(Ask::get(&target), &Room::Share, |raw| Ok(raw.bytes)).await
    }

    fn base_path(&self) -> &str {
        self.inner.base.path().trim_end_matches('/')
    }

    async fn answer(&self, ask: Ask<'_>, scope: Scope, room: Room) -> Result<Answer, SearchError> {
        self.patiently(ask, &room, |Raw { bytes, date, mut reservation }| {
            reservation.shrink(bytes.len());
            match Page::parse(bytes, scope) {
                Ok(page) => Ok(Answer { page, date, reservation }),
                Err(PageError::Outcome(issues)) => {
                    Err(Miss::Final(SearchError::Refused { status: StatusCode::OK, issues }))
                }
                Err(error) => Err(Miss::Again { failure: Failure::Page(error), asked: None }),
            }
        })
        .await
    }

    /// Asks until there is an answer that `read` can use, or patience ends. Neither memory nor a place is held in the
    /// pauses, and only tries, pauses after them and pauses because the server is away count against patience: not
    /// quiet hours, nor room made for others.
    async fn patiently<T>(
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

    fn give_up_after(&self) -> Duration {
        self.patience.unwrap_or(self.inner.patience.give_up_after)
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
        let mut bytes = Vec::with_capacity(BUFFER);
        loop {
            let frame = tokio::time::timeout(timeout, stream.frame()).await.map_err(silence)?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| again(Failure::CutShort(error)))?;
            let Ok(data) = frame.into_data() else { continue };
            let needed = bytes.len() + data.len();
            if needed > ask.most {
                return Err(Miss::Final(SearchError::TooLarge { bytes: needed, alone: true }));
            }
            if needed > reservation.bytes() && !reservation.grow(needed) {
                return Err(Miss::Final(SearchError::TooLarge { bytes: needed, alone: reservation.is_all() }));
            }
            bytes.extend_from_slice(&data);
        }
        Ok((head, Raw { bytes, date, reservation }))
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
