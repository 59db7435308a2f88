//! A slice that does not fit into memory: read page by page while nothing else is, and written as it comes to a stage, which is
//! recorded only if the slice is accepted.

use std::time::Duration;

use super::accept::{ATTEMPTS, Judge, Reading, Verdict};
use super::files::{FilesError, Stage};
use super::provenance::{Known, Looked};
use super::read::{Again, Chain, PageSize, ReadError, SearchTally, Summary, made_since};
use super::worker::{DRAIN_GRACE, Worker, WorkerError};
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::Slice;
use crate::upstream::client::SearchError;

/// What came of one reading of a slice.
#[derive(Debug)]
pub(super) enum Tried {
    Accepted(Summary),
    /// It did not come to its end, and may if it is read again.
    InVain,
    /// It is read again; so many are missing, as far as is known.
    Missing(u64),
    /// It is read again: the server said that something went wrong.
    Troubled,
}

/// Why a streamed reading broke off.
#[derive(Debug)]
pub(super) enum StreamError {
    Read(ReadError),
    Files(FilesError),
    /// The process is stopping.
    Stopping,
}

impl From<SearchError> for StreamError {
    fn from(error: SearchError) -> Self {
        Self::Read(error.into())
    }
}

impl From<FilesError> for StreamError {
    fn from(error: FilesError) -> Self {
        Self::Files(error)
    }
}

impl Worker {
    /// Reads a slice of several pages while nothing else is read, and writes it to files of its own, which are
    /// recorded only if it is accepted.
    pub(super) async fn stream(&mut self, slice: Slice, number: u64) -> Result<(), WorkerError> {
        let resource_type = slice.resource_type;
        let mut judge = self.reader.judge(&slice);
        let (mut missing, mut is_troubled) = (0, false);
        for attempt in 0..ATTEMPTS {
            let mut stage = self.files.stage(resource_type);
            match self.try_once(&slice, &mut judge, &mut stage, attempt).await {
                Ok(Tried::Accepted(summary)) => return Ok(self.files.accept(stage, slice, summary).await?),
                Ok(Tried::InVain) => {
                    self.files.reject(stage).await?;
                    continue;
                }
                Ok(Tried::Missing(by)) => missing = by,
                Ok(Tried::Troubled) => (missing, is_troubled) = (0, true),
                Err(error) => return Err(self.break_off(stage, (resource_type, number), error).await?),
            }
            self.files.reject(stage).await?;
            if self.drain.is_cancelled() {
                return Err(WorkerError::Draining);
            }
            self.reader.rest(attempt + 1).await;
        }
        let error = ReadError::unaccepted(missing, is_troubled);
        Err(self.failed(resource_type, number, error))
    }

    /// Removes what a stage has, and says why.
    pub(super) async fn break_off(
        &mut self,
        stage: Stage,
        (resource_type, number): (ResourceType, u64),
        error: StreamError,
    ) -> Result<WorkerError, WorkerError> {
        match error {
            StreamError::Files(error) => Ok(error.into()),
            StreamError::Read(source) => {
                self.files.reject(stage).await?;
                Ok(self.failed(resource_type, number, source))
            }
            StreamError::Stopping => {
                self.files.reject(stage).await?;
                Ok(WorkerError::Draining)
            }
        }
    }

    /// One reading of a slice into its stage, and what is to be thought of it.
    pub(super) async fn try_once(
        &mut self,
        slice: &Slice,
        judge: &mut Judge,
        stage: &mut Stage,
        attempt: u32,
    ) -> Result<Tried, StreamError> {
        let reading = match self.walk(slice, judge, stage).await {
            Ok(Some(reading)) => reading,
            Ok(None) => {
                Again::Smaller.tell(attempt);
                return Ok(Tried::InVain);
            }
            Err(StreamError::Read(ReadError::Expired)) if attempt + 1 < ATTEMPTS => {
                Again::Expired.tell(attempt);
                return Ok(Tried::InVain);
            }
            Err(error) => return Err(error),
        };
        let reading = self.reader.counted_still(slice, judge, reading).await;
        match judge.judge(&reading, &self.plan.profile) {
            Verdict::Accept { method, expected } => {
                Ok(Tried::Accepted(self.reader.summary(&reading, expected, attempt, method)))
            }
            Verdict::Again { by } => {
                if let Some(summary) = self.reader.in_spite(slice, &reading, by, attempt) {
                    return Ok(Tried::Accepted(summary));
                }
                Again::judged(&reading, by).tell(attempt);
                Ok(Tried::Missing(by))
            }
            Verdict::Troubled => {
                let summary = self.reader.in_spite(slice, &reading, 0, attempt);
                Ok(summary.map_or(Tried::Troubled, Tried::Accepted))
            }
            Verdict::OverExport => Err(StreamError::Read(ReadError::OverExport)),
            Verdict::IgnoredFilter => Err(StreamError::Read(ReadError::IgnoredFilter)),
        }
    }

    /// One reading of a slice, page by page into its stage; `None` if pages turned out to be too large.
    async fn walk(&mut self, slice: &Slice, judge: &Judge, stage: &mut Stage) -> Result<Option<Reading>, StreamError> {
        let mut reading = Reading::default();
        let mut seen = std::collections::HashSet::new();
        let mut chain = Chain::default();
        let counting = self.reader.upstream.date();
        reading.counted_before = self.reader.count_before(slice, judge).await?;
        let mut latest = Vec::new();
        let mut link: Option<String> = None;
        let (mut search, others) = self.reader.searches(slice);
        let mut searches = others.into_iter();
        let mut tally: Option<SearchTally> = None;
        let clock = self.files.clock();
        let mut stops_at: Option<Duration> = None;
        let (mut again, mut asked) = (0, Known::default());
        loop {
            if self.drain.is_cancelled() {
                // It may be near its end; what was not accepted by then is read after the restart.
                let now = clock.monotonic();
                if now >= *stops_at.get_or_insert(now + DRAIN_GRACE) {
                    return Err(StreamError::Stopping);
                }
            }
            // Nothing else is read beside it.
            let size = PageSize { most: usize::MAX, ..self.reader.page_size(slice.resource_type) };
            let answer = match &link {
                None => self.reader.first_page(&search, size).await,
                Some(link) => self.reader.next_page(slice, link, size.room).await,
            };
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(SearchError::TooLarge { .. }) if self.reader.shrink(slice.resource_type, size) => return Ok(None),
                Err(error) if link.is_some() => return Err(StreamError::Read(ReadError::of_next(error))),
                Err(error) => return Err(StreamError::Read(error.into())),
            };
            let looked = self.reader.look_at_whom_they_tell_of(answer.page.entries.iter(), asked).await;
            let known = match looked.map_err(StreamError::Read)? {
                Looked::All(known) => known,
                // The page is asked for once more, when this is known.
                Looked::NoRoom(known, untold) => {
                    drop(answer);
                    again += 1;
                    if again >= ATTEMPTS {
                        return Err(StreamError::Read(ReadError::Unsteady));
                    }
                    asked = self.reader.find_out(untold, known).await.map_err(StreamError::Read)?;
                    continue;
                }
            };
            if !answer.page.entries.is_empty() && !self.reader.relies_on_filter(slice) {
                drop(answer);
                if !self.reader.prove_filter(slice).await.map_err(StreamError::Read)? {
                    return Err(StreamError::Read(ReadError::Unsteady));
                }
                asked = known;
                continue;
            }
            (again, asked) = (0, Known::default());
            if let Some(tally) = &mut tally {
                tally.page(&mut reading, &answer.page);
            } else {
                reading.total = answer.page.total;
                tally = Some(self.reader.tally(slice, &mut reading, &answer.page));
            }
            let next = answer.page.next.take();
            let issues = answer.page.outcomes.clone();
            let mut resources = self.reader.sort(slice, answer.page, &mut seen, &mut reading);
            reading.made_since = made_since(&resources, counting).map(|more| more + reading.made_since.unwrap_or(0));
            self.progress.received(resources.len());
            self.reader.remember(&resources);
            for resource in &mut resources {
                resource.bar = self.reader.bar(&resource.entry, &known);
                resource.tie = self.reader.tie(slice, &resource.entry, &known);
            }
            self.write_page(stage, slice, (resources, issues, answer.reservation), &mut latest).await?;
            if let Some(next) = &next {
                let received = tally.as_ref().map_or(0, |tally| tally.received(&seen));
                chain.step(next, received).map_err(StreamError::Read)?;
            } else {
                if let Some(tally) = tally.take() {
                    tally.end(&mut reading);
                }
                let Some(following) = searches.next() else {
                    if !latest.is_empty() {
                        self.files.write_staged(stage, slice, latest, Vec::new()).await?;
                    }
                    return Ok(Some(reading));
                };
                search = following;
                chain = Chain::default();
            }
            link = next;
        }
    }
}
