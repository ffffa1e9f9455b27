//! `[archive]`: where conversations are kept, and how to get in.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::Secret;

/// `[archive]`
///
/// What is not set here is taken from the store's usual environment variables (`AWS_…`, `GOOGLE_…`,
/// `AZURE_…`), and then from the machine's own identity (instance profile, workload identity).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// `file:FOLDER` (a relative one starts at the working directory), `s3://BUCKET/PREFIX`,
    /// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. The prefix may be left out.
    pub url: String,
    /// Base URL of a store that is not the provider's own: `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// S3: the bucket's region.
    pub region: Option<String>,
    /// S3: the access key's id. Azure: the storage account's name.
    pub access_key_id: Option<String>,
    /// S3: the secret access key. Azure: the storage account's key.
    pub secret_access_key: Option<Secret>,
    /// A file that holds `secret_access_key`.
    pub secret_access_key_file: Option<PathBuf>,
    /// Google: the JSON file of the service account.
    pub service_account_file: Option<PathBuf>,
    /// Allows `endpoint` to be `http://`, which carries conversations in clear text.
    pub allow_http: bool,
}

impl ArchiveConfig {
    /// The folder, where the archive is one.
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
