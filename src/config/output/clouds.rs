//! The clouds that files can go to: what each of them has to be told, by the names that it has for it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::super::{Problems, Secret, seconds};

/// How a storage is spoken to; none of it matters for local disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageHttpConfig {
    /// A request to the storage, with its body, is given up after so long and sent again. A client that is handed a file by Offtake
    /// itself takes 4 MiB of it within that time.
    #[serde(rename = "request_timeout_seconds", with = "seconds")]
    pub request_timeout: Duration,
    /// Errors of the storage are tried away for so long before what was being written is given back and read anew.
    #[serde(rename = "retry_seconds", with = "seconds")]
    pub retry: Duration,
    /// Certificates (PEM) that are trusted besides those of the system: for a storage with a certificate of the house.
    pub ca_file: Option<PathBuf>,
    /// The proxy to the storage, with its password if it has one; null is what `HTTPS_PROXY` and `NO_PROXY` say.
    pub proxy_url: Option<Secret>,
}

impl Default for StorageHttpConfig {
    fn default() -> Self {
        Self { request_timeout: Duration::from_mins(2), retry: Duration::from_mins(3), ca_file: None, proxy_url: None }
    }
}

/// Amazon S3 and what speaks like it. What is null is taken from the environment as usual: `AWS_REGION`,
/// `AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID` and so on, a web identity (`AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`), or
/// else the role of the machine or container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// Such as eu-central-1.
    pub region: Option<String>,
    /// Another server than Amazon's, such as <http://minio:9000>.
    pub endpoint: Option<Url>,
    /// Whether the bucket is part of the host's name; an endpoint then has it already.
    pub virtual_hosted_style_request: bool,
    /// A key's name; with it goes its secret.
    pub access_key_id: Option<String>,
    /// Its secret; better a file.
    pub secret_access_key: Option<Secret>,
    /// The file that holds the secret.
    pub secret_access_key_file: Option<PathBuf>,
    /// A profile in `AWS_SHARED_CREDENTIALS_FILE` or ~/.aws/credentials that has a key and its secret.
    pub profile: Option<String>,
    /// How objects are encrypted at rest.
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// The key for `aws:kms`; null is that of the bucket.
    pub sse_kms_key_id: Option<String>,
    /// Whether a bucket key saves calls to KMS.
    pub sse_bucket_key_enabled: Option<bool>,
}

/// Who holds the key that objects on S3 are encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerSideEncryption {
    /// S3 itself.
    #[serde(rename = "AES256")]
    S3,
    /// KMS.
    #[serde(rename = "aws:kms")]
    Kms,
    /// KMS, twice.
    #[serde(rename = "aws:kms:dsse")]
    DoubleKms,
}

impl ServerSideEncryption {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "AES256",
            Self::Kms => "aws:kms",
            Self::DoubleKms => "aws:kms:dsse",
        }
    }
}

/// Azure Blob Storage, also with a hierarchical namespace. What is null is taken from the environment: `AZURE_STORAGE_ACCOUNT_NAME`,
/// `AZURE_STORAGE_ACCOUNT_KEY`, a workload identity (`AZURE_CLIENT_ID`, `AZURE_TENANT_ID`, `AZURE_FEDERATED_TOKEN_FILE`) and so on,
/// or else the managed identity of the machine. Whatever is no key signs by user delegation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzureConfig {
    /// The storage account.
    pub account_name: Option<String>,
    /// Another address than <https://ACCOUNT.blob.core.windows.net>.
    pub endpoint: Option<Url>,
    /// A key of the account; better a file.
    pub account_key: Option<Secret>,
    /// The file that holds the key.
    pub account_key_file: Option<PathBuf>,
    /// The only IPv4 address, or the range of them (FIRST-LAST), from which links can be used.
    pub link_ip_range: Option<String>,
    /// The file that holds a shared access signature; it cannot sign, so it needs `links: proxy`.
    pub sas_token_file: Option<PathBuf>,
    /// The tenant of an application.
    pub tenant_id: Option<String>,
    /// The application, or which of several managed identities.
    pub client_id: Option<String>,
    /// The file that holds the application's secret.
    pub client_secret_file: Option<PathBuf>,
    /// The file that holds the application's federated token: a workload identity.
    pub federated_token_file: Option<PathBuf>,
}

/// Google Cloud Storage. What is null is taken from the environment: `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT`,
/// or else the account of the machine or workload, which needs the right to sign as itself (signBlob) for links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcsConfig {
    /// The file that holds a service account's key.
    pub service_account_file: Option<PathBuf>,
    /// Another server than Google's; it cannot be signed for, so it needs `links: proxy`.
    pub base_url: Option<Url>,
}

impl StorageHttpConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        if self.request_timeout < Duration::from_secs(1) || self.request_timeout > Duration::from_hours(1) {
            problems.add("http.request_timeout_seconds", "is not between 1 and 3600");
        }
        if self.proxy_url.as_ref().is_some_and(|proxy| Url::parse(proxy.reveal()).is_err()) {
            problems.add("http.proxy_url", "is no URL");
        }
        if self.retry > Duration::from_hours(1) {
            problems.add("http.retry_seconds", "is longer than 3600");
        }
    }
}

impl S3Config {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_address("s3.endpoint", self.endpoint.as_ref(), problems);
        let secrets = [self.secret_access_key.is_some(), self.secret_access_key_file.is_some()];
        let secrets = secrets.into_iter().filter(|given| *given).count();
        if secrets > 1 {
            problems.add("s3.secret_access_key", "is given twice, here and as a file");
        }
        if self.access_key_id.is_some() != (secrets > 0) {
            problems
                .add("s3.access_key_id", "needs a secret_access_key_file or secret_access_key beside it, and they it");
        }
        if self.access_key_id.is_some() && self.profile.is_some() {
            problems.add("s3.profile", "is given beside an access_key_id; use one of them");
        }
        let kms =
            matches!(self.server_side_encryption, Some(ServerSideEncryption::Kms | ServerSideEncryption::DoubleKms));
        if !kms && (self.sse_kms_key_id.is_some() || self.sse_bucket_key_enabled.is_some()) {
            problems.add("s3.sse_kms_key_id", "and sse_bucket_key_enabled are for server_side_encryption: aws:kms");
        }
        if self.virtual_hosted_style_request && self.endpoint.as_ref().is_some_and(has_address_as_host) {
            problems
                .add("s3.virtual_hosted_style_request", "needs an endpoint with a name that begins with the bucket's");
        }
    }
}

impl AzureConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_address("azure.endpoint", self.endpoint.as_ref(), problems);
        if self.account_key.is_some() && self.account_key_file.is_some() {
            problems.add("azure.account_key", "is given twice, here and as a file");
        }
        let ways = [
            self.account_key.is_some() || self.account_key_file.is_some(),
            self.sas_token_file.is_some(),
            self.client_secret_file.is_some(),
            self.federated_token_file.is_some(),
        ];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            let problem = "account_key, sas_token_file, client_secret_file and federated_token_file exclude each other";
            problems.add("azure", &format!("is given more than one kind of credentials: {problem}"));
        }
        if self.link_ip_range.as_deref().is_some_and(|range| !is_range(range)) {
            problems.add("azure.link_ip_range", "is neither an IPv4 address nor FIRST-LAST, two of them in this order");
        }
        let is_application = self.client_secret_file.is_some() || self.federated_token_file.is_some();
        if is_application && (self.client_id.is_none() || self.tenant_id.is_none()) {
            problems
                .add("azure.client_id", "and tenant_id are needed beside client_secret_file or federated_token_file");
        }
    }
}

/// Whether a text is an IPv4 address, or a range of them.
fn is_range(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>()) {
        (Ok(first), Ok(last)) => first <= last,
        _ => false,
    }
}

/// Paths are put behind it: a query or a user would end up in the middle of them.
pub(super) fn check_address(option: &str, address: Option<&Url>, problems: &mut Problems) {
    let Some(url) = address else { return };
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_plain {
        problems.add(option, "is not http:// or https:// and a host, without user, query and fragment");
    }
}

fn has_address_as_host(url: &Url) -> bool {
    !matches!(url.host(), Some(url::Host::Domain(_)))
}
