//! `polyhook endpoint rotate-secret`: replaces a signing secret without losing a delivery.
//!
//! PolyAI stops using the old secret when it creates the new one. Until every receiver has read the new secret, PolyAI
//! signs deliveries that receivers cannot verify. So the command works in this order, and each step leaves a valid file:
//!
//! 1. It opens a retry window in the secrets file: receivers answer 503 to a delivery that no secret verifies, and PolyAI
//!    sends it again.
//! 2. It waits until all receivers have read the window.
//! 3. PolyAI rotates the secret.
//! 4. It writes the new secret as the first one of the file. The old secrets expire after PolyAI's last retry, the window
//!    a few minutes later.
//!
//! A kill before step 3 has no effect. A kill between steps 3 and 4 loses the new secret, but no delivery if the command
//! runs again before the window of step 1 ends.

use std::{io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    super::{CliError, GlobalArgs, output, time_arg},
    RETRY_WINDOW, after, failed, find,
    locked_secrets_file::LockedSecretsFile,
    new_secret, project, webhooks,
};
use crate::{
    clock::Clock,
    config::Config,
    polyai::Endpoint,
    secret::Secret,
    web::{MAX_RETRY_WINDOW, RotationSummary, SecretsFile},
};

/// Replace an endpoint's signing secret without losing a delivery.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint rotate-secret
  polyhook endpoint rotate-secret whe_9ZtRcXw3 --project acme-front-desk --json

Writes the new secret to the receivers' secrets file (mode 0600). Receivers answer 503 to deliveries that they cannot \
verify in the meantime, and PolyAI sends them again. Run it as the owner of the file. After a kill, run it again.")]
pub(in crate::cli) struct Args {
    /// Endpoint (whe_…) [default: the only endpoint of the account]
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: Option<String>,
    /// Project whose key and account to use [default: the only configured project]
    #[arg(long, value_name = "PROJECT_ID", alias = "project-id")]
    project: Option<String>,
    /// Secrets file to write [default: the configured one]
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
    /// Time that the old secrets stay valid; PolyAI's last retry is 5.5 h after a delivery
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = time_arg::parse_duration)]
    keep_old: Duration,
    /// Time until every receiver has read a change of the file; more on a network file system
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = time_arg::parse_duration)]
    wait: Duration,
    /// Print the new secret as well
    #[arg(long)]
    show_secret: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The result of the command.
#[derive(Serialize)]
struct RotationReport<'a> {
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
    let path = new_secret::path(args.secrets_file.as_deref(), &config)?;
    let project = project(&config, args.project.as_deref())?;
    let webhooks = webhooks(&config, project)?;
    let endpoints = webhooks.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, args.endpoint.as_deref())?;
    // Endpoints of other accounts may deliver to the same receivers.
    let one_account = config.projects.iter().all(|other| other.account_id == project.account_id);

    let rotation = Rotation { args, endpoint, is_only_endpoint: one_account && endpoints.len() == 1, clock };
    let unreadable =
        |error: io::Error| CliError::Failed(format!("{}: {error}. Nothing was rotated", path.display()));
    let locked_file = LockedSecretsFile::open(path).map_err(unreadable)?;
    // A new file starts with the secrets that receivers have now.
    let before =
        locked_file.read().map_err(unreadable)?.unwrap_or_else(|| config.signature.file_secrets.clone());
    let mode = locked_file.mode();

    rotation.check_count(&config, &before).map_err(|why| {
        CliError::Failed(format!(
            "{}: {why}; with --keep-old 0s the old secrets of this endpoint do not count. Nothing was rotated",
            path.display()
        ))
    })?;
    let window_end = rotation.open_window(&locked_file, &before)?;
    tokio::time::sleep(args.wait).await;
    let secret = match webhooks.rotate_secret(endpoint).await {
        Ok(secret) => secret,
        Err(error) if error.is_certain() => {
            // If this fails, the window ends by itself.
            let _ = locked_file.write(&before);
            return Err(CliError::Failed(format!("{error}. Nothing was rotated")));
        }
        Err(error) => {
            return Err(CliError::Failed(format!(
                "{error}. PolyAI may have rotated the secret anyway, so receivers answer 503 to deliveries that they cannot verify \
                 until {window_end}: run this command again before then"
            )));
        }
    };
    let mut report = rotation.write_secret(&locked_file, &before, &secret)?;
    report.notes.extend(new_secret::mode_note(mode, locked_file.mode()));
    if !config.signature.secrets.is_empty() {
        report.notes.push(
            "secrets in the configuration itself (signature.secrets, POLYAI_WEBHOOK_SECRET) stay valid: remove the old \
             secret there"
                .to_owned(),
        );
    }
    report.notes.extend(new_secret::link_note(path));
    show(&report, args.json);
    Ok(())
}

/// The steps of a rotation that change the secrets file.
struct Rotation<'a> {
    args: &'a Args,
    endpoint: &'a Endpoint,
    /// True if there is no other endpoint, so that secrets without an endpoint belong to this one.
    is_only_endpoint: bool,
    clock: Clock,
}

impl<'a> Rotation<'a> {
    /// Checks that the rotation leaves no more secrets than receivers use. Afterwards it would be too late.
    fn check_count(&self, config: &Config, before: &SecretsFile) -> Result<(), String> {
        let (now, old_until) = (self.clock.now(), after(&self.clock, self.args.keep_old));
        let mut file = before.clone();
        let future = Secret::new(new_secret::FUTURE_SECRET);
        file.rotate(&self.endpoint.id, future, self.is_only_endpoint, old_until, now);
        new_secret::check_count(config, file, now)
    }

    /// Step 1. It also checks that the file can be written. If the process is killed after it, the window must stay open
    /// until an operator runs the command again.
    fn open_window(
        &self,
        locked_file: &LockedSecretsFile,
        before: &SecretsFile,
    ) -> Result<Timestamp, CliError> {
        let until =
            after(&self.clock, self.args.keep_old.max(RETRY_WINDOW + self.args.wait).min(MAX_RETRY_WINDOW));
        let mut file = before.clone();
        file.set_retry_window(Some(until));
        locked_file.write(&file).map(|_| until).map_err(|error| {
            CliError::Failed(format!(
                "{}: {error}. Nothing was rotated, because the receivers' secrets file cannot be written. If it is a \
                 Kubernetes Secret or another read-only mount, set signature.on_mismatch = \"retry\" on the receivers, \
                 rotate with --secrets-file FILE, copy FILE into the Secret, and reset on_mismatch",
                locked_file.path().display()
            ))
        })
    }

    /// Step 4. The secret exists only here, so it must not be lost.
    fn write_secret(
        &self,
        locked_file: &LockedSecretsFile,
        before: &SecretsFile,
        secret: &'a Secret,
    ) -> Result<RotationReport<'a>, CliError> {
        if !SecretsFile::can_store(secret) {
            let invalid = io::Error::new(
                io::ErrorKind::InvalidData,
                "this secret is not one line of 16 characters or more",
            );
            return Err(self.rescue(locked_file, secret, &invalid));
        }
        let now = self.clock.now();
        let old_until = after(&self.clock, self.args.keep_old);
        let window_until = after(&self.clock, RETRY_WINDOW + self.args.wait);
        // The file may have changed since step 1. If it was deleted, the earlier content is the best one.
        let mut file = locked_file.read().ok().flatten().unwrap_or_else(|| before.clone());
        let RotationSummary { expiring, unmarked } =
            file.rotate(&self.endpoint.id, secret.clone(), self.is_only_endpoint, old_until, now);
        file.set_retry_window(Some(window_until));
        let written = locked_file.write(&file).map_err(|error| self.rescue(locked_file, secret, &error))?;
        let mut notes = Vec::new();
        if unmarked > 0 {
            notes.push(format!(
                "{unmarked} older secrets have no `# polyhook:endpoint=` line and may belong to other endpoints, so they stay \
                 valid: delete those of this endpoint after {old_until}"
            ));
        }
        notes.extend(new_secret::written_note(written));
        Ok(RotationReport {
            endpoint_id: &self.endpoint.id,
            endpoint_url: &self.endpoint.url,
            secrets_file: locked_file.path().display().to_string(),
            written: written.label(),
            window_until,
            old_until,
            old_secrets: expiring,
            notes,
            signing_secret: self.args.show_secret.then(|| secret.expose()),
        })
    }

    fn rescue(&self, locked_file: &LockedSecretsFile, secret: &Secret, error: &io::Error) -> CliError {
        let rescued = new_secret::rescue(locked_file, &self.endpoint.id, secret);
        CliError::Failed(format!(
            "{}: {error}. PolyAI has rotated the secret of {}, but the new secret could not be written to this file. {rescued}. \
             Add it as the first line of the file at once, because receivers cannot verify deliveries without it",
            locked_file.path().display(),
            self.endpoint.id
        ))
    }
}

fn show(report: &RotationReport<'_>, json: bool) {
    if json {
        output::json(report);
        return;
    }
    let RotationReport {
        endpoint_id, endpoint_url, secrets_file, window_until, old_until, old_secrets, ..
    } = report;
    output::line(format!("{} {endpoint_id} ({endpoint_url})", output::green("rotated")));
    output::line(format!(
        "  the new secret is the first one in {secrets_file}; receivers read it within seconds"
    ));
    output::line(format!("  old secrets: {old_secrets}, valid until {old_until}"));
    output::line(format!(
        "  until {window_until}, receivers answer 503 to deliveries that no secret verifies, and PolyAI sends them again"
    ));
    for note in &report.notes {
        output::line(format!("  note: {note}"));
    }
    if let Some(secret) = report.signing_secret {
        output::line(secret);
    }
}
