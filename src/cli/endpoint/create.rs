//! `polyhook endpoint create`: registers an endpoint and writes its secret to the receivers' secrets file.
//!
//! PolyAI returns the secret once and may deliver at once. So the command works in this order:
//!
//! 1. It checks that the file can be written. If receivers already read the file, it opens a retry window in it: receivers
//!    answer 503 to a delivery that no secret verifies, and PolyAI sends it again.
//! 2. It waits until all receivers have read the window.
//! 3. PolyAI creates the endpoint.
//! 4. It writes the secret as the first one of the file, and only then prints anything.
//!
//! A kill before step 3 has no effect. A kill between steps 3 and 4 leaves an endpoint with an unknown secret;
//! `rotate-secret` replaces the secret, and no delivery is lost if it runs before the window ends.

use std::{io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    super::{CliError, GlobalArgs, output, time_arg},
    AccountArgs, RETRY_WINDOW, after, attributes, failed, list,
    locked_secrets_file::LockedSecretsFile,
    new_secret,
};
use crate::{
    clock::Clock,
    config::Config,
    event::CONVERSATION_COMPLETED,
    polyai::{CreatedEndpoint, Endpoint, EndpointSettings, WebhooksClient},
    secret::Secret,
    shell,
    web::SecretsFile,
};

/// The event types that polyhook processes: those of the quickstart, then those of the reference.
const DEFAULT_EVENTS: [&str; 4] =
    [CONVERSATION_COMPLETED, "handoff.created", "alerts.triggered", "alerts.resolved"];
/// The number of events in [`DEFAULT_EVENTS`] that the quickstart has.
const QUICKSTART_EVENTS: usize = 2;

/// Register an endpoint and write its signing secret to the receivers' secrets file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint create --name main --url https://hooks.example.com/polyai
  polyhook endpoint create --name main --url https://hooks.example.com/polyai \\
      --event conversation.completed --header Authorization=@waf-token
  polyhook endpoint create --name next --url https://next.example.com/hook \\
      --disabled --dry-run

Writes the secret (mode 0600) before it prints anything, and keeps the other secrets. Run it \
as the owner of the secrets file. Then check with `polyhook endpoint test` that deliveries arrive.")]
#[expect(clippy::struct_excessive_bools, reason = "independent command line flags")]
pub(in crate::cli) struct Args {
    /// Name of the endpoint
    #[arg(long)]
    name: String,
    /// URL that PolyAI delivers to (https): the ingress's host and server.path
    #[arg(long)]
    url: String,
    /// Event type to deliver; repeatable [default: all types that polyhook processes and PolyAI offers]
    #[arg(long, value_name = "TYPE")]
    event: Vec<String>,
    /// Header of every delivery, such as a firewall's token; @FILE keeps it out of the shell's history; repeatable
    #[arg(long, value_name = "NAME=VALUE|NAME=@FILE")]
    header: Vec<String>,
    /// Time that PolyAI waits for an answer, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1_000..=30_000))]
    timeout_ms: Option<u64>,
    /// Register it without deliveries until `endpoint update --enable`
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    account: AccountArgs,
    /// Secrets file to write [default: the configured one]
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
    /// Time until every receiver has read a change of the file; more on a network file system
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = time_arg::parse_duration)]
    wait: Duration,
    /// Allow a second endpoint for this URL; every event is then delivered twice
    #[arg(long)]
    another: bool,
    /// Show what would be created and create nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the secret as well
    #[arg(long)]
    show_secret: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The result of the command.
#[derive(Serialize)]
struct CreateReport<'a> {
    endpoint_id: &'a str,
    endpoint_url: &'a str,
    endpoint: &'a Endpoint,
    secrets_file: String,
    written: &'static str,
    window_until: Option<Timestamp>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<&'a str>,
}

pub(super) async fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    let config = global.load_with_optional_secrets_file()?;
    let path = new_secret::path(args.secrets_file.as_deref(), &config)?;
    let mut settings = settings(args)?;
    let webhooks = args.account.webhooks(&config)?;
    reject_duplicate_url(&webhooks, args, settings.url.as_deref()).await?;
    let mut notes = choose_events(&webhooks, &mut settings).await?;
    notes.extend(path_note(&config, settings.url.as_deref()));
    if args.dry_run {
        dry_run(args, &settings, &notes);
        return Ok(());
    }

    let unreadable =
        |error: io::Error| CliError::Failed(format!("{}: {error}. Nothing was created", path.display()));
    let locked_file = LockedSecretsFile::open(path).map_err(unreadable)?;
    let existing = locked_file.read().map_err(unreadable)?;
    let (mode, is_new) = (locked_file.mode(), existing.is_none());
    // A new file starts with the secrets that receivers have now.
    let before = existing.unwrap_or_else(|| config.signature.file_secrets.clone());
    let clock = Clock::System;
    let mut extended = before.clone();
    extended.add("", Secret::new(new_secret::FUTURE_SECRET));
    new_secret::check_count(&config, extended, clock.now())
        .map_err(|why| CliError::Failed(format!("{}: {why}. Nothing was created", path.display())))?;
    let creation = Creation { args, locked_file: &locked_file, before, clock };

    let read_by_receivers = !is_new && !args.disabled;
    let window = creation.prepare(read_by_receivers)?;
    if window.is_some() {
        tokio::time::sleep(args.wait).await;
    }
    let created = creation.create(&webhooks, &settings, window).await?;
    let mut report = creation.write_secret(&created, window)?;
    notes.append(&mut report.notes);
    notes.extend(new_secret::mode_note(mode, locked_file.mode()));
    notes.extend(new_secret::link_note(path));
    if is_new {
        notes.push("the file is new, so receivers read it after their next start".to_owned());
    }
    if config.signature.secrets_file.as_deref() != Some(path) {
        notes.push(format!(
            "in this configuration no receiver reads {}; set signature.secrets_file, or copy the content to the file that \
             they read",
            path.display()
        ));
    }
    report.notes = notes;
    show(&report, args.json);
    Ok(())
}

fn settings(args: &Args) -> Result<EndpointSettings, CliError> {
    let events = attributes::events(&args.event)?;
    let headers = attributes::headers(&args.header)?;
    Ok(EndpointSettings {
        name: Some(attributes::name(&args.name)?),
        url: Some(attributes::url(&args.url)?.to_string()),
        event_types: Some(events).filter(|events| !events.is_empty()),
        headers: Some(headers).filter(|headers| !headers.is_empty()),
        timeout_ms: args.timeout_ms,
        enabled: args.disabled.then_some(false),
    })
}

/// Fails if another endpoint already delivers to the URL. A script that ran twice is more likely than a wish for duplicates.
async fn reject_duplicate_url(
    webhooks: &WebhooksClient,
    args: &Args,
    url: Option<&str>,
) -> Result<(), CliError> {
    let endpoints = match webhooks.list().await {
        Ok(endpoints) => endpoints,
        // The quickstart's API has no documented list.
        Err(error) if error.is_not_served() => return Ok(()),
        Err(error) => return Err(failed(format!("{error}. Nothing was created"))),
    };
    match endpoints.iter().find(|endpoint| Some(&*endpoint.url) == url) {
        Some(endpoint) if !args.another => Err(failed(format!(
            "{} already delivers to this URL. Nothing was created. To change that endpoint, run `polyhook endpoint update \
             {1}`; if its secret is lost, run `polyhook endpoint rotate-secret {1}`; to receive every event twice, add --another",
            endpoint.id,
            shell::last_argument(&endpoint.id)
        ))),
        _ => Ok(()),
    }
}

/// Sets the default event types if none are given: those of [`DEFAULT_EVENTS`] that PolyAI offers. Returns notes about the
/// others.
async fn choose_events(
    webhooks: &WebhooksClient,
    settings: &mut EndpointSettings,
) -> Result<Vec<String>, CliError> {
    if settings.event_types.is_some() {
        return Ok(Vec::new());
    }
    let (mut events, mut missing) = (Vec::new(), Vec::new());
    for (index, event) in DEFAULT_EVENTS.into_iter().enumerate() {
        let announced = webhooks
            .supports_event_type(event)
            .await
            .map_err(|error| failed(format!("{error}. Nothing was created")))?;
        if announced.unwrap_or(index < QUICKSTART_EVENTS) {
            events.push(event.to_owned());
        } else if announced == Some(false) {
            missing.push(event);
        }
    }
    if events.is_empty() {
        return Err(failed(format!(
            "PolyAI offers none of {}. Nothing was created; choose event types with --event",
            DEFAULT_EVENTS.join(", ")
        )));
    }
    settings.event_types = Some(events);
    let mut notes = Vec::new();
    if !missing.is_empty() {
        notes.push(format!("PolyAI does not offer {} to this account", missing.join(", ")));
    }
    if missing.contains(&CONVERSATION_COMPLETED) {
        notes.push(
            "so no webhook reports finished conversations, and only reconciliation finds them".to_owned(),
        );
    }
    Ok(notes)
}

fn path_note(config: &Config, url: Option<&str>) -> Option<String> {
    let url: url::Url = url?.parse().ok()?;
    (url.path() != config.server.path).then(|| {
        format!(
            "receivers accept deliveries at {} (server.path), but the path of the URL is {}: the ingress must rewrite it",
            config.server.path,
            url.path()
        )
    })
}

/// The steps of a creation that change the secrets file.
struct Creation<'a> {
    args: &'a Args,
    locked_file: &'a LockedSecretsFile,
    before: SecretsFile,
    clock: Clock,
}

impl Creation<'_> {
    /// Step 1. Returns the end of the retry window, if one was opened.
    fn prepare(&self, read_by_receivers: bool) -> Result<Option<Timestamp>, CliError> {
        let until = read_by_receivers.then(|| after(&self.clock, RETRY_WINDOW + self.args.wait));
        let written = match until {
            Some(until) => {
                let mut file = self.before.clone();
                file.set_retry_window(Some(self.later(until)));
                self.locked_file.write(&file).map(drop)
            }
            None => self.locked_file.check(&self.before),
        };
        written.map(|()| until).map_err(|error| {
            CliError::Failed(format!(
                "{}: {error}. Nothing was created, because the receivers' secrets file cannot be written. If it is a \
                 Kubernetes Secret or another read-only mount, create the endpoint with --disabled --secrets-file FILE, \
                 copy FILE into the Secret, and then enable the endpoint with `polyhook endpoint update --enable`",
                self.locked_file.path().display()
            ))
        })
    }

    /// Step 3. Closes the window if PolyAI has created nothing.
    async fn create(
        &self,
        webhooks: &WebhooksClient,
        settings: &EndpointSettings,
        window: Option<Timestamp>,
    ) -> Result<CreatedEndpoint, CliError> {
        webhooks.create(settings).await.map_err(|error| {
            if error.is_certain() {
                self.close_window(window);
                return CliError::Failed(format!("{error}. Nothing was created"));
            }
            CliError::Failed(format!(
                "{error}. PolyAI may have created the endpoint anyway, and its secret is lost with the answer. Check with \
                 `polyhook endpoint list`; if the endpoint exists, run `polyhook endpoint rotate-secret`"
            ))
        })
    }

    /// Returns the later of `until` and the end of a window that a rotation has opened.
    fn later(&self, until: Timestamp) -> Timestamp {
        self.before.retry_window().map_or(until, |before| before.max(until))
    }

    fn close_window(&self, window: Option<Timestamp>) {
        if window.is_some() {
            // If this fails, the window ends by itself.
            let _ = self.locked_file.write(&self.before);
        }
    }

    /// Step 4. The secret exists only here, so it must not be lost.
    fn write_secret<'a>(
        &self,
        created: &'a CreatedEndpoint,
        window: Option<Timestamp>,
    ) -> Result<CreateReport<'a>, CliError> {
        let CreatedEndpoint { endpoint, signing_secret } = created;
        let rescue = |error: &io::Error| {
            let rescued = new_secret::rescue(self.locked_file, &endpoint.id, signing_secret);
            CliError::Failed(format!(
                "{}: {error}. PolyAI has created {}, but its secret could not be written to this file. {rescued}. Add it to \
                 the file at once, because receivers cannot verify deliveries without it",
                self.locked_file.path().display(),
                endpoint.id
            ))
        };
        if !SecretsFile::can_store(signing_secret) {
            let invalid = io::Error::new(
                io::ErrorKind::InvalidData,
                "this secret is not one line of 16 characters or more",
            );
            return Err(rescue(&invalid));
        }
        // The file may have changed since step 1. If it was deleted, the earlier content is the best one.
        let mut file = self.locked_file.read().ok().flatten().unwrap_or_else(|| self.before.clone());
        file.add(&endpoint.id, signing_secret.clone());
        let window_until = window.map(|_| self.later(after(&self.clock, RETRY_WINDOW + self.args.wait)));
        if window_until.is_some() {
            file.set_retry_window(window_until);
        }
        let written = self.locked_file.write(&file).map_err(|error| rescue(&error))?;
        Ok(CreateReport {
            endpoint_id: &endpoint.id,
            endpoint_url: &endpoint.url,
            endpoint,
            secrets_file: self.locked_file.path().display().to_string(),
            written: written.label(),
            window_until,
            notes: new_secret::written_note(written).into_iter().collect(),
            signing_secret: self.args.show_secret.then(|| signing_secret.expose()),
        })
    }
}

fn dry_run(args: &Args, settings: &EndpointSettings, notes: &[String]) {
    if args.json {
        output::json(&serde_json::json!({ "outcome": "dry_run", "would_create": settings, "notes": notes }));
        return;
    }
    output::line("would create (dry run):");
    list::print_settings(settings);
    for note in notes {
        output::line(format!("  note: {note}"));
    }
}

fn show(report: &CreateReport<'_>, json: bool) {
    if json {
        output::json(report);
        return;
    }
    output::line(format!("{} {}", output::green("created"), report.endpoint_id));
    list::print_endpoint(report.endpoint);
    output::line(format!(
        "  its secret is the first one in {}, which receivers read every second",
        report.secrets_file
    ));
    if let Some(until) = report.window_until {
        output::line(format!(
            "  until {until}, receivers answer 503 to deliveries that no secret verifies, and PolyAI sends them again"
        ));
    }
    for note in &report.notes {
        output::line(format!("  note: {note}"));
    }
    if let Some(secret) = report.signing_secret {
        output::line(secret);
    }
}
