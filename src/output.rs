//! Opens the configured object store and does the few things that the engine and the file route ask of it.

pub(crate) mod checkpoint;
pub(crate) mod layout;
pub(crate) mod signing;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::RwLock;

use self::checkpoint::rebuild::Folder;

/// Where the files of exports are kept.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    store: Arc<dyn ObjectStore>,
    /// The folder behind a local store, whose half-written uploads no listing shows.
    local: Option<PathBuf>,
    /// Shared by small objects being written: they are written to their end even if nobody waits for them any more, and
    /// a removal begins once they are.
    puts: Arc<RwLock<()>>,
}

/// Why the output did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("could not {doing} in the output")]
    Store { doing: &'static str, source: object_store::Error },
    #[error("could not {doing} the output folder")]
    Folder { doing: &'static str, source: std::io::Error },
    #[error("the output folder {} is open to others; make it 0700", .0.display())]
    Exposed(PathBuf),
    #[error("a sidecar is damaged")]
    Damaged,
}

impl OutputError {
    /// Whether the object is simply not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Store { source: object_store::Error::NotFound { .. }, .. })
    }
}

impl Output {
    /// A folder on the local disk, made if it is not there. SEC-40: refused if others may read it.
    pub(crate) fn local(folder: &FsPath) -> Result<Self, OutputError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let doing = |doing| move |source| OutputError::Folder { doing, source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(doing("create"))?;
        let metadata = std::fs::symlink_metadata(folder).map_err(doing("look at"))?;
        if metadata.is_symlink() || metadata.mode() & 0o077 != 0 {
            return Err(OutputError::Exposed(folder.to_owned()));
        }
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| OutputError::Store { doing: "open a folder", source })?;
        let store = Arc::new(store.with_fsync(true).with_automatic_cleanup(true));
        Ok(Self { store, local: Some(folder.to_owned()), puts: Arc::default() })
    }

    /// Any other object store.
    pub(crate) fn of(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, local: None, puts: Arc::default() }
    }

    /// The same output with something around its object store.
    pub(crate) fn through(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { store: wrap(self.store), ..self }
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Writes a small object in one go.
    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), OutputError> {
        let (store, key, bytes) = (Arc::clone(&self.store), Path::from(key), bytes.into());
        let writing = Arc::clone(&self.puts).read_owned().await;
        let put = tokio::spawn(async move {
            let put = store.put(&key, PutPayload::from(bytes)).await;
            drop(writing);
            put
        });
        let put = put.await.unwrap_or_else(|source| Err(object_store::Error::JoinError { source }));
        put.map(drop).map_err(|source| OutputError::Store { doing: "write an object", source })
    }

    /// The same for one that may be written again: what a killed process has left of it half-written goes first.
    pub(crate) async fn put_again(&self, key: &str, bytes: Vec<u8>) -> Result<(), OutputError> {
        drop(self.puts.write().await);
        self.remove_staged(key).await?;
        self.put(key, bytes).await
    }

    /// Reads a small object in one go.
    pub(crate) async fn get(&self, key: &str) -> Result<Bytes, OutputError> {
        let failed = |source| OutputError::Store { doing: "read an object", source };
        self.store.get(&Path::from(key)).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Streams a part of an object.
    pub(crate) async fn stream(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, OutputError> {
        if range.is_empty() {
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.store.get_opts(&Path::from(key), options).await;
        Ok(got.map_err(|source| OutputError::Store { doing: "read an object", source })?.into_stream())
    }

    /// Removes an object and what an unfinished upload may have left of it. Removing what is not there is done.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), OutputError> {
        drop(self.puts.write().await);
        // An upload that is completed at this moment becomes the object: it is looked for first and last.
        self.remove_staged(key).await?;
        match self.store.delete(&Path::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(OutputError::Store { doing: "remove an object", source }),
        }
        self.remove_staged(key).await
    }

    async fn remove_staged(&self, key: &str) -> Result<(), OutputError> {
        let Some(root) = self.local.clone() else { return Ok(()) };
        let path = root.join(key);
        let removed = tokio::task::spawn_blocking(move || remove_staged(&path)).await;
        let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        removed.map_err(|source| OutputError::Folder { doing: "remove an unfinished upload from", source })
    }

    /// The folders in a folder; at the top of all, those of instances.
    pub(crate) async fn folders(&self, folder: Option<&str>) -> Result<Vec<String>, OutputError> {
        let failed = |source| OutputError::Store { doing: "list objects", source };
        let listed = self.store.list_with_delimiter(folder.map(Path::from).as_ref()).await.map_err(failed)?;
        Ok(listed.common_prefixes.iter().filter_map(Path::filename).map(str::to_owned).collect())
    }

    /// What lies in the folder of a job.
    pub(crate) async fn folder(&self, folder: &str) -> Result<Folder, OutputError> {
        let failed = |source| OutputError::Store { doing: "list objects", source };
        let listed = self.store.list_with_delimiter(Some(&Path::from(folder))).await.map_err(failed)?;
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
        Ok(Folder { objects, unfinished })
    }

    /// Removes the folder of a job that has no object left; local stores only know folders.
    pub(crate) async fn remove_folder(&self, folder: &str) {
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
