//! Buffers for answers, used again. A buffer is made larger than nearly every answer, so that nothing is copied as it fills; the
//! system gives memory for what is used of it, and takes all of it back when it is dropped. To give and to take cost more
//! than to read a page: so those of ordinary pages are kept for the next ones.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that a buffer is made for, whatever comes. Above 32 MiB glibc gives all of it back to the system once it is dropped;
/// buffers that grew by doubling were seen to leave its arenas with twice the budget of all pages.
const BUFFER: usize = 33 * 1024 * 1024;
/// A buffer of which more was used is not kept.
const MOST_OF_ONE: usize = 2 * 1024 * 1024;
/// No more is kept of all together, nor more buffers than that.
const MOST_OF_ALL: usize = 16 * 1024 * 1024;
const MOST: usize = 32;
/// Answers below it are copied out of their buffer: many of them may be held at once.
const SMALL: usize = 32 * 1024;

/// Buffers that wait for their next answer. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Buffers {
    kept: Arc<Mutex<Vec<Kept>>>,
}

/// A buffer and how much of it was ever used: so much memory it has.
struct Kept {
    bytes: Vec<u8>,
    used: usize,
}

/// One answer's bytes.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    used: usize,
    home: Buffers,
}

impl Buffers {
    /// An empty one.
    pub(crate) fn take(&self) -> Buffer {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Kept { bytes, used } = kept.unwrap_or_else(|| Kept { bytes: Vec::with_capacity(BUFFER), used: 0 });
        Buffer { bytes, used, home: self.clone() }
    }

    fn keep(&self, mut bytes: Vec<u8>, used: usize) {
        bytes.clear();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = kept.iter().map(|kept| kept.used).sum();
        if bytes.capacity() == BUFFER && used <= MOST_OF_ONE && all + used <= MOST_OF_ALL && kept.len() < MOST {
            kept.push(Kept { bytes, used });
        }
    }
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn extend(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        self.used = self.used.max(self.bytes.len());
    }

    /// The same bytes, for as long as they are wanted. Where they are a small part of what the buffer has of memory they get
    /// memory of their own: what is held is counted by its bytes.
    pub(crate) fn settled(self) -> Self {
        if self.len() > SMALL && self.len() >= self.used / 4 * 3 {
            return self;
        }
        let (bytes, used, home) = (self.bytes.clone(), self.len(), self.home.clone());
        Self { bytes, used, home }
    }

    /// Its bytes for good.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        mem::take(&mut self.settled().bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.keep(mem::take(&mut self.bytes), self.used);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(buffers: &Buffers) -> usize {
        buffers.kept.lock().expect("no panic").len()
    }

    #[test]
    fn a_buffer_comes_back_empty_and_no_more_is_kept_than_may_be() {
        let buffers = Buffers::default();
        let mut first = buffers.take();
        first.extend(b"of somebody");
        drop(first);
        assert_eq!((kept(&buffers), buffers.take().as_ref()), (1, &b""[..]));
        let large = vec![b'x'; MOST_OF_ONE];
        let all: Vec<_> = (0..20)
            .map(|_| {
                let mut one = buffers.take();
                one.extend(&large);
                one
            })
            .collect();
        drop(all);
        assert_eq!(kept(&buffers), MOST_OF_ALL / MOST_OF_ONE);
        let mut larger = buffers.take();
        larger.extend(&large);
        larger.extend(b"x");
        drop(larger);
        assert_eq!(kept(&buffers), MOST_OF_ALL / MOST_OF_ONE - 1);
    }

    /// What is held is counted by its bytes, and has no more memory than that.
    #[test]
    fn a_small_answer_does_not_hold_a_large_buffer() {
        let buffers = Buffers::default();
        let mut large = buffers.take();
        large.extend(&vec![b'x'; MOST_OF_ONE]);
        drop(large);
        for length in [1, SMALL, MOST_OF_ONE / 2] {
            let mut one = buffers.take();
            one.extend(&vec![b'y'; length]);
            let held = one.settled();
            assert_eq!((held.len(), held.used, kept(&buffers)), (length, length, 1));
        }
        let mut one = buffers.take();
        one.extend(&vec![b'y'; MOST_OF_ONE / 10 * 9]);
        let held = one.settled();
        assert_eq!((held.used, kept(&buffers)), (MOST_OF_ONE, 0), "nearly all of it");
        drop(held);
        let many: Vec<_> = (0..2 * MOST).map(|_| buffers.take()).collect();
        drop(many);
        assert_eq!(kept(&buffers), MOST);
        let mut taken = buffers.take();
        taken.extend(b"for good");
        assert_eq!(taken.into_vec(), b"for good");
        assert_eq!(kept(&buffers), MOST);
    }
}
