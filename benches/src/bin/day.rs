//! A simulated day of calls without any webhook, on a clock that moves by the minute: measures what reconciliation asks PolyAI
//! for and, with `--archive`, how old a call is when it is archived.
//!
//! The calls start evenly over 24 hours and last some minutes. The clock moves on for another 30 hours, until every call was
//! verified for the last time. The bytes are counted on the wire, by a proxy in front of the simulator.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use jiff::Timestamp;
use polyhook::{
    app::{Resources, open_queue},
    clock::Clock,
    config::{Config, Roles, Sources},
    health::Health,
    lifecycle::Lifecycle,
    queue::{JobOutcome, Queue, QueueError, QueueKind},
    reconcile::Scope,
};
use polyhook_simulator::{CallScript, NewCall, Scenario, Server, Simulator};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::{io::InspectReader, sync::CancellationToken};

const MINUTE: Duration = Duration::from_mins(1);
/// Minutes in which calls start, and minutes after them until the last verification.
const DAY: u32 = 24 * 60;
const AFTER: u32 = 30 * 60;

/// Simulates a day of calls without webhooks.
#[derive(Parser)]
struct Args {
    /// Folder for queue and archive; must not exist
    #[arg(long)]
    dir: PathBuf,
    /// Calls of the day
    #[arg(long)]
    calls: u32,
    /// Archive the calls, with a recording of 20 kB each
    #[arg(long)]
    archive: bool,
    /// Use the Data API, whose list cannot be filtered by time
    #[arg(long)]
    data_api: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clock = Clock::manual("2026-11-02T00:00:00Z".parse()?);
    let mut tasks = JoinSet::new();
    let (simulator, server) = simulator(&clock).await?;
    tasks.spawn(server.run());
    let bytes = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let proxy = listener.local_addr()?;
    tasks.spawn(count_bytes(listener, simulator.address(), Arc::clone(&bytes)));
    let config = configuration(&args, &simulator, proxy)?;
    let lifecycle = Lifecycle::new();
    let open = open_queue(&config, Roles::ALL, clock.clone(), &Health::default(), &lifecycle)?;
    let queue = open.queue;
    let resources = Resources::open(&config, &clock)?;
    let service = resources.reconciliation(&config, Arc::clone(&queue), clock.clone(), Health::default());
    if args.archive {
        let worker = resources.worker(&config, Arc::clone(&queue), clock.clone());
        lifecycle.spawn_service("worker", worker.run(lifecycle.clone()));
    } else {
        tasks.spawn(take_jobs(Arc::clone(&queue)));
    }
    // The first pass is that of an empty account.
    service.run_once(Scope::Due).await?;
    let (mut started, mut listed) = (0, 0);
    for minute in 0..DAY + AFTER {
        clock.advance(MINUTE);
        let due = if minute < DAY {
            u32::try_from(u64::from(args.calls) * u64::from(minute + 1) / u64::from(DAY))?
        } else {
            args.calls
        };
        while started < due {
            add_call(&simulator, clock.now(), started, args.calls)?;
            started += 1;
        }
        let report = service.run_once(Scope::Due).await?;
        if !report.failures.is_empty() {
            return Err(report.failures.join("; ").into());
        }
        listed += report.summary.listed;
        while !is_empty(&*queue).await? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let calls = f64::from(args.calls);
    #[expect(clippy::cast_precision_loss, reason = "averages")]
    let report = json!({
        "calls": args.calls,
        "simulated_days": f64::from(DAY + AFTER) / f64::from(DAY),
        "listed_per_call": listed as f64 / calls,
        "bytes": bytes.load(Ordering::Relaxed),
        "bytes_per_call": bytes.load(Ordering::Relaxed) as f64 / calls,
        "requests": serde_json::to_value(simulator.state().request_counts())?,
        "ages_s": if args.archive { ages(&args.dir.join("archive"))? } else { Value::Null },
    });
    print(&report);
    // The tasks have nothing to finish.
    std::process::exit(0);
}

#[expect(clippy::print_stdout, reason = "the harness reads standard output")]
fn print(report: &Value) {
    println!("{report}");
}

async fn simulator(clock: &Clock) -> std::io::Result<(Simulator, Server)> {
    let source = clock.clone();
    let clock = polyhook_simulator::Clock::from_fn(move || source.now());
    let scenario = Scenario { calls: 0, ..Scenario::default() };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Simulator::bind(listen, scenario, clock, CancellationToken::new()).await
}

/// Adds a call that started within the last minute. It is in progress until its duration is over.
fn add_call(simulator: &Simulator, now: Timestamp, number: u32, calls: u32) -> Result<(), &'static str> {
    let second = u64::from(number) * u64::from(DAY) * 60 / u64::from(calls) % 60;
    let started_at = now - MINUTE + Duration::from_secs(second);
    let call = NewCall { started_at: Some(started_at), ..NewCall::default() };
    let call = simulator.state().add_call(&call).ok_or("the simulator has no project")?;
    let ends_at = started_at + Duration::from_millis(call.duration_ms);
    let script = CallScript {
        in_progress_for: Duration::try_from(ends_at.duration_since(now)).ok(),
        audio_size: Some(bytesize::ByteSize::kb(20)),
        ..CallScript::default()
    };
    simulator.state().set_script(&call.id, script).then_some(()).ok_or("the call is not there")
}

fn configuration(
    args: &Args,
    simulator: &Simulator,
    proxy: SocketAddr,
) -> Result<Config, Box<dyn std::error::Error>> {
    let project = [
        ("projects[0].account_id", simulator.account_id()),
        ("projects[0].project_id", simulator.project_id()),
        ("projects[0].api_key", simulator.api_key()),
    ];
    let url = format!("http://{proxy}/");
    let archive = format!("file:{}", args.dir.join("archive").display());
    let queue = format!("sqlite:{}", args.dir.join("queue.db").display());
    let api = if args.data_api { "data" } else { "auto" };
    let settings = [
        ("polyai.base_url", url.as_str()),
        ("polyai.platform_url", &url),
        ("polyai.api", api),
        ("polyai.max_requests_per_second", "1000000"),
        ("archive.url", &archive),
        ("queue.url", &queue),
        ("worker.environments", "live,sandbox,pre-release"),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let set = project.into_iter().chain(settings).map(owned).collect();
    Ok(Config::load(&Sources { set, ..Sources::default() })?)
}

/// Ends every job without a fetch.
async fn take_jobs(queue: Arc<dyn Queue>) {
    while let Ok(job) = queue.next().await {
        let _ = queue.settle(job.lease, JobOutcome::Done).await;
    }
}

async fn is_empty(queue: &dyn Queue) -> Result<bool, QueueError> {
    let depths = queue.depths().await?;
    Ok(depths.iter().all(|(kind, depth)| *kind != QueueKind::Fetch || *depth == 0))
}

/// Connects every client with `target`, and counts the bytes that `target` sends.
async fn count_bytes(listener: TcpListener, target: SocketAddr, bytes: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let bytes = Arc::clone(&bytes);
        connections.spawn(async move {
            let server = TcpStream::connect(target).await?;
            let mut server = InspectReader::new(server, |part| {
                bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
            });
            let mut client = client;
            copy_bidirectional(&mut client, &mut server).await
        });
    }
}

/// Returns how old the archived calls were at their archiving, in seconds after their end.
fn ages(archive: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    let mut ages = Vec::new();
    let mut folders = vec![archive.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "manifest.json") {
                let manifest: Value = serde_json::from_slice(&std::fs::read(path)?)?;
                let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
                let started = time(&manifest["started_at"]).ok_or("a manifest without started_at")?;
                let lasted = manifest["total_duration_s"].as_f64().ok_or("a manifest without a duration")?;
                let ended = started + Duration::from_secs_f64(lasted);
                let archived =
                    time(&manifest["timings"]["archived_at"]).ok_or("a manifest without archived_at")?;
                ages.push(archived.duration_since(ended).as_secs());
            }
        }
    }
    ages.sort_unstable();
    let percentile =
        |percent: usize| ages.get((ages.len() * percent / 100).min(ages.len().saturating_sub(1)));
    Ok(json!({ "archived": ages.len(), "p50": percentile(50), "p95": percentile(95), "max": ages.last() }))
}
