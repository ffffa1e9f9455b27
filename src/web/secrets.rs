//! The active signing secrets, and their replacement while the receiver runs.
//!
//! Secrets from the configuration stay. Those of `signature.secrets_file` follow the file. [`SigningSecrets::reload`]
//! compares the file's content, not its times, so it works for a file that is edited, replaced, bind-mounted or behind
//! Kubernetes' symlinks. The new secrets replace the old ones in one step, so a delivery is verified with one set or
//! the other. If the file cannot be used, the previous secrets stay active and `/readyz` reports the condition
//! `secrets` until the file can be used again.
//!
//! At most [`MAX_ACTIVE_SECRETS`] secrets are active. A receiver does not start with more, but a file may come to hold more
//! while it runs, for example by a rotation. Then the first ones are active, which include the newest, the condition
//! `secrets` names the number, and a delivery that none of them matches is answered 503: PolyAI sends it again until a
//! person has removed the secrets that are no longer in use.
//!
//! Without any secret, which only a process that reconciles may be, every well-formed signature is answered 503: PolyAI
//! sends the delivery again until the secret of the endpoint is configured.

use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    config::{OnMismatch, SignatureConfig, too_many},
    secrets_file::{MAX_RETRY_WINDOW, SecretsFile},
};
use crate::{
    bounded_file::ReloadedFile,
    clock::Clock,
    health::Health,
    secret::Secret,
    signature::{MAX_ACTIVE_SECRETS, Scheme, Verifier},
};

const CONDITION: &str = "secrets";

/// The secrets that deliveries are verified with, and the file that they are reloaded from.
#[derive(Debug)]
pub(super) struct SigningSecrets {
    config: SignatureConfig,
    file: Option<ReloadedFile>,
    clock: Clock,
    health: Health,
    active: RwLock<Arc<ActiveSecrets>>,
    /// The source of `active`. Locked during a reload, so that only one runs at a time.
    loaded: Mutex<LoadedSecrets>,
}

/// One set of secrets, ready to verify deliveries.
#[derive(Debug)]
pub(super) struct ActiveSecrets {
    pub(super) verifier: Verifier,
    on_mismatch: OnMismatch,
    retry_window: Option<Timestamp>,
    /// True if there is no secret, or if there are more than may be active.
    is_incomplete: bool,
}

#[derive(Debug)]
struct LoadedSecrets {
    file: SecretsFile,
    secrets: Vec<Secret>,
}

impl ActiveSecrets {
    fn new(config: &SignatureConfig, secrets: &[Secret], retry_window: Option<Timestamp>) -> Self {
        let active = secrets.get(..MAX_ACTIVE_SECRETS).unwrap_or(secrets);
        Self {
            verifier: Verifier::new(active, config.scheme, config.tolerance),
            on_mismatch: config.on_mismatch,
            retry_window,
            is_incomplete: active.is_empty() || active.len() < secrets.len(),
        }
    }

    /// Returns true if PolyAI should send a delivery again whose signature matches no secret.
    pub(super) fn requests_retry(&self, now: Timestamp) -> bool {
        // A window that ends much later was read while the clock was ahead.
        let is_open = |until: Timestamp| {
            now < until && until.duration_since(now).unsigned_abs() <= 2 * MAX_RETRY_WINDOW
        };
        self.is_incomplete || self.on_mismatch == OnMismatch::Retry || self.retry_window.is_some_and(is_open)
    }
}

impl SigningSecrets {
    pub(super) fn new(config: &SignatureConfig, clock: Clock, health: Health) -> Self {
        let now = clock.now();
        let secrets = config.valid(now);
        let active = ActiveSecrets::new(config, &secrets, bounded_window(&config.file_secrets, now));
        Self {
            active: RwLock::new(Arc::new(active)),
            loaded: Mutex::new(LoadedSecrets { file: config.file_secrets.clone(), secrets }),
            config: config.clone(),
            file: config.secrets_file.clone().map(ReloadedFile::new),
            clock,
            health,
        }
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.config.scheme
    }

    pub(super) fn active(&self) -> Arc<ActiveSecrets> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again and drops secrets that have expired.
    pub(super) async fn reload(&self) {
        let Some(file) = &self.file else { return };
        let mut loaded = self.loaded.lock().await;
        match self.load(file, &loaded.file).await {
            Ok(new) => {
                let count = new.secrets.len();
                if count > MAX_ACTIVE_SECRETS {
                    self.health.set_degraded(
                        CONDITION,
                        format!(
                            "{}. Until then only the first {MAX_ACTIVE_SECRETS} are active, those of signature.secrets and \
                             the newest of {}, and other deliveries are answered 503, so that PolyAI sends them again",
                            too_many(count),
                            file.path().display()
                        ),
                    );
                } else {
                    self.health.clear(CONDITION);
                }
                self.activate(&mut loaded, new);
            }
            Err(why) => self.health.set_degraded(
                CONDITION,
                format!(
                    "{}: {why}. The signing secrets that were read before remain active; write the endpoint's \
                     signing_secret into the file, one per line, readable by this process",
                    file.path().display()
                ),
            ),
        }
    }

    async fn load(&self, file: &ReloadedFile, known: &SecretsFile) -> Result<LoadedSecrets, String> {
        let read = file.read_stable(known, SecretsFile::parse_text).await;
        let file = read.map_err(|error| error.to_string())?;
        let config = SignatureConfig { file_secrets: file, ..self.config.clone() };
        let secrets = config.valid(self.clock.now());
        if config.file_secrets.entries().next().is_none() {
            return Err("there is no secret in it".to_owned());
        }
        if secrets.is_empty() {
            return Err("every secret in it has expired".to_owned());
        }
        match config.wrong_secret_problem() {
            Some(problem) => Err(problem),
            None => Ok(LoadedSecrets { file: config.file_secrets, secrets }),
        }
    }

    fn activate(&self, loaded: &mut LoadedSecrets, new: LoadedSecrets) {
        let now = self.clock.now();
        let same_window = loaded.file.retry_window() == new.file.retry_window();
        if same_window && loaded.secrets == new.secrets {
            loaded.file = new.file;
            return;
        }
        // The bound of the window counts from the first time the window was read, so an unchanged one is kept.
        let window = if same_window { self.active().retry_window } else { bounded_window(&new.file, now) };
        let active = Arc::new(ActiveSecrets::new(&self.config, &new.secrets, window));
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        tracing::info!(
            secrets = new.secrets.len(),
            expiring = new.file.entries().filter(|entry| entry.expires.is_some_and(|at| now < at)).count(),
            window_until = window.filter(|until| now < *until).map(tracing::field::display),
            "signing secrets reloaded"
        );
        *loaded = new;
    }
}

/// Returns the end of the file's retry window, at most [`MAX_RETRY_WINDOW`] from now.
fn bounded_window(file: &SecretsFile, now: Timestamp) -> Option<Timestamp> {
    file.retry_window().map(|until| until.min(now.checked_add(MAX_RETRY_WINDOW).unwrap_or(Timestamp::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_window_does_not_last_until_a_clock_that_was_ahead() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let is_open = |until: Timestamp| {
            let secrets = [Secret::new("0123456789abcdef")];
            ActiveSecrets::new(&SignatureConfig::default(), &secrets, Some(until)).requests_retry(now)
        };
        assert!(is_open(now + MAX_RETRY_WINDOW));
        assert!(!is_open(now));
        assert!(!is_open(now + 400 * MAX_RETRY_WINDOW));
    }
}
