//! `polyhook endpoint`: the webhook endpoints registered with PolyAI, and their signing secrets.
//!
//! PolyAI returns a secret only once, when it creates it. So `create` and `rotate-secret` first check that they can write the
//! secrets file of the receivers, then open a retry window in it, and write the new secret before they print anything. If
//! the file cannot be written after all, they write the secret to another place.
//!
//! An endpoint's headers may contain a credential for an ingress. The commands print their names, never their values.

mod attributes;
mod create;
mod delete;
mod list;
mod locked_secrets_file;
mod new_secret;
mod rotate;
mod test;
mod update;

use std::time::Duration;

use jiff::Timestamp;

use super::{CliError, GlobalArgs, output::sanitize};
use crate::{
    clock::Clock,
    config::Config,
    polyai::{Endpoint, ProjectConfig, WebhooksClient},
};

/// The duration of the retry window after a new secret was written.
const RETRY_WINDOW: Duration = Duration::from_mins(5);

/// Manage the webhook endpoints registered with PolyAI.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Register an endpoint and write its signing secret to the receivers' secrets file
    Create(create::Args),
    /// List the account's endpoints
    List(list::ListArgs),
    /// Show an endpoint without its secret values
    Show(list::ShowArgs),
    /// Change the given attributes of an endpoint
    Update(update::Args),
    /// Delete an endpoint; PolyAI then stops its deliveries
    Delete(delete::Args),
    /// Replace an endpoint's signing secret without losing a delivery
    RotateSecret(rotate::Args),
    /// Send test deliveries to an endpoint's public URL and explain the answers
    Test(test::Args),
}

/// The project whose key gives access to the endpoints.
#[derive(Debug, clap::Args)]
struct AccountArgs {
    /// Project whose key and account to use [default: the only configured project]
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

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes the error by value")]
fn failed(error: impl ToString) -> CliError {
    CliError::Failed(error.to_string())
}

impl AccountArgs {
    /// Returns a client of the account's Webhooks API.
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
            "no project is configured, so there is no key for PolyAI: add [[projects]], or set POLYAI_API_KEY, \
             POLYAI_ACCOUNT_ID and POLYAI_PROJECT_ID"
                .to_owned(),
        )),
        (None, [project]) => Ok(project),
        (None, _) => Err(CliError::Usage(format!("several projects are configured; choose one with --project: {}", ids()))),
        (Some(wanted), projects) => projects
            .iter()
            .find(|project| project.project_id == wanted)
            .ok_or_else(|| CliError::Usage(format!("--project: {wanted} is not configured; configured are: {}", ids()))),
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
            Err(CliError::Usage(format!("the account has several endpoints; name one of them: {}", listed())))
        }
        (Some(wanted), _) => endpoints.iter().find(|endpoint| endpoint.id == wanted).ok_or_else(|| {
            CliError::Failed(format!("the account has no endpoint {wanted}; it has {}", listed()))
        }),
    }
}

/// Returns the time `time` from now, in whole seconds.
fn after(clock: &Clock, time: Duration) -> Timestamp {
    let whole = Duration::from_secs(time.as_secs());
    let now = Timestamp::from_second(clock.now().as_second()).unwrap_or_default();
    now.checked_add(whole).unwrap_or(Timestamp::MAX)
}
