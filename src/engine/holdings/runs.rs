//! Ids in runs that are sorted: the youngest in memory, all others in files without a name, which are gone with the process. Two
//! runs of about the same length become one, so that there are few of them, and each id is written as often as the logarithm of
//! their number.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::iter::Peekable;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::job::index::IdHash;

/// Ids in memory: 4 MiB.
const YOUNG: usize = 1 << 18;
/// Ids that are read together: 4 KiB.
const BLOCK: usize = 256;
/// Blocks that are read together where a run is read from its beginning to its end.
const AHEAD: usize = 16;
const ID: usize = 16;

/// A set of ids that only grows.
#[derive(Debug, Default)]
pub(super) struct IdRuns {
    /// Sorted.
    young: Vec<IdHash>,
    /// The longest first.
    runs: Vec<Run>,
}

impl IdRuns {
    /// Takes in `count` ids, sorted; what does not fit into memory goes to files in `folder`, if there is room for so many bytes.
    ///
    /// # Errors
    /// If a file cannot be written or read. What was taken in before stays, and perhaps what comes now.
    pub(super) fn add(
        &mut self,
        ids: impl Iterator<Item = IdHash>,
        count: usize,
        folder: &Path,
        has_room: impl Fn(u64) -> bool,
    ) -> io::Result<()> {
        self.young.reserve(count);
        self.young.extend(ids);
        // Of two sorted parts it makes one without more ado.
        self.young.sort();
        if self.young.len() <= YOUNG {
            return Ok(());
        }
        let room = |ids: usize| {
            if has_room((ids * ID) as u64) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::StorageFull)) }
        };
        room(self.young.len())?;
        self.runs.push(Run::write(folder, self.young.iter().copied().map(Ok))?);
        self.young = Vec::new();
        while let [.., before, last] = &self.runs[..]
            && before.count <= 2 * last.count
        {
            room(before.count + last.count)?;
            let both = Run::write(folder, merged(before.read(), last.read()))?;
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(both);
        }
        Ok(())
    }

    /// Which of `ids` were taken in, if that can be told without reading.
    pub(super) fn hold_in_memory(&self, ids: &[IdHash]) -> Option<Vec<bool>> {
        self.runs.is_empty().then(|| ids.iter().map(|id| self.young.binary_search(id).is_ok()).collect())
    }

    /// Which of `ids` were taken in.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn hold(&self, ids: &[IdHash]) -> io::Result<Vec<bool>> {
        let mut held: Vec<bool> = ids.iter().map(|id| self.young.binary_search(id).is_ok()).collect();
        // Those that lie side by side are found in one block.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|place| ids[*place]);
        for run in &self.runs {
            let mut block = (usize::MAX, Vec::new());
            for place in &order {
                if held[*place] {
                    continue;
                }
                let Some(number) = run.block_of(ids[*place]) else { continue };
                if block.0 != number {
                    block = (number, run.ids(number * BLOCK, BLOCK)?);
                }
                held[*place] = block.1.binary_search(&ids[*place]).is_ok();
            }
        }
        Ok(held)
    }
}

/// Sorted ids in a file.
#[derive(Debug)]
struct Run {
    file: File,
    count: usize,
    /// The first id of each block.
    firsts: Vec<IdHash>,
}

impl Run {
    fn write(folder: &Path, ids: impl Iterator<Item = io::Result<IdHash>>) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(AHEAD * BLOCK * ID, tempfile::tempfile_in(folder)?);
        let (mut count, mut firsts) = (0, Vec::new());
        for id in ids {
            let id = id?;
            if count % BLOCK == 0 {
                firsts.push(id);
            }
            file.write_all(&id.to_bytes())?;
            count += 1;
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Self { file, count, firsts })
    }

    /// The block in which an id lies if it is there.
    fn block_of(&self, id: IdHash) -> Option<usize> {
        self.firsts.partition_point(|first| *first <= id).checked_sub(1)
    }

    /// So many ids from one on, or as many as there are.
    fn ids(&self, from: usize, count: usize) -> io::Result<Vec<IdHash>> {
        let count = count.min(self.count.saturating_sub(from));
        let mut bytes = vec![0; count * ID];
        self.file.read_exact_at(&mut bytes, (from * ID) as u64)?;
        let (ids, _) = bytes.as_chunks::<ID>();
        Ok(ids.iter().map(|id| IdHash::from_bytes(*id)).collect())
    }

    /// All of them, in their order.
    fn read(&self) -> impl Iterator<Item = io::Result<IdHash>> + '_ {
        let (mut next, mut ahead) = (0, Vec::new().into_iter());
        std::iter::from_fn(move || {
            if let Some(id) = ahead.next() {
                return Some(Ok(id));
            }
            match self.ids(next, AHEAD * BLOCK) {
                Ok(ids) => {
                    next += ids.len();
                    ahead = ids.into_iter();
                    ahead.next().map(Ok)
                }
                Err(error) => Some(Err(error)),
            }
        })
    }
}

/// Two sorted lists as one.
fn merged<I>(
    one: impl Iterator<Item = io::Result<I>>,
    other: impl Iterator<Item = io::Result<I>>,
) -> impl Iterator<Item = io::Result<I>>
where
    I: Ord,
{
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || if is_first(&mut one, &mut other) { one.next() } else { other.next() })
}

/// Whether the next of all is that of the first; an error comes before all else.
fn is_first<I: Ord>(
    one: &mut Peekable<impl Iterator<Item = io::Result<I>>>,
    other: &mut Peekable<impl Iterator<Item = io::Result<I>>>,
) -> bool {
    match (one.peek(), other.peek()) {
        (Some(Ok(one)), Some(Ok(other))) => one <= other,
        (Some(Err(_)), _) | (_, None) => true,
        (None, Some(_)) | (Some(Ok(_)), Some(Err(_))) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> IdHash {
        // Spread as hashes are, and no two the same.
        let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        IdHash::from_bytes(((u128::from(spread) << 64) | u128::from(number)).to_be_bytes())
    }

    fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<IdHash> {
        let mut ids: Vec<_> = numbers.map(id).collect();
        ids.sort_unstable();
        ids
    }

    /// Files of all sizes, as they come: what was taken in is held, and nothing else, whether it lies in memory or in a file.
    #[test]
    fn what_was_taken_in_is_held_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut runs, mut from, mut most) = (IdRuns::default(), 0, 0);
        for file in 0..40_u64 {
            let count = [1, 300, 40_000, 0, 100_000][usize::try_from(file % 5).expect("small")];
            // Odd numbers are never there.
            let ids = sorted((from..from + count).map(|number| number * 2));
            runs.add(ids.into_iter(), usize::try_from(count).expect("small"), folder.path(), |_| true).expect("a disk");
            from += count;
            most = most.max(runs.runs.len());
            let asked: Vec<_> = (0..from).step_by(977).chain(from.saturating_sub(3)..from).collect();
            let there: Vec<_> = asked.iter().map(|number| id(number * 2)).collect();
            let absent: Vec<_> = asked.iter().map(|number| id(number * 2 + 1)).collect();
            assert!(runs.hold(&there).expect("a disk").into_iter().all(|held| held), "after {file}");
            assert!(!runs.hold(&absent).expect("a disk").into_iter().any(|held| held), "after {file}");
            assert!(runs.young.len() <= YOUNG);
            if let Some(held) = runs.hold_in_memory(&there) {
                assert!(runs.runs.is_empty() && held.into_iter().all(|held| held));
            }
        }
        assert!(from > 1_000_000 && (1..=4).contains(&most), "{most} runs of {from}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "they have no name");
    }

    #[test]
    fn where_there_is_no_room_that_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut runs = IdRuns::default();
        let ids = sorted(0..YOUNG as u64);
        runs.add(ids.into_iter(), YOUNG, folder.path(), |_| false).expect("it needs none");
        let refused = runs.add(sorted(std::iter::once(YOUNG as u64)).into_iter(), 1, folder.path(), |_| false);
        assert_eq!(refused.err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        let missing = runs.add(std::iter::empty(), 0, &folder.path().join("gone"), |_| true);
        assert_eq!(missing.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn an_error_ends_a_merge() {
        let fails = || [Ok(1), Err(io::Error::other("x"))].into_iter();
        let fine = || [Ok(0), Ok(2), Ok(3)].into_iter();
        for merged in [merged(fails(), fine()).collect::<Vec<_>>(), merged(fine(), fails()).collect()] {
            let before: Vec<_> = merged.iter().map_while(|read| read.as_ref().ok()).copied().collect();
            assert_eq!(before, [0, 1], "and the error");
        }
    }
}
