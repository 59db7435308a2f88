//! Searches: one question in, one validated page out, with patience where it may help.

mod binary;
mod error;
mod exchange;
pub(crate) mod history;
pub(crate) mod own_export;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::budget::{Budget, Reservation};
use super::buffers::Buffers;
use super::connect::SearchClient;
use super::credentials::Credentials;
use super::gate::Gate;
use super::limit::Reason;
use super::link;
use super::media::MediaInUse;
use crate::clock::{self, Clock};
use crate::fhir::bundle::{Page, PageError, Scope};
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Manner, SearchQuery};
use crate::profile::{CountMethod, Profile, Protocol, StrictHandling};

pub(crate) use error::{Failure, SearchError};
use exchange::{Ask, Miss, Raw};

/// The upstream as exports see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstream {
    inner: Arc<Inner>,
    /// Another patience than that of most questions.
    patience: Option<Duration>,
    /// A question that fails by itself is soon given back, to be asked in parts.
    gives_back: bool,
    /// Bytes of an answer that are read.
    most: usize,
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
    buffers: Buffers,
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
    /// What is free of it at this moment, and if that is little the answer counts as too large: for who holds some already.
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
            buffers: Buffers::default(),
            clock,
            patience,
            ahead,
            date,
            media,
            manners,
            seen,
            advertised,
        };
        Self {
            inner: Arc::new(inner),
            patience: None,
            gives_back: false,
            most: usize::MAX,
            is_urgent: false,
            strict: None,
        }
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

    /// The same upstream, which is given up after so long, or sooner if that is its patience.
    pub(crate) fn within_at_most(&self, give_up_after: Duration) -> Self {
        self.within(self.give_up_after().min(give_up_after))
    }

    /// The same upstream, of whose answers no more than so many bytes are read: [`SearchError::TooLarge`] for larger ones.
    pub(crate) fn reading(&self, most: usize) -> Self {
        Self { most, ..self.clone() }
    }

    /// What the upstream's clock showed in its latest answer, to the second; `None` if it never told. It is later now.
    pub(crate) fn date(&self) -> Option<Millis> {
        Some(Millis(self.inner.date.load(Ordering::Relaxed))).filter(|date| date.0 > 0)
    }

    /// Waits before a question is asked once more; no longer than questions are asked.
    pub(crate) async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = self.inner.clock.sleep(pause) => {}
            () = self.inner.gate.closed() => {}
        }
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

    /// What one reader may hold in memory beside the others.
    pub(crate) fn share_bytes(&self) -> usize {
        self.inner.budget.share_bytes()
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
        self.count_in(query, method, Room::Share).await
    }

    /// The same in what it may take of memory: for who holds some.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub(crate) async fn count_in(
        &self,
        query: &SearchQuery,
        method: CountMethod,
        room: Room,
    ) -> Result<(Option<u64>, Option<Millis>), SearchError> {
        let query = match method {
            CountMethod::Summary => query.clone().summary_count(),
            CountMethod::Accurate => query.clone().count(1).total_accurate(),
        };
        let answer = self.page(&query, Scope::of(query.resource_type()), room).await?;
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
        match self.patiently(Ask::get(&target), &Room::Share, |raw| Ok(raw.bytes.into_vec())).await {
            Err(SearchError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The capability statement.
    pub(crate) async fn metadata(&self) -> Result<Vec<u8>, SearchError> {
        let target = format!("{}/metadata", self.base_path());
        self.patiently(Ask::get(&target), &Room::Share, |raw| Ok(raw.bytes.into_vec())).await
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

    fn give_up_after(&self) -> Duration {
        self.patience.unwrap_or(self.inner.patience.give_up_after)
    }
}
