//! The files of the state folder without which nobody answers bulk requests, as `serve` would find them.

use std::fmt;

/// What was found of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    Good,
    /// It is made at the start.
    Absent,
    /// Why it cannot be used.
    Bad(String),
}

/// All of them.
#[derive(Debug)]
pub(crate) struct StateFiles(pub(crate) Vec<(&'static str, Kept)>);

impl StateFiles {
    /// Whether bulk requests would be answered.
    pub(crate) fn are_fit(&self) -> bool {
        self.0.iter().all(|(_, kept)| !matches!(kept, Kept::Bad(_)))
    }
}

impl fmt::Display for StateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |value: &str, means: &str| writeln!(f, "{:<14}{value:<15} {means}", "keys");
        if self.are_fit() {
            let absent = self.0.iter().any(|(_, kept)| *kept == Kept::Absent);
            return if absent {
                line("made", "at the next start, as far as they are not there yet")
            } else {
                line("as they were", "in the state folder")
            };
        }
        for (name, kept) in &self.0 {
            let Kept::Bad(why) = kept else { continue };
            let remedy = match *name {
                "token.keys" => "put it back; or remove it, and clients ask for new tokens",
                "link.key" => "put it back; or remove it, and clients read their manifests for new links",
                "checkpoint.key" => "put its copy back: by another key nothing of what is there can be rebuilt",
                _ => "put it back: by another name none of the exports that are there are found",
            };
            line("unusable", &format!("{name}: {why}: BULK REQUESTS ARE REFUSED"))?;
            line("", &format!("{remedy}; then send SIGHUP"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_what_mends_it() {
        let bad = || Kept::Bad("it is torn".to_owned());
        for (files, expected, says) in [
            (vec![("link.key", Kept::Good)], true, "as they were"),
            (vec![("link.key", Kept::Good), ("token.keys", Kept::Absent)], true, "at the next start"),
            (vec![("link.key", bad())], false, "link.key: it is torn"),
            (vec![("token.keys", bad()), ("link.key", Kept::Good)], false, "clients ask for new tokens"),
            (vec![("checkpoint.key", bad())], false, "put its copy back"),
            (vec![("instance", bad())], false, "none of the exports"),
        ] {
            let files = StateFiles(files);
            let told = files.to_string();
            assert_eq!(files.are_fit(), expected, "{told}");
            assert!(told.contains(says), "{told}");
        }
    }
}
