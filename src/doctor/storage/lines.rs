//! The lines of the report on a storage: what was found, and a sentence on what it means or what to do.

use super::{Opened, Owner};
use crate::output::cloud::Credential;
use crate::output::examine::{Fetched, Findings, LinkFindings, Step, UploadList};
use crate::output::exposure::{Exposure, Visit};
use crate::output::{Room, Signing, layout};

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) means: String,
    /// Whether exports must not go there as long as it is so.
    pub(super) is_unfit: bool,
}

impl Entry {
    pub(super) fn good(name: &'static str, value: impl Into<String>, means: impl Into<String>) -> Self {
        Self { name, value: value.into(), means: means.into(), is_unfit: false }
    }

    pub(super) fn unfit(name: &'static str, value: impl Into<String>, means: impl Into<String>) -> Self {
        Self { is_unfit: true, ..Self::good(name, value, means) }
    }
}

/// Clocks may differ by so much before anything is refused for it; `Date` has whole seconds.
const CLOCK_TOLERANCE_MILLIS: i64 = 3_000;
/// S3 and Google refuse signatures that are further off than a quarter of an hour, Azure at once those of the future.
const CLOCK_LIMIT_MILLIS: i64 = 60_000;
const MEBIBYTE: u64 = 1024 * 1024;

/// What is said first of all.
pub(super) fn alarm(exposure: &Exposure, but: &str) -> String {
    let what = match (&exposure.object, &exposure.list) {
        (Visit::Open, Visit::Open) => "list what is in it and read it",
        (Visit::Open, _) => "read what is in it",
        _ => "list what is in it",
    };
    format!(
        "the bucket is public: anybody can {what} without a signature{but}. Make it private before anything is exported: \
         block public access, and remove policies, ACLs and access levels that name everybody"
    )
}

impl Opened {
    pub(super) fn entries(&self, entries: &mut Vec<Entry>) {
        entries.push(self.owner());
        let Findings { write, parts, uploads, exposure, link, delete, delete_again, is_cut, cleaned } = &self.findings;
        if let Some(exposure) = exposure {
            self.anonymous(exposure, entries);
        }
        if let Some(room) = self.room {
            // One that others may look into is not opened at all.
            entries.push(Entry::good("folder", "private", "nobody else may look into it"));
            entries.push(room_left(room));
        }
        if matches!(self.owner, Owner::SomebodyElse | Owner::Unknown(_)) {
            return;
        }
        let durable = if self.room.is_some() { ", and lies on the disk (fsync)" } else { "" };
        let good = format!("a small object was written and read back{durable}");
        entries.push(of_step("write", write, &good, "exports cannot be written"));
        let good = "an upload in two parts was put together and read across them";
        entries.push(of_step("parts", parts, good, "files of more than 5 MiB cannot be written"));
        entries.extend(unfinished(uploads));
        entries.push(self.links());
        if let Some(found) = link {
            fetched_by_link(found, entries);
        }
        entries.push(of_step("delete", delete, "what was written is gone", "files of exports would stay"));
        let means = "exports that are removed twice would get stuck";
        entries.push(of_step("", delete_again, "removing what is not there is no error", means));
        if let Some(found) = link.as_ref().filter(|_| *delete == Step::Done) {
            entries.extend(visited("removed file", &found.removed, "a link ends with its file"));
        }
        if let Some(ahead) = exposure.as_ref().and_then(|exposure| exposure.ahead_millis) {
            entries.push(clock(ahead));
        }
        if *is_cut {
            entries.push(Entry::unfit("", "slow", "not all could be tried in the time that there is"));
        }
        if let Step::Failed(why) = cleaned {
            let means = format!("remove {} yourself: {why}", self.folder);
            entries.push(Entry::unfit("", "left", means));
        }
    }

    fn owner(&self) -> Entry {
        match &self.owner {
            Owner::Nobody => Entry::good("output", "nobody's", "serve makes it its own when it starts"),
            Owner::Us => Entry::good("output", "ours", "it is marked by this instance and its job store"),
            Owner::SomebodyElse => Entry::unfit(
                "output",
                "another's",
                format!(
                    "{} names another instance or job store: nothing was written; give this one an output of its own",
                    layout::MARKER
                ),
            ),
            Owner::Unknown(why) => Entry::unfit("output", "unknown", format!("nothing was written: {why}")),
        }
    }

    /// What anybody gets, with the worst before all else.
    fn anonymous(&self, exposure: &Exposure, entries: &mut Vec<Entry>) {
        let mut lines = Vec::new();
        let means = "without a signature nobody gets a file";
        lines.extend(visited("bare URL", &exposure.object, means));
        lines.extend(visited("list", &exposure.list, "without a signature nobody sees what there is"));
        if self.is_acknowledged {
            for entry in lines.iter_mut().filter(|entry| entry.value == OPEN) {
                entry.is_unfit = false;
                entry.means.push_str(" (acknowledged by output.public_bucket)");
            }
        }
        entries.extend(lines);
    }

    fn links(&self) -> Entry {
        let ttl = self.link_ttl.as_secs();
        let Some(Signing { credential, longest }) = self.signing else {
            return match self.own_links {
                Some(true) => Entry::good(
                    "links",
                    "ours",
                    format!("each opens one file for {ttl} s; a changed, exchanged or expired one opens none"),
                ),
                Some(false) => Entry::unfit("links", "ours", "they open what they should not: do not use this build"),
                None => Entry::good("links", "none", ""),
            };
        };
        let by = match credential {
            Credential::Key => "a key that stays",
            Credential::Temporary => {
                "temporary credentials, with which links die; with a key that stays they live longer"
            }
            Credential::Delegation => "a key that Azure lends to an identity",
            Credential::Machine => "Google, for the account of this machine",
        };
        let value = format!("{} s", ttl.min(longest.as_secs()));
        let cut = if longest.as_secs() < ttl { format!(", and not for {ttl} s as configured") } else { String::new() };
        Entry::good(
            "links",
            value,
            format!("is how long they are good{cut}; signed by {by}: {} s at most", longest.as_secs()),
        )
    }
}

const OPEN: &str = "OPEN";

fn of_step(name: &'static str, step: &Step, good: &str, bad: &str) -> Entry {
    match step {
        Step::Done => Entry::good(name, "works", good),
        Step::Failed(why) => Entry::unfit(name, "FAILS", format!("{bad}: {why}")),
        Step::Untried => Entry::good(name, "untried", "what comes before it did not work"),
    }
}

fn visited(name: &'static str, visit: &Visit, good: &str) -> Option<Entry> {
    Some(match visit {
        Visit::Untried => return None,
        Visit::Refused(status) => Entry::good(name, "refused", format!("{good} ({status})")),
        Visit::Open => Entry::unfit(name, OPEN, "the storage gives it to anybody"),
        Visit::Unclear(status) => {
            Entry::unfit(name, "unclear", format!("{status} is no refusal: it may be given at another time"))
        }
        Visit::Unanswered(why) => Entry::unfit(name, "unanswered", format!("nothing is proven: {why}")),
    })
}

fn unfinished(uploads: &UploadList) -> Option<Entry> {
    const RULE: &str = "let the bucket remove unfinished uploads after a day or two";
    let (value, means) = match uploads {
        UploadList::Untried => return None,
        UploadList::Listed => ("listed", "what a crash leaves of uploads is found and ended".to_owned()),
        UploadList::ByKey => {
            ("by key", format!("what a crash leaves of uploads is ended where the job store knows the file; {RULE}"))
        }
        UploadList::Unlisted => (
            "not listed",
            format!(
                "what a crash leaves of uploads stays: allow s3:ListBucketMultipartUploads or \
                 storage.multipartUploads.list, or {RULE}"
            ),
        ),
        UploadList::None => {
            ("blocks", "what a crash leaves of uploads is written over, and dropped by Azure after a week".to_owned())
        }
        UploadList::Failed(why) => ("unknown", format!("they could not be listed: {why}")),
    };
    Some(Entry::good("uploads", value, means))
}

fn fetched_by_link(found: &LinkFindings, entries: &mut Vec<Entry>) {
    let LinkFindings { host, whole, content_type, cache_control, range, changed, other, removed: _ } = found;
    let entry = match whole {
        Fetched::Untried => Entry::good("link", "untried", "what comes before it did not work"),
        Fetched::Good => Entry::good("link", "good", format!("{host} gave what was written")),
        Fetched::Other => Entry::unfit("link", "WRONG", format!("{host} gave something else than was written")),
        Fetched::Status(status) => Entry::unfit(
            "link",
            "REFUSED",
            format!("{host} answered {status}: look at output.public_endpoint, the right to read, and the clocks"),
        ),
        Fetched::Failed(why) if host.is_empty() => Entry::unfit("link", "FAILS", why),
        Fetched::Failed(why) => Entry::unfit("link", "FAILS", format!("{host} could not be asked from here: {why}")),
    };
    entries.push(entry);
    if *whole != Fetched::Good {
        return;
    }
    entries.push(match content_type.as_deref() {
        Some(kept @ "application/fhir+ndjson") => Entry::good("content type", "kept", kept),
        Some(_) => Entry::good("content type", "changed", "clients may not take it for NDJSON"),
        None => Entry::good("content type", "missing", "clients may not take it for NDJSON"),
    });
    let is_kept = cache_control.as_ref().is_some_and(|said| said.contains("no-transform"));
    let has_no_store = cache_control.as_ref().is_some_and(|said| said.contains("no-store"));
    entries.push(if is_kept && has_no_store {
        Entry::good("Cache-Control", "kept", "nobody on the way keeps or repacks files")
    } else {
        Entry::good(
            "Cache-Control",
            "changed",
            "who is on the way may keep or repack files: private, no-store, no-transform is lost",
        )
    });
    entries.push(match range {
        Fetched::Good => Entry::good("Range", "works", "a download that was cut goes on where it was"),
        Fetched::Status(200) => Entry::good("Range", "ignored", "a download that was cut begins anew"),
        Fetched::Status(status) => Entry::good("Range", status.to_string(), "a download that was cut begins anew"),
        Fetched::Other => Entry::unfit("Range", "WRONG", "other bytes came than were asked for"),
        Fetched::Failed(why) => Entry::unfit("Range", "FAILS", why),
        Fetched::Untried => Entry::good("Range", "untried", ""),
    });
    entries.extend(visited("signature", changed, "with one character changed it opens nothing"));
    entries.extend(visited("other object", other, "a signature opens one file only"));
}

fn clock(ahead_millis: i64) -> Entry {
    if ahead_millis.abs() <= CLOCK_TOLERANCE_MILLIS {
        return Entry::good("clock", "agrees", "with ours");
    }
    let (by, way) = (ahead_millis.abs() / 1_000, if ahead_millis > 0 { "ahead of" } else { "behind" });
    let means = format!("{way} ours: set both by the same time, else signatures are refused");
    if ahead_millis.abs() > CLOCK_LIMIT_MILLIS {
        Entry::unfit("clock", format!("{by} s"), means)
    } else {
        Entry::good("clock", format!("{by} s"), means)
    }
}

fn room_left(Room { free, kept }: Room) -> Entry {
    let value = format!("{} MiB", free / MEBIBYTE);
    let kept = kept / MEBIBYTE;
    if free / MEBIBYTE < kept {
        Entry::unfit("room", value, format!("is free: less than {kept} MiB, so exports pause until there is more"))
    } else {
        Entry::good("room", value, format!("is free; exports pause below {kept} MiB (output.min_free_bytes)"))
    }
}
