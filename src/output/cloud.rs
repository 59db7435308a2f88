//! Opens the clouds: one client each, seen as an object store, as one of uploads in parts, and as one that signs links.

mod credentials;
pub(super) mod doors;
pub(super) mod keyed;
mod sas;
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

use self::doors::Doors;
use self::keyed::Keyed;
use self::sas::{Lender, Names, SasSigner};
use self::uploads::Uploads;
use super::StoreFault;
use super::writer::Coding;
use crate::config::{LinkMode, OutputConfig, Place};

/// Whatever a service allows, seven days is the most that a signature of any of them is good for.
const LONGEST_LINK: Duration = Duration::from_hours(7 * 24);
/// Temporary credentials of S3 are renewed when they have five minutes left, and a link dies with the credentials that
/// signed it. Nobody tells us when that is, so no more than this is promised.
const LONGEST_LINK_OF_TEMPORARY: Duration = Duration::from_mins(4);
/// What Google signs itself, for a machine's account, is good for twelve hours.
const LONGEST_LINK_OF_MACHINE: Duration = Duration::from_hours(12);
/// How long somebody without credentials waits for an answer.
const DOOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Host of Google's that every signature names.
const GCS: &str = "https://storage.googleapis.com";

/// A cloud, as an output uses it beside the object store that it is.
#[derive(Clone)]
pub(super) struct Cloud {
    /// Uploads whose names are known and that can be aborted; Azure has none.
    pub(super) parts: Option<Parts>,
    pub(super) signer: Option<LinkSigner>,
    pub(super) doors: Doors,
    /// What encrypts by keys of clients; only S3 can.
    pub(super) keyed: Option<Keyed>,
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
    pub(super) credential: Credential,
    /// How long what it signs is good, at most.
    pub(super) longest: Duration,
}

/// What links are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    /// One that is good until somebody changes it.
    Key,
    /// S3 has lent it, for a time that nobody tells.
    Temporary,
    /// A key of Azure's, lent to an identity.
    Delegation,
    /// None: Google signs for the account of the machine.
    Machine,
}

impl Credential {
    fn longest_link(self) -> Duration {
        match self {
            Self::Key | Self::Delegation => LONGEST_LINK,
            Self::Temporary => LONGEST_LINK_OF_TEMPORARY,
            Self::Machine => LONGEST_LINK_OF_MACHINE,
        }
    }
}

impl LinkSigner {
    fn new(signer: Arc<dyn Signer>, credential: Credential) -> Self {
        Self { signer, credential, longest: credential.longest_link() }
    }
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
    #[error("the address of the storage is no URL")]
    Address(#[from] url::ParseError),
}

impl From<object_store::Error> for CloudError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(StoreFault::from(error))
    }
}

/// What of a process's environment is looked at, and nothing else of it.
const VARIABLES: [&str; 48] = [
    "HOME",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_MSI_ENDPOINT",
    "AZURE_MSI_RESOURCE_ID",
    "AZURE_OBJECT_ID",
    "IDENTITY_ENDPOINT",
    "SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_BASE_URL",
];

/// The variables of a process's environment that tell of clouds.
#[derive(Clone, Default)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// Those of this process.
    #[expect(clippy::disallowed_methods, reason = "clouds hand their credentials to workloads in this way alone")]
    pub(crate) fn of_process() -> Self {
        let set = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
        Self(VARIABLES.iter().filter_map(set).collect())
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
    let is_virtual = builder.get_config_value(&Key::VirtualHostedStyleRequest).is_some_and(|value| value == "true");
    let region = builder.get_config_value(&Key::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let is_temporary =
        builder.get_config_value(&Key::AccessKeyId).is_none() || builder.get_config_value(&Key::Token).is_some();
    // Objects are removed one by one; not every store that speaks like S3 can remove many at once.
    let builder = builder
        .with_bucket_name(&place.bucket)
        .with_disable_bulk_delete(true)
        .with_retry(retry(config))
        .with_client_options(client.clone());
    let store = Arc::new(builder.clone().build()?);
    let keyed = Some(Keyed::new(builder.clone()));
    let signer = match (config.links, &config.public_endpoint) {
        (LinkMode::Proxy, _) => None,
        (LinkMode::Signed | LinkMode::Redirect, None) => Some(Arc::clone(&store)),
        (LinkMode::Signed | LinkMode::Redirect, Some(public)) => {
            let public = builder.with_config(Key::S3Endpoint, plain_url(public));
            Some(Arc::new(public.build()?))
        }
    };
    let credential = if is_temporary { Credential::Temporary } else { Credential::Key };
    let signer = signer.map(|signer| LinkSigner::new(signer as _, credential));
    let bucket = match (&endpoint, is_virtual) {
        (Some(endpoint), true) => endpoint.clone(),
        (Some(endpoint), false) => under(endpoint, &place.bucket),
        (None, true) => format!("https://{}.s3.{region}.amazonaws.com", place.bucket),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{}", place.bucket),
    };
    let public = config
        .public_endpoint
        .as_ref()
        .map(|public| if is_virtual { plain_url(public) } else { under(&plain_url(public), &place.bucket) });
    let doors = doors(config, &bucket, public, doors::LIST_BUCKET)?;
    let uploads = Arc::new(Uploads::of_s3(ReqwestConnector::default().connect(&client)?, Arc::clone(&store) as _));
    let parts = Some(Parts { store: Arc::clone(&store) as _, uploads });
    Ok((store, Cloud { parts, signer, doors, keyed }))
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
    let credential = if has(Key::AccessKey) { Credential::Key } else { Credential::Delegation };
    let account = builder.get_config_value(&Key::AccountName).unwrap_or_default();
    let account_key = builder.get_config_value(&Key::AccessKey);
    let client = client(config, endpoint.as_deref())?;
    let builder =
        builder.with_container_name(&place.bucket).with_retry(retry(config)).with_client_options(client.clone());
    let store = Arc::new(builder.build()?);
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
    let public = config.public_endpoint.as_ref().map(|public| under(&plain_url(public), &place.bucket));
    let signer = match config.links {
        LinkMode::Proxy => None,
        LinkMode::Signed | LinkMode::Redirect if is_signature => {
            return Err(CloudError::CannotSign("a shared access signature cannot sign"));
        }
        LinkMode::Signed | LinkMode::Redirect => {
            let container = public.clone().unwrap_or_else(|| under(&endpoint, &place.bucket)).parse()?;
            let addresses = options.link_ip_range.as_ref();
            let names = Names { account: &account, bucket: &place.bucket, container, addresses };
            let signer = if let Some(key) = &account_key {
                SasSigner::by_key(names, key)?
            } else {
                let http = ReqwestConnector::default().connect(&client)?;
                let lender = Lender::new(http, endpoint.parse()?, Arc::clone(store.credentials()));
                SasSigner::by_identity(names, lender)
            };
            Some(LinkSigner::new(Arc::new(signer), credential))
        }
    };
    let doors = doors(config, &under(&endpoint, &place.bucket), public, doors::LIST_CONTAINER)?;
    Ok((store, Cloud { parts: None, signer, doors, keyed: None }))
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
    if config.links != LinkMode::Proxy && base.is_some() {
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
    let credential = if has_key { Credential::Key } else { Credential::Machine };
    let signer = (config.links != LinkMode::Proxy).then(|| LinkSigner::new(Arc::clone(&store) as _, credential));
    let bucket = under(base.as_deref().unwrap_or(GCS), &place.bucket);
    let doors = doors(config, &bucket, None, doors::LIST_BUCKET)?;
    let credentials = Arc::clone(store.credentials());
    let uploads = Arc::new(Uploads::of_gcs(ReqwestConnector::default().connect(&client)?, credentials, bucket));
    let parts = Some(Parts { store: Arc::clone(&store) as _, uploads });
    Ok((store, Cloud { parts, signer, doors, keyed: None }))
}

/// What the storage is to say of an object to whoever fetches it.
pub(super) fn attributes(key: &str, coding: Coding) -> Attributes {
    let name = key.rsplit('/').next().unwrap_or(key);
    let content_type = if is_for_clients(key) { "application/fhir+ndjson" } else { "application/octet-stream" };
    let mut attributes = Attributes::from_iter([
        (Attribute::ContentType, content_type.to_owned()),
        (Attribute::ContentDisposition, format!("attachment; filename=\"{name}\"")),
        // Without no-transform Google unpacks what is stored packed; nobody may keep a patient's data.
        (Attribute::CacheControl, "private, no-store, no-transform".to_owned()),
    ]);
    if coding == Coding::Gzip {
        attributes.insert(Attribute::ContentEncoding, "gzip".into());
    }
    attributes
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
        options = options.with_proxy_url(proxy.reveal());
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

/// Where anybody could ask for what is in a bucket. None of our credentials go there, and nobody waits long for it.
fn doors(
    config: &OutputConfig,
    bucket: &str,
    public: Option<String>,
    list: &'static [(&'static str, &'static str)],
) -> Result<Doors, CloudError> {
    let mut buckets = vec![bucket.parse::<url::Url>()?];
    if let Some(public) = public.filter(|public| public != bucket) {
        buckets.push(public.parse()?);
    }
    let plain = buckets.iter().find(|bucket| bucket.scheme() == "http").map(url::Url::as_str);
    let options = client(config, plain)?
        .with_timeout(config.http.request_timeout.min(DOOR_TIMEOUT))
        .with_connect_timeout(DOOR_TIMEOUT / 2);
    Ok(Doors::new(ReqwestConnector::default().connect(&options)?, buckets, list))
}

fn under(endpoint: &str, bucket: &str) -> String {
    format!("{}/{bucket}", endpoint.trim_end_matches('/'))
}

fn retry(config: &OutputConfig) -> RetryConfig {
    // The time bounds it, not the number.
    RetryConfig { max_retries: 100, retry_timeout: config.http.retry, ..RetryConfig::default() }
}

/// A URL as the builders put paths behind it.
fn plain_url(url: &url::Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Location};

    fn open(output: &str, variables: &[(&str, &str)]) -> Result<Opened, CloudError> {
        let yaml = format!(
            "server: {{ public_base_url: http://127.0.0.1:8080/fhir }}\n\
             upstream: {{ base_url: http://127.0.0.1:9000/fhir }}\noutput: {{ {output} }}\n"
        );
        let config = Config::from_yaml(&yaml).expect("a good configuration").output;
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = Environment(variables.iter().map(own).collect());
        match config.place().expect("a place") {
            Location::File(_) => panic!("that is no cloud"),
            Location::S3(place) => s3(&config, &place, &environment),
            Location::Azure(place) => azure(&config, &place, &environment),
            Location::Gcs(place) => gcs(&config, &place, &environment),
        }
    }

    async fn signed(output: &str, variables: &[(&str, &str)]) -> (String, Duration) {
        let (_, cloud) = open(output, variables).expect("it opens");
        let LinkSigner { signer, longest, .. } = cloud.signer.expect("it signs");
        let url = signer.signed_url(http::Method::GET, &"a/b.ndjson".into(), Duration::from_mins(1)).await;
        let url = url.expect("it has what it signs with");
        // The addresses that anybody would ask are those that links lead to.
        let bare = cloud.doors.objects("a/b.ndjson");
        assert_eq!(bare.last(), Some(&doors::bare(&url)), "{bare:?}");
        (url.to_string(), longest)
    }

    const AWS: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-north-1"),
        ("AWS_ACCESS_KEY_ID", "OFENV"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "token"),
    ];

    #[tokio::test]
    async fn what_the_configuration_does_not_say_the_environment_does() {
        let (url, longest) = signed("location: s3://bulk", &AWS).await;
        assert!(url.starts_with("https://s3.eu-north-1.amazonaws.com/bulk/a/b.ndjson?"), "{url}");
        assert!(url.contains("OFENV") && url.contains("X-Amz-Security-Token=token"), "{url}");
        assert_eq!(longest, LONGEST_LINK_OF_TEMPORARY, "a link dies with the token that signed it");

        let own = "location: s3://bulk, s3: { access_key_id: OFCONFIG, secret_access_key: s, region: us-west-1 }";
        let (url, longest) = signed(own, &AWS).await;
        assert!(url.starts_with("https://s3.us-west-1.amazonaws.com/bulk/"), "{url}");
        assert!(url.contains("OFCONFIG") && !url.contains("Token"), "the token belongs to the other key: {url}");
        assert_eq!(longest, LONGEST_LINK);

        let endpoint = [AWS[1], AWS[2], ("AWS_ENDPOINT_URL_S3", "http://minio:9000")];
        let (url, _) = signed("location: s3://bulk", &endpoint).await;
        assert!(url.starts_with("http://minio:9000/bulk/a/b.ndjson?"), "{url}");
        let public = "location: s3://bulk, public_endpoint: 'https://files.example.org/'";
        let (url, _) = signed(public, &endpoint).await;
        assert!(url.starts_with("https://files.example.org/bulk/a/b.ndjson?"), "{url}");

        let azure = [("AZURE_STORAGE_ACCOUNT", "acme"), ("AZURE_STORAGE_KEY", "c2VjcmV0")];
        let (url, _) = signed("location: az://bulk", &azure).await;
        assert!(
            url.starts_with("https://acme.blob.core.windows.net/bulk/a/b.ndjson?") && url.contains("sp=r"),
            "{url}"
        );
    }

    #[test]
    fn what_cannot_sign_is_refused_wherever_it_comes_from() {
        let sas = [("AZURE_STORAGE_ACCOUNT_NAME", "acme"), ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=a")];
        let google = [("GOOGLE_BASE_URL", "http://storage:4443"), ("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")];
        for (location, variables) in [("location: az://bulk", &sas[..]), ("location: gs://bulk", &google[..])] {
            let refused = open(location, variables).err();
            assert!(matches!(refused, Some(CloudError::CannotSign(_))), "{location}: {refused:?}");
        }
        let (_, cloud) = open("location: az://bulk, links: proxy", &sas).expect("it opens");
        assert!(cloud.signer.is_none());
        let missing =
            open("location: s3://bulk, s3: { access_key_id: A, secret_access_key_file: /nowhere/at/all }", &[]);
        assert!(missing.err().is_some_and(|error| error.to_string().contains("/nowhere/at/all")));
    }
}
