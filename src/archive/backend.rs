//! The object store behind the archive: it is built from `[archive]`, for the four kinds of URL. This module sets the
//! timeouts and hides the differences between a folder and a bucket.

use std::{sync::Arc, time::Duration};

use object_store::{
    Attribute, Attributes, BackoffConfig, ClientConfigKey, ObjectStore, PutMode, PutOptions, PutPayload,
    PutResult, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};
use url::Url;

use super::{
    ArchiveConfig, ArchiveError,
    folder::{PrivateFolder, folder_error, if_exists},
    folder_store::FolderStore,
    is_conflict, staging,
};
use crate::{
    bounded_file,
    disk::{GrowingFile, SpaceUse},
    private_file,
    problem::Problem,
    secret::Secret,
};

/// The maximum time of one request. One part of 5 MiB, the smallest that S3 and Google accept, must pass within it.
const REQUEST_TIMEOUT: &str = "60 seconds";
const CONNECT_TIMEOUT: &str = "5 seconds";
/// After these retries the retries of the job take over, which wait longer and hold no resources.
const RETRY: RetryConfig = RetryConfig {
    backoff: BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(5),
        base: 2.,
    },
    max_retries: 4,
    retry_timeout: Duration::from_secs(30),
};

/// For a command that shows the state of now.
const READER_RETRY: RetryConfig = RetryConfig { max_retries: 1, ..RETRY };

/// An opened store.
#[derive(Debug)]
pub(super) struct StoreBackend {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The prefix of every key.
    pub(super) prefix: Path,
    /// Set for a folder, which needs locks where a bucket has conditional writes.
    pub(super) folder: Option<Arc<PrivateFolder>>,
    /// `file:///…/` or `s3://bucket/`: a key is appended to it.
    pub(super) base: Url,
}

impl StoreBackend {
    /// Returns everything for which [`StoreBackend::open`] would refuse the configuration, without creating a folder.
    pub(super) fn problems(config: &ArchiveConfig) -> Vec<Problem> {
        let mut errors = Vec::new();
        if config.url.starts_with("file:") {
            errors.extend(config.folder().is_none().then(no_folder));
        } else {
            errors.extend(BucketUrl::parse(&config.url).err());
            errors.extend(check_endpoint(config).err());
            errors.extend(key_pair(config).err());
            errors.extend(service_account(config).err());
            if errors.is_empty() {
                errors.extend(Self::open(config, Vec::new()).err());
            }
        }
        errors.into_iter().map(problem_of).collect()
    }

    /// Reads files and creates folders, but contacts no server. On the disk of a folder, space stays free for `growing`
    /// files. Blocks.
    pub(super) fn open(config: &ArchiveConfig, growing: Vec<GrowingFile>) -> Result<Self, ArchiveError> {
        if config.url.starts_with("file:") {
            return Self::file(config, growing);
        }
        let (store, prefix, url) = bucket(config, RETRY)?;
        let mut base = url.clone();
        base.set_path("/");
        Ok(Self { store, prefix, folder: None, base })
    }

    fn file(config: &ArchiveConfig, growing: Vec<GrowingFile>) -> Result<Self, ArchiveError> {
        let Some(path) = config.folder() else {
            return Err(no_folder());
        };
        let failed = |source| ArchiveError::Folder { path: path.clone(), source };
        private_file::create_folders(&path, config.file_mode.folder_bits()).map_err(failed)?;
        let root = path.canonicalize().map_err(failed)?;
        let base = Url::from_directory_path(&root)
            .map_err(|()| invalid("url", format!("{} has no URL", root.display())))?;
        Ok(Self {
            // For reading. Files are written by `staging.rs`, durably and with exact permissions.
            store: Arc::new(FolderStore::open(&root)?),
            prefix: Path::ROOT,
            folder: Some(Arc::new(PrivateFolder::open(&root, config.file_mode, growing)?)),
            base,
        })
    }

    /// Returns the URL of an object. For a bucket it contains the literal key, as the providers' tools expect it.
    pub(super) fn url(&self, key: &Path) -> String {
        if self.folder.is_none() {
            return format!("{}{key}", self.base);
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(key.parts());
        }
        url.into()
    }

    /// Returns the content type that a bucket stores with an object. In a folder the file name states the type.
    pub(super) fn attributes(&self, content_type: &'static str) -> Attributes {
        match self.folder {
            Some(_) => Attributes::new(),
            None => Attributes::from_iter([(Attribute::ContentType, content_type)]),
        }
    }

    /// Writes a whole object, durably. Returns `None` if the condition of `mode` is not met.
    pub(super) async fn put(
        &self,
        key: &Path,
        payload: PutPayload,
        mode: PutMode,
        attributes: Attributes,
        purpose: SpaceUse,
    ) -> Result<Option<PutResult>, ArchiveError> {
        if let Some(folder) = &self.folder {
            let replace = !matches!(mode, PutMode::Create);
            let parts = payload.into_iter().collect();
            let written =
                staging::write_file(folder, folder.path(key.as_ref()), parts, replace, purpose).await?;
            let result =
                PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() };
            return Ok(written.then_some(result));
        }
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        match self.store.put_opts(key, payload, options).await {
            Ok(result) => Ok(Some(result)),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the mode that replaces `existing` and no other version. A folder has no such write and is locked
    /// instead.
    pub(super) fn replace(&self, existing: Option<object_store::UpdateVersion>) -> PutMode {
        match (existing, &self.folder) {
            (None, _) => PutMode::Create,
            (Some(_), Some(_)) => PutMode::Overwrite,
            (Some(version), None) => PutMode::Update(version),
        }
    }

    /// Returns the size of one part of a large object in bytes: the minimum that the store accepts, to save memory.
    pub(super) fn part_size(&self) -> usize {
        if self.folder.is_some() { 1 << 20 } else { 5 << 20 }
    }
}

/// Returns the store of a bucket, the prefix of its keys, and its URL. Contacts no server.
fn bucket(
    config: &ArchiveConfig,
    retry: RetryConfig,
) -> Result<(Arc<dyn ObjectStore>, Path, Url), ArchiveError> {
    // The program may have installed another crypto provider already. Each one works.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let BucketUrl { url, bucket, prefix } = BucketUrl::parse(&config.url)?;
    check_endpoint(config)?;
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" | "s3a" => Arc::new(s3(config, &bucket, retry)?),
        "gs" => Arc::new(google(config, &bucket, retry)?),
        _ => Arc::new(azure(config, &bucket, retry)?),
    };
    Ok((store, prefix, url))
}

/// A store that is only read.
#[derive(Clone, Debug)]
pub(super) struct ReadableStore {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The prefix of every key.
    pub(super) prefix: Path,
}

impl ReadableStore {
    /// Opens the store and creates no folder. `None`: the folder does not exist.
    pub(super) fn open(config: &ArchiveConfig) -> Result<Option<Self>, ArchiveError> {
        if !config.url.starts_with("file:") {
            let (store, prefix, _) = bucket(config, READER_RETRY)?;
            return Ok(Some(Self { store, prefix }));
        }
        let path = config.folder().ok_or_else(no_folder)?;
        let root = if_exists(path.canonicalize()).map_err(|source| folder_error(&path, source))?;
        let store = root.map(|root| FolderStore::open(&root)).transpose()?;
        Ok(store.map(|store| Self { store: Arc::new(store), prefix: Path::ROOT }))
    }
}

/// The parts of the URL of a bucket.
struct BucketUrl {
    url: Url,
    bucket: String,
    prefix: Path,
}

impl BucketUrl {
    fn parse(text: &str) -> Result<Self, ArchiveError> {
        let url = Url::parse(text).map_err(|error| {
            invalid("url", format!("it is not a URL ({error}); write file:FOLDER or s3://BUCKET"))
        })?;
        if !matches!(url.scheme(), "s3" | "s3a" | "gs" | "az" | "azure") {
            let message = format!("it begins with {}:, which is not one of file, s3, gs, az", url.scheme());
            return Err(invalid("url", message));
        }
        let Some(bucket) = url.host_str().filter(|host| !host.is_empty()).map(str::to_owned) else {
            let message = format!("it does not name a bucket; write {}://BUCKET/PREFIX", url.scheme());
            return Err(invalid("url", message));
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            let message = "it may contain a bucket and a prefix only; set the keys in their own settings";
            return Err(invalid("url", message));
        }
        let prefix = Path::from_url_path(url.path().trim_end_matches('/'))
            .map_err(|error| invalid("url", format!("its prefix is not valid: {error}")))?;
        Ok(Self { url, bucket, prefix })
    }
}

fn check_endpoint(config: &ArchiveConfig) -> Result<(), ArchiveError> {
    let is_allowed = |endpoint: &str| {
        endpoint.starts_with("https://") || config.allow_http && endpoint.starts_with("http://")
    };
    if config.endpoint.as_deref().is_some_and(|endpoint| endpoint.contains('@')) {
        return Err(invalid(
            "endpoint",
            "it contains a user or a password; set the keys in their own settings",
        ));
    }
    if config.endpoint.as_deref().is_none_or(is_allowed) {
        return Ok(());
    }
    Err(invalid("endpoint", "it must be https://, or http:// with archive.allow_http = true"))
}

/// Reads the file of Google's service account.
fn service_account(config: &ArchiveConfig) -> Result<Option<bounded_file::Text>, ArchiveError> {
    let Some(path) = &config.service_account_file else { return Ok(None) };
    bounded_file::read_text_or_pipe(path).map(Some).map_err(|error| {
        invalid("service_account_file", format!("{} cannot be read: {error}", path.display()))
    })
}

fn s3(config: &ArchiveConfig, bucket: &str, retry: RetryConfig) -> Result<impl ObjectStore, ArchiveError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::UserAgent), USER_AGENT)
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_bucket_name(bucket);
    if config.allow_http {
        builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some((id, key)) = key_pair(config)? {
        builder = builder.with_access_key_id(id).with_secret_access_key(key.expose());
    }
    builder.build().map_err(|error| invalid("url", error.to_string()))
}

fn google(
    config: &ArchiveConfig,
    bucket: &str,
    retry: RetryConfig,
) -> Result<impl ObjectStore, ArchiveError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::UserAgent), USER_AGENT)
        .with_retry(retry)
        .with_bucket_name(bucket);
    if config.allow_http {
        builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    if let Some(json) = service_account(config)? {
        builder = builder.with_service_account_key(json.as_str());
    }
    builder.build().map_err(|error| invalid("url", error.to_string()))
}

fn azure(
    config: &ArchiveConfig,
    container: &str,
    retry: RetryConfig,
) -> Result<impl ObjectStore, ArchiveError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_config(AzureConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_config(AzureConfigKey::Client(ClientConfigKey::UserAgent), USER_AGENT)
        .with_retry(retry)
        .with_container_name(container);
    if config.allow_http {
        builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Some((account, key)) = key_pair(config)? {
        builder = builder.with_account(account).with_access_key(key.expose());
    }
    builder.build().map_err(|error| invalid("url", error.to_string()))
}

const USER_AGENT: &str = concat!("polyhook/", env!("CARGO_PKG_VERSION"));

/// Returns both halves of the access key, or `None` if neither is set.
fn key_pair(config: &ArchiveConfig) -> Result<Option<(&str, Secret)>, ArchiveError> {
    const KEY: &str = "secret_access_key";
    const FILE: &str = "secret_access_key_file";
    let secret = match (&config.secret_access_key, &config.secret_access_key_file) {
        (Some(_), Some(_)) => {
            return Err(invalid(FILE, "archive.secret_access_key is set, too; remove one of them"));
        }
        (Some(secret), None) => Some(secret.clone()),
        (None, Some(path)) => Some(
            Secret::read(path)
                .map_err(|error| invalid(FILE, format!("{} cannot be read: {error}", path.display())))?,
        ),
        (None, None) => None,
    };
    let key = if config.secret_access_key_file.is_some() { FILE } else { KEY };
    if let Some(problem) = secret.as_ref().and_then(Secret::password_problem) {
        return Err(invalid(key, format!("the key is wrong: {problem}")));
    }
    match (config.access_key_id.as_deref(), secret) {
        (None, None) => Ok(None),
        (Some(id), Some(secret)) if !id.is_empty() && !secret.is_empty() => Ok(Some((id, secret))),
        (id, _) => Err(invalid(
            if id.is_none_or(str::is_empty) { "access_key_id" } else { key },
            "archive.access_key_id and archive.secret_access_key (or its file) must be set together, and neither may be empty",
        )),
    }
}

fn no_folder() -> ArchiveError {
    invalid("url", "it does not name a folder of this machine; write file:FOLDER or file:///FOLDER")
}

/// Describes what is wrong with a key of `[archive]`.
fn invalid(key: &str, message: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Config(Problem::new(format!("archive.{key}"), message.to_string()))
}

fn problem_of(error: ArchiveError) -> Problem {
    match error {
        ArchiveError::Config(problem) => problem,
        error => Problem::new("archive.url", error.to_string()),
    }
}
