//! The active signing secrets, trigger tokens and console tokens, and their replacement while the process runs.
//!
//! Secrets from the configuration stay. Those of a file follow the file. [`ReloadedSecrets::reload`]
//! compares the file's content, not its times, so it works for a file that is edited, replaced, bind-mounted or behind
//! Kubernetes' symlinks. The new secrets replace the old ones in one step, so a delivery is verified with one set or
//! the other. If the file cannot be used, the previous secrets stay active and `/readyz` reports the condition
//! `secrets` (`trigger_tokens`, `console_tokens`) until the file can be used again.
//!
//! At most [`MAX_ACTIVE_SECRETS`] secrets are active. A receiver does not start with more, but a file may come to hold more
//! while it runs, for example by a rotation. Then the first ones are active, which include the newest, the condition
//! names the number, and a delivery that none of them matches is answered 503: PolyAI sends it again until a
//! person has removed the secrets that are no longer in use.
//!
//! Without any secret, which only a process that reconciles may be, every well-formed signature is answered 503: PolyAI
//! sends the delivery again until the secret of the endpoint is configured.

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    bearer::ActiveTokens,
    config::{OnMismatch, SignatureConfig, TriggerConfig},
    configured_secrets::ConfiguredSecrets,
    secrets_file::{MAX_RETRY_WINDOW, SecretsFile},
};
use crate::{
    bounded_file::ReloadedFile,
    clock::Clock,
    health::Health,
    secret::Secret,
    signature::{MAX_ACTIVE_SECRETS, Verifier},
};

/// A section of the configuration with secrets, of which those in a file are reloaded.
pub(crate) trait SecretsConfig: Clone + Debug {
    /// What requests are verified with.
    type Active: Debug;

    /// Returns the secrets and the file that holds more of them.
    fn configured(&self) -> (ConfiguredSecrets<'_>, Option<&PathBuf>);

    /// Prepares the verification of requests with the first [`MAX_ACTIVE_SECRETS`] of `valid`. `retry_window` is that of the
    /// file.
    fn activate(&self, valid: &[Secret], retry_window: Option<Timestamp>) -> Self::Active;
}

/// The secrets that requests are verified with, and the file that they are reloaded from.
#[derive(Debug)]
pub(crate) struct ReloadedSecrets<C: SecretsConfig> {
    config: C,
    file: Option<ReloadedFile>,
    clock: Clock,
    health: Health,
    active: RwLock<Arc<C::Active>>,
    /// The source of `active`. Locked during a reload, so that only one runs at a time.
    loaded: Mutex<LoadedSecrets>,
}

/// One set of signing secrets, ready to verify deliveries.
#[derive(Debug)]
pub(crate) struct ActiveSecrets {
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
    /// The end of the file's retry window, bounded from the time when it was first read.
    window: Option<Timestamp>,
}

impl SecretsConfig for SignatureConfig {
    type Active = ActiveSecrets;

    fn configured(&self) -> (ConfiguredSecrets<'_>, Option<&PathBuf>) {
        (self.configured_secrets(), self.secrets_file.as_ref())
    }

    fn activate(&self, valid: &[Secret], retry_window: Option<Timestamp>) -> ActiveSecrets {
        let active = valid.get(..MAX_ACTIVE_SECRETS).unwrap_or(valid);
        ActiveSecrets {
            verifier: Verifier::new(active, self.scheme, self.tolerance),
            on_mismatch: self.on_mismatch,
            retry_window,
            is_incomplete: active.is_empty() || active.len() < valid.len(),
        }
    }
}

impl SecretsConfig for TriggerConfig {
    type Active = ActiveTokens;

    fn configured(&self) -> (ConfiguredSecrets<'_>, Option<&PathBuf>) {
        (self.configured_tokens(), self.token_file.as_ref())
    }

    fn activate(&self, valid: &[Secret], _: Option<Timestamp>) -> ActiveTokens {
        ActiveTokens::new(valid.get(..MAX_ACTIVE_SECRETS).unwrap_or(valid))
    }
}

impl ActiveSecrets {
    /// Returns true if PolyAI should send a delivery again whose signature matches no secret.
    pub(super) fn requests_retry(&self, now: Timestamp) -> bool {
        // A window that ends much later was read while the clock was ahead.
        let is_open = |until: Timestamp| {
            now < until && until.duration_since(now).unsigned_abs() <= 2 * MAX_RETRY_WINDOW
        };
        self.is_incomplete || self.on_mismatch == OnMismatch::Retry || self.retry_window.is_some_and(is_open)
    }
}

impl<C: SecretsConfig> ReloadedSecrets<C> {
    /// Creates the set from what the configuration had at the start.
    pub(crate) fn new(config: &C, clock: Clock, health: Health) -> Self {
        let now = clock.now();
        let (configured, path) = config.configured();
        let (secrets, window) = (configured.valid(now), bounded_window(configured.file, now));
        Self {
            active: RwLock::new(Arc::new(config.activate(&secrets, window))),
            loaded: Mutex::new(LoadedSecrets { file: configured.file.clone(), secrets, window }),
            config: config.clone(),
            file: path.cloned().map(ReloadedFile::new),
            clock,
            health,
        }
    }

    /// Returns the section.
    pub(crate) fn config(&self) -> &C {
        &self.config
    }

    /// Returns what requests are verified with now.
    pub(crate) fn active(&self) -> Arc<C::Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again and drops secrets that have expired.
    pub(crate) async fn reload(&self) {
        let Some(file) = &self.file else { return };
        let mut loaded = self.loaded.lock().await;
        let (configured, _) = self.config.configured();
        let kind = configured.kind;
        match self.load(file, &loaded.file).await {
            Ok(new) => {
                if let Some(problem) = configured.too_many(new.secrets.len()) {
                    self.health.set_degraded(
                        kind.condition,
                        format!(
                            "{problem}. Until then only the first {MAX_ACTIVE_SECRETS} are active, those of {} and \
                             the newest of {}, and {}",
                            kind.key,
                            file.path().display(),
                            kind.excess
                        ),
                    );
                } else {
                    self.health.clear(kind.condition);
                }
                self.activate(&mut loaded, new);
            }
            Err(why) => self.health.set_degraded(
                kind.condition,
                format!(
                    "{}: {why}. The {}s that were read before remain active; {}, one per line, readable by this process",
                    file.path().display(),
                    kind.name,
                    kind.write
                ),
            ),
        }
    }

    async fn load(&self, file: &ReloadedFile, known: &SecretsFile) -> Result<LoadedSecrets, String> {
        let read = file.read_stable(known, SecretsFile::parse_text).await;
        let file = read.map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let configured = ConfiguredSecrets { file: &file, ..self.config.configured().0 };
        let secrets = configured.valid(now);
        if file.entries().next().is_none() {
            return Err("there is no secret in it".to_owned());
        }
        if secrets.is_empty() {
            return Err("every secret in it has expired".to_owned());
        }
        match configured.wrong_secret_problem() {
            Some(problem) => Err(problem),
            None => Ok(LoadedSecrets { window: bounded_window(&file, now), secrets, file }),
        }
    }

    fn activate(&self, loaded: &mut LoadedSecrets, mut new: LoadedSecrets) {
        if loaded.file.retry_window() == new.file.retry_window() {
            // The bound of the window counts from the first time the window was read.
            new.window = loaded.window;
            if loaded.secrets == new.secrets {
                loaded.file = new.file;
                return;
            }
        }
        let active = Arc::new(self.config.activate(&new.secrets, new.window));
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        let now = self.clock.now();
        tracing::info!(
            secrets = new.secrets.len(),
            expiring = new.file.entries().filter(|entry| entry.expires.is_some_and(|at| now < at)).count(),
            window_until = new.window.filter(|until| now < *until).map(tracing::field::display),
            "{}s reloaded",
            self.config.configured().0.kind.name
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
            SignatureConfig::default().activate(&secrets, Some(until)).requests_retry(now)
        };
        assert!(is_open(now + MAX_RETRY_WINDOW));
        assert!(!is_open(now));
        assert!(!is_open(now + 400 * MAX_RETRY_WINDOW));
    }
}
