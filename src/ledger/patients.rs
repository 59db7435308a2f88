//! Whose data an export holds: a sorted list of keyed hashes, so that it tells nothing without the key and a patient is looked
//! up at once. It stays as long as the ledger, whatever becomes of the export.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::chain::{Keys, hex};
use super::folder;
use super::record::Patients;
use crate::disk;
use crate::fhir::datatypes::Id;
use crate::job::JobId;
use crate::job::index::IdHash;

const BYTES: usize = size_of::<u128>();
/// Hashes that are sorted in memory: 4 MiB of them. More are merged on disk.
const MOST_IN_MEMORY: usize = 256 * 1024;

/// A list that is being made.
#[derive(Debug)]
pub(crate) struct Gathering {
    keys: Arc<Keys>,
    folder: PathBuf,
    job: JobId,
    most_in_memory: usize,
    waiting: Vec<u128>,
    /// Sorted parts, in files without a name.
    runs: Vec<File>,
}

impl Gathering {
    /// For the list of an export in the folder of the ledger.
    pub(super) fn new(keys: Arc<Keys>, folder: &Path, job: JobId) -> Self {
        let folder = folder.to_owned();
        Self { keys, folder, job, most_in_memory: MOST_IN_MEMORY, waiting: Vec::new(), runs: Vec::new() }
    }

    /// Takes patients in, by the hashes of `Patient/id`.
    pub(crate) fn add(&mut self, patients: impl IntoIterator<Item = IdHash>) -> io::Result<()> {
        for patient in patients {
            if self.waiting.len() >= self.most_in_memory {
                self.sort();
                // Most often the same ones have come again.
                if self.waiting.len() > self.most_in_memory / 2 {
                    self.put_aside()?;
                }
            }
            self.waiting.push(self.keys.patient(patient));
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.waiting.sort_unstable();
        self.waiting.dedup();
    }

    fn put_aside(&mut self) -> io::Result<()> {
        let path = self.staged("run");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        let mut writer = BufWriter::new(&file);
        for hash in self.waiting.drain(..) {
            writer.write_all(&hash.to_be_bytes())?;
        }
        writer.flush()?;
        drop(writer);
        self.runs.push(file);
        Ok(())
    }

    fn staged(&self, extension: &str) -> PathBuf {
        folder::patients(&self.folder).join(format!("{}.{extension}", self.job))
    }

    /// Makes the list durable in its place, which its digest names.
    pub(crate) fn finish(mut self, anybody: bool) -> io::Result<Patients> {
        self.sort();
        let staged_at = self.staged("new");
        let waiting = std::mem::take(&mut self.waiting);
        let mut sources: Vec<Box<dyn Iterator<Item = io::Result<u128>>>> = vec![Box::new(waiting.into_iter().map(Ok))];
        for mut run in self.runs {
            run.rewind()?;
            sources.push(Box::new(Hashes(BufReader::new(run))));
        }
        let staged = staged_at;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        let mut writer = BufWriter::new(&file);
        let (mut listed, mut digest) = (0, Context::new(&SHA256));
        merged(&mut sources, |hash| {
            listed += 1;
            digest.update(&hash.to_be_bytes());
            writer.write_all(&hash.to_be_bytes())
        })?;
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        let sha256 = hex(digest.finish().as_ref());
        let path = folder::list_of(&self.folder, self.job, &sha256);
        fs::rename(&staged, &path)?;
        disk::sync_folder_of(&path)?;
        Ok(Patients { listed, sha256: sha256.into(), anybody })
    }
}

/// The hashes in a file.
struct Hashes<R>(R);

impl<R: Read> Iterator for Hashes<R> {
    type Item = io::Result<u128>;

    fn next(&mut self) -> Option<io::Result<u128>> {
        let mut hash = [0; BYTES];
        match self.0.read_exact(&mut hash) {
            Ok(()) => Some(Ok(u128::from_be_bytes(hash))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Gives each hash of sorted sources once, in their order.
fn merged(
    sources: &mut [Box<dyn Iterator<Item = io::Result<u128>>>],
    mut give: impl FnMut(u128) -> io::Result<()>,
) -> io::Result<()> {
    let mut heap = BinaryHeap::new();
    for (number, source) in sources.iter_mut().enumerate() {
        heap.extend(source.next().transpose()?.map(|hash| Reverse((hash, number))));
    }
    let mut last = None;
    while let Some(Reverse((hash, number))) = heap.pop() {
        if last != Some(hash) {
            give(hash)?;
        }
        last = Some(hash);
        heap.extend(sources[number].next().transpose()?.map(|hash| Reverse((hash, number))));
    }
    Ok(())
}

/// Whether a list holds a patient.
pub(super) fn holds(keys: &Keys, list: &Path, patient: &Id) -> io::Result<bool> {
    let wanted = keys.patient_of(patient);
    let file = File::open(list)?;
    let (mut from, mut to) = (0, file.metadata()?.len() / BYTES as u64);
    while from < to {
        let middle = from + (to - from) / 2;
        let mut hash = [0; BYTES];
        file.read_exact_at(&mut hash, middle * BYTES as u64)?;
        match u128::from_be_bytes(hash).cmp(&wanted) {
            std::cmp::Ordering::Equal => return Ok(true),
            std::cmp::Ordering::Less => from = middle + 1,
            std::cmp::Ordering::Greater => to = middle,
        }
    }
    Ok(false)
}

/// SHA-256 of a list.
pub(super) fn sha256(list: &Path) -> io::Result<String> {
    let (mut file, mut digest, mut buffer) = (File::open(list)?, Context::new(&SHA256), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(digest.finish().as_ref())),
            read => digest.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::resource_type::ResourceType;

    fn id(number: u32) -> Id {
        Id::parse(&format!("p{number}")).expect("an id")
    }

    #[test]
    fn a_list_holds_each_patient_once_and_nobody_else_however_many_there_are() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder::patients(folder.path())).expect("it can be made");
        let keys = Arc::new(Keys::new(&[7; 32]));
        for (most_in_memory, patients) in [(1_000, 0), (1_000, 1), (1_000, 900), (16, 500), (2, 65)] {
            let job = JobId::new([u8::try_from(patients % 251).expect("few"); 16]);
            let mut gathering = Gathering { most_in_memory, ..Gathering::new(Arc::clone(&keys), folder.path(), job) };
            for round in 0..3 {
                let all = (0..patients).map(|number| IdHash::of(ResourceType::PATIENT, &id(number)));
                gathering.add(all.skip(round)).expect("room");
            }
            let made = gathering.finish(false).expect("room");
            let path = folder::list_at(folder.path(), job, &made.sha256);
            assert_eq!(made.listed, u64::from(patients), "{most_in_memory}");
            assert_eq!(&*made.sha256, sha256(&path).expect("it is there"));
            for number in 0..patients {
                assert!(holds(&keys, &path, &id(number)).expect("it is there"), "{number} of {patients}");
            }
            for number in patients..patients + 100 {
                assert!(!holds(&keys, &path, &id(number)).expect("it is there"), "{number} of {patients}");
            }
            assert!(!holds(&Keys::new(&[8; 32]), &path, &id(0)).expect("it is there"), "another key finds nobody");
        }
        let names: Vec<_> =
            fs::read_dir(folder::patients(folder.path())).expect("a folder").map(|entry| entry.expect("one")).collect();
        assert_eq!(names.len(), 5, "nothing else is left: {names:?}");
    }
}
