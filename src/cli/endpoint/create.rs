//! `polyhook endpoint create`: an endpoint, with its secret where the receivers read it before anybody needs it.
//!
//! PolyAI shows the secret once and may deliver at once. So, in this order:
//!
//! 1. The file is found to be one that can be written. Where receivers read it already, a window is opened in it:
//!    they answer what they cannot explain 503, and PolyAI tries again.
//! 2. Time passes until all of them have read that.
//! 3. PolyAI makes the endpoint.
//! 4. The secret is put first into the file, and then anything is printed.
//!
//! A kill before 3 costs nothing. One between 3 and 4 leaves an endpoint whose secret nobody knows:
//! `rotate-secret` gives it another one, and loses no delivery before the window is over.

use std::{io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    super::{CliError, GlobalArgs, output, time_arg},
    Account, WINDOW_AFTER, after, attributes, failed, list, safe,
    store::Store,
};
use crate::{
    clock::Clock,
    config::Config,
    event::CONVERSATION_COMPLETED,
    polyai::{CreatedEndpoint, Endpoint, EndpointSettings, WebhooksClient},
    web::SecretsFile,
};

/// What polyhook has a use for: the quickstart's events, then the reference's.
const EVENTS: [&str; 4] = [CONVERSATION_COMPLETED, "handoff.created", "alerts.triggered", "alerts.resolved"];
/// What the quickstart subscribes to.
const QUICKSTART_EVENTS: usize = 2;

/// Register an endpoint and put its signing secret where receivers read it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint create --name production --url https://hooks.example.com/polyai-events
  polyhook endpoint create --name production --url https://hooks.example.com/polyai-events \\
      --event conversation.completed --header Authorization=@waf-token --timeout-ms 10000
  polyhook endpoint create --name next --url https://next.example.com/polyai-events --disabled --dry-run

The secret is written (mode 0600) before anything is printed, and old ones stay. Run it as the user who owns that
file. Then `polyhook endpoint test` shows whether deliveries arrive.")]
#[expect(clippy::struct_excessive_bools, reason = "flags are what a command line has")]
pub(in crate::cli) struct Args {
    /// What people call it
    #[arg(long)]
    name: String,
    /// Where PolyAI delivers to, https only: the ingress's host and server.path
    #[arg(long)]
    url: String,
    /// An event type to deliver; may be repeated. Where absent, all that polyhook has a use for and PolyAI announces
    #[arg(long, value_name = "TYPE")]
    event: Vec<String>,
    /// A header that PolyAI sends along, such as a firewall's token; @FILE keeps it out of the shell's history
    #[arg(long, value_name = "NAME=VALUE|NAME=@FILE")]
    header: Vec<String>,
    /// How long PolyAI waits for an answer; 5000 where absent
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1_000..=30_000))]
    timeout_ms: Option<u64>,
    /// Deliver nothing until `endpoint update --enable`
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    account: Account,
    /// The file to write, instead of the configured one
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
    /// How long a change of the file takes to reach every receiver (more on a network file system)
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = time_arg::parse_duration)]
    wait: Duration,
    /// Although another endpoint delivers to this URL: every event comes once for each
    #[arg(long)]
    another: bool,
    /// Say what would be asked for, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the secret too
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
    let path = safe::path(args.secrets_file.as_deref(), &config)?;
    let mut wanted = wanted(args)?;
    let webhooks = args.account.webhooks(&config)?;
    refuse_a_second(&webhooks, args, wanted.url.as_deref()).await?;
    let mut notes = choose_events(&webhooks, &mut wanted).await?;
    notes.extend(path_note(&config, wanted.url.as_deref()));
    if args.dry_run {
        dry_run(args, &wanted, &notes);
        return Ok(());
    }

    let unreadable =
        |error: io::Error| CliError::Failed(format!("{}: {error}. Nothing was created", path.display()));
    let store = Store::open(path).map_err(unreadable)?;
    let there = store.read().map_err(unreadable)?;
    let mode = store.mode();
    let is_new = there.is_none();
    let read_by_receivers = !is_new && !args.disabled;
    // A new file begins as what the receivers have now.
    let before = there.unwrap_or_else(|| config.signature.file_secrets.clone());
    let creation = Creation { args, store: &store, before, clock: Clock::System };

    let open = creation.prepare(read_by_receivers)?;
    if open.is_some() {
        tokio::time::sleep(args.wait).await;
    }
    let created = match webhooks.create(&wanted).await {
        Ok(created) => created,
        Err(error) if error.is_certain() => {
            creation.take_back(open);
            return Err(CliError::Failed(format!("{error}. Nothing was created")));
        }
        Err(error) => {
            return Err(CliError::Failed(format!(
                "{error}. PolyAI may have created the endpoint all the same, and its secret is lost with the answer: look \
                 with `polyhook endpoint list`, and if it is there, `polyhook endpoint rotate-secret` gives it another one"
            )));
        }
    };
    let mut done = creation.keep(&created, open)?;
    notes.extend(std::mem::take(&mut done.notes));
    notes.extend(safe::mode_note(mode, store.mode()));
    notes.extend(safe::link_note(path));
    if is_new {
        notes.push("the file is new: a receiver reads it from its next start on".to_owned());
    }
    if config.signature.secrets_file.as_deref() != Some(path) {
        notes.push(format!(
            "by this configuration no receiver reads {}: set signature.secrets_file, or put its content where they read",
            path.display()
        ));
    }
    done.notes = notes;
    show(&done, args.json);
    Ok(())
}

fn wanted(args: &Args) -> Result<EndpointSettings, CliError> {
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

/// A script that is run twice is more likely than somebody who wants every event twice.
async fn refuse_a_second(webhooks: &WebhooksClient, args: &Args, url: Option<&str>) -> Result<(), CliError> {
    let endpoints = match webhooks.list().await {
        Ok(endpoints) => endpoints,
        // The quickstart documents no list.
        Err(error) if error.is_not_served() => return Ok(()),
        Err(error) => return Err(failed(format!("{error}. Nothing was created"))),
    };
    match endpoints.iter().find(|endpoint| Some(&*endpoint.url) == url) {
        Some(endpoint) if !args.another => Err(failed(format!(
            "{} delivers to this URL already. To change it: `polyhook endpoint update {0}`; if its secret is lost: \
             `polyhook endpoint rotate-secret {0}`; to get every event twice: --another. Nothing was created",
            endpoint.id
        ))),
        _ => Ok(()),
    }
}

/// Where none is named: those of [`EVENTS`] that PolyAI announces, and what it means that others are missing.
async fn choose_events(
    webhooks: &WebhooksClient,
    wanted: &mut EndpointSettings,
) -> Result<Vec<String>, CliError> {
    if wanted.event_types.is_some() {
        return Ok(Vec::new());
    }
    let (mut events, mut missing) = (Vec::new(), Vec::new());
    for (index, event) in EVENTS.into_iter().enumerate() {
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
            "PolyAI announces none of {}: say which events to deliver with --event. Nothing was created",
            EVENTS.join(", ")
        )));
    }
    wanted.event_types = Some(events);
    let mut notes = Vec::new();
    if !missing.is_empty() {
        notes.push(format!("PolyAI does not announce {} to this account", missing.join(", ")));
    }
    if missing.contains(&CONVERSATION_COMPLETED) {
        notes.push(
            "so no webhook says that a conversation is over: reconciliation has to find them".to_owned(),
        );
    }
    Ok(notes)
}

fn path_note(config: &Config, url: Option<&str>) -> Option<String> {
    let url: url::Url = url?.parse().ok()?;
    (url.path() != config.server.path).then(|| {
        format!(
            "receivers take deliveries at {} (server.path), and the URL ends in {}: the ingress must rewrite it",
            config.server.path,
            url.path()
        )
    })
}

/// One creation's decisions.
struct Creation<'a> {
    args: &'a Args,
    store: &'a Store,
    before: SecretsFile,
    clock: Clock,
}

impl Creation<'_> {
    /// Step 1; until when the window is open.
    fn prepare(&self, read_by_receivers: bool) -> Result<Option<Timestamp>, CliError> {
        let until = read_by_receivers.then(|| after(&self.clock, WINDOW_AFTER + self.args.wait));
        let tried = match until {
            Some(until) => {
                let mut file = self.before.clone();
                file.set_retry_window(Some(self.later(until)));
                self.store.write(&file).map(drop)
            }
            None => self.store.check(&self.before),
        };
        tried.map(|()| until).map_err(|error| {
            CliError::Failed(format!(
                "{}: {error}. Nothing was created, because the secret could not be put where receivers read it. If this is a \
                 Kubernetes Secret or another mount that is read-only: create the endpoint with --disabled \
                 --secrets-file FILE, put FILE's content into the Secret, and then enable it with `polyhook endpoint \
                 update --enable`",
                self.store.path().display()
            ))
        })
    }

    /// A rotation's window stays open as long as it wanted.
    fn later(&self, until: Timestamp) -> Timestamp {
        self.before.retry_window().map_or(until, |before| before.max(until))
    }

    fn take_back(&self, open: Option<Timestamp>) {
        if open.is_some() {
            // What cannot be taken back ends by itself.
            let _ = self.store.write(&self.before);
        }
    }

    /// Step 4. The secret is in nobody else's hands, so it must not be lost here.
    fn keep<'a>(&self, created: &'a CreatedEndpoint, open: Option<Timestamp>) -> Result<Done<'a>, CliError> {
        let CreatedEndpoint { endpoint, signing_secret } = created;
        let lost = |error: &io::Error| {
            let place = safe::rescue(self.store, &endpoint.id, signing_secret);
            CliError::Failed(format!(
                "{}: {error}. PolyAI has created {}, but its secret could not be written there. {place}: put it into that \
                 file at once; receivers know no other way to verify deliveries",
                self.store.path().display(),
                endpoint.id
            ))
        };
        if !SecretsFile::can_store(signing_secret) {
            let odd = io::Error::new(
                io::ErrorKind::InvalidData,
                "this secret is not one line of 16 characters or more",
            );
            return Err(lost(&odd));
        }
        // Somebody may have edited it meanwhile; if it is gone, what was there before will do.
        let mut file = self.store.read().ok().flatten().unwrap_or_else(|| self.before.clone());
        file.add(&endpoint.id, signing_secret.clone());
        let window_until = open.map(|_| self.later(after(&self.clock, WINDOW_AFTER + self.args.wait)));
        if window_until.is_some() {
            file.set_retry_window(window_until);
        }
        let written = self.store.write(&file).map_err(|error| lost(&error))?;
        Ok(Done {
            endpoint_id: &endpoint.id,
            endpoint_url: &endpoint.url,
            endpoint,
            secrets_file: self.store.path().display().to_string(),
            written: written.label(),
            window_until,
            notes: safe::written_note(written).into_iter().collect(),
            signing_secret: self.args.show_secret.then(|| signing_secret.expose()),
        })
    }
}

fn dry_run(args: &Args, wanted: &EndpointSettings, notes: &[String]) {
    if args.json {
        output::json(&serde_json::json!({ "outcome": "dry_run", "would_create": wanted, "notes": notes }));
        return;
    }
    output::line("would create, and has created nothing:");
    list::wanted(wanted);
    for note in notes {
        output::line(format!("  note: {note}"));
    }
}

fn show(done: &Done<'_>, json: bool) {
    if json {
        output::json(done);
        return;
    }
    output::line(format!("{} {}", output::green("created"), done.endpoint_id));
    list::fields(done.endpoint);
    output::line(format!(
        "  its secret is the first in {}, which receivers read again every second",
        done.secrets_file
    ));
    if let Some(until) = done.window_until {
        output::line(format!("  what no secret explains is asked for again (503) until {until}"));
    }
    for note in &done.notes {
        output::line(format!("  note: {note}"));
    }
    if let Some(secret) = done.signing_secret {
        output::line(secret);
    }
}
