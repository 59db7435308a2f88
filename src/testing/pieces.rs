//! Pieces of an export one by one, for what measures them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use object_store::ObjectStore;

use crate::bulk::kickoff::{ExportLevel, Kickoff};
use crate::fhir::bundle::{Page, Scope};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::http::links::{LinkRing, Links};
use crate::job::checkpoint::{CompleteFile, FileContent, FileNo, FileRecord, FileState, SliceRecord, StoredObject};
use crate::job::index::IdHash;
use crate::job::store::{Change, Lease, Store};
use crate::job::{Delivery, Job, JobId, JobState, Owner};
use crate::output::Output;
use crate::output::signing::LinkKeys;
use crate::output::writer::{Coding, FileWriter};
use crate::plan::Cohort;
use crate::plan::slice::{self, Grid, Phase, Slice, Window};
use crate::smart::access_token::{AccessToken, TokenKeys};
use crate::smart::admit::{Grant, Line};
use crate::smart::client::ClientId;
use crate::smart::scope::Scopes;
use crate::store::sled::SledStore;

/// A moment at which all of this is.
const NOW: Millis = Millis(1_764_000_000_000);
const HOUR: Duration = Duration::from_hours(1);
const BASE: &str = "https://fhir.example.org/fhir";

/// The lines of a page, on their way to a file.
#[derive(Debug, Clone)]
pub struct Lines(Vec<Line>);

/// Reads a page of a search for resources of one type: checked, compact, ids noted.
///
/// # Errors
/// If it is none.
pub fn read_page(page: Vec<u8>, resource_type: &str) -> anyhow::Result<usize> {
    let page = Page::parse(page, Scope::of(ResourceType::parse(resource_type).context("a type")?))?;
    Ok(page.entries.len())
}

/// The same, and what of it may leave as lines.
///
/// # Errors
/// If it is none, or may not leave.
pub fn lines_of(page: Vec<u8>, resource_type: &str) -> anyhow::Result<Lines> {
    let resource_type = ResourceType::parse(resource_type).context("a type")?;
    let page = Page::parse(page, Scope::of(resource_type))?;
    let types = vec![resource_type];
    let grant = Grant::new(Cohort::Everything, Compartments::R4, types, Vec::new(), Vec::new());
    let admitted = page.entries.iter().map(|entry| grant.admit(entry, |_| {}));
    Ok(Lines(admitted.collect::<Result<_, _>>().ok().context("it may not leave")?))
}

/// What stands for a resource in what is remembered of an export.
///
/// # Errors
/// If there is no such type.
pub fn id_hash(resource_type: &str, id: &str) -> anyhow::Result<u128> {
    let id = crate::fhir::datatypes::Id::parse(id).context("an id")?;
    Ok(u128::from_be_bytes(IdHash::of(ResourceType::parse(resource_type).context("a type")?, &id).to_bytes()))
}

/// Writes lines to one file of a store, hashed. How many bytes.
///
/// # Errors
/// If the store fails.
pub async fn write(store: Arc<dyn ObjectStore>, is_packed: bool, lines: Lines) -> anyhow::Result<u64> {
    let coding = if is_packed { Coding::Gzip } else { Coding::Plain };
    let output = Output::of(store);
    let mut writer = FileWriter::begin(&output, "file.ndjson", coding).await?;
    for line in lines.0 {
        if writer.needs_upload(&line) {
            writer.begin_upload().await?;
        }
        writer.write(line).await?;
    }
    let written = writer.written().bytes;
    writer.complete().await?;
    Ok(written)
}

/// Links to files and access tokens.
#[derive(Debug)]
pub struct Signing {
    links: Links,
    job: JobId,
    keys: TokenKeys,
    token: AccessToken,
}

impl Signing {
    /// With keys of its own.
    ///
    /// # Errors
    /// If none can be made.
    pub fn new() -> anyhow::Result<Self> {
        let made = LinkKeys::made(&[7; 32], None, 0, 0)?;
        let links = Links::new(BASE.parse()?, LinkRing::new(made.keys), HOUR);
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
        let made = TokenKeys::made(pair.to_pkcs8v1()?.as_ref(), None, NOW, 3_600_000)?;
        let token = AccessToken {
            client: ClientId::parse("client")?,
            scopes: Scopes::parse("system/*.rs")?,
            issued: NOW.0 / 1000,
            expires: NOW.0 / 1000 + 300,
        };
        Ok(Self { links, job: JobId::new([7; 16]), keys: made.keys, token })
    }

    /// A link to a file.
    #[must_use]
    pub fn link(&self, file: &str) -> String {
        self.links.file(self.job, file, self.links.expiry(NOW))
    }

    /// Whether a link opens a file.
    #[must_use]
    pub fn opens(&self, link: &str, file: &str) -> bool {
        let query = link.split_once('?').map(|(_, query)| query);
        self.links.verify(self.job, file, query, NOW).is_ok()
    }

    /// A token.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn token(&self) -> anyhow::Result<String> {
        Ok(self.token.sign(&self.keys, BASE, [7; 16])?)
    }

    /// Whether a token is good.
    #[must_use]
    pub fn accepts(&self, token: &str) -> bool {
        AccessToken::verify(token, &self.keys, BASE, NOW).is_ok()
    }
}

/// A job in a job store on disk, and its checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    store: SledStore,
    lease: Lease,
    next: u32,
}

impl Checkpoints {
    /// In an empty folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn open(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        let store = tokio::task::spawn_blocking(move || SledStore::open(&folder)).await??;
        let job = Job {
            id: JobId::new([7; 16]),
            kickoff: Kickoff::of(ExportLevel::System),
            cohort: None,
            owner: Owner::Open,
            delivery: Delivery::default(),
            consent: Millis(0),
            types: vec![ResourceType::PATIENT],
            filters: std::collections::BTreeMap::new(),
            compartments: Compartments::R4,
            request: format!("{BASE}/$export"),
            advertised_base: None,
            software: String::new(),
            created: NOW,
            state: JobState::Accepted,
        };
        store.create(job).await?;
        let lease = store.claim(JobId::new([7; 16])).await?;
        Ok(Self { store, lease, next: 0 })
    }

    /// Commits one complete file of so many slices, durably.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn commit(&mut self, slices: u32) -> anyhow::Result<()> {
        let no = FileNo(self.next);
        self.next += 1;
        let object = StoredObject {
            key: format!("{}/Patient-{}.ndjson", "7".repeat(32), no.0),
            lines: 100_000,
            bytes: 100_000_000,
            sha256: "7".repeat(64),
            plain: None,
        };
        let slices = windows(slices).into_iter().map(|window| SliceRecord::counted(of_patients(window), 1_000));
        let file = CompleteFile { object: Some(object), slices: slices.collect(), ..CompleteFile::default() };
        let state = FileState::Complete(file);
        let files = vec![FileRecord { no, content: FileContent::Resources(ResourceType::PATIENT), state }];
        Ok(self.store.commit(self.lease, Change { files, ..Change::default() }).await?)
    }
}

fn of_patients(window: Window) -> Slice {
    let scope = slice::Scope::Window(window);
    Slice { phase: Phase::Old, resource_type: ResourceType::PATIENT, filter: None, scope }
}

/// Ten years cut into so many windows.
fn windows(count: u32) -> Vec<Window> {
    let oldest = Millis(NOW.0 - 10 * 366 * 24 * 3_600_000);
    let grid = Grid { step: 1, oldest, now: NOW };
    let length = (NOW.0 - oldest.0) / i64::from(count.max(1));
    let mut left = Window { from: Some(oldest), until: Some(NOW) };
    let mut cut = Vec::new();
    while let Some((window, rest)) = left.carve(length, grid) {
        cut.push(window);
        left = rest;
    }
    cut.push(left);
    cut
}

/// Cuts ten years into so many windows, and finds what is left of them when every second one is read: how many.
#[must_use]
pub fn plan(count: u32) -> usize {
    let read: Vec<_> = windows(count).into_iter().step_by(2).map(of_patients).collect();
    let whole = of_patients(Window { from: None, until: Some(NOW) });
    whole.remaining(read.iter()).len()
}
