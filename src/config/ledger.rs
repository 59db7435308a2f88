//! The section of its name; each option says what it does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Problems, Section};

/// Where it is recorded who was given what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// false: nothing is recorded of what leaves, and the log warns of it at every start.
    pub enabled: bool,
    /// A folder of this process alone. It is made if it is not there, and refused if others may read it; null is the folder
    /// `ledger` beside `store.path`.
    pub path: Option<PathBuf>,
    /// The key that records are authenticated with, outside of `path` and `store.path`: made if there is no ledger yet. null is
    /// the file `ledger.key` beside `store.path`; better is a place that is not backed up together with the ledger.
    pub key_file: Option<PathBuf>,
    /// Files, on other disks or machines, that the ledger's head is copied to every hour and at the end, so that missing records
    /// are found out. One more copy is beside the output.
    pub head_copies: Vec<PathBuf>,
    /// How long records are kept, in whole files of a month at most.
    pub retention_days: u32,
    /// Where each record is handed on to as an `AuditEvent`, once it is on disk: `file:///PATH`, `unix:///dev/log` or
    /// `udp://HOST:PORT` (RFC 5424). Nobody waits for it; null is nowhere.
    pub forward: Option<String>,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        // Six years.
        let retention_days = 2192;
        Self { enabled: true, path: None, key_file: None, head_copies: Vec::new(), retention_days, forward: None }
    }
}

/// Where records are handed on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardTo {
    /// A file.
    File(PathBuf),
    /// A datagram socket.
    Unix(PathBuf),
    /// Host and port.
    Udp(String),
}

impl LedgerConfig {
    /// The folder.
    #[must_use]
    pub fn folder(&self, store: &Path) -> PathBuf {
        self.path.clone().unwrap_or_else(|| store.with_file_name("ledger"))
    }

    /// The file of the key.
    #[must_use]
    pub fn key(&self, store: &Path) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| store.with_file_name("ledger.key"))
    }

    /// How long records are kept.
    #[must_use]
    pub fn retention(&self) -> Duration {
        Duration::from_hours(24 * u64::from(self.retention_days))
    }

    /// What `forward` names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn forward_to(&self) -> Result<Option<ForwardTo>, &'static str> {
        const NONE: &str = "is not file:///PATH, unix:///PATH or udp://HOST:PORT";
        let Some(forward) = &self.forward else { return Ok(None) };
        let path = |text: &str| text.starts_with('/').then(|| PathBuf::from(text)).ok_or(NONE);
        match forward.split_once("://") {
            Some(("file", rest)) => Ok(Some(ForwardTo::File(path(rest)?))),
            Some(("unix", rest)) => Ok(Some(ForwardTo::Unix(path(rest)?))),
            Some(("udp", rest)) => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                    Ok(Some(ForwardTo::Udp(rest.to_owned())))
                }
                _ => Err(NONE),
            },
            _ => Err(NONE),
        }
    }

    /// What does not go together with the folder of the jobs.
    pub(super) fn check_beside(&self, store: &Path, problems: &mut Problems) {
        let (folder, key) = (self.folder(store), self.key(store));
        if folder.starts_with(store) || store.starts_with(&folder) {
            problems.add("path", "lies in store.path, or that in it: they are kept and lost together");
        }
        if key.starts_with(store) || key.starts_with(&folder) {
            problems.add(
                "key_file",
                "lies in store.path or in ledger.path: whoever could change the records would have the key to them",
            );
        }
        if self.head_copies.iter().any(|copy| copy.starts_with(&folder)) {
            problems.add("head_copies", "has a file in ledger.path, where it would be lost together with the records");
        }
    }
}

impl Section for LedgerConfig {
    fn check(&self, problems: &mut Problems) {
        let is_relative = |path: &PathBuf| !path.is_absolute() || path.file_name().is_none();
        for (option, path) in [("path", &self.path), ("key_file", &self.key_file)] {
            if path.as_ref().is_some_and(is_relative) {
                problems.add(option, "is not an absolute path");
            }
        }
        if self.head_copies.iter().any(is_relative) {
            problems.add("head_copies", "has something that is not an absolute path of a file");
        }
        if self.retention_days == 0 {
            problems.add("retention_days", "is 0");
        }
        if let Err(problem) = self.forward_to() {
            problems.add("forward", problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn with(ledger: &str) -> Result<Config, String> {
        let yaml = format!(
            "server: {{ public_base_url: http://127.0.0.1:8080/fhir }}\nupstream: {{ base_url: http://127.0.0.1:9000/fhir }}\n\
             store: {{ path: /srv/offtake/state }}\nledger: {{ {ledger} }}\n"
        );
        Config::from_yaml(&yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_ledger_lies_beside_the_jobs_unless_it_is_put_elsewhere() {
        let config = with("").expect("it is good");
        assert_eq!(config.ledger.folder(&config.store.path), Path::new("/srv/offtake/ledger"));
        assert_eq!(config.ledger.key(&config.store.path), Path::new("/srv/offtake/ledger.key"));
        assert_eq!(config.ledger.retention(), Duration::from_hours(2192 * 24));
        let forwarded = |forward: &str| with(&format!("forward: '{forward}'")).expect(forward).ledger.forward_to();
        assert_eq!(forwarded("file:///var/log/a"), Ok(Some(ForwardTo::File("/var/log/a".into()))));
        assert_eq!(forwarded("unix:///dev/log"), Ok(Some(ForwardTo::Unix("/dev/log".into()))));
        assert_eq!(forwarded("udp://log.example:514"), Ok(Some(ForwardTo::Udp("log.example:514".into()))));
    }

    #[test]
    fn what_would_leave_the_key_with_the_records_is_refused() {
        for (ledger, expected) in [
            ("path: ledger", "ledger.path is not"),
            ("path: /srv/offtake/state/ledger", "ledger.path lies in"),
            ("path: /srv/offtake", "ledger.path lies in"),
            ("key_file: /srv/offtake/state/key", "ledger.key_file lies in"),
            ("key_file: /srv/offtake/ledger/key", "ledger.key_file lies in"),
            ("path: /a/b, key_file: /a/b/c/key", "ledger.key_file lies in"),
            ("head_copies: [/srv/offtake/ledger/head]", "ledger.head_copies has a file"),
            ("head_copies: [head]", "ledger.head_copies has something"),
            ("retention_days: 0", "ledger.retention_days"),
            ("forward: /dev/log", "ledger.forward"),
            ("forward: 'udp://log.example'", "ledger.forward"),
            ("forward: 'tcp://log.example:514'", "ledger.forward"),
        ] {
            let error = with(ledger).expect_err(ledger);
            assert!(error.contains(expected), "{ledger}: {error}");
        }
    }
}
