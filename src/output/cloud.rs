//! Opens the clouds: one client each, seen as an object store, as one of uploads in parts, and as one that signs links.

mod credentials;
pub(super) mod uploads;

use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::signer::Signer;
use object_store::{Attribute, Attributes, Certificate, ClientOptions, ObjectStore, RetryConfig};

use self::uploads::Uploads;
use super::StoreFault;
use crate::config::{LinkMode, OutputConfig, Place};

/// Whatever a service allows, seven days is the most that a signature of any of them is good for.
const LONGEST_LINK: Duration = Duration::from_hours(7 * 24);
/// Temporary credentials of S3 are renewed when they have five minutes left, and a link dies with the credentials that
/// signed it. Nobody tells us when that is, so no more than this is promised.
const LONGEST_LINK_OF_TEMPORARY: Duration = Duration::from_mins(4);
/// What Google signs itself, for a machine's account, is good for twelve hours.
const LONGEST_LINK_OF_MACHINE: Duration = Duration::from_hours(12);
/// Host of Google's that every signature names.
const GCS: &str = "https://storage.googleapis.com";

/// A cloud, as an output uses it beside the object store that it is.
#[derive(Clone)]
pub(super) struct Cloud {
    /// Uploads whose names are known and that can be aborted; Azure has none.
    pub(super) parts: Option<Parts>,
    pub(super) signer: Option<LinkSigner>,
}

/// Uploads in parts.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: Arc<dyn MultipartStore>,
    pub(super) uploads: Arc<Uploads>,
}

/// Signs links of the storage itself.
#[derive(Debug, Clone)]
pub(super) struct LinkSigner {
    pub(super) signer: Arc<dyn Signer>,
    /// How long what it signs is good, at most.
    pub(super) longest: Duration,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud").field("signer", &self.signer.is_some()).finish_non_exhaustive()
    }
}

/// Why a cloud cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloudError {
    #[error("the storage cannot be set up")]
    Store(#[source] StoreFault),
    #[error("could not read {path}")]
    File { path: String, source: std::io::Error },
    #[error("the profile {0} has no key and secret in {1}")]
    Profile(String, String),
    #[error("output.links is signed, but {0}; use `links: proxy`")]
    CannotSign(&'static str),
}

impl From<object_store::Error> for CloudError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(StoreFault::from(error))
    }
}

/// The variables of a process's environment.
#[derive(Clone, Default)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().find(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The options of a builder that variables with this prefix set. How requests are made is ours to say.
    fn options<K: std::str::FromStr>(&self, prefix: &str) -> impl Iterator<Item = (K, &str)> {
        self.0
            .iter()
            .filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty())
            .filter_map(|(name, value)| name.to_ascii_lowercase().parse().ok().map(|key| (key, value.as_str())))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// An opened cloud.
pub(super) type Opened = (Arc<dyn ObjectStore>, Cloud);

/// Opens a bucket on S3 or on what speaks like it.
pub(super) fn s3(config: &OutputConfig, place: &Place, environment: &Environment) -> Result<Opened, CloudError> {
    use AmazonS3ConfigKey as Key;
    let options = &config.s3;
    let profile = credentials::profile(options, environment)?;
    let has_own = options.access_key_id.is_some() || profile.is_some();
    let mut builder = AmazonS3Builder::new();
    for (key, value) in environment.options::<Key>("AWS_") {
        let is_taken = match key {
            Key::AccessKeyId | Key::SecretAccessKey | Key::Token => !has_own,
            Key::Endpoint | Key::S3Endpoint => options.endpoint.is_none(),
            Key::Bucket | Key::SkipSignature | Key::Client(_) => false,
            _ => true,
        };
        if is_taken {
            builder = builder.with_config(key, value);
        }
    }
    if let (Some(id), Some(secret)) = (&options.access_key_id, credentials::secret_access_key(options)?) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
    }
    if let Some(profile) = profile {
        builder = builder.with_access_key_id(profile.id).with_secret_access_key(profile.secret.reveal());
        if let Some(token) = profile.token {
            builder = builder.with_token(token.reveal());
        }
    }
    let encryption = options.server_side_encryption.map(|kind| kind.as_str().to_owned());
    for (name, value) in [
        ("aws_region", options.region.clone()),
        ("aws_endpoint_url_s3", options.endpoint.as_ref().map(plain_url)),
        ("aws_server_side_encryption", encryption),
        ("aws_sse_kms_key_id", options.sse_kms_key_id.clone()),
        ("aws_sse_bucket_key_enabled", options.sse_bucket_key_enabled.map(|on| on.to_string())),
    ] {
        if let Some(value) = value {
            builder = builder.with_config(name.parse()?, value);
        }
    }
    if options.virtual_hosted_style_request {
        builder = builder.with_virtual_hosted_style_request(true);
    }
    let endpoint = builder.get_config_value(&Key::S3Endpoint).or_else(|| builder.get_config_value(&Key::Endpoint));
    let client = client(config, endpoint.as_deref())?;
    let is_temporary =
        builder.get_config_value(&Key::AccessKeyId).is_none() || builder.get_config_value(&Key::Token).is_some();
    // Objects are removed one by one; not every store that speaks like S3 can remove many at once.
    let builder = builder
        .with_bucket_name(&place.bucket)
        .with_disable_bulk_delete(true)
        .with_retry(retry(config))
        .with_client_options(client.clone());
    let store = Arc::new(builder.clone().build()?);
    let signer = match (config.links, &config.public_endpoint) {
        (LinkMode::Proxy | LinkMode::Redirect, _) => None,
        (LinkMode::Signed, None) => Some(Arc::clone(&store)),
        (LinkMode::Signed, Some(public)) => {
            let public = builder.with_config(Key::S3Endpoint, plain_url(public));
            Some(Arc::new(public.build()?))
        }
    };
    let longest = if is_temporary { LONGEST_LINK_OF_TEMPORARY } else { LONGEST_LINK };
    let signer = signer.map(|signer| LinkSigner { signer: signer as _, longest });
    let uploads = Arc::new(Uploads::of_s3(ReqwestConnector::default().connect(&client)?, Arc::clone(&store) as _));
    let parts = Some(Parts { store: Arc::clone(&store) as _, uploads });
    Ok((store, Cloud { parts, signer }))
}

/// Opens a container of Azure Blob Storage.
pub(super) fn azure(config: &OutputConfig, place: &Place, environment: &Environment) -> Result<Opened, CloudError> {
    use AzureConfigKey as Key;
    let options = &config.azure;
    let given = credentials::azure(options)?;
    let mut builder = MicrosoftAzureBuilder::new();
    // The names that Azure's own tools use come besides those that the builder knows.
    let others = [
        (Key::AccountName, "AZURE_STORAGE_ACCOUNT"),
        (Key::AccessKey, "AZURE_STORAGE_KEY"),
        (Key::MsiEndpoint, "IDENTITY_ENDPOINT"),
    ];
    let others = others.into_iter().filter_map(|(key, name)| environment.get(name).map(|value| (key, value)));
    for (key, value) in others.chain(environment.options::<Key>("AZURE_")) {
        let is_taken = match key {
            Key::AccessKey | Key::SasKey | Key::Token | Key::ClientSecret | Key::FederatedTokenFile => given.is_empty(),
            Key::ContainerName | Key::SkipSignature | Key::UseEmulator | Key::EncryptionKey | Key::Client(_) => false,
            _ => true,
        };
        if is_taken {
            builder = builder.with_config(key, value);
        }
    }
    for (key, value) in given {
        builder = builder.with_config(key, value.reveal());
    }
    let texts = [
        (Key::AccountName, options.account_name.clone()),
        (Key::AuthorityId, options.tenant_id.clone()),
        (Key::ClientId, options.client_id.clone()),
        (Key::Endpoint, options.endpoint.as_ref().map(plain_url)),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = builder.get_config_value(&Key::Endpoint);
    let has = |key| builder.get_config_value(&key).is_some();
    let is_signature = has(Key::SasKey) && !has(Key::AccessKey) && !has(Key::Token);
    let builder = builder
        .with_container_name(&place.bucket)
        .with_retry(retry(config))
        .with_client_options(client(config, endpoint.as_deref())?);
    let store = Arc::new(builder.clone().build()?);
    let signer = match (config.links, &config.public_endpoint) {
        (LinkMode::Proxy | LinkMode::Redirect, _) => None,
        (LinkMode::Signed, _) if is_signature => {
            return Err(CloudError::CannotSign("a shared access signature cannot sign"));
        }
        (LinkMode::Signed, None) => Some(Arc::clone(&store)),
        (LinkMode::Signed, Some(public)) => {
            Some(Arc::new(builder.with_config(Key::Endpoint, plain_url(public)).build()?))
        }
    };
    let signer = signer.map(|signer| LinkSigner { signer: signer as _, longest: LONGEST_LINK });
    Ok((store, Cloud { parts: None, signer }))
}

/// Opens a bucket of Google Cloud Storage.
pub(super) fn gcs(config: &OutputConfig, place: &Place, environment: &Environment) -> Result<Opened, CloudError> {
    use GoogleConfigKey as Key;
    let options = &config.gcs;
    let has_own = options.service_account_file.is_some();
    let mut builder = GoogleCloudStorageBuilder::new();
    let others = environment.get("SERVICE_ACCOUNT").map(|value| (Key::ServiceAccount, value));
    for (key, value) in others.into_iter().chain(environment.options::<Key>("GOOGLE_")) {
        let is_taken = match key {
            Key::ServiceAccount | Key::ServiceAccountKey | Key::ApplicationCredentials | Key::BearerToken => !has_own,
            Key::Bucket | Key::SkipSignature | Key::Client(_) => false,
            _ => true,
        };
        if is_taken {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(file) = &options.service_account_file {
        builder = builder.with_service_account_path(file.to_string_lossy());
    }
    if let Some(base) = &options.base_url {
        builder = builder.with_config(Key::BaseUrl, plain_url(base));
    }
    let base = builder.get_config_value(&Key::BaseUrl).filter(|base| base.trim_end_matches('/') != GCS);
    if config.links == LinkMode::Signed && base.is_some() {
        return Err(CloudError::CannotSign(
            "signatures name storage.googleapis.com, and GOOGLE_BASE_URL another server",
        ));
    }
    let has_key = [Key::ServiceAccount, Key::ServiceAccountKey, Key::ApplicationCredentials]
        .into_iter()
        .any(|key| builder.get_config_value(&key).is_some());
    let client = client(config, base.as_deref())?;
    let builder = builder.with_bucket_name(&place.bucket).with_retry(retry(config)).with_client_options(client.clone());
    let store = Arc::new(builder.build()?);
    let longest = if has_key { LONGEST_LINK } else { LONGEST_LINK_OF_MACHINE };
    let signer = (config.links == LinkMode::Signed).then(|| LinkSigner { signer: Arc::clone(&store) as _, longest });
    let bucket = format!("{}/{}", base.as_deref().unwrap_or(GCS).trim_end_matches('/'), place.bucket);
    let credentials = Arc::clone(store.credentials());
    let uploads = Arc::new(Uploads::of_gcs(ReqwestConnector::default().connect(&client)?, credentials, bucket));
    let parts = Some(Parts { store: Arc::clone(&store) as _, uploads });
    Ok((store, Cloud { parts, signer }))
}

/// What the storage is to say of an object to whoever fetches it.
pub(super) fn attributes(key: &str) -> Attributes {
    let name = key.rsplit('/').next().unwrap_or(key);
    let content_type = if is_for_clients(key) { "application/fhir+ndjson" } else { "application/octet-stream" };
    Attributes::from_iter([
        (Attribute::ContentType, content_type.to_owned()),
        (Attribute::ContentDisposition, format!("attachment; filename=\"{name}\"")),
        // Without no-transform Google unpacks what is stored packed; nobody may keep a patient's data.
        (Attribute::CacheControl, "private, no-store, no-transform".to_owned()),
    ])
}

fn is_for_clients(key: &str) -> bool {
    FsPath::new(key).extension().is_some_and(|extension| extension == "ndjson")
}

fn client(config: &OutputConfig, endpoint: Option<&str>) -> Result<ClientOptions, CloudError> {
    let http = &config.http;
    // The defaults are 30 seconds with the body, which a slow line does not keep for a part of 5 MiB.
    let mut options = ClientOptions::new()
        .with_timeout(http.request_timeout)
        .with_connect_timeout(Duration::from_secs(10))
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    if let Some(proxy) = &http.proxy_url {
        options = options.with_proxy_url(proxy.as_str());
    }
    if let Some(file) = &http.ca_file {
        let pem =
            std::fs::read(file).map_err(|source| CloudError::File { path: file.display().to_string(), source })?;
        for certificate in Certificate::from_pem_bundle(&pem)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn retry(config: &OutputConfig) -> RetryConfig {
    // The time bounds it, not the number.
    RetryConfig { max_retries: 100, retry_timeout: config.http.retry, ..RetryConfig::default() }
}

/// A URL as the builders put paths behind it.
fn plain_url(url: &url::Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
