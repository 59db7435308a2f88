//! Opens the configured object store and does the few things that the engine and the file route ask of it.

pub(crate) mod checkpoint;
pub(crate) mod cloud;
pub(crate) mod examine;
pub(crate) mod exposure;
mod fault;
pub(crate) mod layout;
mod reading;
pub(crate) mod signing;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::sync::RwLock;
use url::Url;

use self::checkpoint::rebuild::Folder;
use self::cloud::uploads::UploadsError;
use self::cloud::{Cloud, CloudError, Credential, Environment};
pub(crate) use self::fault::StoreFault;
use self::writer::Coding;
use crate::config::{Location, OutputConfig};
use crate::disk::{self, Space};
use crate::fhir::datatypes::Millis;
use crate::job::checkpoint::{FileRecord, FileState};
use crate::telemetry::error_chain;

/// Where the files of exports are kept.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    store: Arc<dyn ObjectStore>,
    /// What all keys begin with; empty, or with a slash at its end.
    prefix: String,
    /// The folder behind a local store, whose half-written uploads no listing shows.
    local: Option<PathBuf>,
    /// What a cloud can do besides.
    cloud: Option<Cloud>,
    /// Shared by small objects being written: they are written to their end even if nobody waits for them any more, and
    /// a removal begins once they are.
    puts: Arc<RwLock<()>>,
    /// Anybody can read what is written: nothing is for now.
    is_public: Arc<AtomicBool>,
    /// Free bytes that files leave on a local disk; `None` is the larger of 1 GiB and 5 % of it.
    min_free: Option<u64>,
}

/// Bytes of a local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free: u64,
    /// What files leave free.
    pub(crate) kept: u64,
}

/// How long a link can be good that the storage itself answers, and by what it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signing {
    pub(crate) credential: Credential,
    pub(crate) longest: Duration,
}

/// Why the output did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("could not {doing} in the output")]
    Store { doing: &'static str, source: StoreFault },
    #[error("could not list unfinished uploads to the output")]
    Uploads(#[source] UploadsError),
    #[error(transparent)]
    Cloud(#[from] CloudError),
    #[error("output.location {0}")]
    Location(&'static str),
    #[error("the output {0}")]
    Unfit(&'static str),
    #[error("could not {doing} the output folder")]
    Folder { doing: &'static str, source: std::io::Error },
    #[error("the output folder {} is open to others; make it 0700", .0.display())]
    Exposed(PathBuf),
    #[error("the output's disk has less free space than output.min_free_bytes")]
    NoRoom,
    #[error("the storage of the output is public")]
    Public,
    #[error("a file or a sidecar is not what was written")]
    Damaged,
}

impl OutputError {
    /// Whether the object is simply not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_missing())
    }

    /// Whether we may not see it.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_denied())
    }

    /// Whether it is for want of room, or of a place that keeps to itself what it gets: then it is tried again once there
    /// is one.
    pub(crate) fn must_wait(&self) -> bool {
        match self {
            Self::NoRoom | Self::Public => true,
            Self::Store { source, .. } => source.is_full(),
            Self::Folder { source, .. } => disk::is_full(source),
            Self::Uploads(_)
            | Self::Cloud(_)
            | Self::Location(_)
            | Self::Unfit(_)
            | Self::Exposed(_)
            | Self::Damaged => false,
        }
    }
}

/// A failure of the object store, as ours.
fn failed(doing: &'static str) -> impl Fn(object_store::Error) -> OutputError {
    move |error| OutputError::Store { doing, source: StoreFault::from(error) }
}

/// SEC-45: what is left free on a local disk unless another limit is set.
const USUAL_MIN_FREE: u64 = 1024 * 1024 * 1024;

impl Output {
    /// What a configuration names. What it does not say of a cloud, the process's environment does. No storage is asked.
    pub(crate) fn open(config: &OutputConfig) -> Result<Self, OutputError> {
        Self::open_with(config, &Environment::of_process())
    }

    fn open_with(config: &OutputConfig, environment: &Environment) -> Result<Self, OutputError> {
        let location = config.place().map_err(OutputError::Location)?;
        let (place, (store, cloud)) = match &location {
            Location::File(folder) => return Self::local(folder),
            Location::S3(place) => (place, cloud::s3(config, place, environment)?),
            Location::Azure(place) => (place, cloud::azure(config, place, environment)?),
            Location::Gcs(place) => (place, cloud::gcs(config, place, environment)?),
        };
        let prefix = if place.prefix.is_empty() { String::new() } else { format!("{}/", place.prefix) };
        Ok(Self {
            store,
            prefix,
            local: None,
            cloud: Some(cloud),
            puts: Arc::default(),
            is_public: Arc::default(),
            min_free: None,
        })
    }

    /// A folder on the local disk, made if it is not there. SEC-40: refused if others may read it.
    pub(crate) fn local(folder: &FsPath) -> Result<Self, OutputError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let doing = |doing| move |source| OutputError::Folder { doing, source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(doing("create"))?;
        let metadata = std::fs::symlink_metadata(folder).map_err(doing("look at"))?;
        if metadata.is_symlink() || metadata.mode() & 0o077 != 0 {
            return Err(OutputError::Exposed(folder.to_owned()));
        }
        let store = LocalFileSystem::new_with_prefix(folder).map_err(failed("open a folder"))?;
        let store = Arc::new(store.with_fsync(true).with_automatic_cleanup(true));
        Ok(Self {
            store,
            prefix: String::new(),
            local: Some(folder.to_owned()),
            cloud: None,
            puts: Arc::default(),
            is_public: Arc::default(),
            min_free: None,
        })
    }

    /// Any other object store.
    pub(crate) fn of(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            prefix: String::new(),
            local: None,
            cloud: None,
            puts: Arc::default(),
            is_public: Arc::default(),
            min_free: None,
        }
    }

    /// The same output with something around its object store.
    pub(crate) fn through(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { store: wrap(self.store), ..self }
    }

    /// The same with something around what uploads in parts to a cloud, if that is what it does.
    pub(crate) fn through_parts(
        mut self,
        wrap: impl FnOnce(Arc<dyn MultipartStore>) -> Arc<dyn MultipartStore>,
    ) -> Self {
        if let Some(parts) = self.cloud.as_mut().and_then(|cloud| cloud.parts.as_mut()) {
            parts.store = wrap(Arc::clone(&parts.store));
        }
        self
    }

    /// The same output, encrypting what is written to it by this key of KMS.
    ///
    /// # Errors
    /// If it is not on S3, or cannot be set up.
    pub(crate) fn encrypting_by(&self, key: &str) -> Result<Self, OutputError> {
        let cloud = self.cloud.as_ref();
        let keyed = cloud.and_then(|cloud| cloud.keyed.as_ref());
        let store = keyed.ok_or(OutputError::Unfit("does not encrypt by a client's own key"))?.by(key)?;
        let mut output = Self { store: Arc::clone(&store) as _, ..self.clone() };
        if let Some(parts) = output.cloud.as_mut().and_then(|cloud| cloud.parts.as_mut()) {
            parts.store = store;
        }
        Ok(output)
    }

    /// The same output with another limit for what is left free on a local disk.
    pub(crate) fn leaving_free(self, min_free: Option<u64>) -> Self {
        Self { min_free, ..self }
    }

    /// Says whether anybody can read what is written: while that is so, no file is.
    pub(crate) fn withhold(&self, is_public: bool) {
        self.is_public.store(is_public, Ordering::Relaxed);
    }

    /// Whether files may be written. A disk that tells nothing of itself is tried.
    ///
    /// # Errors
    /// [`OutputError::NoRoom`], [`OutputError::Public`]
    pub(crate) fn check_room(&self) -> Result<(), OutputError> {
        self.check_private()?;
        // Whatever is kept: nothing can be written where nothing is free.
        let is_short = self.room().is_some_and(|room| room.free < room.kept.max(1));
        if is_short { Err(OutputError::NoRoom) } else { Ok(()) }
    }

    /// Whether what is written is kept from others.
    ///
    /// # Errors
    /// [`OutputError::Public`]
    pub(crate) fn check_private(&self) -> Result<(), OutputError> {
        if self.is_public.load(Ordering::Relaxed) { Err(OutputError::Public) } else { Ok(()) }
    }

    /// How much room a local disk has.
    pub(crate) fn room(&self) -> Option<Room> {
        let Space { free, total } = self.local.as_deref().and_then(Space::of)?;
        Some(Room { free, kept: self.min_free.unwrap_or_else(|| USUAL_MIN_FREE.max(total / 20)) })
    }

    /// The same once there was no room: whether there is enough to go on with. It writes a few bytes, as quotas are not
    /// told otherwise.
    pub(crate) async fn has_room_again(&self, key: &str) -> Result<(), OutputError> {
        self.check_room()?;
        // A part must fit: else all that is read up to it is read in vain.
        let space = self.local.as_deref().and_then(Space::of);
        if space.is_some_and(|space| space.free < writer::PART as u64) {
            return Err(OutputError::NoRoom);
        }
        // A cloud does not tell what is left of a quota: it is asked to take as much as a part.
        let probe = if self.cloud.is_some() { vec![0; writer::PART] } else { b"there is room".to_vec() };
        self.put_again(key, probe).await?;
        self.remove(key).await
    }

    /// Where an object of this key lies.
    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    /// How long a link can be good that the storage itself answers; `None` if we answer links ourselves.
    pub(crate) fn signs_for(&self) -> Option<Duration> {
        self.cloud.as_ref()?.signer.as_ref().map(|signer| signer.longest)
    }

    /// By what the storage's own links are signed; `None` if we answer links ourselves.
    pub(crate) fn signing(&self) -> Option<Signing> {
        let signer = self.cloud.as_ref()?.signer.as_ref()?;
        Some(Signing { credential: signer.credential, longest: signer.longest })
    }

    /// The same until some moment at most, and a fraction of a second before it at worst: however long it has to wait for
    /// what signs.
    pub(crate) async fn sign_until(
        &self,
        key: &str,
        until: Millis,
        now: &(dyn Fn() -> Millis + Sync),
    ) -> Result<Url, OutputError> {
        /// Storages sign from when they come to it: it may take so much longer than it should.
        const MOST_LATE_MILLIS: i64 = 1_000;
        const TRIES: usize = 3;
        let mut slow = 0;
        for number in 1..=TRIES {
            let began = now();
            // What is slow each time is slow at last as well: then it may end before, and not after.
            let allowed = if number == TRIES { slow } else { 0 };
            // Whole seconds, rounded up: storages leave fractions away from when it was signed, and no link may end before
            // the manifest says.
            let left = until.0.saturating_sub(began.0.saturating_add(allowed)).max(0).unsigned_abs().div_ceil(1000);
            let link = self.sign(key, Duration::from_secs(left)).await?;
            // What it had to wait for is there by now.
            slow = now().0.saturating_sub(began.0);
            if slow < MOST_LATE_MILLIS.saturating_add(allowed) {
                return Ok(link);
            }
        }
        Err(OutputError::Unfit("takes too long to sign links"))
    }

    /// A link that the storage itself answers, from now on.
    pub(crate) async fn sign(&self, key: &str, lifetime: Duration) -> Result<Url, OutputError> {
        let signer = self.cloud.as_ref().and_then(|cloud| cloud.signer.as_ref());
        let signer = signer.ok_or(OutputError::Unfit("does not sign links"))?;
        let lifetime = lifetime.clamp(Duration::from_secs(1), signer.longest);
        signer.signer.signed_url(Method::GET, &self.path(key), lifetime).await.map_err(failed("sign a link"))
    }

    /// Runs to its end what changes the output, even if nobody waits for it any more: a removal begins only once it is done.
    async fn carry<T: Send + 'static>(
        &self,
        doing: &'static str,
        change: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, OutputError> {
        let changed = self.begin(change).await.await;
        changed.unwrap_or_else(|source| Err(object_store::Error::JoinError { source })).map_err(failed(doing))
    }

    /// The same for what somebody will ask after later.
    async fn begin<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let writing = Arc::clone(&self.puts).read_owned().await;
        tokio::spawn(async move {
            let changed = change.await;
            drop(writing);
            changed
        })
    }

    fn put_options(&self, key: &str, coding: Coding) -> PutOptions {
        // Local disk takes no attributes.
        let attributes = self.cloud.as_ref().map(|_| cloud::attributes(key, coding)).unwrap_or_default();
        PutOptions { attributes, ..PutOptions::default() }
    }

    /// Writes a small object in one go.
    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), OutputError> {
        self.put_payload(key, Coding::Plain, PutPayload::from(bytes.into())).await
    }

    async fn put_payload(&self, key: &str, coding: Coding, payload: PutPayload) -> Result<(), OutputError> {
        let (store, path, options) = (Arc::clone(&self.store), self.path(key), self.put_options(key, coding));
        self.carry("write an object", async move { store.put_opts(&path, payload, options).await }).await.map(drop)
    }

    /// The same for one that may be written again: what a killed process has left of it half-written goes first.
    pub(crate) async fn put_again(&self, key: &str, bytes: Vec<u8>) -> Result<(), OutputError> {
        drop(self.puts.write().await);
        self.remove_staged(key).await?;
        self.put(key, bytes).await
    }

    /// Makes the output `owner`'s if it is nobody's yet; `false` if it is somebody else's (SEC-32). Of several who try at
    /// once one succeeds, where the storage can put an object on condition that there is none.
    pub(crate) async fn claim(&self, owner: &str) -> Result<bool, OutputError> {
        let mark = || PutPayload::from(owner.to_owned().into_bytes());
        for _ in 0..2 {
            match self.get(layout::MARKER).await {
                Ok(found) => return Ok(*found == *owner.as_bytes()),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
            let options = PutOptions { mode: PutMode::Create, ..self.put_options(layout::MARKER, Coding::Plain) };
            match self.store.put_opts(&self.path(layout::MARKER), mark(), options).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
                Err(error) if fault::is_not_implemented(&error) => self.take_over(owner).await?,
                Err(error) => return Err(failed("claim a place")(error)),
            }
        }
        Ok(false)
    }

    /// Who has claimed the output.
    pub(crate) async fn owner(&self) -> Result<Option<Bytes>, OutputError> {
        match self.get(layout::MARKER).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the output `owner`'s, whosesoever it was: as an operator has asked.
    pub(crate) async fn take_over(&self, owner: &str) -> Result<(), OutputError> {
        self.put_again(layout::MARKER, owner.to_owned().into_bytes()).await
    }

    /// Removes an object and what an unfinished upload may have left of it. Removing what is not there is done.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), OutputError> {
        drop(self.puts.write().await);
        // An upload that is completed at this moment becomes the object: it is looked for first and last.
        self.remove_staged(key).await?;
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed("remove an object")(error)),
        }
        self.remove_staged(key).await
    }

    /// Ends what uploads to the objects of these records, all in one folder, may have left unfinished on a cloud; on local
    /// disk that goes with [`remove`](Self::remove). Of the uploads in a folder only those are ended that a record names.
    pub(crate) async fn end_uploads(&self, folder: &str, records: &[FileRecord]) -> Result<(), OutputError> {
        let Some(cloud) = &self.cloud else { return Ok(()) };
        if records.is_empty() {
            return Ok(());
        }
        drop(self.puts.write().await);
        let Some(parts) = &cloud.parts else { return self.end_blocks(records).await };
        let mut ended: BTreeSet<(String, String)> = BTreeSet::new();
        // MinIO lists only the uploads to one whole key, so that each open one is asked for; of what others have a stray
        // upload can be left where a request was repeated.
        let mut prefixes = vec![format!("{}{folder}/", self.prefix)];
        for record in records {
            if let FileState::Open { key, upload, .. } = &record.state {
                let path = self.path(key).to_string();
                ended.extend(upload.iter().map(|id| (path.clone(), id.clone())));
                prefixes.push(path);
            }
        }
        let named: BTreeSet<_> =
            records.iter().flat_map(FileRecord::keys).map(|key| self.path(&key).to_string()).collect();
        for prefix in prefixes {
            match parts.uploads.below(&prefix).await {
                Ok(found) => {
                    let found = found.into_iter().filter(|upload| named.contains(&upload.key));
                    ended.extend(found.map(|upload| (upload.key, upload.upload_id)));
                }
                // Those that we know by name are ended all the same.
                Err(UploadsError::Unlisted) => {
                    tracing::warn!(
                        "the storage does not list unfinished uploads for us (s3:ListBucketMultipartUploads, \
                         storage.multipartUploads.list): what a crash leaves of them stays until the bucket's own rules remove it"
                    );
                    break;
                }
                Err(error) => return Err(OutputError::Uploads(error)),
            }
        }
        for (key, id) in ended {
            match parts.store.abort_multipart(&Path::from(key), &id).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("end an upload")(error)),
            }
        }
        Ok(())
    }

    /// Whether uploads have no names by which they end, so that what comes late begins them anew.
    pub(crate) fn has_unnamed_uploads(&self) -> bool {
        self.cloud.as_ref().is_some_and(|cloud| cloud.parts.is_none())
    }

    /// Azure knows no uploads, only blocks that wait to be put together. An object that is written at once throws them away.
    async fn end_blocks(&self, records: &[FileRecord]) -> Result<(), OutputError> {
        for record in records {
            let FileState::Open { key, .. } = &record.state else { continue };
            self.put(key, Vec::new()).await?;
            self.remove(key).await?;
        }
        Ok(())
    }

    async fn remove_staged(&self, key: &str) -> Result<(), OutputError> {
        let Some(root) = self.local.clone() else { return Ok(()) };
        let path = root.join(key);
        let removed = tokio::task::spawn_blocking(move || remove_staged(&path)).await;
        let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        removed.map_err(|source| OutputError::Folder { doing: "remove an unfinished upload from", source })
    }

    /// After a file of a local folder is complete.
    async fn leave_cache(&self, key: &str) {
        if let Some(root) = &self.local {
            let path = root.join(key);
            // Waited for, so that the next file finds the memory of this one.
            let _left = tokio::task::spawn_blocking(move || disk::leave_cache(&path)).await;
        }
    }

    /// The folders in a folder; at the top of all, those of instances.
    pub(crate) async fn folders(&self, folder: Option<&str>) -> Result<Vec<String>, OutputError> {
        let path = self.path(folder.unwrap_or_default());
        let listed = self.store.list_with_delimiter(Some(&path)).await.map_err(failed("list objects"))?;
        Ok(listed.common_prefixes.iter().filter_map(Path::filename).map(str::to_owned).collect())
    }

    /// What lies in the folder of a job.
    pub(crate) async fn folder(&self, folder: &str) -> Result<Folder, OutputError> {
        let path = self.path(folder);
        let listed = self.store.list_with_delimiter(Some(&path)).await.map_err(failed("list objects"))?;
        let objects =
            listed.objects.iter().filter_map(|object| Some((object.location.filename()?.to_owned(), object.size)));
        let objects: BTreeMap<_, _> = objects.collect();
        let mut unfinished = BTreeSet::new();
        if let Some(root) = &self.local {
            let looking = |source| OutputError::Folder { doing: "look into", source };
            let mut entries = tokio::fs::read_dir(root.join(folder)).await.map_err(looking)?;
            while let Some(entry) = entries.next_entry().await.map_err(looking)? {
                let staged = entry.file_name().to_str().and_then(|name| Some(name.split_once('#')?.0.to_owned()));
                unfinished.extend(staged);
            }
        }
        if let Some(parts) = self.cloud.as_ref().and_then(|cloud| cloud.parts.as_ref()) {
            let prefix = format!("{path}/");
            match parts.uploads.below(&prefix).await {
                Ok(found) => {
                    let names = found.iter().filter_map(|upload| upload.key.strip_prefix(&prefix));
                    unfinished.extend(names.map(str::to_owned));
                }
                Err(error @ UploadsError::Unlisted) => {
                    tracing::warn!(error = error_chain(&error), "unfinished uploads stay");
                }
                Err(error) => return Err(OutputError::Uploads(error)),
            }
        }
        Ok(Folder { objects, unfinished })
    }

    /// Removes the folder of a job that has no object left; of clouds only Azure's hierarchical namespaces know folders.
    pub(crate) async fn remove_folder(&self, folder: &str) {
        if self.has_unnamed_uploads() {
            // Where there are none, or it is not empty, this changes nothing.
            let _gone = self.store.delete(&self.path(folder)).await;
        }
        if let Some(root) = &self.local {
            // A folder that is not empty stays: then an object was put there that no record of ours names.
            if let Err(error) = tokio::fs::remove_dir(root.join(folder)).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(error = %error.kind(), "the folder of a removed export is not empty");
            }
        }
    }
}

/// A local upload is staged as `name#1` beside its target until it is complete; a crash leaves it there.
fn remove_staged(target: &FsPath) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_staged =
            entry.file_name().to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('#')).is_some();
        if is_staged {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
