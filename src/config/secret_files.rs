//! The secrets in files, and what surrounds the secrets in the configuration itself.

use std::{io, path::Path};

use super::Config;
use crate::{problem::Problem, queue::QueueUrls, secret::Secret, web::SecretsFile};

impl Config {
    /// Removes the white space and the quotes around every secret that the configuration itself contains.
    pub(super) fn unwrap_secrets(&mut self) {
        let urls = match &mut self.queue.url {
            QueueUrls::One(url) => std::slice::from_mut(url),
            QueueUrls::Many(urls) => urls.as_mut_slice(),
        };
        let keys = self
            .projects
            .iter_mut()
            .flat_map(|project| [Some(&mut project.api_key), project.data_api_key.as_mut()])
            .chain([
                self.archive.secret_access_key.as_mut(),
                self.index.numbers_key.as_mut(),
                self.trigger.token.as_mut(),
                self.console.token.as_mut(),
            ]);
        for secret in self.signature.secrets.iter_mut().chain(urls).chain(keys.flatten()) {
            *secret = Secret::unwrapped(secret.expose());
        }
    }

    /// Reads all files of secrets. Returns an error for each that cannot be used.
    pub(super) fn read_secret_files(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(path) = &self.signature.secrets_file {
            let secrets = read(path, "signature.secrets_file", &mut problems, SecretsFile::read);
            self.signature.file_secrets = secrets.unwrap_or_default();
        }
        if let Some(path) = self.trigger.token_file.as_ref().filter(|_| self.trigger.is_on()) {
            let tokens = read(path, "trigger.token_file", &mut problems, SecretsFile::read);
            self.trigger.file_tokens = tokens.unwrap_or_default();
        }
        if let Some(path) = &self.console.token_file {
            let tokens = read(path, "console.token_file", &mut problems, SecretsFile::read);
            self.console.file_tokens = tokens.unwrap_or_default();
        }
        if let Some(path) = &self.queue.url_file
            && let Some(urls) = read(path, "queue.url_file", &mut problems, read_urls)
        {
            self.queue.url = QueueUrls::Many(urls);
        }
        if let Some(path) = self.index.numbers_key_file.as_ref().filter(|_| self.index.hashes_numbers()) {
            self.index.numbers_key = read(path, "index.numbers_key_file", &mut problems, |path| {
                read_key(path, "it is empty; write a random key into it (`openssl rand -hex 32`)")
            });
        }
        for (index, project) in self.projects.iter_mut().enumerate() {
            let mut key = |name: &str, path: &Path| {
                read(path, format!("projects[{index}].{name}"), &mut problems, |path| {
                    read_key(path, "it is empty; write the API key into it")
                })
            };
            if let Some(path) = &project.api_key_file {
                project.api_key = key("api_key_file", path).unwrap_or_default();
            }
            if let Some(path) = &project.data_api_key_file {
                project.data_api_key = key("data_api_key_file", path);
            }
        }
        problems
    }
}

/// Reads a file that must contain one key.
fn read_key(path: &Path, is_empty: &'static str) -> io::Result<Secret> {
    let key = Secret::read(path)?;
    if key.is_empty() { Err(io::Error::other(is_empty)) } else { Ok(key) }
}

/// Reads a file that must contain at least one URL.
fn read_urls(path: &Path) -> io::Result<Vec<Secret>> {
    let urls = Secret::read_lines(path)?;
    if urls.is_empty() {
        Err(io::Error::other("it is empty; write the URL of the queue into it"))
    } else {
        Ok(urls)
    }
}

fn read<T>(
    path: &Path,
    key: impl Into<std::borrow::Cow<'static, str>>,
    problems: &mut Vec<Problem>,
    read: impl Fn(&Path) -> io::Result<T>,
) -> Option<T> {
    match read(path) {
        Ok(content) => Some(content),
        Err(error) => {
            let path = path.display();
            let unreadable = format!("{path}: cannot be read: {error}");
            problems.push(match error.kind() {
                io::ErrorKind::NotFound => {
                    Problem::new(key, unreadable).fix("create it, or correct the path")
                }
                io::ErrorKind::PermissionDenied => {
                    Problem::new(key, unreadable).fix("the user polyhook runs as must be allowed to read it")
                }
                _ => Problem::new(key, format!("{path}: {error}")),
            });
            None
        }
    }
}
