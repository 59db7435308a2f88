//! Where the output is: one URL, whose scheme says which of the sections beside it counts.

use std::path::{Path, PathBuf};

/// What `output.location` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A folder on the local disk.
    File(PathBuf),
    /// A bucket on S3.
    S3(Place),
    /// A container on Azure.
    Azure(Place),
    /// A bucket on Google Cloud Storage.
    Gcs(Place),
}

/// A bucket or container, and the folder in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub bucket: String,
    /// What all keys begin with; without slashes at its ends, and often empty.
    pub prefix: String,
}

/// Longest prefix: job, file and sidecar still fit into a key of 1,024 bytes, which is the least that a store takes.
const LONGEST_PREFIX: usize = 512;

impl Location {
    /// What a location says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(location: &str) -> Result<Self, &'static str> {
        if let Some(folder) = location.strip_prefix("file://") {
            return if Path::new(folder).is_absolute() {
                Ok(Self::File(folder.into()))
            } else {
                Err("is not file:// and an absolute path")
            };
        }
        let (scheme, rest) = location.split_once("://").ok_or("is none of file://, s3://, az:// and gs://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if bucket.is_empty() || bucket.starts_with('.') || !bucket.bytes().all(plain) {
            return Err(
                "names no bucket: SCHEME://BUCKET or SCHEME://BUCKET/FOLDER, with letters, digits, `.`, `_` and `-`",
            );
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
        if !prefix.is_empty() && !prefix.split('/').all(is_segment) {
            return Err(
                "has a folder of other characters than letters, digits, `.`, `_`, `-` and single `/`: links to it would break",
            );
        }
        if prefix.len() > LONGEST_PREFIX {
            return Err("has a folder of more than 512 characters");
        }
        let place = Place { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        match scheme {
            "s3" => Ok(Self::S3(place)),
            "az" => Ok(Self::Azure(place)),
            "gs" => Ok(Self::Gcs(place)),
            _ => Err("is none of file://, s3://, az:// and gs://"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_names_a_folder_or_a_bucket() {
        let place = |bucket: &str, prefix: &str| Place { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        for (location, expected) in [
            ("file:///var/lib/x", Location::File("/var/lib/x".into())),
            ("s3://bulk", Location::S3(place("bulk", ""))),
            ("s3://bulk/", Location::S3(place("bulk", ""))),
            ("az://bulk/a/b-c_d.e/", Location::Azure(place("bulk", "a/b-c_d.e"))),
            ("gs://bulk.example.org/a", Location::Gcs(place("bulk.example.org", "a"))),
        ] {
            assert_eq!(Location::parse(location), Ok(expected), "{location}");
        }
    }

    #[test]
    fn what_would_break_keys_or_links_is_refused() {
        for location in [
            "",
            "/var/lib",
            "file://var",
            "file:relative",
            "s3://",
            "s3:///a",
            "s3:bulk",
            "http://bulk/a",
            "S3://bulk",
            "s3://user@bulk/a",
            "s3://bulk:9000/a",
            "s3://bulk/a//b",
            "s3://bulk/../b",
            "s3://bulk/./b",
            "s3://bulk/a b",
            "s3://bulk/a%20b",
            "s3://bulk/ä",
            "s3://bulk/a?b",
            "s3://bulk?versionId=1",
        ] {
            assert!(Location::parse(location).is_err(), "{location}");
        }
        assert!(Location::parse(&format!("s3://bulk/{}", "a".repeat(513))).is_err());
    }
}
