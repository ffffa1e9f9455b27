//! The `[archive]` section: the place of the archive and its credentials.

use std::{fmt, path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
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
    /// Folder: permission bits of its files, in octal. Folders can be entered by everybody who may read their files.
    #[schemars(with = "String")]
    pub file_mode: FileMode,
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
            file_mode: FileMode::default(),
            allow_http: false,
        }
    }
}

/// The permission bits of files, such as 0600: read and write for their owner, and nothing for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

/// The text is not a mode that files of the archive can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "write three octal digits in quotes, such as 0640: 6 for the owner, and 0, 4 or 6 for the group and for others"
)]
pub struct InvalidFileMode;

impl FileMode {
    /// Returns the bits of a file.
    pub fn file_bits(self) -> u32 {
        self.0
    }

    /// Returns the bits of a folder: whoever may read its files may also enter it.
    pub fn folder_bits(self) -> u32 {
        self.0 | (self.0 & 0o444) >> 2
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for FileMode {
    type Err = InvalidFileMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0o").unwrap_or(text).trim_start_matches('0');
        let valid = digits.len() == 3 && digits.starts_with('6');
        let valid = valid && digits[1..].bytes().all(|digit| matches!(digit, b'0' | b'4' | b'6'));
        let bits = u32::from_str_radix(digits, 8).ok().filter(|_| valid);
        bits.map(Self).ok_or(InvalidFileMode)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_octal_file_modes() {
        for (text, file, folder) in [
            ("0600", 0o600, 0o700),
            ("600", 0o600, 0o700),
            ("0o640", 0o640, 0o750),
            ("0660", 0o660, 0o770),
            ("0644", 0o644, 0o755),
            ("0604", 0o604, 0o705),
        ] {
            let mode: FileMode = text.parse().unwrap();
            assert_eq!((mode.file_bits(), mode.folder_bits()), (file, folder), "{text}");
        }
        // 416 is what TOML makes of the number 0o640.
        for text in ["", "0", "416", "0400", "0755", "0x1a4", "06400", "-600", "0662", "rw-r-----", "6é0"] {
            assert_eq!(text.parse::<FileMode>(), Err(InvalidFileMode), "{text}");
        }
        assert_eq!(FileMode::default().to_string(), "0600");
    }
}
