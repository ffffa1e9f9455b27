//! `polyhook demo`: simulator, receiver, worker and archive in one process.

mod config_file;
mod display;

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::stream;
use polyhook_simulator::{
    Activity, CallMix, Clock as SimulatorClock, Delivery, EventOptions, Scenario, SenderOptions, Simulator,
};
use tokio::{sync::broadcast, task::JoinHandle, time::Instant};

use self::display::Display;
use super::{
    CliError,
    live_events::{EventSource, LiveEvents},
};
use crate::{
    app::App,
    archive::Archive,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::{Lifecycle, ShutdownOutcome},
    polyai::ProjectConfig,
    queue::{Queue, QueueKind, QueueUrls, sqlite::SqliteQueue},
    secret::Secret,
    telemetry,
};

/// The interval of the checks for new announcements.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The time that the last conversation may take to be archived after the last delivery.
const ARCHIVE_TIMEOUT: Duration = Duration::from_mins(2);
/// The time that the last jobs may take to end after their announcements.
const JOBS_END_TIMEOUT: Duration = Duration::from_secs(2);
/// The time that the last conversations may take to be in the index.
const INDEX_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of announcements that one check reads.
const ANNOUNCEMENT_BATCH: usize = 1000;

/// Run simulator, receiver, worker and archive together, without configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook demo                   twenty calls, then keeps running
  polyhook demo --calls 5 --exit  for scripts: exit code 0 if all are archived")]
pub(super) struct Args {
    /// Number of simulated calls
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    calls: u64,
    /// Exit when all calls are archived; exit code 1 if some are not
    #[arg(long)]
    exit: bool,
    /// Folder for queue and archive
    #[arg(long, default_value = "polyhook-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Deliveries per second
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Seed of the calls; the same seed gives the same calls [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,
}

fn failed(error: impl fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let mut display = Display::new(&args);
    display.init_logs()?;
    let metrics = telemetry::init_metrics()?;

    // The simulator outlives the app, so that the app can finish its last jobs.
    let simulator_lifecycle = Lifecycle::new();
    let listen = ([127, 0, 0, 1], 0).into();
    let (simulator, server) =
        Simulator::bind(listen, scenario(&args), SimulatorClock::system(), simulator_lifecycle.draining())
            .await
            .map_err(failed)?;
    simulator_lifecycle.spawn_service("simulator", server.run());
    let config = config(&args, &simulator);
    let app = App::start(&config, Roles::ALL, Some(metrics), Clock::System).await?;
    let queue = app.queue().sqlite.clone().ok_or_else(|| failed("the demo runs on the embedded queue"))?;
    // An earlier demo may have announced conversations in the same folder.
    let last_number = last_announcement(&queue).await.map_err(failed)?;

    let config_path = config_file::write(&args.dir, &config, &app, &simulator).map_err(failed)?;
    let (open_queue, app_lifecycle) = (app.queue().clone(), app.lifecycle().clone());
    let (receiver, admin, console) = (app.public_address(), app.admin_address(), app.console_address());
    // The app handles signals from here on: the first one drains, a second one aborts. It is a task of its own, because a
    // terminal that takes no text stops this one.
    let mut app_end = simulator_lifecycle.spawn_tracked(app.run_until_shutdown());
    let source = EventSource::open(&config, &open_queue, Clock::System.now());
    display.started(receiver, admin, console, &simulator);
    let events = LiveEvents::start(source, display.event_printer());
    let activity = simulator.state().subscribe();
    let sending = start_sending(&args, &simulator, receiver, &simulator_lifecycle)?;
    let followed = tokio::select! {
        complete = follow(&mut display, activity, Arc::clone(&queue), last_number, sending) => Ok(complete),
        outcome = &mut app_end => Err(outcome),
    };
    if followed.is_ok() {
        wait_until_jobs_end(&queue).await;
        wait_until_indexed(&config).await;
    }
    events.flush().await;
    let keeps_running = !args.exit && matches!(followed, Ok(true));
    display.summary(&config_path, admin.filter(|_| keeps_running));
    let (complete, outcome) = match followed {
        Ok(complete) => {
            if !keeps_running {
                app_lifecycle.drain();
            }
            (complete, app_end.await.unwrap_or(ShutdownOutcome::Failed))
        }
        // A signal ended the demo early. That is a success for a person and a failure for a script.
        Err(outcome) => (!args.exit, outcome.unwrap_or(ShutdownOutcome::Failed)),
    };
    simulator_lifecycle.drain();
    simulator_lifecycle.wait().await;
    match (complete, outcome) {
        (true, ShutdownOutcome::Drained) => Ok(()),
        (false, _) => Err(failed(format!(
            "{} of {} conversations are archived; the lines above give the reasons for the others",
            display.archived_count(),
            args.calls
        ))),
        _ => Err(CliError::AlreadyReported),
    }
}

/// Delivers the events of all calls to the app in the background.
fn start_sending(
    args: &Args,
    simulator: &Simulator,
    receiver: Option<SocketAddr>,
    lifecycle: &Lifecycle,
) -> Result<JoinHandle<()>, CliError> {
    let receiver = receiver.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let target = format!("http://{receiver}/polyai-events").parse().map_err(failed)?;
    let options = SenderOptions { rate: Some(args.rate), ..SenderOptions::default() };
    let sender = simulator.sender(target, options).map_err(failed)?;
    let events = EventOptions { alerts: 0.1, ..EventOptions::default() };
    let deliveries: Vec<_> = Delivery::of_calls(&simulator.calls(), &events).collect();
    let (state, draining) = (simulator.state().clone(), lifecycle.draining());
    Ok(lifecycle.spawn("demo sender", async move {
        // A delivery that waits for a retry must not delay the end.
        let run = state.run_sender(&sender, stream::iter(deliveries));
        drop(draining.run_until_cancelled(run).await);
    }))
}

/// Shows what happens and returns true once every call is archived. Returns false after [`ARCHIVE_TIMEOUT`].
async fn follow(
    display: &mut Display,
    mut activity: broadcast::Receiver<Activity>,
    queue: Arc<SqliteQueue>,
    mut last_number: i64,
    mut sending: JoinHandle<()>,
) -> bool {
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    let mut deadline: Option<Instant> = None;
    loop {
        tokio::select! {
            activity = activity.recv() => if let Ok(activity) = activity { display.activity(&activity) },
            _ = &mut sending, if deadline.is_none() => deadline = Some(Instant::now() + ARCHIVE_TIMEOUT),
            _ = poll.tick() => {
                let announcements = queue.announcements_after(last_number, ANNOUNCEMENT_BATCH).await;
                let Ok(announcements) = announcements else { continue };
                for (number, announcement) in announcements {
                    last_number = number;
                    display.announcement(&announcement.body);
                }
                if display.archived_count() as u64 >= display.calls {
                    return true;
                }
                if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                    return false;
                }
            }
        }
    }
}

/// Waits until the last jobs are settled, which comes after their announcements.
async fn wait_until_jobs_end(queue: &SqliteQueue) {
    let end = async {
        while queue.depths().await.is_ok_and(|depths| !depths.contains(&(QueueKind::Fetch, 0))) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let _ = tokio::time::timeout(JOBS_END_TIMEOUT, end).await;
}

/// Waits until the index has the last conversations.
async fn wait_until_indexed(config: &Config) {
    let Ok(archive) = Archive::open(&config.archive, Clock::System) else { return };
    let indexed = async {
        while archive.list_changes(1).await.is_ok_and(|changes| !changes.is_empty()) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let _ = tokio::time::timeout(INDEX_TIMEOUT, indexed).await;
}

/// Returns the number of the last announcement in the queue, or 0.
async fn last_announcement(queue: &SqliteQueue) -> Result<i64, crate::queue::QueueError> {
    let mut last = 0;
    loop {
        let batch = queue.announcements_after(last, 10_000).await?;
        match batch.last() {
            Some((number, _)) => last = *number,
            None => return Ok(last),
        }
    }
}

fn scenario(args: &Args) -> Scenario {
    Scenario {
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
        calls: args.calls,
        mix: CallMix {
            max_turns: 12,
            late_recordings: 0.15,
            recording_delay: Duration::from_secs(4),
            ..CallMix::default()
        },
        ..Scenario::default()
    }
}

fn config(args: &Args, simulator: &Simulator) -> Config {
    let mut config = Config { file: Some(config_file::path(&args.dir)), ..Config::default() };
    let any_port = ([127, 0, 0, 1], 0).into();
    config.server.listen = any_port;
    config.admin.listen = any_port;
    config.console.enabled = true;
    config.console.allow_replay = true;
    config.console.listen = any_port;
    config.signature.secrets = vec![Secret::new(simulator.signing_secret())];
    config.polyai.base_url = Some(simulator.url().clone());
    config.polyai.platform_url = Some(simulator.url().clone());
    config.polyai.max_requests_per_second = 1_000;
    config.projects = vec![ProjectConfig {
        account_id: simulator.account_id().to_owned(),
        project_id: simulator.project_id().to_owned(),
        api_key: Secret::new(simulator.api_key()),
        ..ProjectConfig::default()
    }];
    config.queue.url = QueueUrls::One(Secret::new(format!("sqlite:{}", args.dir.join("queue.db").display())));
    config.archive.url = format!("file:{}", args.dir.join("archive").display());
    config.worker.environments = ["live", "sandbox", "pre-release"].map(str::to_owned).to_vec();
    config.retry.delays = [1, 2, 4, 8, 15, 30].map(Duration::from_secs).to_vec();
    // The simulator delivers every call, so reconciliation has nothing to find.
    config.reconcile.every = Duration::ZERO;
    config.index.every = Duration::from_secs(1);
    config
}
