//! The object store behind the archive: it is built from `[archive]`, for the four kinds of URL. This module sets the
//! timeouts and hides the differences between a folder and a bucket.

use std::{sync::Arc, time::Duration};

use object_store::{
    Attribute, Attributes, BackoffConfig, ClientConfigKey, ObjectStore, PutMode, PutOptions, PutPayload,
    PutResult, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use super::{ArchiveConfig, ArchiveError, folder::PrivateFolder, is_conflict, staging};
use crate::{
    bounded_file,
    disk::{GrowingFile, SpaceUse},
    private_file,
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
    base: Url,
}

impl StoreBackend {
    /// Returns the error that [`StoreBackend::open`] would return, without creating a folder.
    pub(super) fn check(config: &ArchiveConfig) -> Result<(), ArchiveError> {
        match config.url.strip_prefix("file:") {
            Some(_) if config.folder().is_none() => Err(no_folder()),
            Some(_) => Ok(()),
            None => Self::open(config, Vec::new()).map(drop),
        }
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
            .map_err(|()| invalid(format!("{} has no URL", root.display())))?;
        Ok(Self {
            // For reading. Files are written by `staging.rs`, durably and with exact permissions.
            store: Arc::new(LocalFileSystem::new_with_prefix(&root)?),
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
    let url = Url::parse(&config.url).map_err(|error| {
        invalid(format!("`url` is not a URL ({error}); write file:FOLDER or s3://BUCKET"))
    })?;
    let Some(bucket) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err(invalid(format!("`url` does not name a bucket; write {}://BUCKET/PREFIX", url.scheme())));
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(invalid(
            "`url` may contain a bucket and a prefix only; set the keys in their own settings",
        ));
    }
    let prefix = Path::from_url_path(url.path().trim_end_matches('/'))
        .map_err(|error| invalid(format!("the prefix in `url` is not valid: {error}")))?;
    if let Some(endpoint) = &config.endpoint
        && !endpoint.starts_with("https://")
        && !(config.allow_http && endpoint.starts_with("http://"))
    {
        return Err(invalid("`endpoint` must be https://, or http:// with `allow_http = true`"));
    }
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" | "s3a" => Arc::new(s3(config, bucket, retry)?),
        "gs" => Arc::new(google(config, bucket, retry)?),
        "az" | "azure" => Arc::new(azure(config, bucket, retry)?),
        other => {
            return Err(invalid(format!("`url` begins with {other}:, which is not one of file, s3, gs, az")));
        }
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
        match path.canonicalize() {
            Ok(root) => {
                let store = Arc::new(LocalFileSystem::new_with_prefix(root)?);
                Ok(Some(Self { store, prefix: Path::ROOT }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ArchiveError::Folder { path, source }),
        }
    }
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
    builder.build().map_err(|error| invalid(error.to_string()))
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
    if let Some(path) = &config.service_account_file {
        let json = bounded_file::read_text_or_pipe(path).map_err(|error| {
            invalid(format!("`service_account_file` {} cannot be read: {error}", path.display()))
        })?;
        builder = builder.with_service_account_key(json.as_str());
    }
    builder.build().map_err(|error| invalid(error.to_string()))
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
    builder.build().map_err(|error| invalid(error.to_string()))
}

const USER_AGENT: &str = concat!("polyhook/", env!("CARGO_PKG_VERSION"));

/// Returns both halves of the access key, or `None` if neither is set.
fn key_pair(config: &ArchiveConfig) -> Result<Option<(&str, Secret)>, ArchiveError> {
    let secret = match (&config.secret_access_key, &config.secret_access_key_file) {
        (Some(_), Some(_)) => {
            return Err(invalid("`secret_access_key` and `secret_access_key_file` are both set"));
        }
        (Some(secret), None) => Some(secret.clone()),
        (None, Some(path)) => Some(Secret::read(path).map_err(|error| {
            invalid(format!("`secret_access_key_file` {} cannot be read: {error}", path.display()))
        })?),
        (None, None) => None,
    };
    if let Some(problem) = secret.as_ref().and_then(Secret::password_problem) {
        return Err(invalid(format!("`secret_access_key` is wrong: {problem}")));
    }
    match (config.access_key_id.as_deref(), secret) {
        (None, None) => Ok(None),
        (Some(id), Some(secret)) if !id.is_empty() && !secret.is_empty() => Ok(Some((id, secret))),
        _ => Err(invalid(
            "`access_key_id` and `secret_access_key` must be set together, and neither may be empty",
        )),
    }
}

fn no_folder() -> ArchiveError {
    invalid("`url` does not name a folder of this machine; write file:FOLDER or file:///FOLDER")
}

fn invalid(message: impl Into<String>) -> ArchiveError {
    ArchiveError::Config(message.into())
}
