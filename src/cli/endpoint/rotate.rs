//! `polyhook endpoint rotate-secret`: another signing secret, without losing a delivery.
//!
//! PolyAI forgets the old secret the moment it makes the new one, and from then until every receiver has read the
//! new one it signs what they cannot explain. So, in this order, and each step leaves a file that works:
//!
//! 1. A window is opened in the secrets file: receivers answer what they cannot explain 503, PolyAI tries again.
//! 2. Time passes until all of them have read that.
//! 3. PolyAI rotates.
//! 4. The new secret is put first into the file; the old ones expire when PolyAI's last retry is over, the
//!    window a few minutes from now.
//!
//! A kill before 3 costs nothing. One between 3 and 4 loses the new secret but no delivery, as long as the
//! command is run again before the window of step 1 is over.

use std::{io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    super::{CliError, GlobalArgs, output, time_arg},
    WINDOW_AFTER, after, failed, find, project, safe,
    store::Store,
    webhooks,
};
use crate::{
    clock::Clock,
    polyai::Endpoint,
    secret::Secret,
    web::{MAX_RETRY_WINDOW, RotationSummary, SecretsFile},
};

/// Give an endpoint another signing secret, without losing a delivery.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint rotate-secret
  polyhook endpoint rotate-secret whe_9ZtRcXw3 --project acme-front-desk --json

It writes the new secret where the receivers read it (mode 0600) and lets them ask PolyAI again for what comes in
between. Run it as the user who owns that file. After a kill, run it again.")]
pub(in crate::cli) struct Args {
    /// The endpoint (whe_…); the account's only one where absent
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: Option<String>,
    /// The project whose key and account to use; the only configured one where absent
    #[arg(long, value_name = "PROJECT_ID", alias = "project-id")]
    project: Option<String>,
    /// The file to write, instead of the configured one
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
    /// How long the old secrets stay valid; PolyAI's last retry is 5.5 h after a delivery
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = time_arg::parse_duration)]
    keep_old: Duration,
    /// How long a change of the file takes to reach every receiver (more on a network file system)
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = time_arg::parse_duration)]
    wait: Duration,
    /// Print the new secret too
    #[arg(long)]
    show_secret: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Serialize)]
struct Done<'a> {
    endpoint_id: &'a str,
    endpoint_url: &'a str,
    secrets_file: String,
    written: &'static str,
    window_until: Timestamp,
    old_until: Timestamp,
    old_secrets: usize,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<&'a str>,
}

pub(super) async fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    let config = global.load_with_optional_secrets_file()?;
    let clock = Clock::System;
    let path = safe::path(args.secrets_file.as_deref(), &config)?;
    let project = project(&config, args.project.as_deref())?;
    let webhooks = webhooks(&config, project)?;
    let endpoints = webhooks.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, args.endpoint.as_deref())?;
    // Another account's endpoints may sign for the same receivers.
    let one_account = config.projects.iter().all(|other| other.account_id == project.account_id);

    let rotation = Rotation { args, endpoint, only: one_account && endpoints.len() == 1, clock };
    let unreadable =
        |error: io::Error| CliError::Failed(format!("{}: {error}. Nothing was rotated", path.display()));
    let store = Store::open(path).map_err(unreadable)?;
    // A new file begins as what the receivers have now.
    let before = store.read().map_err(unreadable)?.unwrap_or_else(|| config.signature.file_secrets.clone());
    let mode = store.mode();

    let open = rotation.open_window(&store, &before)?;
    tokio::time::sleep(args.wait).await;
    let secret = match webhooks.rotate_secret(endpoint).await {
        Ok(secret) => secret,
        Err(error) if error.is_certain() => {
            // What cannot be taken back ends by itself.
            let _ = store.write(&before);
            return Err(CliError::Failed(format!("{error}. Nothing was rotated")));
        }
        Err(error) => {
            return Err(CliError::Failed(format!(
                "{error}. PolyAI may have rotated the secret all the same, so receivers ask again for what they cannot \
                 verify until {open}: run this command again before then"
            )));
        }
    };
    let mut done = rotation.keep(&store, &before, &secret)?;
    done.notes.extend(safe::mode_note(mode, store.mode()));
    if !config.signature.secrets.is_empty() {
        done.notes.push(
            "secrets given in the configuration itself (signature.secrets, POLYAI_WEBHOOK_SECRET) stay valid: remove \
             them if one of them was the old one"
                .to_owned(),
        );
    }
    done.notes.extend(safe::link_note(path));
    show(&done, args.json);
    Ok(())
}

/// One rotation's decisions.
struct Rotation<'a> {
    args: &'a Args,
    endpoint: &'a Endpoint,
    /// Whether every secret that names no endpoint must be this one's.
    only: bool,
    clock: Clock,
}

impl<'a> Rotation<'a> {
    /// Step 1, which also finds out whether the file can be written at all. Should this be the last step, the
    /// window has to be open until somebody is back.
    fn open_window(&self, store: &Store, before: &SecretsFile) -> Result<Timestamp, CliError> {
        let until =
            after(&self.clock, self.args.keep_old.max(WINDOW_AFTER + self.args.wait).min(MAX_RETRY_WINDOW));
        let mut file = before.clone();
        file.set_retry_window(Some(until));
        store.write(&file).map(|_| until).map_err(|error| {
            CliError::Failed(format!(
                "{}: {error}. Nothing was rotated, because the new secret could not be put where receivers read it. If \
                 this is a Kubernetes Secret or another mount that is read-only: set signature.on_mismatch = \"retry\" on \
                 the receivers, rotate with --secrets-file FILE, put FILE's content into the Secret, and set on_mismatch \
                 back",
                store.path().display()
            ))
        })
    }

    /// Step 4. The secret is in nobody else's hands, so it must not be lost here.
    fn keep(&self, store: &Store, before: &SecretsFile, secret: &'a Secret) -> Result<Done<'a>, CliError> {
        if !SecretsFile::can_store(secret) {
            let odd = io::Error::new(
                io::ErrorKind::InvalidData,
                "this secret is not one line of 16 characters or more",
            );
            return Err(self.rescue(store, secret, &odd));
        }
        let now = self.clock.now();
        let old_until = after(&self.clock, self.args.keep_old);
        let window_until = after(&self.clock, WINDOW_AFTER + self.args.wait);
        // Somebody may have edited it meanwhile; if it is gone, what was there before will do.
        let mut file = store.read().ok().flatten().unwrap_or_else(|| before.clone());
        let RotationSummary { expiring, unmarked } =
            file.rotate(&self.endpoint.id, secret.clone(), self.only, old_until, now);
        file.set_retry_window(Some(window_until));
        let written = store.write(&file).map_err(|error| self.rescue(store, secret, &error))?;
        let mut notes = Vec::new();
        if unmarked > 0 {
            notes.push(format!(
                "{unmarked} older secrets have no `# polyhook:endpoint=` line, and there are other endpoints they may \
                 belong to, so they stay valid: delete this endpoint's after {old_until}"
            ));
        }
        notes.extend(safe::written_note(written));
        Ok(Done {
            endpoint_id: &self.endpoint.id,
            endpoint_url: &self.endpoint.url,
            secrets_file: store.path().display().to_string(),
            written: written.label(),
            window_until,
            old_until,
            old_secrets: expiring,
            notes,
            signing_secret: self.args.show_secret.then(|| secret.expose()),
        })
    }

    fn rescue(&self, store: &Store, secret: &Secret, error: &io::Error) -> CliError {
        let place = safe::rescue(store, &self.endpoint.id, secret);
        CliError::Failed(format!(
            "{}: {error}. PolyAI has rotated the secret of {}, but the new one could not be written there. {place}: put it \
             into that file as its first line at once; receivers know no other way to verify deliveries",
            store.path().display(),
            self.endpoint.id
        ))
    }
}

fn show(done: &Done<'_>, json: bool) {
    if json {
        output::json(done);
        return;
    }
    let Done { endpoint_id, endpoint_url, secrets_file, window_until, old_until, old_secrets, .. } = done;
    output::line(format!("{} {endpoint_id} ({endpoint_url})", output::green("rotated")));
    output::line(format!(
        "  the new secret is the first in {secrets_file}; receivers read it within seconds"
    ));
    output::line(format!("  old secrets: {old_secrets}, valid until {old_until}"));
    output::line(format!("  what no secret explains is asked for again (503) until {window_until}"));
    for note in &done.notes {
        output::line(format!("  note: {note}"));
    }
    if let Some(secret) = done.signing_secret {
        output::line(secret);
    }
}
