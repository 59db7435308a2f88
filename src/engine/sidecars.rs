//! Sidecars of complete files, kept in memory as far as there is room.

use std::sync::Arc;

use moka::future::Cache;

use crate::job::index::Sidecar;

/// Those that were written or read last, by their keys. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sidecars(Cache<String, Arc<Sidecar>>);

impl Sidecars {
    /// Keeps so many bytes at most.
    pub(super) fn within(bytes: u64) -> Self {
        let weigher = |_: &String, sidecar: &Arc<Sidecar>| u32::try_from(sidecar.weight()).unwrap_or(u32::MAX);
        Self(Cache::builder().weigher(weigher).max_capacity(bytes).build())
    }

    pub(super) async fn get(&self, key: &str) -> Option<Arc<Sidecar>> {
        self.0.get(key).await
    }

    /// Keeps one for as long as there is room.
    pub(super) async fn keep(&self, key: &str, sidecar: Arc<Sidecar>) {
        self.0.insert(key.to_owned(), sidecar).await;
        // By itself the cache lets go of what is beyond its bound after dozens of further ones, some megabytes each.
        self.0.run_pending_tasks().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::fhir::datatypes::Id;
    use crate::fhir::resource_type::ResourceType;
    use crate::job::index::{IdHash, Notes};

    /// As where a young slice is compared with all files of a large type, one after another.
    #[tokio::test]
    async fn no_more_are_held_than_there_is_room_for() {
        let sidecar = |file: u32| {
            let id = |line: u32| Id::parse(&format!("{file}-{line}")).expect("an id");
            Arc::new(Sidecar::new((0..100).map(|line| IdHash::of(ResourceType::PATIENT, &id(line))), Notes::default()))
        };
        let room_for = 4;
        let sidecars = Sidecars::within(room_for * sidecar(0).weight() as u64);
        let mut seen: Vec<Weak<Sidecar>> = Vec::new();
        for file in 0..60 {
            let sidecar = sidecar(file);
            seen.push(Arc::downgrade(&sidecar));
            sidecars.keep(&file.to_string(), sidecar).await;
            let held = seen.iter().filter(|sidecar| sidecar.strong_count() > 0).count() as u64;
            assert!(held <= 2 * room_for, "{held} after {file}");
        }
    }
}
