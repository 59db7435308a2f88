//! What of an export names patients, sealed under a key of its own (SEC-40): once that key is destroyed nobody reads it any
//! more, whatever a disk or a bucket still holds of it. Pure.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::job_id::JobId;

/// Bytes in a key.
pub(crate) const LENGTH: usize = 32;
/// How it is sealed; others are refused.
const VERSION: u8 = 1;

/// A text that only the key of its export opens. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sealed(Box<str>);

/// What is sealed: nothing opens in another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The patients that a kick-off names.
    Patients,
    /// The plan, which names the patients of a Group or of all.
    Plan,
}

/// The key of one export.
pub(crate) struct JobKey {
    job: JobId,
    key: LessSafeKey,
}

/// What was sealed does not open: it or its key is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed with another key, or was changed")]
pub(crate) struct Unopened;

impl Sealed {
    /// What is left of something that was sealed and that nobody wants to know here. No key opens it.
    pub(crate) fn left_out() -> Self {
        Self("".into())
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

impl JobKey {
    pub(crate) fn new(job: JobId, secret: &[u8; LENGTH]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, secret).expect("a key of this algorithm is 32 bytes long");
        Self { job, key: LessSafeKey::new(key) }
    }

    /// `plain`, sealed. No two texts of an export are sealed with the same `nonce`, which is random.
    pub(crate) fn seal(&self, part: Part, nonce: [u8; NONCE_LEN], mut plain: Vec<u8>) -> Sealed {
        let sealing =
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), self.place(part), &mut plain);
        sealing.expect("only more than 64 GiB cannot be sealed");
        let whole = [[VERSION].as_slice(), &nonce, &plain].concat();
        Sealed(STANDARD_NO_PAD.encode(whole).into())
    }

    /// What was sealed as this part of this export.
    ///
    /// # Errors
    /// [`Unopened`] if it is not what [`seal`](Self::seal) gave.
    pub(crate) fn open(&self, part: Part, sealed: &Sealed) -> Result<Vec<u8>, Unopened> {
        let whole = STANDARD_NO_PAD.decode(sealed.0.as_bytes()).map_err(|_| Unopened)?;
        let whole = whole.strip_prefix(&[VERSION]).ok_or(Unopened)?;
        let (nonce, text) = whole.split_first_chunk::<NONCE_LEN>().ok_or(Unopened)?;
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), self.place(part), &mut text);
        let length = opened.map_err(|_| Unopened)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn place(&self, part: Part) -> Aad<String> {
        let part = match part {
            Part::Patients => "patients",
            Part::Plan => "plan",
        };
        Aad::from(format!("offtake-sealed-{VERSION}\n{}\n{part}", self.job))
    }
}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobKey({})", self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId::new([1; 16]);

    fn key() -> JobKey {
        JobKey::new(JOB, &[7; LENGTH])
    }

    #[test]
    fn what_is_sealed_opens_in_its_own_place_with_its_own_key_only() {
        for text in ["", "Patient/p1", &"p".repeat(100_000)] {
            let sealed = key().seal(Part::Plan, [3; NONCE_LEN], text.into());
            assert_eq!(key().open(Part::Plan, &sealed).as_deref(), Ok(text.as_bytes()));
            assert_eq!(key().open(Part::Patients, &sealed), Err(Unopened), "another part");
            assert_eq!(JobKey::new(JobId::new([2; 16]), &[7; LENGTH]).open(Part::Plan, &sealed), Err(Unopened));
            assert_eq!(JobKey::new(JOB, &[8; LENGTH]).open(Part::Plan, &sealed), Err(Unopened), "another key");
        }
        assert_eq!(key().open(Part::Patients, &Sealed::left_out()), Err(Unopened));
    }

    #[test]
    fn every_byte_of_it_counts_and_none_is_told() {
        let sealed = key().seal(Part::Patients, [3; NONCE_LEN], "Patient/p1".into());
        let whole = STANDARD_NO_PAD.decode(sealed.0.as_bytes()).expect("base64");
        assert!(memchr::memmem::find(&whole, b"Patient/p1").is_none());
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 1;
            for changed in [&changed[..], &whole[..index]] {
                let sealed = Sealed(STANDARD_NO_PAD.encode(changed).into());
                assert_eq!(key().open(Part::Patients, &sealed), Err(Unopened), "byte {index}");
            }
        }
        assert_eq!(key().open(Part::Patients, &Sealed("no base64!".into())), Err(Unopened));
        assert_eq!(format!("{sealed:?} {:?}", key()), format!("Sealed JobKey({JOB})"));
        let other = key().seal(Part::Patients, [4; NONCE_LEN], "Patient/p1".into());
        assert_ne!(sealed, other, "nobody sees that the same patients were asked for");
    }
}
