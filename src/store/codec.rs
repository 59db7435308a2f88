//! How a record becomes bytes and is known again: JSON in parts, each with a layout and checksums. What is long and says the same
//! again and again is packed (zlib): at each start sled reads through all that it holds.
//!
//! sled moves values over 128 kB into files of their own and rewrites whole pages of smaller ones, so that a
//! record lies there in parts of 16 kB at most. A part is laid out like this, numbers big-endian:
//!
//! ```text
//! layout (1) | CRC-32 of all else (4) | CRC-32 of the whole record (4) | number of parts (2) | JSON, packed or not
//! ```
//!
//! The first checksum also covers the record's name and the part's number, so that a part in another's place is
//! noticed; the second tells the parts of one writing from those of another.

use std::fmt;
use std::io::{BufReader, Read};

use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bulk::cohort::CohortId;
use crate::job::JobId;
use crate::job::checkpoint::FileNo;
use crate::job::store::StoreError;
use crate::profile::ProfileKey;

/// The layouts: JSON, and JSON that is packed. Later ones are refused.
const PLAIN: u8 = 1;
const PACKED: u8 = 2;
/// What is shorter than this is not packed.
const SHORT: usize = 512;
/// What is packed to no more than this is unpacked at once; the rest as it is read.
const SMALL: usize = 16 * 1024;
/// Records become so many times smaller by being packed.
const USUALLY: usize = 8;
/// What is packed begins with this.
const ZLIB: [u8; 2] = [0x78, 0x01];
const HEADER: usize = 11;
/// The largest part, with its header.
const PART: usize = 16 * 1024;

/// What is recorded, and under which name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    Job(JobId),
    Plan(JobId),
    File(JobId, FileNo),
    /// Of all files of a job that has ended.
    Files(JobId),
    Profile(ProfileKey),
    /// Of an assertion that was used, by its hash.
    Used([u8; 32]),
    /// Since when those are recorded.
    RememberedSince,
    /// Of what a client has used of its day, by the hash of its name.
    Usage([u8; 32]),
    /// A cohort of a client's, by the hash of its name.
    Cohort([u8; 32], CohortId),
    /// Who has withdrawn consent.
    Consent,
    /// What is known of the clock.
    ClockMark,
}

impl Record {
    /// What the keys of all its parts begin with, and those of no other record of its kind.
    pub(crate) fn prefix(self) -> Vec<u8> {
        match self {
            Self::Job(id) | Self::Plan(id) | Self::Files(id) => id.as_bytes().to_vec(),
            Self::File(id, no) => [id.as_bytes().as_slice(), &no.0.to_be_bytes()].concat(),
            Self::Profile(key) => key.as_bytes().to_vec(),
            Self::Used(hash) => hash.to_vec(),
            Self::RememberedSince => b"remembered-since".to_vec(),
            Self::Usage(hash) => [b"usage-".as_slice(), &hash].concat(),
            Self::Cohort(hash, id) => [Self::COHORTS, &hash, id.number().as_bytes()].concat(),
            Self::Consent => b"consent".to_vec(),
            Self::ClockMark => b"clock".to_vec(),
        }
    }

    /// What the keys of all cohorts begin with.
    const COHORTS: &[u8] = b"cohort-";

    /// What the keys of all cohorts of a client begin with.
    pub(crate) fn cohorts_of(client: [u8; 32]) -> Vec<u8> {
        [Self::COHORTS, &client].concat()
    }

    /// The cohort of a client that a key is one of a part of.
    pub(crate) fn cohort_of(client: [u8; 32], key: &[u8]) -> Option<Self> {
        let number = key.strip_prefix(Self::cohorts_of(client).as_slice())?.first_chunk()?;
        Some(Self::Cohort(client, CohortId::new(JobId::new(*number))))
    }

    fn key(self, part: u16) -> Vec<u8> {
        [self.prefix(), part.to_be_bytes().to_vec()].concat()
    }

    /// Whether it is packed where it is long. A file's is written again and again while a job runs, and goes when it has ended.
    fn is_for_long(self) -> bool {
        match self {
            Self::Job(_) | Self::Plan(_) | Self::Files(_) | Self::Profile(_) => true,
            Self::File(..) | Self::Used(_) | Self::RememberedSince => false,
            Self::Usage(_) | Self::Cohort(..) | Self::Consent | Self::ClockMark => false,
        }
    }

    fn damaged(self) -> StoreError {
        StoreError::Damaged(self.to_string())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id) => write!(f, "of job {id}"),
            Self::Plan(id) => write!(f, "of the plan of job {id}"),
            Self::File(id, FileNo(no)) => write!(f, "of file {no} of job {id}"),
            Self::Files(id) => write!(f, "of the files of job {id}"),
            // The checksum covers this name, so that one under another's key is noticed.
            Self::Profile(key) => {
                write!(f, "of the profile {:032x}", u128::from_be_bytes(*key.as_bytes()))
            }
            Self::Used(hash) => {
                f.write_str("of the assertion ")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::RememberedSince => f.write_str("of the memory of assertions"),
            Self::Usage(hash) => {
                f.write_str("of the usage of client ")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Cohort(hash, id) => {
                write!(f, "of the cohort {} of client ", id.number())?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Consent => f.write_str("of who withdrew consent"),
            Self::ClockMark => f.write_str("of the clock"),
        }
    }
}

/// One part of a record: a tree's key and its value.
pub(crate) type Part = (Vec<u8>, Vec<u8>);

/// `value` as the parts of `record`.
///
/// # Errors
/// [`StoreError::Unavailable`] if it cannot be written as JSON or takes more than a gigabyte.
pub(crate) fn encode<T: Serialize>(record: Record, value: &T) -> Result<Vec<Part>, StoreError> {
    let json = serde_json::to_vec(value).map_err(|error| StoreError::Unavailable(error.into()))?;
    let (layout, bytes) =
        if record.is_for_long() && json.len() >= SHORT { (PACKED, packed(&json)) } else { (PLAIN, json) };
    let whole = crc32fast::hash(&bytes);
    let chunks = bytes.chunks(PART - HEADER);
    let count =
        u16::try_from(chunks.len()).map_err(|_| StoreError::Unavailable(CodecError::TooLarge(record).into()))?;
    let parts = (0..count).zip(chunks).map(|(number, chunk)| {
        let header = Header { layout, checksum: checksum(record, number, whole, count, chunk), whole, count };
        (record.key(number), [header.to_bytes().as_slice(), chunk].concat())
    });
    Ok(parts.collect())
}

/// The value that `parts`, in the order of their keys, are all of.
///
/// # Errors
/// [`StoreError::Damaged`] if they are not what [`encode`] gave, [`StoreError::Unavailable`] if a later version
/// wrote them.
pub(crate) fn decode<T: DeserializeOwned, B: AsRef<[u8]>>(record: Record, parts: &[(B, B)]) -> Result<T, StoreError> {
    let mut bytes = Vec::new();
    let mut first = None;
    for (number, (key, value)) in (0..=u16::MAX).zip(parts) {
        let (header, chunk) = Header::read(record, value.as_ref())?;
        let expected = checksum(record, number, header.whole, header.count, chunk);
        let of_header = (header.layout, header.whole, header.count);
        let of_first = *first.get_or_insert(of_header);
        let in_place = key.as_ref() == record.key(number) && usize::from(header.count) == parts.len();
        if header.checksum != expected || of_header != of_first || !in_place {
            return Err(record.damaged());
        }
        bytes.extend_from_slice(chunk);
    }
    let Some((layout, whole, _)) = first else { return Err(record.damaged()) };
    if crc32fast::hash(&bytes) != whole {
        return Err(record.damaged());
    }
    // The text of a JSON error can quote what it read, so that it goes no further.
    // Files of jobs that had ended were packed before there was a layout for that; JSON does not begin so.
    let is_packed = layout == PACKED || matches!(record, Record::Files(_)) && bytes.starts_with(&ZLIB[..1]);
    let value = match (is_packed, bytes.len()) {
        (false, _) => serde_json::from_slice(&bytes),
        // Bytes that lie in memory are read three times as fast.
        (true, ..=SMALL) => match unpacked(&bytes) {
            Some(json) => serde_json::from_slice(&json),
            None => return Err(record.damaged()),
        },
        (true, _) => serde_json::from_reader(BufReader::new(ZlibDecoder::new(&bytes[..]))),
    };
    value.map_err(|_| record.damaged())
}

fn packed(json: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    // What is read from memory does not fail.
    let _bytes = ZlibEncoder::new(json, Compression::fast()).read_to_end(&mut packed);
    packed
}

/// All of it: packing makes letters a thousand times smaller at most.
fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut json = Vec::with_capacity(bytes.len().saturating_mul(USUALLY));
    ZlibDecoder::new(bytes).read_to_end(&mut json).ok()?;
    Some(json)
}

/// What can be read in the bytes of a store's file by whoever unpacks it: all of them, and what follows from each place where
/// something packed may begin.
pub(crate) fn legible(bytes: &[u8]) -> Vec<u8> {
    const MOST: u64 = 64 * 1024 * 1024;
    let mut legible = bytes.to_vec();
    for (at, _) in bytes.windows(ZLIB.len()).enumerate().filter(|(_, window)| *window == ZLIB) {
        // What has come before it fails is kept.
        let _bytes = ZlibDecoder::new(bytes.get(at..).unwrap_or_default()).take(MOST).read_to_end(&mut legible);
    }
    legible
}

struct Header {
    layout: u8,
    checksum: u32,
    whole: u32,
    count: u16,
}

impl Header {
    fn to_bytes(&self) -> Vec<u8> {
        let Self { layout, checksum, whole, count } = self;
        [[*layout].as_slice(), &checksum.to_be_bytes(), &whole.to_be_bytes(), &count.to_be_bytes()].concat()
    }

    fn read(record: Record, value: &[u8]) -> Result<(Self, &[u8]), StoreError> {
        let (layout, rest) = value.split_first().ok_or_else(|| record.damaged())?;
        if *layout > PACKED {
            return Err(StoreError::Unavailable(CodecError::Later { record, layout: *layout }.into()));
        }
        let header = (|| {
            let (checksum, rest) = rest.split_first_chunk()?;
            let (whole, rest) = rest.split_first_chunk()?;
            let (count, chunk) = rest.split_first_chunk()?;
            let checksum = u32::from_be_bytes(*checksum);
            let (whole, count) = (u32::from_be_bytes(*whole), u16::from_be_bytes(*count));
            Some((Self { layout: *layout, checksum, whole, count }, chunk))
        })();
        header.filter(|_| *layout >= PLAIN).ok_or_else(|| record.damaged())
    }
}

fn checksum(record: Record, number: u16, whole: u32, count: u16, chunk: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.to_string().as_bytes());
    hasher.update(&number.to_be_bytes());
    hasher.update(&whole.to_be_bytes());
    hasher.update(&count.to_be_bytes());
    hasher.update(chunk);
    hasher.finalize()
}

/// Why a record cannot be written or read although nothing is damaged.
#[derive(Debug, thiserror::Error)]
enum CodecError {
    #[error("the record {0} is too large to be kept")]
    TooLarge(Record),
    #[error("the record {record} has layout {layout}, which only a later version of this program can read")]
    Later { record: Record, layout: u8 },
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record::File(JobId::new([7; 16]), FileNo(3));

    fn text(length: usize) -> String {
        "0123456789".chars().cycle().take(length).collect()
    }

    #[test]
    fn a_value_of_any_size_is_read_back_from_parts_of_16_kb_at_most() {
        for (length, count) in [(0, 1), (10, 1), (PART - HEADER - 2, 1), (PART - HEADER - 1, 2), (1_000_000, 62)] {
            let parts = encode(RECORD, &text(length)).expect("text can be written");
            assert_eq!(parts.len(), count, "{length}");
            assert!(parts.iter().all(|(_, value)| value.len() <= PART), "{length}");
            assert!(parts.is_sorted_by(|one, next| one.0 < next.0), "{length}");
            assert_eq!(decode::<String, _>(RECORD, &parts).expect("nothing was changed"), text(length));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_and_the_content_is_not_told() {
        let parts = encode(RECORD, &"secret").expect("text can be written");
        for at in 0..parts[0].1.len() * 8 {
            let mut parts = parts.clone();
            parts[0].1[at / 8] ^= 1 << (at % 8);
            let error = decode::<String, _>(RECORD, &parts).expect_err("a bit was flipped");
            assert!(!format!("{error:?}").contains("secret"), "bit {at}: {error:?}");
        }
    }

    #[test]
    fn what_is_packed_is_read_back_and_a_flipped_bit_is_noticed() {
        let record = Record::Plan(JobId::new([7; 16]));
        let short = encode(record, &text(100)).expect("text can be written");
        assert_eq!((short[0].1[0], short[0].1.len()), (PLAIN, HEADER + 102));
        assert_eq!(decode::<String, _>(record, &short).expect("nothing was changed"), text(100));
        let parts = encode(record, &text(100_000)).expect("text can be written");
        assert!(parts.len() == 1 && parts[0].1.len() < 2_000, "{} parts", parts.len());
        assert_eq!(decode::<String, _>(record, &parts).expect("nothing was changed"), text(100_000));
        for at in 0..parts[0].1.len() * 8 {
            let mut parts = parts.clone();
            parts[0].1[at / 8] ^= 1 << (at % 8);
            assert!(decode::<String, _>(record, &parts).is_err(), "bit {at}");
        }
    }

    #[test]
    fn what_is_packed_and_large_is_read_back_and_a_flipped_bit_is_noticed() {
        let record = Record::Plan(JobId::new([7; 16]));
        // Digits that no packing shrinks to nothing.
        let digits = |number: u32| format!("{:08x}", crc32fast::hash(&number.to_be_bytes()));
        let text: String = (0..20_000).map(digits).collect();
        let parts = encode(record, &text).expect("text can be written");
        assert!(parts.iter().map(|(_, part)| part.len()).sum::<usize>() > 2 * SMALL, "{} parts", parts.len());
        assert_eq!(decode::<String, _>(record, &parts).expect("nothing was changed"), text);
        for at in (0..parts[1].1.len() * 8).step_by(1_009) {
            let mut parts = parts.clone();
            parts[1].1[at / 8] ^= 1 << (at % 8);
            assert!(decode::<String, _>(record, &parts).is_err(), "bit {at}");
        }
    }

    #[test]
    fn files_that_were_packed_before_there_was_a_layout_for_it_are_read() {
        let record = Record::Files(JobId::new([7; 16]));
        let mut parts = encode(record, &text(10_000)).expect("text can be written");
        parts[0].1[0] = PLAIN;
        assert_eq!(decode::<String, _>(record, &parts).expect("it is packed"), text(10_000));
        let plan = Record::Plan(JobId::new([7; 16]));
        let mut parts = encode(plan, &text(10_000)).expect("text can be written");
        parts[0].1[0] = PLAIN;
        assert!(decode::<String, _>(plan, &parts).is_err(), "plans were never packed so");
    }

    #[test]
    fn parts_that_do_not_belong_together_are_damage() {
        let parts = encode(RECORD, &text(50_000)).expect("text can be written");
        let other = encode(RECORD, &text(49_999)).expect("text can be written");
        let moved = encode(Record::File(JobId::new([7; 16]), FileNo(4)), &text(50_000)).expect("text can be written");
        let taken = |from: &Part, key: &Part| (key.0.clone(), from.1.clone());
        for (case, parts) in [
            ("none", vec![]),
            ("an end that is missing", parts[..3].to_vec()),
            ("a beginning that is missing", parts[1..].to_vec()),
            ("one too many", [parts.as_slice(), &other[..1]].concat()),
            ("one of another writing", [&other[..1], &parts[1..]].concat()),
            ("two that changed places", vec![taken(&parts[1], &parts[0]), taken(&parts[0], &parts[1])]),
            ("those of another record", parts.iter().zip(&moved).map(|(key, from)| taken(from, key)).collect()),
            ("one without a header", vec![(parts[0].0.clone(), vec![PLAIN, 0])]),
            ("one without a byte", vec![(parts[0].0.clone(), vec![])]),
        ] {
            let error = decode::<String, _>(RECORD, &parts).expect_err(case);
            assert!(matches!(error, StoreError::Damaged(name) if name == RECORD.to_string()), "{case}");
        }
    }

    #[test]
    fn a_record_of_a_later_version_is_not_called_damaged() {
        let mut parts = encode(RECORD, &"text").expect("text can be written");
        parts[0].1[0] = PACKED + 1;
        let error = decode::<String, _>(RECORD, &parts).expect_err("the layout is unknown");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }

    #[test]
    fn what_is_no_json_of_the_type_asked_for_is_damage() {
        let parts = encode(RECORD, &12).expect("a number can be written");
        assert!(matches!(decode::<String, _>(RECORD, &parts), Err(StoreError::Damaged(_))));
    }
}
