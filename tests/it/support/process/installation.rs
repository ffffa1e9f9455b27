//! A configured installation of polyhook in a temporary folder.

use std::path::{Path, PathBuf};

use super::{PolyhookCommand, SimulatorAccess};

/// A service's configuration and its folder.
#[derive(Debug)]
pub(crate) struct Installation {
    folder: tempfile::TempDir,
    /// The secret that signs deliveries.
    pub(crate) secret: String,
}

impl Installation {
    /// Creates an installation on ports that the system chooses. The archive and the queue are files, and
    /// reconciliation is off. `more` is TOML that is merged on top, at most one section of each name.
    pub(crate) fn new(polyai: &SimulatorAccess, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let SimulatorAccess { url, account_id, project_id, api_key, secret, .. } = polyai;
        let mut config: toml::Table = toml::from_str(&format!(
            r#"
            server.listen = "127.0.0.1:0"
            admin.listen = "127.0.0.1:0"
            signature.secrets_file = "secrets"
            polyai = {{ base_url = "{url}", platform_url = "{url}", max_requests_per_second = 1000000 }}
            retry.delays = ["1s", "1s", "2s", "4s", "4s"]
            reconcile.every = "0s"
            [[projects]]
            account_id = "{account_id}"
            project_id = "{project_id}"
            api_key_file = "key"
            "#
        ))
        .unwrap();
        for (section, keys) in toml::from_str::<toml::Table>(more).unwrap() {
            match (config.get_mut(&section), keys) {
                (Some(toml::Value::Table(known)), toml::Value::Table(keys)) => known.extend(keys),
                (_, keys) => drop(config.insert(section, keys)),
            }
        }
        let installation = Self { folder, secret: secret.clone() };
        installation.write("polyhook.toml", &config.to_string());
        installation.write("secrets", &format!("# the previous secret\nan-older-secret-of-ours\n{secret}\n"));
        installation.write("key", api_key);
        installation
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Prepares a call of the program with this configuration.
    pub(crate) fn polyhook<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> PolyhookCommand {
        let config = ["--config", "polyhook.toml"];
        PolyhookCommand::new(self.path(), arguments.into_iter().chain(config)).must_not_print(&self.secret)
    }

    /// Returns the archive's folder. Only for an installation that archives into files.
    pub(crate) fn archive(&self) -> PathBuf {
        self.path().join("polyhook-data/archive")
    }

    /// Returns the manifests in the archive.
    pub(crate) fn manifests(&self) -> Vec<PathBuf> {
        manifests(&self.archive())
    }
}

/// Returns all manifests below a folder, sorted.
pub(crate) fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.map(Result::unwrap) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ if entry.file_name() == "manifest.json" => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
