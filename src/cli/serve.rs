//! `polyhook run`, `receive`, `work` and `reconcile`: run the services until a signal stops them.

pub(super) mod screen;

use self::screen::Screen;
use super::{CliError, GlobalArgs};
use crate::{
    app::{self, App, MachineReport, StartError},
    clock::Clock,
    config::{Config, Roles},
    lifecycle::{HangupSignals, ShutdownOutcome},
    problem::Problem,
    queue::QueueBackend,
    telemetry,
};

/// The limit of open files that the process requests.
const WANTED_OPEN_FILES: u64 = 65_536;
/// A lower limit is logged as a warning.
const MIN_OPEN_FILES: u64 = 4096;

pub(super) async fn run(global: &GlobalArgs, roles: Roles) -> Result<(), CliError> {
    // By default SIGHUP ends a process. It must not end a service, even during the start and if there is nothing to reload.
    let _caught = HangupSignals::install();
    let (config, _logs, has_screen) = global.load_for_service(roles).await?;
    // The service may start later. If it uses another file, the console would show an empty queue for ever.
    if roles == Roles::CONSOLE
        && let Ok(QueueBackend::Sqlite(path)) = config.queue.backend()
        && !path.exists()
    {
        tracing::warn!(
            file = %path.display(),
            "queue.url names a file that does not exist, so the console shows an empty queue; start it where the service runs, with the \
             same configuration"
        );
    }
    raise_open_files();
    let _traces = telemetry::trace::init(&config.tracing, config.queue.messaging_names())?;
    // The console runs beside a service with the same configuration, which has the admin listener.
    let metrics = (roles != Roles::CONSOLE).then(telemetry::init_metrics).transpose()?;
    let started_at = Clock::System.now();
    let app = match App::start(&config, roles, metrics, Clock::System).await {
        Ok(app) => app,
        Err(error) => return Err(all_start_errors(error, &config, roles).await),
    };
    let screen =
        if has_screen { Some(Screen::start(global, &config, roles, &app, started_at).await) } else { None };
    let outcome = app.drained().await;
    if let Some(screen) = screen {
        screen.stop(&app, outcome).await;
    }
    app.close(outcome).await;
    match outcome {
        ShutdownOutcome::Drained => Ok(()),
        ShutdownOutcome::Aborted | ShutdownOutcome::Failed => Err(CliError::AlreadyReported),
    }
}

/// Returns the error of a start together with everything else that would fail next.
async fn all_start_errors(error: StartError, config: &Config, roles: Roles) -> CliError {
    let MachineReport { problems, used_by_polyhook } = app::check_machine(config, roles).await;
    // The check knows more about a port: another polyhook may use it.
    let is_explained = used_by_polyhook.iter().any(|problem| error.key() == Some(problem.key()));
    let first = match error.key() {
        _ if is_explained => None,
        Some(key) => Some(config.locate(&Problem::new(key.to_owned(), error.to_string())).to_string()),
        None => Some(error.to_string()),
    };
    let others = problems.iter().filter(|problem| error.key() != Some(problem.key()));
    let others = used_by_polyhook.iter().chain(others).map(|problem| config.locate(problem).to_string());
    let lines: Vec<_> = first.into_iter().chain(others).collect();
    CliError::StartErrors { text: lines.join("\n"), is_config: error.is_config() }
}

/// Raises the limit of open files. Each connection is an open file, and many systems allow 1024 unless a process requests
/// more.
fn raise_open_files() {
    match rlimit::increase_nofile_limit(WANTED_OPEN_FILES) {
        Ok(limit) if limit < MIN_OPEN_FILES => tracing::warn!(
            limit,
            "the limit of open files is low and limits the number of connections; raise the hard limit (ulimit -Hn, LimitNOFILE)"
        ),
        Ok(limit) => tracing::debug!(limit, "the limit of open files is {limit}"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}
