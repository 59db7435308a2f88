//! Tries an output as exports and clients would: writes, fetches by links, asks for what must be refused, and removes it all.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{StatusCode, header};
use object_store::multipart::PartId;
use object_store::{MultipartId, PutMultipartOptions, PutPayload};
use url::Url;

use super::cloud::doors::{self, Answer, Unanswered};
use super::cloud::uploads::UploadsError;
use super::exposure::{Exposure, Visit};
use super::writer::{Coding, PART};
use super::{Output, OutputError, cloud, failed, layout};
use crate::clock::Clock;
use crate::telemetry::error_chain;

/// How one thing went that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Step {
    #[default]
    Untried,
    Done,
    Failed(String),
}

/// Whether uploads that nobody ended can be found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum UploadList {
    #[default]
    Untried,
    Listed,
    /// Only where one knows what they were to become.
    ByKey,
    Unlisted,
    /// Azure has none.
    None,
    Failed(String),
}

/// What a link brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Fetched {
    #[default]
    Untried,
    /// What was written.
    Good,
    /// Something else.
    Other,
    Status(u16),
    Failed(String),
}

/// What was found out about links that the storage itself answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkFindings {
    /// Where they lead.
    pub(crate) host: String,
    pub(crate) whole: Fetched,
    pub(crate) content_type: Option<String>,
    pub(crate) cache_control: Option<String>,
    /// Some bytes from the middle.
    pub(crate) range: Fetched,
    /// Its signature with one character changed.
    pub(crate) changed: Visit,
    /// Its signature on another object that is there.
    pub(crate) other: Visit,
    /// After its object was removed.
    pub(crate) removed: Visit,
}

/// What was found out by trying.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// A small object, written and read back.
    pub(crate) write: Step,
    /// One of two parts.
    pub(crate) parts: Step,
    pub(crate) uploads: UploadList,
    /// What anybody gets; `None` where nobody but us can ask.
    pub(crate) exposure: Option<Exposure>,
    /// `None` where the storage answers none.
    pub(crate) link: Option<LinkFindings>,
    pub(crate) delete: Step,
    /// Of what is not there any more.
    pub(crate) delete_again: Step,
    /// The storage was too slow to try all.
    pub(crate) is_cut: bool,
    /// Whether nothing of it is left.
    pub(crate) cleaned: Step,
}

/// All that is tried takes no longer, nor does tidying up afterwards.
const PATIENCE: Duration = Duration::from_mins(1);
const TIDYING: Duration = Duration::from_secs(30);
/// How long a link is good that is tried.
const LINK_LIFETIME: Duration = Duration::from_mins(5);
/// Bytes of the second part.
const LAST_PART: usize = 1024;
/// What is asked for of a small object: from the first byte to the last.
const RANGE: std::ops::RangeInclusive<usize> = 7..=29;
const SLOW: &str = "the storage did not answer in time";

impl Output {
    /// Tries it in a folder of this name that nobody else uses, and leaves nothing there.
    pub(crate) async fn examine(&self, clock: &dyn Clock, name: &str) -> Findings {
        let mut findings = Findings::default();
        let mut probe = Probe::new(self, clock, name);
        tokio::select! {
            () = Box::pin(probe.run(&mut findings)) => {}
            () = clock.sleep(PATIENCE) => findings.is_cut = true,
        }
        findings.cleaned = tokio::select! {
            cleaned = Box::pin(probe.tidy_up()) => step(cleaned),
            () = clock.sleep(TIDYING) => Step::Failed(SLOW.to_owned()),
        };
        findings
    }
}

fn step(tried: Result<(), OutputError>) -> Step {
    match tried {
        Ok(()) => Step::Done,
        Err(error) => Step::Failed(error_chain(&error)),
    }
}

/// What is tried with.
struct Probe<'a> {
    output: &'a Output,
    clock: &'a dyn Clock,
    /// Two small objects, and a large one.
    first: String,
    second: String,
    large: String,
    content: Bytes,
    /// Whether there may be objects that are to be removed.
    is_written: bool,
    /// An upload that has not ended.
    upload: Option<MultipartId>,
    /// An upload was begun, and may be there without a name that is known.
    has_begun: bool,
    /// Blocks may wait to be put together.
    has_blocks: bool,
}

impl<'a> Probe<'a> {
    fn new(output: &'a Output, clock: &'a dyn Clock, name: &str) -> Self {
        let folder = format!("{}/{name}", layout::DOCTOR);
        // By this name nobody, such as a cache on the way, has seen it before.
        let line = format!("{{\"note\":\"offtake doctor wrote this to try the storage\",\"name\":\"{name}\"}}\n");
        Self {
            output,
            clock,
            first: format!("{folder}/first.ndjson"),
            second: format!("{folder}/second.ndjson"),
            large: format!("{folder}/large.ndjson"),
            content: line.into(),
            is_written: false,
            upload: None,
            has_begun: false,
            has_blocks: false,
        }
    }

    async fn run(&mut self, findings: &mut Findings) {
        let signs = self.output.signs_for().is_some();
        findings.link = signs.then(LinkFindings::default);
        self.is_written = true;
        findings.write = step(self.write_small().await);
        if findings.write != Step::Done {
            // Whether it is public can be seen even so.
            findings.exposure = self.output.exposure(None, self.clock).await;
            return;
        }
        findings.exposure = self.output.exposure(Some((&self.first, &self.content)), self.clock).await;
        let mut link = None;
        if let Some(found) = &mut findings.link {
            link = self.fetch(found).await;
        }
        findings.parts = step(self.write_large(&mut findings.uploads).await);
        findings.delete = step(self.remove().await);
        if findings.delete == Step::Done {
            self.is_written = false;
            findings.delete_again = step(self.output.remove(&self.first).await);
            if let (Some(url), Some(found)) = (link, &mut findings.link) {
                found.removed = Visit::of(&self.get(&url, None).await);
            }
        }
    }

    async fn write_small(&self) -> Result<(), OutputError> {
        self.output.put(&self.first, self.content.clone()).await?;
        let other = [b"another ", &*self.content].concat();
        self.output.put(&self.second, other).await?;
        if self.output.get(&self.first).await? == self.content {
            Ok(())
        } else {
            Err(OutputError::Unfit("gives back something else than was written"))
        }
    }

    /// An object of two parts, read across the end of the first.
    async fn write_large(&mut self, uploads: &mut UploadList) -> Result<(), OutputError> {
        let output = self.output;
        let path = output.path(&self.large);
        let first = Bytes::from(vec![b'1'; PART]);
        let last = Bytes::from(vec![b'2'; LAST_PART]);
        let attributes = output.cloud.as_ref().map(|_| cloud::attributes(&self.large, Coding::Plain));
        let attributes = attributes.unwrap_or_default();
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        if let Some(parts) = output.cloud.as_ref().and_then(|cloud| cloud.parts.as_ref()) {
            let store = &parts.store;
            self.has_begun = true;
            let id = store.create_multipart_opts(&path, options).await.map_err(failed("begin an upload"))?;
            self.upload = Some(id.clone());
            let mut taken: Vec<PartId> = Vec::new();
            for (index, part) in [first, last].into_iter().enumerate() {
                let put = store.put_part(&path, &id, index, PutPayload::from(part)).await;
                taken.push(put.map_err(failed("write a part"))?);
            }
            *uploads = self.list_uploads().await;
            store.complete_multipart(&path, &id, taken).await.map_err(failed("complete an upload"))?;
            self.upload = None;
            self.has_begun = false;
        } else {
            if output.cloud.is_some() {
                *uploads = UploadList::None;
                self.has_blocks = true;
            }
            let begun = output.store.put_multipart_opts(&path, options).await;
            let mut upload = begun.map_err(failed("begin an upload"))?;
            for part in [first, last] {
                upload.put_part(PutPayload::from(part)).await.map_err(failed("write a part"))?;
            }
            upload.complete().await.map_err(failed("complete an upload"))?;
            self.has_blocks = false;
        }
        let end = PART as u64;
        let read: Vec<Bytes> = output.stream(&self.large, end - 2..end + 2).await?.try_collect().await?;
        if read.concat() == b"1122" { Ok(()) } else { Err(OutputError::Unfit("puts parts together in another way")) }
    }

    async fn list_uploads(&self) -> UploadList {
        let parts = self.output.cloud.as_ref().and_then(|cloud| cloud.parts.as_ref());
        let Some(parts) = parts else { return UploadList::None };
        let path = self.output.path(&self.large).to_string();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (prefix, meaning) in [(format!("{folder}/"), UploadList::Listed), (path.clone(), UploadList::ByKey)] {
            match parts.uploads.below(&prefix).await {
                Ok(found) if found.iter().any(|upload| upload.key == path) => return meaning,
                Ok(_) => {}
                Err(UploadsError::Unlisted) => return UploadList::Unlisted,
                Err(error) => return UploadList::Failed(error_chain(&error)),
            }
        }
        UploadList::Unlisted
    }

    /// Fetches by a link as a client does, and by what must be none; gives the link if it is good.
    async fn fetch(&self, found: &mut LinkFindings) -> Option<Url> {
        let signed = tokio::try_join!(
            self.output.sign(&self.first, LINK_LIFETIME),
            self.output.sign(&self.second, LINK_LIFETIME)
        );
        let (url, other) = match signed {
            Ok(signed) => signed,
            Err(error) => {
                found.whole = Fetched::Failed(error_chain(&error));
                return None;
            }
        };
        doors::host(&url).clone_into(&mut found.host);
        let answer = self.get(&url, None).await;
        if let Ok(answer) = &answer {
            let text = |name| answer.headers.get(name)?.to_str().ok().map(str::to_owned);
            found.content_type = text(header::CONTENT_TYPE);
            found.cache_control = text(header::CACHE_CONTROL);
        }
        found.whole = fetched(&answer, StatusCode::OK, &self.content);
        if found.whole != Fetched::Good {
            return None;
        }
        let range = format!("bytes={}-{}", RANGE.start(), RANGE.end());
        let part = self.get(&url, Some(&range)).await;
        found.range = fetched(&part, StatusCode::PARTIAL_CONTENT, &self.content[RANGE]);
        if let Some(changed) = doors::changed(&url) {
            found.changed = Visit::of(&self.get(&changed, None).await);
        }
        found.other = Visit::of(&self.get(&doors::exchanged(&url, &other), None).await);
        Some(url)
    }

    async fn get(&self, url: &Url, range: Option<&str>) -> Result<Answer, Unanswered> {
        match &self.output.cloud {
            Some(cloud) => cloud.doors.get(url, range).await,
            None => Err(Unanswered("there is nobody to ask".to_owned())),
        }
    }

    async fn remove(&self) -> Result<(), OutputError> {
        for key in [&self.first, &self.second, &self.large] {
            self.output.remove(key).await?;
        }
        match self.output.get(&self.first).await {
            Ok(_) => Err(OutputError::Unfit("still gives what was removed")),
            Err(error) if error.is_missing() || error.is_denied() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what was not removed, if there is anything.
    async fn tidy_up(&mut self) -> Result<(), OutputError> {
        if let Some(id) = self.upload.take()
            && let Some(parts) = self.output.cloud.as_ref().and_then(|cloud| cloud.parts.as_ref())
        {
            match parts.store.abort_multipart(&self.output.path(&self.large), &id).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("end an upload")(error)),
            }
        }
        if self.has_begun
            && let Some(parts) = self.output.cloud.as_ref().and_then(|cloud| cloud.parts.as_ref())
        {
            // Its beginning was cut before it had a name.
            let path = self.output.path(&self.large);
            let found = parts.uploads.below(path.as_ref()).await.unwrap_or_default();
            for upload in found.into_iter().filter(|upload| upload.key == path.as_ref()) {
                match parts.store.abort_multipart(&path, &upload.upload_id).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(failed("end an upload")(error)),
                }
            }
        }
        if self.has_blocks {
            self.output.put(&self.large, Vec::new()).await?;
        }
        if self.is_written {
            for key in [&self.first, &self.second, &self.large] {
                self.output.remove(key).await?;
            }
        }
        let folder = self.first.rsplit_once('/').map_or("", |(folder, _)| folder);
        for folder in [folder, layout::DOCTOR] {
            self.output.remove_folder(folder).await;
        }
        Ok(())
    }
}

fn fetched(answer: &Result<Answer, Unanswered>, status: StatusCode, expected: &[u8]) -> Fetched {
    match answer {
        Err(Unanswered(why)) => Fetched::Failed(why.clone()),
        Ok(answer) if answer.status != status => Fetched::Status(answer.status.as_u16()),
        Ok(answer) if answer.body == expected => Fetched::Good,
        Ok(_) => Fetched::Other,
    }
}

#[cfg(test)]
mod tests;
