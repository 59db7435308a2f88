//! The section of its name; each option says what it does.

mod clouds;
mod location;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Problems, Section, Size, seconds};
use crate::smart::delivery::LinkMode;

pub use clouds::{AzureConfig, GcsConfig, S3Config, ServerSideEncryption, StorageHttpConfig};
pub use location::{Location, Place};

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// `file://` and an absolute path (the folder is made if it is not there, and refused if others may read it);
    /// `s3://BUCKET/FOLDER`, `az://CONTAINER/FOLDER` or `gs://BUCKET/FOLDER`, with the folder left out or not.
    pub location: String,
    /// What manifests list: links that the storage itself answers (`signed`; on local disk they are ours), ours in front of
    /// any storage, for which we read the files and hand them on (`proxy`), or ours that lead whoever shows a token on to
    /// one of the storage (`redirect`). Where clients have tokens, `proxy` wants one too.
    pub links: LinkMode,
    /// The address of the storage as clients see it, for which links are signed; null is that which we use. S3 and Azure.
    pub public_endpoint: Option<Url>,
    /// A cloud is asked for a file and for a list without any signature, at the start and every ten minutes. While it gives
    /// either, bulk requests are refused (`refused`), or served with a warning (`acknowledged`: whoever reaches the storage may
    /// read what is exported).
    pub public_bucket: PublicBucket,
    /// How files are stored: `none` as they are, or `gzip`, which takes about a tenth of the room. Clients that do not
    /// accept gzip get the lines as they are from us; a storage that answers its links itself gives everyone gzip.
    pub compression: Compression,
    /// A file is closed once its lines have this size, before they are packed; one line is never split.
    #[serde(rename = "file_max_bytes")]
    pub file_max: Size,
    /// The least `_maximumFileSize` that a client may ask for: every file costs records here and requests everywhere.
    #[serde(rename = "least_file_max_bytes")]
    pub least_file_max: Size,
    /// A file is closed once it has this many resources.
    pub file_max_resources: u64,
    /// A file is closed once it has been open for so long: what a crash costs on a slow server.
    #[serde(rename = "file_max_age_seconds", with = "seconds")]
    pub file_max_age: Duration,
    /// Exports pause while less than this is free on the disk of a local folder; null is the larger of 1 GiB and 5 % of the
    /// disk.
    #[serde(rename = "min_free_bytes")]
    pub min_free: Option<Size>,
    /// How long a link is good; every read of the manifest gives new ones.
    #[serde(rename = "link_ttl_seconds", with = "seconds")]
    pub link_ttl: Duration,
    /// How a storage is spoken to.
    pub http: StorageHttpConfig,
    /// For `s3://`.
    pub s3: S3Config,
    /// For `az://`.
    pub azure: AzureConfig,
    /// For `gs://`.
    pub gcs: GcsConfig,
}

/// What becomes of bulk requests where the storage turns out to be public.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicBucket {
    /// They are refused.
    #[default]
    Refused,
    /// They are served: whoever runs it knows.
    Acknowledged,
}

/// Files on clouds are uploaded in parts of 5 MiB, of which a file has 10,000 at most; a line may begin below this.
const LARGEST_ON_CLOUDS: Size = Size::mebibytes(40 * 1024);

/// How files are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As NDJSON.
    None,
    /// As gzip.
    Gzip,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            location: "file:///var/lib/offtake/output".to_owned(),
            links: LinkMode::Signed,
            public_endpoint: None,
            public_bucket: PublicBucket::Refused,
            compression: Compression::None,
            file_max: Size::mebibytes(64),
            least_file_max: Size::mebibytes(1),
            file_max_resources: 200_000,
            file_max_age: Duration::from_mins(5),
            min_free: None,
            link_ttl: Duration::from_hours(1),
            http: StorageHttpConfig::default(),
            s3: S3Config::default(),
            azure: AzureConfig::default(),
            gcs: GcsConfig::default(),
        }
    }
}

impl OutputConfig {
    /// What `location` names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn place(&self) -> Result<Location, &'static str> {
        Location::parse(&self.location)
    }

    /// What does not go together.
    fn check_location(&self, location: &Location, problems: &mut Problems) {
        let (scheme, name) = match location {
            Location::File(_) => ("file", "local disk"),
            Location::S3(_) => ("s3", "S3"),
            Location::Azure(_) => ("az", "Azure"),
            Location::Gcs(_) => ("gs", "Google Cloud Storage"),
        };
        for (own, section, is_set) in [
            ("s3", "s3", self.s3 != S3Config::default()),
            ("az", "azure", self.azure != AzureConfig::default()),
            ("gs", "gcs", self.gcs != GcsConfig::default()),
        ] {
            if is_set && own != scheme {
                problems.add(section, &format!("has options, but location is on {name}: it counts for {own}:// only"));
            }
        }
        if self.public_endpoint.is_some() {
            if self.links == LinkMode::Proxy {
                problems.add("public_endpoint", "is for `links: signed`: with `proxy` nobody but us asks the storage");
            }
            match location {
                Location::S3(_) | Location::Azure(_) => {}
                Location::File(_) => {
                    problems.add(
                        "public_endpoint",
                        "is for storages: links to local disk begin with server.public_base_url",
                    );
                }
                Location::Gcs(_) => {
                    problems.add(
                        "public_endpoint",
                        "cannot be signed for on Google Cloud Storage: its links name storage.googleapis.com",
                    );
                }
            }
        }
        if !matches!(location, Location::File(_)) && self.file_max > LARGEST_ON_CLOUDS {
            problems.add("file_max_bytes", "is more than 40960MiB, which uploads to clouds do not take");
        }
        if matches!(self.links, LinkMode::Signed | LinkMode::Redirect) {
            self.check_signing(location, problems);
        }
    }

    /// What cannot be signed for.
    pub(super) fn check_signing(&self, location: &Location, problems: &mut Problems) {
        match location {
            Location::File(_) | Location::S3(_) => {}
            Location::Azure(_) => {
                if self.azure.sas_token_file.is_some() {
                    problems.add("links", "is not proxy, but a shared access signature cannot sign: give a key or an identity, or use `links: proxy`");
                }
                for (option, url) in
                    [("azure.endpoint", &self.azure.endpoint), ("public_endpoint", &self.public_endpoint)]
                {
                    let Some(url) = url else { continue };
                    if url.scheme() != "https" && !super::server::is_loopback(url) {
                        problems.add(option, "is not https://, by which alone a shared access signature may be handed out; use `links: proxy`");
                    }
                    let named = |account: &String| {
                        let first = url.path_segments().and_then(|mut segments| segments.next());
                        url.host_str().unwrap_or_default().contains(account.as_str()) || first == Some(account)
                    };
                    if !self.azure.account_name.as_ref().is_none_or(named) {
                        problems.add(option, "has azure.account_name neither in its host nor first in its path: what is signed for it would be refused");
                    }
                }
            }
            Location::Gcs(_) => {
                if self.gcs.base_url.is_some() {
                    problems.add(
                        "gcs.base_url",
                        "cannot be signed for: signatures name storage.googleapis.com; use `links: proxy`",
                    );
                }
            }
        }
    }
}

impl Section for OutputConfig {
    fn check(&self, problems: &mut Problems) {
        match self.place() {
            Ok(location) => self.check_location(&location, problems),
            Err(problem) => problems.add("location", problem),
        }
        self.http.check(problems);
        self.s3.check(problems);
        self.azure.check(problems);
        clouds::check_address("gcs.base_url", self.gcs.base_url.as_ref(), problems);
        clouds::check_address("public_endpoint", self.public_endpoint.as_ref(), problems);
        if self.file_max.bytes() == 0 {
            problems.add("file_max_bytes", "is 0");
        }
        if self.file_max_resources == 0 || self.file_max_resources > 10_000_000 {
            problems.add("file_max_resources", "is not between 1 and 10000000");
        }
        if self.file_max_age.is_zero() {
            problems.add("file_max_age_seconds", "is 0, so every resource would get a file of its own");
        }
        if self.link_ttl.is_zero() || self.link_ttl > Duration::from_hours(24) {
            problems.add("link_ttl_seconds", "is not between 1 and 86400, a day");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn with(output: &str) -> Result<Config, String> {
        let yaml = format!(
            "server: {{ public_base_url: http://127.0.0.1:8080/fhir }}\n\
             upstream: {{ base_url: http://127.0.0.1:9000/fhir }}\noutput: {{ {output} }}\n"
        );
        Config::from_yaml(&yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_cloud_needs_is_enough() {
        for output in [
            "location: s3://bulk/exports",
            "location: s3://bulk, s3: { region: eu-central-1, access_key_id: A, secret_access_key_file: /run/secret }",
            "location: s3://bulk, s3: { endpoint: http://minio:9000 }, public_endpoint: https://files.example.org",
            "location: s3://bulk, s3: { server_side_encryption: 'aws:kms', sse_kms_key_id: k, sse_bucket_key_enabled: true }",
            "location: az://bulk, azure: { account_name: acme, account_key_file: /run/key }",
            "location: az://bulk, azure: { account_name: acme, sas_token_file: /run/sas }, links: proxy",
            "location: az://bulk, azure: { account_name: acme, endpoint: http://127.0.0.1:10000/acme }",
            "location: az://bulk, azure: { account_name: acme, link_ip_range: 10.0.0.1-10.0.0.9 }",
            "location: gs://bulk/a, gcs: { service_account_file: /run/account.json }",
            "location: gs://bulk, gcs: { base_url: http://storage:4443 }, links: proxy",
            "location: s3://bulk, http: { ca_file: /etc/ca.pem, proxy_url: http://proxy:3128 }",
        ] {
            assert_eq!(with(output).err(), None, "{output}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (output, expected) in [
            ("location: https://bulk/exports", "output.location"),
            ("location: s3://", "output.location"),
            ("location: gs://bulk, s3: { region: eu-central-1 }", "output.s3"),
            ("s3: { region: eu-central-1 }", "output.s3"),
            ("location: s3://bulk, gcs: { service_account_file: /run/a }", "output.gcs"),
            ("location: s3://bulk, azure: { account_name: acme }", "output.azure"),
            ("location: s3://bulk, s3: { access_key_id: A }", "output.s3.access_key_id"),
            ("location: s3://bulk, s3: { secret_access_key: s }", "output.s3.access_key_id"),
            (
                "location: s3://bulk, s3: { access_key_id: A, secret_access_key: s, secret_access_key_file: /run/s }",
                "output.s3.secret_access_key",
            ),
            ("location: s3://bulk, s3: { access_key_id: A, secret_access_key: s, profile: p }", "output.s3.profile"),
            ("location: s3://bulk, s3: { sse_kms_key_id: k }", "output.s3.sse_kms_key_id"),
            ("location: s3://bulk, s3: { server_side_encryption: rot13 }", "none of AES256"),
            (
                "location: s3://bulk, s3: { virtual_hosted_style_request: true, endpoint: 'http://127.0.0.1:9000' }",
                "output.s3.virtual_hosted_style_request",
            ),
            (
                "location: az://bulk, azure: { sas_token_file: /run/sas }",
                "output.links is not proxy, but a shared access",
            ),
            (
                "location: az://bulk, azure: { endpoint: 'http://azurite:10000/acme' }",
                "output.azure.endpoint is not https",
            ),
            (
                "location: az://bulk, azure: { account_name: acme }, public_endpoint: 'https://files.example.org'",
                "output.public_endpoint has azure.account_name neither",
            ),
            (
                "location: az://bulk, azure: { account_key: a, account_key_file: /run/a }",
                "output.azure.account_key is given twice",
            ),
            (
                "location: az://bulk, azure: { account_key: a, client_secret_file: /run/a, client_id: c, tenant_id: t }",
                "more than one kind of credentials",
            ),
            ("location: az://bulk, azure: { federated_token_file: /run/a }", "output.azure.client_id"),
            ("location: az://bulk, azure: { link_ip_range: 10.0.0.0/8 }", "output.azure.link_ip_range"),
            ("location: az://bulk, azure: { link_ip_range: 10.0.0.9-10.0.0.1 }", "output.azure.link_ip_range"),
            ("location: gs://bulk, gcs: { base_url: 'http://storage:4443' }", "signatures name storage.googleapis.com"),
            ("location: gs://bulk, public_endpoint: 'https://files.example.org'", "output.public_endpoint"),
            ("public_endpoint: 'https://files.example.org'", "output.public_endpoint"),
            (
                "location: s3://bulk, links: proxy, public_endpoint: 'https://files.example.org'",
                "output.public_endpoint",
            ),
            ("links: redirect", "which needs a token"),
            ("location: s3://bulk, links: redirect", "which needs a token"),
            ("location: s3://bulk, file_max_bytes: 50GiB", "output.file_max_bytes"),
            ("location: s3://bulk, http: { proxy_url: proxy }", "output.http.proxy_url"),
            ("location: s3://bulk, s3: { endpoint: 'http://key:secret@minio:9000' }", "output.s3.endpoint"),
            ("location: s3://bulk, public_endpoint: 'https://files.example.org/?a=b'", "output.public_endpoint"),
            ("location: gs://bulk, gcs: { base_url: 'file:///storage' }, links: proxy", "output.gcs.base_url"),
            ("location: s3://bulk, http: { request_timeout_seconds: 0 }", "output.http.request_timeout_seconds"),
        ] {
            let error = with(output).expect_err(output);
            assert!(error.contains(expected), "{output}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = with(
            "location: s3://bulk, s3: { access_key_id: A, secret_access_key: hush }, azure: { account_key: hush }",
        );
        let Err(error) = config else { panic!("azure is not where the location is") };
        assert!(!error.contains("hush"), "{error}");
        let config =
            with("location: s3://bulk, s3: { access_key_id: A, secret_access_key: hush }").expect("it is good");
        let shown = format!("{config:?}") + &serde_json::to_string(&config).expect("plain values");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
