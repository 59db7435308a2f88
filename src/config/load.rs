//! A file and the environment become a [`Config`], or every problem that they have.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter};

use super::{Config, Problems};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read {}", .path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not YAML, or has an option that does not exist or is of the wrong kind; with line and column.
    #[error("{0}")]
    Yaml(String),
    /// Values that cannot be used, one on each line.
    #[error("{0}")]
    Values(Problems),
}

impl Config {
    /// Reads a configuration from a file.
    ///
    /// # Errors
    /// If the file cannot be read or is no good configuration.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let read = std::fs::read_to_string(path);
        Self::from_yaml(&read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?)
    }

    /// Reads a configuration from YAML.
    ///
    /// # Errors
    /// If it is no good configuration.
    pub fn from_yaml(yaml: &str) -> Result<Self, ConfigError> {
        // A secret may stand beside what is wrong, or be it: no part of the file is repeated.
        let options = serde_saphyr::options! { with_snippet: false };
        let config: Result<Self, _> = serde_saphyr::from_str_with_options(yaml, options);
        let config = config.map_err(|error| ConfigError::Yaml(error.render_with_formatter(&WithoutValues)))?;
        config.check().map_err(ConfigError::Values)?;
        Ok(config)
    }
}

/// What is wrong with a value, without the value.
struct WithoutValues;

impl MessageFormatter for WithoutValues {
    fn format_message<'a>(&self, error: &'a Error) -> Cow<'a, str> {
        match error {
            Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
                Cow::Owned(format!("the value is of another kind, or cannot be used: expected {expected}"))
            }
            Error::SerdeUnknownVariant { expected, .. } => {
                Cow::Owned(format!("the value is none of {}", expected.join(", ")))
            }
            // As addresses have it: what is wrong, and then the value in quotes.
            Error::Message { msg, .. } => Cow::Borrowed(msg.split(": \"").next().unwrap_or_default()),
            other => DefaultMessageFormatter.format_message(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error goes to the log, and from there to whoever reads that.
    #[test]
    fn a_secret_beside_a_mistake_is_in_no_message() {
        let before = "server: { public_base_url: https://fhir.example.org/fhir }\n";
        for (upstream, told) in [
            ("credentials:\n    headers:\n      Authorization: Bearer s3cret", "is none of file, env"),
            ("credentials:\n    headers:\n      Authorization: [s3cret]", ""),
            ("credentials:\n    headers:\n      Authorization: { value: s3cret }", "is none of file, env"),
            ("credentials:\n    headers:\n      Authorization: { s3cret: a }", "is none of file, env"),
            ("credentials:\n    headers: Bearer s3cret", "expected mapping start"),
            ("credentials:\n    basic: offtake:s3cret", "expected mapping start"),
            ("credentials:\n    basic:\n      username: a\n      password: s3cret", "password"),
            ("credentials: s3cret", "expected mapping start"),
            ("credentials:\n    plain_http: s3cret", "is none of refused, acknowledged"),
            ("base_url: 'http://a:s3cret@ h/'", "domain name"),
        ] {
            let yaml = format!("{before}upstream:\n  {upstream}\n");
            let error = Config::from_yaml(&yaml).expect_err(upstream);
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("s3cret") && shown.contains(told), "{upstream}: {shown}");
            }
            assert!(error.to_string().contains("line"), "{upstream}: {error}");
        }
    }
}
