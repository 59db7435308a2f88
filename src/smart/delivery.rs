//! Where a client's files go within the output, and how it comes to them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the URLs in a manifest are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkMode {
    /// The storage's own, signed; local disk has ours.
    #[default]
    Signed,
    /// Ours, whatever the storage.
    Proxy,
    /// Ours, leading on to the storage's for whoever shows a token.
    Redirect,
}

/// What of an export's files is settled when it is kicked off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Delivery {
    /// The folder between that of the instance and that of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<ClientFolder>,
    /// The key of KMS that S3 encrypts them with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sse_kms_key_id: Option<String>,
}

/// The name of a folder that holds the exports of one client, or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFolder(String);

/// A text that names no such folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a folder has 1 to 64 letters, digits, - and _; it is neither `room` nor 32 hexadecimal digits")]
pub struct NotAClientFolder;

/// Longest name.
const LONGEST: usize = 64;
/// What else lies beside the jobs' folders.
const TAKEN: &str = "room";
/// As many hexadecimal digits are a job's folder.
const JOB_ID: usize = 32;

impl FromStr for ClientFolder {
    type Err = NotAClientFolder;

    fn from_str(text: &str) -> Result<Self, NotAClientFolder> {
        // Other characters break signatures on some clouds.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let is_job = text.len() == JOB_ID && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.is_empty() || text.len() > LONGEST || !is_plain || is_job || text.eq_ignore_ascii_case(TAKEN) {
            return Err(NotAClientFolder);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClientFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ClientFolder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClientFolder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_no_path_and_no_jobs_own() {
        for good in ["research", "a", "Client_7-x", &"f".repeat(31), &"g".repeat(32), &"x".repeat(64)] {
            assert_eq!(good.parse::<ClientFolder>().map(|folder| folder.to_string()).as_deref(), Ok(good));
        }
        let job = "0123456789abcdefABCDEF0123456789";
        for bad in ["", ".", "..", "a/b", "a.b", "a b", "ü", "room", "ROOM", job, &"x".repeat(65)] {
            assert_eq!(bad.parse::<ClientFolder>(), Err(NotAClientFolder), "{bad:?}");
        }
    }

    #[test]
    fn a_record_from_before_there_were_folders_has_none() {
        assert_eq!(serde_json::from_str::<Delivery>("{}").expect("a record"), Delivery::default());
        let own = Delivery { folder: "research".parse().ok(), sse_kms_key_id: Some("key".to_owned()) };
        let text = serde_json::to_string(&own).expect("plain values");
        assert_eq!(serde_json::from_str::<Delivery>(&text).expect("a record"), own);
    }
}
