//! `polyhook endpoint`: the webhook endpoints registered with PolyAI, and their signing secrets.
//!
//! A secret is shown once, when it is made. So whatever makes one (`create`, `rotate-secret`) first finds out
//! that the file can be written which receivers read, tells receivers of what is to come, writes the secret
//! before it prints anything, and puts it somewhere else rather than lose it.
//!
//! What an endpoint sends along (`headers`) may be a key to an ingress: names are shown, values never.

mod attributes;
mod create;
mod delete;
mod list;
mod rotate;
mod safe;
mod store;
mod test;
mod update;

use std::time::Duration;

use jiff::Timestamp;

use super::{CliError, GlobalArgs};
use crate::{
    clock::Clock,
    config::Config,
    polyai::{Endpoint, ProjectConfig, WebhooksClient},
};

/// How long the window stays open once a new secret is in the file.
const WINDOW_AFTER: Duration = Duration::from_mins(5);

/// Manage the webhook endpoints registered with PolyAI.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Register an endpoint and put its signing secret where receivers read it
    Create(create::Args),
    /// List the account's endpoints
    List(list::ListArgs),
    /// Show everything about an endpoint but what is secret
    Show(list::ShowArgs),
    /// Change an endpoint: what is given, and nothing else
    Update(update::Args),
    /// Delete an endpoint, and with it all deliveries to it
    Delete(delete::Args),
    /// Give an endpoint another signing secret, without losing a delivery
    RotateSecret(rotate::Args),
    /// Deliver to an endpoint's public URL as PolyAI does, and explain what comes back
    Test(test::Args),
}

/// Whose endpoints.
#[derive(Debug, clap::Args)]
struct Account {
    /// The project whose key and account to use; the only configured one where absent
    #[arg(long, value_name = "PROJECT_ID", alias = "project-id")]
    project: Option<String>,
}

pub(super) async fn run(global: &GlobalArgs, command: Command) -> Result<(), CliError> {
    match command {
        Command::Create(args) => create::run(global, &args).await,
        Command::List(args) => list::list(global, &args).await,
        Command::Show(args) => list::show(global, &args).await,
        Command::Update(args) => update::run(global, &args).await,
        Command::Delete(args) => delete::run(global, &args).await,
        Command::RotateSecret(args) => rotate::run(global, &args).await,
        Command::Test(args) => test::run(global, &args).await,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is for `map_err`")]
fn failed(error: impl ToString) -> CliError {
    CliError::Failed(error.to_string())
}

impl Account {
    /// Its API.
    fn webhooks(&self, config: &Config) -> Result<WebhooksClient, CliError> {
        webhooks(config, project(config, self.project.as_deref())?)
    }
}

fn webhooks(config: &Config, project: &ProjectConfig) -> Result<WebhooksClient, CliError> {
    WebhooksClient::new(&config.polyai, project, Clock::System).map_err(failed)
}

fn project<'a>(config: &'a Config, wanted: Option<&str>) -> Result<&'a ProjectConfig, CliError> {
    let ids = || config.projects.iter().map(|project| &*project.project_id).collect::<Vec<_>>().join(", ");
    match (wanted, &config.projects[..]) {
        (_, []) => Err(CliError::Usage(
            "there is no project, and so no key for PolyAI: add [[projects]], or set POLYAI_API_KEY, POLYAI_ACCOUNT_ID \
             and POLYAI_PROJECT_ID"
                .to_owned(),
        )),
        (None, [project]) => Ok(project),
        (None, _) => Err(CliError::Usage(format!("say whose endpoint it is with --project: {}", ids()))),
        (Some(wanted), projects) => projects
            .iter()
            .find(|project| project.project_id == wanted)
            .ok_or_else(|| CliError::Usage(format!("--project: {wanted} is not configured; there is {}", ids()))),
    }
}

fn find<'a>(endpoints: &'a [Endpoint], wanted: Option<&str>) -> Result<&'a Endpoint, CliError> {
    let listed = || {
        let each = endpoints.iter().map(|one| format!("{} ({})", one.id, sanitize(&one.url)));
        each.collect::<Vec<_>>().join(", ")
    };
    match (wanted, endpoints) {
        (_, []) => Err(CliError::Failed("the account has no webhook endpoint".to_owned())),
        (None, [endpoint]) => Ok(endpoint),
        (None, _) => {
            Err(CliError::Usage(format!("the account has several endpoints, say which: {}", listed())))
        }
        (Some(wanted), _) => endpoints.iter().find(|endpoint| endpoint.id == wanted).ok_or_else(|| {
            CliError::Failed(format!("the account has no endpoint {wanted}, but {}", listed()))
        }),
    }
}

/// So far from now, in whole seconds.
fn after(clock: &Clock, time: Duration) -> Timestamp {
    let whole = Duration::from_secs(time.as_secs());
    let now = Timestamp::from_second(clock.now().as_second()).unwrap_or_default();
    now.checked_add(whole).unwrap_or(Timestamp::MAX)
}

/// What comes from outside must not move a terminal's cursor.
fn sanitize(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
