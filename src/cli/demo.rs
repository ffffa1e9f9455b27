//! `polyhook demo`: the whole path in one process, against the simulator.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::{sync::broadcast, time::Instant};

use super::{CliError, output};
use crate::{
    app::App,
    archive::Manifest,
    clock::Clock,
    config::{Config, Roles},
    event::CONVERSATION_COMPLETED,
    lifecycle::{Lifecycle, ShutdownOutcome},
    polyai::ProjectConfig,
    queue::{QueueUrls, sqlite::SqliteQueue},
    secret::Secret,
    telemetry::{self, LogConfig},
};
use polyhook_simulator::{
    Activity, AttemptOutcome, CallMix, Delivery, EventOptions, Scenario, SenderOptions, Simulator,
};

/// How often the queue is asked for new announcements.
const LOOK: Duration = Duration::from_millis(50);
/// After the last delivery, this long until the last conversation must be archived.
const PATIENCE: Duration = Duration::from_mins(2);

/// Show the whole path at work: simulator, receiver, worker, archive; needs no configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook demo                     twenty calls, then it stays up for you to look around
  polyhook demo --calls 5 --exit    for scripts: exit code 0 when all five are archived")]
pub(super) struct Args {
    /// How many calls PolyAI (simulated) has taken
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    calls: u64,
    /// End when all calls are archived; exit code 1 if they are not
    #[arg(long)]
    exit: bool,
    /// Where queue and archive are put
    #[arg(long, default_value = "polyhook-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Deliveries a second
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Makes the same calls again; random where absent
    #[arg(long)]
    seed: Option<u64>,
    /// One JSON object a line instead of text
    #[arg(long)]
    json: bool,
}

/// One thing that happened, as `--json` tells it.
#[derive(Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Step<'a> {
    Started {
        url: String,
        admin: String,
        simulator: String,
        archive: String,
    },
    Received {
        conversation_id: &'a str,
        event: &'a str,
        status: String,
        latency_ms: f64,
    },
    Fetched {
        conversation_id: &'a str,
    },
    Archived {
        conversation_id: &'a str,
        path: String,
        objects: usize,
        bytes: u64,
        audio: &'static str,
        audio_s: f64,
    },
    Summary {
        calls: u64,
        archived: usize,
        audio_s: f64,
        bytes: u64,
        seconds: f64,
        archive: String,
    },
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    telemetry::init_logs(&LogConfig { level: "warn".to_owned(), ..LogConfig::default() })?;
    let metrics = telemetry::init_metrics()?;
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());

    let world = Lifecycle::new();
    let clock = polyhook_simulator::Clock::system();
    let (simulator, server) =
        Simulator::bind(([127, 0, 0, 1], 0).into(), scenario(&args), clock, world.draining())
            .await
            .map_err(|error| failed(&error))?;
    world.spawn_service("simulator", server.run());
    let app = App::start(&config(&args, &simulator), Roles::ALL, Some(metrics), Clock::System).await?;
    let sqlite = app.queue().sqlite.clone().ok_or_else(|| failed(&"the demo runs on the embedded queue"))?;
    let target = format!(
        "http://{}/polyai-events",
        app.public_address().unwrap_or_else(|| ([127, 0, 0, 1], 0).into())
    );
    let target = target.parse().map_err(|error| failed(&error))?;
    // What an earlier demo announced into this folder is not this one's.
    let seen = last_announcement(&sqlite).await.map_err(|error| failed(&error))?;

    let archive = args.dir.join("archive");
    let mut show = Show::new(&args, archive.clone());
    show.started(&app, &simulator);
    let options = SenderOptions { rate: Some(args.rate), ..SenderOptions::default() };
    let sender = simulator.sender(target, options).map_err(|error| failed(&error))?;
    let activity = simulator.state().subscribe();
    let calls = simulator.calls();
    let events = EventOptions { alerts: 0.1, ..EventOptions::default() };
    let deliveries: Vec<_> = Delivery::of_calls(&calls, &events).collect();
    let (state, over) = (simulator.state().clone(), world.draining());
    let sending = world.spawn("demo sender", async move {
        // A delivery that waits for PolyAI's next attempt must not hold up the end.
        tokio::select! {
            _ = state.run_sender(&sender, stream::iter(deliveries)) => {}
            () = over.cancelled() => {}
        }
    });

    let (lifecycle, admin) = (app.lifecycle().clone(), app.admin_address());
    // From here on, so that a signal drains at any time, and a second one aborts.
    let mut ending = std::pin::pin!(app.run_until_shutdown());
    let followed = tokio::select! {
        complete = follow(&mut show, activity, sqlite, seen, sending) => Ok(complete),
        ended = &mut ending => Err(ended),
    };
    show.finish();
    let (complete, ended) = match followed {
        Ok(complete) => {
            if complete && !args.exit {
                show.stay(admin);
            } else {
                lifecycle.drain();
            }
            (complete, ending.await)
        }
        // Who ends it before its time has seen enough; a script has not.
        Err(ended) => (!args.exit, ended),
    };
    world.drain();
    world.wait().await;
    match (complete, ended) {
        (true, ShutdownOutcome::Drained) => Ok(()),
        (false, _) => Err(failed(&format!(
            "{} of {} conversations are archived; the log above says why the others are not",
            show.archived.len(),
            args.calls
        ))),
        _ => Err(CliError::AlreadyReported),
    }
}

/// Shows what happens until every call is archived, or patience ends.
async fn follow(
    show: &mut Show,
    mut activity: broadcast::Receiver<Activity>,
    sqlite: Arc<SqliteQueue>,
    mut seen: i64,
    mut sending: tokio::task::JoinHandle<()>,
) -> bool {
    let mut look = tokio::time::interval(LOOK);
    let mut deadline: Option<Instant> = None;
    loop {
        tokio::select! {
            happened = activity.recv() => if let Ok(happened) = happened { show.happened(&happened) },
            _ = &mut sending, if deadline.is_none() => deadline = Some(Instant::now() + PATIENCE),
            _ = look.tick() => {
                let Ok(announcements) = sqlite.announcements_after(seen, 1000).await else { continue };
                for (number, announcement) in announcements {
                    seen = number;
                    show.announced(&announcement.body);
                }
                if show.archived.len() as u64 >= show.calls {
                    return true;
                }
                if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                    return false;
                }
            }
        }
    }
}

async fn last_announcement(sqlite: &SqliteQueue) -> Result<i64, crate::queue::QueueError> {
    let mut last = 0;
    loop {
        let some = sqlite.announcements_after(last, 10_000).await?;
        match some.last() {
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
    let mut config = Config::default();
    let any_port = ([127, 0, 0, 1], 0).into();
    config.server.listen = any_port;
    config.admin.listen = any_port;
    config.signature.secrets = vec![Secret::new(simulator.signing_secret())];
    config.polyai.base_url = Some(simulator.url().clone());
    config.polyai.platform_url = Some(simulator.url().clone());
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
    // Every call is delivered here: what is shown is its way, and none goes it twice.
    config.reconcile.every = Duration::ZERO;
    config
}

/// Prints, and keeps the sums.
struct Show {
    json: bool,
    calls: u64,
    archive: PathBuf,
    bar: ProgressBar,
    started: Instant,
    archived: HashMap<String, f64>,
    bytes: u64,
    /// Conversations whose delivery has been shown, and those that were fetched before its answer was read.
    received: HashSet<String>,
    fetched_early: HashSet<String>,
}

impl Show {
    fn new(args: &Args, archive: PathBuf) -> Self {
        let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(args.calls) };
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} archived, {msg}{elapsed} elapsed")
        {
            bar.set_style(style);
        }
        Self {
            json: args.json,
            calls: args.calls,
            archive,
            bar,
            started: Instant::now(),
            archived: HashMap::new(),
            bytes: 0,
            received: HashSet::new(),
            fetched_early: HashSet::new(),
        }
    }

    fn say(&self, step: &Step<'_>, text: &str) {
        if self.json {
            output::json(step);
        } else {
            self.bar.suspend(|| output::line(text));
        }
    }

    fn started(&self, app: &App, simulator: &Simulator) {
        let at = |address: Option<std::net::SocketAddr>| {
            address.map(|address| format!("http://{address}")).unwrap_or_default()
        };
        let url = format!("{}/polyai-events", at(app.public_address()));
        let archive = self.archive.display().to_string();
        let text = format!(
            "{}\n  receiver   {url}\n  metrics    {}/metrics\n  PolyAI     {} (simulated)\n  archive    {archive}\n",
            output::bold(format!("polyhook demo: {} calls", self.calls)),
            at(app.admin_address()),
            simulator.url(),
        );
        let step = Step::Started {
            url,
            admin: at(app.admin_address()),
            simulator: simulator.url().to_string(),
            archive,
        };
        self.say(&step, &text);
    }

    fn happened(&mut self, activity: &Activity) {
        match activity {
            Activity::Delivered(report) => {
                let id = report.conversation_id.as_deref().unwrap_or("-");
                let status = match report.answer {
                    AttemptOutcome::Status(status) => status.to_string(),
                    other => format!("{other:?}").to_lowercase(),
                };
                #[expect(clippy::cast_precision_loss, reason = "microseconds of one request")]
                let latency_ms = report.latency_us as f64 / 1000.0;
                let text = format!(
                    "{}  {id:<36}  {}",
                    output::dimmed("received"),
                    output::dimmed(format!("{} answered {status} after {latency_ms:.1} ms", report.kind))
                );
                self.say(
                    &Step::Received { conversation_id: id, event: &report.kind, status, latency_ms },
                    &text,
                );
                if report.kind == CONVERSATION_COMPLETED {
                    self.received.insert(id.to_owned());
                    if self.fetched_early.remove(id) {
                        self.fetched(id);
                    }
                }
            }
            // The worker may be faster than the sender reads its answer.
            Activity::ConversationServed { id } if !self.received.contains(id) => {
                self.fetched_early.insert(id.clone());
            }
            Activity::ConversationServed { id } => self.fetched(id),
            Activity::AudioServed { .. } | Activity::ErrorServed { .. } => {}
        }
    }

    fn fetched(&self, id: &str) {
        self.say(&Step::Fetched { conversation_id: id }, &format!("{}   {id}", output::dimmed("fetched")));
    }

    fn announced(&mut self, body: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Ready {
            data: Data,
        }
        #[derive(serde::Deserialize)]
        struct Data {
            manifest: Manifest,
            urls: HashMap<String, String>,
        }
        let Ok(Ready { data: Data { manifest, urls } }) = serde_json::from_slice(body) else { return };
        let audio_s: f64 =
            manifest.objects.iter().filter_map(|object| object.wav.as_ref()).map(|wav| wav.seconds).sum();
        let bytes: u64 = manifest.objects.iter().map(|object| object.size_bytes).sum();
        let path = urls.get("manifest.json").map(|url| self.short(url)).unwrap_or_default();
        let sound =
            if audio_s > 0.0 { format!(", {audio_s:.0} s of audio") } else { ", no audio".to_owned() };
        let text = format!(
            "{}  {:<36}  {} turn{}{sound}, {}",
            output::green("archived"),
            manifest.conversation_id,
            manifest.facts.turn_count,
            if manifest.facts.turn_count == 1 { "" } else { "s" },
            bytesize::ByteSize(bytes),
        );
        let step = Step::Archived {
            conversation_id: &manifest.conversation_id,
            path,
            objects: manifest.objects.len(),
            bytes,
            audio: manifest.audio.status.as_str(),
            audio_s,
        };
        self.say(&step, &text);
        if self.archived.insert(manifest.conversation_id, audio_s).is_none() {
            self.bytes += bytes;
        }
        self.bar.set_position(self.archived.len() as u64);
        self.bar.set_message(format!("{}, ", bytesize::ByteSize(self.bytes)));
    }

    /// The folder of a manifest's URL, as a path a shell can use.
    fn short(&self, manifest_url: &str) -> String {
        let folder = manifest_url.trim_end_matches("/manifest.json");
        match folder.find("account_id=") {
            Some(at) => self.archive.join(Path::new(&folder[at..])).display().to_string(),
            None => folder.to_owned(),
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
        let audio_s: f64 = self.archived.values().sum();
        let seconds = self.started.elapsed().as_secs_f64();
        let archive = self.archive.display().to_string();
        let all = self.archived.len() as u64 >= self.calls;
        let count = format!("{} of {} conversations archived", self.archived.len(), self.calls);
        let text = format!(
            "\n{} in {seconds:.1} s: {:.0} min of audio, {}, in {archive}\n  each folder holds conversation.json, audio.wav and manifest.json: read and listen\n  find {archive} -name audio.wav",
            if all { output::green(count) } else { output::red(count) },
            audio_s / 60.0,
            bytesize::ByteSize(self.bytes),
        );
        let step = Step::Summary {
            calls: self.calls,
            archived: self.archived.len(),
            audio_s,
            bytes: self.bytes,
            seconds,
            archive,
        };
        self.say(&step, &text);
    }

    fn stay(&self, admin: Option<std::net::SocketAddr>) {
        if !self.json {
            let admin = admin.map(|address| address.to_string()).unwrap_or_default();
            output::line(format!("  curl http://{admin}/metrics\n\nCtrl-C ends it."));
        }
    }
}
