//! The `[archive]` section: the place of the archive and its credentials.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::Secret;

/// `[archive]`
///
/// Settings that are absent are read from the usual environment variables of the store (`AWS_…`, `GOOGLE_…`,
/// `AZURE_…`), and then from the identity of the machine (instance profile, workload identity).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// `file:FOLDER` (relative to the working directory, or absolute), `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
    /// `az://CONTAINER/PREFIX`. The prefix is optional.
    pub url: String,
    /// Base URL of a store other than the provider's own: `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// S3: region of the bucket.
    pub region: Option<String>,
    /// S3: access key id. Azure: name of the storage account.
    pub access_key_id: Option<String>,
    /// S3: secret access key. Azure: key of the storage account.
    pub secret_access_key: Option<Secret>,
    /// File that contains `secret_access_key`.
    pub secret_access_key_file: Option<PathBuf>,
    /// Google: JSON file of the service account.
    pub service_account_file: Option<PathBuf>,
    /// Allows `http://` in `endpoint`, which sends conversations in clear text.
    pub allow_http: bool,
}

impl ArchiveConfig {
    /// Returns the folder of a `file:` archive, or `None` for a bucket.
    pub fn folder(&self) -> Option<PathBuf> {
        let path = self.url.strip_prefix("file:").filter(|path| !path.is_empty())?;
        if path.starts_with("//") {
            Url::parse(&self.url).ok()?.to_file_path().ok()
        } else {
            Some(path.into())
        }
    }
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            url: "file:polyhook-data/archive".to_owned(),
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            service_account_file: None,
            allow_http: false,
        }
    }
}
