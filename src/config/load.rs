//! A file and the environment become a [`Config`], or every problem that they have.

use std::path::{Path, PathBuf};

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
        let config: Self = serde_saphyr::from_str(yaml).map_err(|error| ConfigError::Yaml(error.to_string()))?;
        config.check().map_err(ConfigError::Values)?;
        Ok(config)
    }
}
