//! The signing secrets in force, and how they change while the receiver runs.
//!
//! Secrets given in the configuration stay; those of `signature.secrets_file` follow the file. [`Secrets::reload`]
//! compares its content, not its times, so it is right for a file that is edited, replaced, bind-mounted or
//! behind Kubernetes' symlinks. What was read takes the place of what was before in one step: a delivery is
//! verified with one set or the other. A file that cannot be used changes nothing, and `/readyz` says so until it
//! can be used again.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    config::{OnMismatch, SignatureConfig},
    secrets_file::{MAX_RETRY_WINDOW, SecretsFile},
};
use crate::{
    clock::Clock,
    health::Health,
    secret::{Secret, read_stable},
    signature::Verifier,
};

const CONDITION: &str = "secrets";

/// What deliveries are verified with.
#[derive(Debug)]
pub(super) struct Secrets {
    config: SignatureConfig,
    clock: Clock,
    health: Health,
    in_force: RwLock<Arc<ActiveSecrets>>,
    /// What `in_force` was made of; held during a reload, so that there is one at a time.
    made_of: Mutex<LoadedSecrets>,
}

/// One set of secrets, as a delivery meets it.
#[derive(Debug)]
pub(super) struct ActiveSecrets {
    pub(super) verifier: Verifier,
    on_mismatch: OnMismatch,
    window: Option<Timestamp>,
}

#[derive(Debug)]
struct LoadedSecrets {
    file: SecretsFile,
    secrets: Vec<Secret>,
}

impl ActiveSecrets {
    /// Whether PolyAI shall send again what no secret explains.
    pub(super) fn asks_again(&self, now: Timestamp) -> bool {
        self.on_mismatch == OnMismatch::Retry || self.window.is_some_and(|until| now < until)
    }
}

impl Secrets {
    pub(super) fn new(config: &SignatureConfig, clock: Clock, health: Health) -> Self {
        let now = clock.now();
        let secrets = config.valid(now);
        let in_force = RwLock::new(Arc::new(in_force(config, &secrets, window(&config.file_secrets, now))));
        let made_of = Mutex::new(LoadedSecrets { file: config.file_secrets.clone(), secrets });
        Self { config: config.clone(), clock, health, in_force, made_of }
    }

    pub(super) fn in_force(&self) -> Arc<ActiveSecrets> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again and lets go of what has expired.
    pub(super) async fn reload(&self) {
        let Some(path) = &self.config.secrets_file else { return };
        let mut made_of = self.made_of.lock().await;
        match self.read(path, &made_of.file).await {
            Ok(new) => {
                self.health.clear(CONDITION);
                self.put_in_force(&mut made_of, new);
            }
            Err(why) => self.health.set_degraded(
                CONDITION,
                format!(
                    "{}: {why}. The signing secrets read before stay in force; put the endpoint's signing_secret \
                     there, one a line, readable by this process",
                    path.display()
                ),
            ),
        }
    }

    async fn read(&self, path: &Path, known: &SecretsFile) -> Result<LoadedSecrets, String> {
        let file = read_stable(path, known, SecretsFile::read).await.map_err(|error| error.to_string())?;
        let config = SignatureConfig { file_secrets: file, ..self.config.clone() };
        let secrets = config.valid(self.clock.now());
        if config.file_secrets.entries().next().is_none() {
            return Err("there is no secret in it".to_owned());
        }
        if secrets.is_empty() {
            return Err("every secret in it has expired".to_owned());
        }
        match config.short_secret() {
            Some(problem) => Err(problem),
            None => Ok(LoadedSecrets { file: config.file_secrets, secrets }),
        }
    }

    fn put_in_force(&self, made_of: &mut LoadedSecrets, new: LoadedSecrets) {
        let now = self.clock.now();
        let same_window = made_of.file.retry_window() == new.file.retry_window();
        if same_window && made_of.secrets == new.secrets {
            made_of.file = new.file;
            return;
        }
        // Its longest is counted from when it was first read.
        let window = if same_window { self.in_force().window } else { window(&new.file, now) };
        let next = Arc::new(in_force(&self.config, &new.secrets, window));
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = next;
        tracing::info!(
            secrets = new.secrets.len(),
            expiring = new.file.entries().filter(|entry| entry.expires.is_some_and(|at| now < at)).count(),
            window_until = window.filter(|until| now < *until).map(tracing::field::display),
            "signing secrets reloaded"
        );
        *made_of = new;
    }
}

fn in_force(config: &SignatureConfig, secrets: &[Secret], window: Option<Timestamp>) -> ActiveSecrets {
    let verifier = Verifier::new(secrets, config.scheme, config.tolerance);
    ActiveSecrets { verifier, on_mismatch: config.on_mismatch, window }
}

fn window(file: &SecretsFile, now: Timestamp) -> Option<Timestamp> {
    file.retry_window().map(|until| until.min(now.checked_add(MAX_RETRY_WINDOW).unwrap_or(Timestamp::MAX)))
}
