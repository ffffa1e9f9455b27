//! Reads the files of signing secrets, of the tokens of trigger and console, and of API keys again, every second and at once on SIGHUP.
//!
//! The files are read and compared, not watched: reading a few hundred bytes per second costs nothing, and it works
//! wherever the files are stored and however they are replaced. An unusable file opens a condition of
//! [`Health`]; it never ends the process.

use std::{sync::Arc, time::Duration};

use super::Context;
use crate::{
    console::ConsoleService,
    health::Health,
    lifecycle::{HangupSignals, Lifecycle},
    polyai::PolyAiClient,
    web::Receiver,
};

/// Time after which a changed file is noticed. `endpoint rotate-secret` waits longer than that.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The users of secrets that can change.
pub(super) struct SecretReloader {
    receiver: Option<Receiver>,
    console: Option<ConsoleService>,
    polyai: Option<Arc<PolyAiClient>>,
    health: Health,
    /// None if the configuration names no files.
    hangups: Option<HangupSignals>,
}

impl SecretReloader {
    pub(super) fn new(
        context: &Context<'_>,
        receiver: Option<Receiver>,
        console: Option<ConsoleService>,
        polyai: Option<Arc<PolyAiClient>>,
    ) -> Self {
        let config = context.config;
        let keys =
            config.projects.iter().flat_map(|project| [&project.api_key_file, &project.data_api_key_file]);
        let secrets =
            [&config.signature.secrets_file, &config.trigger.token_file, &config.console.token_file];
        let files = keys.chain(secrets).flatten().count();
        let hangups = (files > 0).then(HangupSignals::install);
        Self { receiver, console, polyai, health: context.health.clone(), hangups }
    }

    pub(super) fn start(self, context: &Context<'_>) {
        context.lifecycle.spawn_service("secret_reloader", self.run(context.lifecycle.clone()));
    }

    /// Reloads until the drain.
    async fn run(mut self, lifecycle: Lifecycle) {
        let draining = lifecycle.draining();
        let reload = async {
            loop {
                let secrets = async {
                    if let Some(receiver) = &self.receiver {
                        receiver.refresh().await;
                    }
                };
                let keys = async {
                    if let Some(polyai) = &self.polyai {
                        polyai.reload_keys(&self.health).await;
                    }
                };
                let tokens = async {
                    if let Some(console) = &self.console {
                        console.refresh().await;
                    }
                };
                // At the same time, because the files of one may hang for a while.
                tokio::join!(secrets, tokens, keys);
                let hangup = async {
                    match &mut self.hangups {
                        Some(hangups) => hangups.next().await,
                        None => std::future::pending().await,
                    }
                };
                if tokio::time::timeout(RELOAD_INTERVAL, hangup).await.is_ok() {
                    tracing::info!(signal = "SIGHUP", "reading secrets and keys again");
                }
            }
        };
        tokio::select! {
            () = draining.cancelled() => {}
            () = reload => {}
        }
    }
}
