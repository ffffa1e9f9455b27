//! What a service does beside its work: every second, and at once on SIGHUP, it reads the files of its secrets and
//! keys again.
//!
//! Files are read and compared, not watched: a few hundred bytes a second cost nothing, and it is right wherever
//! they lie and however they are replaced. Nothing that is found here ends the process.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Config,
    health::Health,
    lifecycle::{HangupSignals, Lifecycle},
    polyai::PolyAiClient,
    web::Receiver,
};

/// How soon a changed file is noticed. `endpoint rotate-secret` waits longer than that.
const EVERY: Duration = Duration::from_secs(1);

/// Who has something to keep up with.
pub(super) struct Upkeep {
    pub(super) receiver: Option<Receiver>,
    polyai: Option<Arc<PolyAiClient>>,
    health: Health,
    /// Where there are no files, SIGHUP keeps the meaning it has.
    hangups: Option<HangupSignals>,
}

impl Upkeep {
    pub(super) fn of(config: &Config, polyai: Option<Arc<PolyAiClient>>, health: Health) -> Self {
        let keys =
            config.projects.iter().flat_map(|project| [&project.api_key_file, &project.data_api_key_file]);
        let files = keys.chain([&config.signature.secrets_file]).flatten().count();
        Self { receiver: None, polyai, health, hangups: (files > 0).then(HangupSignals::install) }
    }

    /// Goes on until the drain.
    pub(super) async fn run(mut self, lifecycle: Lifecycle) {
        let draining = lifecycle.draining();
        let refresh = async {
            loop {
                if let Some(receiver) = &self.receiver {
                    receiver.refresh().await;
                }
                if let Some(polyai) = &self.polyai {
                    polyai.reload_keys(&self.health).await;
                }
                let asked = async {
                    match &mut self.hangups {
                        Some(hangups) => hangups.next().await,
                        None => std::future::pending().await,
                    }
                };
                if tokio::time::timeout(EVERY, asked).await.is_ok() {
                    tracing::info!(signal = "SIGHUP", "reading secrets and keys again");
                }
            }
        };
        tokio::select! {
            () = draining.cancelled() => {}
            () = refresh => {}
        }
    }
}
