//! The promises of the worker, tested against the simulated PolyAI over real sockets: a signed delivery goes to the
//! receiver, and the tests examine the archive, the announcements and the dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use polyhook::{
    app::App,
    archive::Manifest,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::{Lifecycle, ShutdownOutcome},
    polyai::{self, ProjectConfig},
    queue::{Announcement, DeadLetter, Queue, QueueKind, QueueUrls, sqlite::SqliteQueue},
    secret::Secret,
};
use polyhook_simulator::{
    CallInfo, CallScript, Channel, Delivery, Environment, EventOptions, NewCall, Operation, Scenario, Sender,
    SenderOptions, Simulator,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::Instant;

mod answers;
mod apis;
mod coalescing;
mod endurance;
mod gateways;
mod imperfect_recordings;
mod index_changes;
mod index_rows;
mod listed;
mod main_path;
mod permanent_errors;
mod recordings;
mod refresh;
mod retries;
mod states;
mod stub;
mod transfers;

/// The longest time for anything in these tests, also on a busy machine.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// The start of every call: late in the day, so that it has another date in other time zones.
const BEGAN: &str = "2026-11-03T23:59:58.500Z";

/// A PolyAI, a polyhook that is connected to it, and a folder for both queue and archive.
struct World {
    sim: Simulator,
    app: App,
    config: Config,
    sender: Sender,
    folder: Arc<TempDir>,
    clock: Clock,
    /// Of everything but the app.
    lifecycle: Lifecycle,
}

impl World {
    async fn start() -> Self {
        Self::with(|_, _| ()).await
    }

    /// One whose scenario and configuration are changed first. Retries come after 100 ms, up to four.
    async fn with(change: impl FnOnce(&mut Scenario, &mut Config)) -> Self {
        Self::with_clock(Clock::System, change).await
    }

    /// One whose polyhook has another clock. The simulated PolyAI has the system's.
    async fn with_clock(clock: Clock, change: impl FnOnce(&mut Scenario, &mut Config)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut scenario = Scenario { calls: 0, ..Scenario::default() };
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        // Nothing is fetched but what is asked for.
        config.reconcile.every = Duration::ZERO;
        config.index.enabled = false;
        config.queue.publish_timeout = Duration::from_secs(3);
        config.polyai.max_requests_per_second = 500;
        config.retry.delays = vec![Duration::from_millis(100); 4];
        config.retry.jitter = 0.0;
        config.archive.url.clear();
        change(&mut scenario, &mut config);

        let folder = Arc::new(tempfile::tempdir().unwrap());
        let place = |name: &str| folder.path().join(name).display().to_string();
        config.queue.url = QueueUrls::One(Secret::new(format!("sqlite:{}", place("queue.db"))));
        if config.archive.url.is_empty() {
            config.archive.url = format!("file:{}", place("archive"));
        }
        if config.projects.is_empty() {
            config.projects = scenario.projects.iter().map(project).collect();
        }
        let lifecycle = Lifecycle::new();
        let local = ([127, 0, 0, 1], 0).into();
        let simulated_clock = polyhook_simulator::Clock::system();
        let (sim, server) =
            Simulator::bind(local, scenario, simulated_clock, lifecycle.draining()).await.unwrap();
        lifecycle.spawn_service("simulator", server.run());
        config.polyai.base_url.get_or_insert_with(|| sim.url().clone());
        config.polyai.platform_url.get_or_insert_with(|| sim.url().clone());
        config.signature.secrets = vec![Secret::new(sim.signing_secret())];
        let (app, sender) = connect(&sim, &config, &clock).await;
        Self { sim, app, config, sender, folder, clock, lifecycle }
    }

    /// A second polyhook on the same archive, with a queue of its own.
    async fn second_instance(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        let queue = self.folder.path().join(format!("{name}.db")).display().to_string();
        config.queue.url = QueueUrls::One(Secret::new(format!("sqlite:{queue}")));
        let (app, sender) = connect(&self.sim, &config, &self.clock).await;
        let (sim, folder) = (self.sim.clone(), Arc::clone(&self.folder));
        let (clock, lifecycle) = (self.clock.clone(), self.lifecycle.clone());
        Self { sim, app, config, sender, folder, clock, lifecycle }
    }

    fn queue(&self) -> &SqliteQueue {
        self.app.queue().sqlite.as_ref().unwrap()
    }

    fn call(&self, call: &NewCall) -> CallInfo {
        self.sim.state().add_call(call).unwrap()
    }

    /// A signed delivery over HTTP, answered with a 204.
    async fn deliver(&self, call: &CallInfo) {
        self.deliver_as(call, EventOptions::default()).await;
    }

    async fn deliver_as(&self, call: &CallInfo, options: EventOptions) {
        self.send(Delivery::completed(call, &options)).await;
    }

    /// An event of a chosen body.
    async fn deliver_body(&self, body: &serde_json::Value) {
        let bytes = Bytes::from(body.to_string());
        let id = format!("evt-{}", &sha256(&bytes)[..16]);
        self.send(Delivery::new(id, "conversation.completed", bytes)).await;
    }

    async fn send(&self, delivery: Delivery) {
        let report = self.sender.deliver(delivery).await;
        assert!(report.outcome.accepted(), "{report:?}");
    }

    /// A call that is over, delivered and settled.
    async fn archive(&self, call: &NewCall) -> CallInfo {
        let call = self.add(call).await;
        self.wait_until_idle().await;
        call
    }

    /// A call that is over and delivered.
    async fn add(&self, call: &NewCall) -> CallInfo {
        let call = self.call(call);
        self.deliver(&call).await;
        call
    }

    /// Waits until every job is archived or dead.
    async fn wait_until_idle(&self) {
        eventually("the queue is empty", async || {
            let depths = self.queue().depths().await.unwrap();
            depths
                .iter()
                .all(|(lane, depth)| !matches!(lane, QueueKind::Fetch | QueueKind::Retry) || *depth == 0)
        })
        .await;
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        crate::queue_contract::dead_letters(self.queue()).await
    }

    /// The one dead letter there is.
    async fn only_dead_letter(&self) -> DeadLetter {
        self.wait_until_idle().await;
        let mut dead = self.dead_letters().await;
        assert_eq!(dead.len(), 1, "{dead:?}");
        dead.remove(0)
    }

    async fn announcements(&self) -> Vec<Announcement> {
        let all = self.queue().announcements_after(0, 1000).await.unwrap();
        all.into_iter().map(|(_, announcement)| announcement).collect()
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.sim.state().request_count(operation)
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(self.config.archive.url.trim_start_matches("file:"))
    }

    /// Returns the folder of a call.
    fn place(&self, call: &CallInfo) -> PathBuf {
        self.place_in(&call.account_id, &call.project_id, &call.id)
    }

    /// Returns the folder of a conversation that is archived under these ids.
    fn place_in(&self, account_id: &str, project_id: &str, id: &str) -> PathBuf {
        self.root().join(format!("account_id={account_id}/project_id={project_id}/date=2026-11-03/{id}"))
    }

    fn manifest(&self, call: &CallInfo) -> Manifest {
        manifest(&self.place(call))
    }

    /// Everything that is to be seen in the archive.
    fn visible(&self) -> BTreeMap<PathBuf, (SystemTime, u64, String)> {
        let files = files(&self.root());
        let look = |path: PathBuf| {
            let (meta, bytes) = (fs::metadata(&path).unwrap(), fs::read(&path).unwrap());
            (path, (meta.modified().unwrap(), meta.len(), sha256(&bytes)))
        };
        files.into_iter().map(look).collect()
    }

    /// The names in a call's folder, in order.
    fn names(&self, call: &CallInfo) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        files(&self.place(call)).into_iter().map(name).collect()
    }

    /// Returns PolyAI's answer to another client.
    async fn get(&self, path: &str) -> Bytes {
        let client = polyai::http::client().unwrap();
        let url = self.sim.url().join(path).unwrap();
        let key = self.sim.api_key();
        let answer = client.get(url).header("x-api-key", key).send().await.unwrap();
        answer.error_for_status().unwrap().bytes().await.unwrap()
    }

    async fn get_v3(&self, call: &CallInfo, rest: &str) -> Bytes {
        self.get(&format!("v3/{}/{}/conversations/{}{rest}", call.account_id, call.project_id, call.id)).await
    }

    /// Shuts down as the first signal does.
    async fn shut_down(self) -> (ShutdownOutcome, Arc<TempDir>, Config) {
        self.app.lifecycle().drain();
        (self.app.run_until_shutdown().await, self.folder, self.config)
    }
}

async fn connect(sim: &Simulator, config: &Config, clock: &Clock) -> (App, Sender) {
    config.check(Roles::ALL).unwrap();
    let app = App::start(config, Roles::ALL, None, clock.clone()).await.unwrap();
    let target = format!("http://{}{}", app.public_address().unwrap(), config.server.path);
    let sender = sim.sender(target.parse().unwrap(), SenderOptions::default()).unwrap();
    (app, sender)
}

fn project(of: &polyhook_simulator::Project) -> ProjectConfig {
    ProjectConfig {
        account_id: of.account_id.clone(),
        project_id: of.project_id.clone(),
        api_key: Secret::new(of.api_key.as_str()),
        ..ProjectConfig::default()
    }
}

/// Another project of the same account.
fn second_project() -> polyhook_simulator::Project {
    polyhook_simulator::Project {
        project_id: "PROJECT-SECOND".to_owned(),
        project_slug: "second".to_owned(),
        api_key: "simulated-key-0002".to_owned(),
        ..polyhook_simulator::Project::default()
    }
}

fn call_on(channel: Channel) -> NewCall {
    NewCall {
        environment: Some(Environment::Live),
        channel: Some(channel),
        turns: Some(2),
        started_at: Some(BEGAN.parse().unwrap()),
        ..NewCall::default()
    }
}

fn voice() -> NewCall {
    call_on(Channel::Voice)
}

fn scripted(script: CallScript) -> NewCall {
    NewCall { script: Some(script), ..voice() }
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < WAIT_LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn manifest(folder: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// Returns the manifest after checking every byte that it names.
fn assert_consistent(folder: &Path) -> Manifest {
    let manifest = manifest(folder);
    for object in &manifest.objects {
        let bytes = fs::read(folder.join(&object.name)).unwrap();
        assert_eq!((bytes.len() as u64, sha256(&bytes)), (object.size_bytes, object.sha256.clone()));
    }
    manifest
}

/// Returns all files below `root`, without the archive's internal files and unfinished writes.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && name != ".polyhook" => folders.push(path),
                Ok(kind) if kind.is_file() && !name.to_string_lossy().contains('#') => {
                    found.insert(path);
                }
                _ => {}
            }
        }
    }
    found
}

/// Watches the archive as a reader would, and records what was visible.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<BTreeMap<PathBuf, BTreeSet<String>>>,
}

impl Watch {
    fn over(root: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = BTreeMap::<PathBuf, BTreeSet<String>>::new();
            let mut known = BTreeMap::new();
            while !stopped.load(Ordering::SeqCst) {
                for path in files(&root) {
                    let state = fs::metadata(&path).ok().map(|meta| (meta.len(), meta.modified().ok()));
                    if known.insert(path.clone(), state) != Some(state)
                        && let Ok(bytes) = fs::read(&path)
                    {
                        seen.entry(path).or_default().insert(sha256(&bytes));
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self { stop, thread }
    }

    /// The hashes each file had, in no order.
    fn end(self) -> BTreeMap<PathBuf, BTreeSet<String>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}
