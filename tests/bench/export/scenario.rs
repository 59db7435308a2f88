//! What the server holds, how it answers, and what has to hold of exports from it.

use std::time::Duration;

use clap::ValueEnum;
use sample_upstream::{SampleUpstream, Settings};

/// One server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scenario {
    /// Generated patients and all that belongs to them, in pages without white space.
    Many,
    /// The same, indented.
    Pretty,
    /// The same, compressed on the wire.
    Zipped,
    /// One type, of resources of 700 bytes.
    One,
    /// One type, of resources of 4 KiB.
    Notes,
    /// Documents of 64 KiB.
    Large,
    /// `many` with 50 ms before each answer and no more than 250 resources on a page.
    ManySlow,
    /// `one` in the same way.
    OneSlow,
    /// Documents at 50 MB/s.
    Held50,
    /// Documents at 100 MB/s.
    Held100,
    /// Documents at 200 MB/s.
    Held200,
}

/// What bounds an export, and so what it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Both processors: what it takes to fetch all pages and to write them to disk.
    Ourselves,
    /// How long each answer takes to begin.
    Latency,
    /// How quick the line is, in bytes a second.
    Line(u64),
}

const SMALL_BYTES: usize = 700;
const NOTE_BYTES: usize = 4 << 10;
const LARGE_BYTES: usize = 64 << 10;
/// What a generated patient's records are, roughly.
const PATIENT_BYTES: usize = 12_000;
/// Entries of a page of a server that is slow.
const SLOW_PAGE: usize = 250;
const SLOW: Duration = Duration::from_millis(50);
/// A line is held for so long at least, so that how an export begins and ends does not count.
const HELD_SECONDS: u64 = 20;

impl Scenario {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(crate) fn settings(self) -> Settings {
        Settings {
            gzip: self == Self::Zipped,
            pretty: self == Self::Pretty,
            // Small pages, so that what is waited for is many answers.
            max_count: (self.limit() == Limit::Latency).then_some(SLOW_PAGE),
            latency: if self.limit() == Limit::Latency { SLOW } else { Duration::ZERO },
            bytes_per_second: match self.limit() {
                Limit::Line(rate) => Some(rate),
                Limit::Ourselves | Limit::Latency => None,
            },
            ..Settings::default()
        }
    }

    pub(crate) fn limit(self) -> Limit {
        match self {
            Self::Many | Self::Pretty | Self::Zipped | Self::One | Self::Notes | Self::Large => Limit::Ourselves,
            Self::ManySlow | Self::OneSlow => Limit::Latency,
            Self::Held50 => Limit::Line(50_000_000),
            Self::Held100 => Limit::Line(100_000_000),
            Self::Held200 => Limit::Line(200_000_000),
        }
    }

    /// What the server holds, and how it answers.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Many => "patients and all that is theirs, 510 bytes a resource",
            Self::Pretty => "the same, indented",
            Self::Zipped => "the same, compressed on the wire",
            Self::One => "one type, 700 bytes a resource",
            Self::Notes => "one type, 4 KiB a resource",
            Self::Large => "documents of 64 KiB",
            Self::ManySlow => "patients and all that is theirs, 50 ms an answer, 250 on a page",
            Self::OneSlow => "one type, 50 ms an answer, 250 on a page",
            Self::Held50 => "documents, by a line of 50 MB/s",
            Self::Held100 => "documents, by a line of 100 MB/s",
            Self::Held200 => "documents, by a line of 200 MB/s",
        }
    }

    /// Whether it holds many patients, and so something that can be crawled one by one.
    pub(crate) fn has_patients(self) -> bool {
        matches!(self, Self::Many | Self::Pretty | Self::Zipped | Self::ManySlow)
    }

    /// Whether what an export costs is held against what it may cost.
    pub(crate) fn counts_cpu(self) -> bool {
        self.limit() == Limit::Ourselves
    }

    /// A server with about so many bytes; of a line that is held, as many as it takes at least.
    pub(crate) fn upstream(self, bytes: usize) -> anyhow::Result<SampleUpstream> {
        let upstream = SampleUpstream::new(self.settings());
        match self {
            Self::Many | Self::Pretty | Self::Zipped | Self::ManySlow => {
                upstream.generate((bytes / PATIENT_BYTES).max(10));
            }
            Self::Large => upstream.generate_big(bytes / LARGE_BYTES, LARGE_BYTES),
            Self::Held50 | Self::Held100 | Self::Held200 => {
                let Limit::Line(rate) = self.limit() else { anyhow::bail!("no line is held") };
                upstream.generate_big(usize::try_from(rate * HELD_SECONDS)? / LARGE_BYTES, LARGE_BYTES);
            }
            Self::One | Self::OneSlow => alike(&upstream, bytes / SMALL_BYTES, SMALL_BYTES)?,
            Self::Notes => alike(&upstream, bytes / NOTE_BYTES, NOTE_BYTES)?,
        }
        Ok(upstream)
    }
}

/// Fills a server with observations of one size, one each second.
fn alike(upstream: &SampleUpstream, count: usize, bytes: usize) -> anyhow::Result<()> {
    let first = upstream.now() - chrono::TimeDelta::days(400);
    let note = "no acute distress, ".repeat(bytes / 19 + 1);
    let note = &note[..bytes.saturating_sub(170)];
    for number in 0..count {
        let json = format!(
            r#"{{"resourceType":"Observation","id":"o{number:09}","status":"final","note":[{{"text":"{note}"}}]}}"#
        );
        upstream.insert_raw_at(&json, first + chrono::TimeDelta::seconds(i64::try_from(number)?))?;
    }
    Ok(())
}
