//! Crashes between any two steps: the process is killed right before a system call that would change something (a file,
//! a socket); then another process finishes the work.
//!
//! The test reads from outside how far the killed process had come ([`Step`]). A short run crashes once between any two
//! steps and at some other calls; a long run crashes at every call.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{
    Figures,
    deployment::RECOVERY_TIMEOUT,
    is_long_run,
    oracle::{self, Customer},
    tracer::{Call, Tracer},
};
use crate::support::{
    process::{Installation, Process, SimulatedPolyAi, SimulatorAccess, deliver, eventually, manifests},
    rabbit,
};

/// The last step that was completed for a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Nothing,
    Durable,
    Fetched,
    AudioStaged,
    ConversationWritten,
    AudioWritten,
    ManifestWritten,
    Announced,
    Acknowledged,
}

/// Reads the progress of one conversation from outside the process.
#[derive(Clone, Debug)]
struct ProgressProbe {
    archive: PathBuf,
    conversation: String,
    polyai: SimulatorAccess,
    /// The number of requests for conversations before this one.
    fetched_before: u64,
}

impl ProgressProbe {
    fn on(site: &Installation, polyai: &SimulatedPolyAi, conversation: &str) -> Self {
        // The archive stages only recordings of several parts; a smaller one stays in memory until it is complete.
        let script = serde_json::json!({ "audio_size": "2500 KiB" });
        polyai.control("PUT", &format!("calls/{conversation}/script"), &script);
        let access = polyai.access.clone();
        let fetched_before = fetched(&access);
        Self {
            archive: site.archive(),
            conversation: conversation.to_owned(),
            polyai: access,
            fetched_before,
        }
    }

    fn is_fetched(&self) -> bool {
        fetched(&self.polyai) > self.fetched_before
    }

    /// Returns the worker's last step according to the archive and PolyAI.
    fn archived(&self) -> Option<Step> {
        let folder = find(&self.archive, &self.conversation);
        let has = |name: &str| folder.as_ref().is_some_and(|folder| folder.join(name).exists());
        if has("manifest.json") {
            Some(Step::ManifestWritten)
        } else if has("audio.wav") {
            Some(Step::AudioWritten)
        } else if has("conversation.json") {
            Some(Step::ConversationWritten)
        } else if has_staged_recording(&self.archive) {
            Some(Step::AudioStaged)
        } else if self.is_fetched() {
            Some(Step::Fetched)
        } else {
            None
        }
    }

    /// Returns the last step according to the archive, PolyAI and the file of the embedded queue. Returns `None` while a
    /// stopped thread has the file locked.
    fn embedded(&self, queue: &Path) -> Option<Step> {
        let state = || -> rusqlite::Result<(Option<String>, bool)> {
            let file = Connection::open_with_flags(queue, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            file.busy_timeout(Duration::from_secs(1))?;
            let id = format!("evt-{}", self.conversation);
            let state =
                match file.query_row("SELECT state FROM messages WHERE id = ?1", [id], |row| row.get(0)) {
                    Err(rusqlite::Error::QueryReturnedNoRows) => None,
                    state => Some(state?),
                };
            let announced: u32 = file.query_row(
                "SELECT count(*) FROM announcements WHERE subject = ?1",
                [&self.conversation],
                |row| row.get(0),
            )?;
            Ok((state, announced > 0))
        };
        Some(match state().ok()? {
            (None, _) => Step::Nothing,
            (Some(state), _) if state == "done" => Step::Acknowledged,
            (_, true) => Step::Announced,
            _ => self.archived().unwrap_or(Step::Durable),
        })
    }
}

fn fetched(polyai: &SimulatorAccess) -> u64 {
    let address = polyai.url.trim_start_matches("http://").parse().unwrap();
    let (_, counts) = crate::support::process::get(address, "/_simulator/requests").expect("an answer");
    let counts: Value = serde_json::from_str(&counts).unwrap();
    counts["v3_conversation"]
        .as_object()
        .map_or(0, |by_status| by_status.values().filter_map(Value::as_u64).sum())
}

/// Searches for the folder with this name.
fn find(root: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(root).ok()?.flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_name() != ".polyhook"
            && let Some(found) = find(&entry.path(), name)
        {
            return Some(found);
        }
    }
    None
}

/// Returns whether a recording is staged, but not visible yet.
fn has_staged_recording(archive: &Path) -> bool {
    let Ok(folders) = fs::read_dir(archive.join(".polyhook/staging")) else { return false };
    let files = folders.flatten().filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
    files.into_iter().any(|file| file.file_name() != "lock")
}

/// The moment of a crash.
#[derive(Clone, Copy, Debug)]
enum CrashPoint {
    /// The first call after this step; if given, only before or only after the delivery was answered.
    After(Step, Option<bool>),
    /// The call with this number.
    Call(usize),
}

/// The end of a process.
struct Crash {
    step: Step,
    answered: bool,
    calls: Vec<Call>,
    /// The process finished its work before the crash point, which is after its last call.
    survived: bool,
}

/// Delivers to a process that is killed at `point`. `step` reads the last step; `finished` is the last one there is.
fn crash(
    process: &mut Process,
    site: &Installation,
    event: (&str, &[u8]),
    point: CrashPoint,
    step: impl Fn() -> Option<Step> + Clone + Send + 'static,
    finished: Step,
) -> Crash {
    let to = process.receiver_address();
    let answered = Arc::new(AtomicBool::new(false));
    let (was_answered, look) = (Arc::clone(&answered), step.clone());
    let tracer = Tracer::attach(process.pid(), move |call| match point {
        CrashPoint::Call(number) => call.number == number,
        CrashPoint::After(step, wanted) => {
            wanted.is_none_or(|wanted| wanted == was_answered.load(Ordering::SeqCst)) && look() == Some(step)
        }
    });
    if deliver(to, &site.secret, event.0, event.1) == Some(204) {
        answered.store(true, Ordering::SeqCst);
    }
    finish(process, tracer, step, finished, answered.load(Ordering::SeqCst))
}

/// Waits until the tracer kills the process, or kills it when it has finished its work.
fn finish(
    process: &mut Process,
    tracer: Tracer,
    step: impl Fn() -> Option<Step>,
    finished: Step,
    answered: bool,
) -> Crash {
    let start = Instant::now();
    let mut done_at = None;
    while !tracer.has_ended() {
        assert!(start.elapsed() < RECOVERY_TIMEOUT, "neither killed nor finished");
        if done_at.is_none() && step() >= Some(finished) {
            done_at = Some(Instant::now());
        }
        // Calls may follow the last step.
        if done_at.is_some_and(|done: Instant| done.elapsed() > Duration::from_millis(300)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let survived = !tracer.has_ended();
    let calls = tracer.detach();
    if survived {
        process.kill();
    } else {
        process.wait(RECOVERY_TIMEOUT);
    }
    let mut last = None;
    // The sign of an answered delivery may arrive late on a busy machine, but it must arrive.
    eventually("the last step is readable, and an answered delivery is durable", || {
        last = step();
        last.is_some_and(|last| !answered || last > Step::Nothing)
    });
    Crash { step: last.unwrap(), answered, calls, survived }
}

/// Counts the crashes by step and by call.
#[derive(Debug, Default)]
struct CrashCounts {
    points: usize,
    by_step: BTreeMap<String, usize>,
    by_call: BTreeMap<String, usize>,
    steps: BTreeSet<Step>,
    receiver: BTreeSet<(bool, bool)>,
}

impl CrashCounts {
    fn add(&mut self, crash: &Crash) {
        let durable = crash.step > Step::Nothing;
        self.points += 1;
        self.steps.insert(crash.step);
        self.receiver.insert((durable, crash.answered));
        *self.by_step.entry(format!("{:?}", crash.step)).or_default() += 1;
        if let (false, Some(call)) = (crash.survived, crash.calls.last()) {
            *self.by_call.entry(call.describe()).or_default() += 1;
        }
    }

    fn set_figures(&self, figures: &mut Figures) {
        figures
            .set("crashes", self.points)
            .set("after_step", serde_json::json!(self.by_step))
            .set("before_call", serde_json::json!(self.by_call));
    }

    /// Checks that a crash followed each of these steps, and that each of these pairs of (durable, answered) occurred.
    #[track_caller]
    fn assert_hit(&self, steps: &[Step], receiver: &[(bool, bool)]) {
        for step in steps {
            assert!(self.steps.contains(step), "no crash came right after {step:?}: {self:?}");
        }
        for gap in receiver {
            assert!(self.receiver.contains(gap), "no crash with (durable, answered) = {gap:?}: {self:?}");
        }
        assert!(!self.receiver.contains(&(false, true)), "answered 204 and not durable: {self:?}");
    }
}

const WORKER: [Step; 8] = [
    Step::Durable,
    Step::Fetched,
    Step::AudioStaged,
    Step::ConversationWritten,
    Step::AudioWritten,
    Step::ManifestWritten,
    Step::Announced,
    Step::Acknowledged,
];

/// Returns the numbers of the calls to crash at: of all calls in a long run, otherwise of some.
fn calls_to_crash_at(all: usize) -> Vec<usize> {
    if is_long_run() { (1..=all).collect() } else { (1..=all).step_by((all / 6).max(1)).collect() }
}

#[test]
fn a_crash_at_any_step_loses_nothing_on_the_embedded_queue() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 1000);
    let mut ids = polyai.ids().into_iter();
    let mut figures = Figures::new("crash at every step, embedded queue");
    let mut counts = CrashCounts::default();
    let mut at = |point: CrashPoint| {
        let id = ids.next().expect("enough calls");
        let site = Installation::new(&polyai.access, "");
        let mut run = site.polyhook(["run"]).start();
        run.wait_until_ready();
        let (probe, queue) =
            (ProgressProbe::on(&site, &polyai, &id), site.path().join("polyhook-data/queue.db"));
        let event = polyai.event(&id);
        let step = move || probe.embedded(&queue);
        let crash = crash(&mut run, &site, (&format!("evt-{id}"), &event), point, step, Step::Acknowledged);
        counts.add(&crash);
        (site, id, crash)
    };
    let mut crashed = Vec::new();
    let mut points =
        vec![CrashPoint::After(Step::Nothing, None), CrashPoint::After(Step::Durable, Some(false))];
    points.extend(WORKER[..7].iter().map(|step| CrashPoint::After(*step, None)));
    for point in points {
        crashed.push(at(point));
    }
    let whole = at(CrashPoint::Call(usize::MAX));
    let calls = whole.2.calls.len();
    crashed.push(whole);
    for call in calls_to_crash_at(calls) {
        crashed.push(at(CrashPoint::Call(call)));
    }
    figures.set("calls_a_delivery", calls);

    // In batches, because the leases of killed processes expire at the same time.
    for batch in crashed.chunks(16) {
        let healthy: Vec<_> = batch.iter().map(|(site, ..)| site.polyhook(["run"]).start()).collect();
        for ((site, id, crash), mut run) in batch.iter().zip(healthy) {
            run.wait_until_ready();
            if !crash.answered {
                // PolyAI sends it again.
                let again =
                    deliver(run.receiver_address(), &site.secret, &format!("evt-{id}"), &polyai.event(id));
                assert_eq!(again, Some(204));
            }
            let queue = site.path().join("polyhook-data/queue.db");
            let probe = ProgressProbe::on(site, &polyai, id);
            eventually("settled", || probe.embedded(&queue) == Some(Step::Acknowledged));
            run.stop();
            assert_archived_once(site, std::slice::from_ref(id));
            let announced = oracle::announcements_in_file(&queue).unwrap();
            assert_eq!(announced[id].len(), 1, "announced once: {announced:?}");
        }
    }
    counts.set_figures(&mut figures);
    counts.assert_hit(&WORKER, &[(false, false), (true, false), (true, true)]);
    figures.set("lost", 0).set("archived_twice", 0);
    figures.print();
}

/// Checks that exactly these conversations are archived, each once and complete, and that nothing is left of the killed
/// processes.
#[track_caller]
fn assert_archived_once(site: &Installation, ids: &[String]) {
    let found = manifests(&site.archive());
    assert_eq!(found.len(), ids.len());
    for path in found {
        let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(ids.iter().any(|id| manifest["conversation_id"] == **id), "{manifest}");
        assert_eq!(manifest["revision"], 1, "{manifest}");
        for object in manifest["objects"].as_array().unwrap() {
            let file = path.with_file_name(object["name"].as_str().unwrap());
            assert_eq!(object["size_bytes"], fs::metadata(&file).unwrap().len(), "{}", file.display());
        }
    }
    assert!(!has_staged_recording(&site.archive()), "an unfinished recording was left");
}

/// Returns an installation on the shared broker without a spool, so that only the broker stores deliveries.
fn on_rabbitmq(polyai: &SimulatedPolyAi) -> (Installation, String) {
    let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
    let queue = format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\", publish_timeout = \"3s\" }}\n");
    (Installation::new(&polyai.access, &queue), prefix)
}

#[test]
fn a_worker_crash_at_any_step_loses_nothing_on_rabbitmq() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 1000);
    let (site, prefix) = on_rabbitmq(&polyai);
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    receive.wait_until_ready();
    let customer = Arc::new(Customer::start(&[rabbit::SHARED_NODE.url()], &prefix));
    let mut figures = Figures::new("crash of the worker at every step, RabbitMQ");
    let mut counts = CrashCounts::default();
    let (mut ids, mut done) = (polyai.ids().into_iter(), Vec::<String>::new());
    // Each process first finishes the work of its predecessor and then crashes.
    let mut at = |point: CrashPoint| {
        let mut work = site.polyhook(["work"]).must_not_print("guest:guest").start();
        work.wait_until_ready();
        eventually("the work of the predecessor is finished", || {
            done.iter().all(|id| customer.has_announcement(id))
        });
        let id = ids.next().expect("enough calls");
        let probe = ProgressProbe::on(&site, &polyai, &id);
        let (customer_of_step, conversation) = (Arc::clone(&customer), id.clone());
        let step = move || match probe.archived() {
            // An announcement takes a moment to arrive.
            Some(Step::ManifestWritten) if customer_of_step.receives_announcement(&conversation) => {
                Some(Step::Announced)
            }
            step => step.or(Some(Step::Durable)),
        };
        let look = step.clone();
        let tracer = Tracer::attach(work.pid(), move |call| match point {
            CrashPoint::Call(number) => call.number == number,
            CrashPoint::After(step, _) => look() == Some(step),
        });
        let answer =
            deliver(receive.receiver_address(), &site.secret, &format!("evt-{id}"), &polyai.event(&id));
        assert_eq!(answer, Some(204));
        let crash = finish(&mut work, tracer, step, Step::Announced, true);
        done.push(id);
        counts.add(&crash);
        crash.calls.len()
    };
    for step in &WORKER[..7] {
        at(CrashPoint::After(*step, None));
    }
    let calls = at(CrashPoint::Call(usize::MAX));
    for call in calls_to_crash_at(calls) {
        at(CrashPoint::Call(call));
    }
    let mut work = site.polyhook(["work"]).must_not_print("guest:guest").start();
    eventually("everything is announced", || done.iter().all(|id| customer.has_announcement(id)));
    work.wait_until_ready();
    work.stop();
    receive.stop();
    assert_archived_once(&site, &done);
    for id in &done {
        assert_eq!(customer.announcement_ids(id).len(), 1, "{id} is announced under one id");
    }
    counts.set_figures(&mut figures);
    // Only the broker knows whether a job was acknowledged, so that step is not checked.
    counts.assert_hit(&WORKER[..7], &[(true, true)]);
    figures.set("calls_a_delivery", calls).set("lost", 0).set("archived_twice", 0);
    figures.print();
}

/// Kills one receiver after another, each at one call later, until one survives. Returns the conversations.
fn kill_receivers_at_each_call<S>(
    polyai: &SimulatedPolyAi,
    site: &Installation,
    arguments: &[&str],
    counts: &mut CrashCounts,
    step_of: impl Fn(String) -> S,
) -> Vec<String>
where
    S: Fn() -> Option<Step> + Clone + Send + 'static,
{
    let mut done: Vec<(String, bool)> = Vec::new();
    let mut number = 1;
    for id in polyai.ids() {
        let mut receive = site.polyhook(arguments.iter().copied()).must_not_print("guest:guest").start();
        receive.wait_until_ready();
        if let Some((before, false)) = done.last() {
            // PolyAI sends it again.
            let event = polyai.event(before);
            let again = deliver(receive.receiver_address(), &site.secret, &format!("evt-{before}"), &event);
            assert_eq!(again, Some(204));
        }
        let event_id = format!("evt-{id}");
        let (step, event) = (step_of(event_id.clone()), polyai.event(&id));
        let crash =
            crash(&mut receive, site, (&event_id, &event), CrashPoint::Call(number), step, Step::Durable);
        counts.add(&crash);
        done.push((id, crash.answered));
        number += 1;
        if crash.survived {
            if counts.receiver.contains(&(true, false)) {
                break;
            }
            // A heartbeat, which does not always occur, was among the counted calls: tries the calls before once more.
            number = number.saturating_sub(2).max(1);
        }
    }
    assert!(done.last().unwrap().1, "the last receiver must survive: {counts:?}");
    counts.assert_hit(&[], &[(false, false), (true, false), (true, true)]);
    done.into_iter().map(|(id, _)| id).collect()
}

/// Waits until all conversations are announced, and checks that each is archived once.
#[track_caller]
fn finish_receivers(site: &Installation, mut work: Process, customer: &Customer, ids: &[String]) {
    eventually("everything is announced", || ids.iter().all(|id| customer.has_announcement(id)));
    work.wait_until_ready();
    work.stop();
    assert_archived_once(site, ids);
}

#[test]
fn a_receiver_crash_at_any_step_loses_nothing_on_rabbitmq() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 300);
    let (site, prefix) = on_rabbitmq(&polyai);
    let work = site.polyhook(["work"]).must_not_print("guest:guest").start();
    work.wait_until_ready();
    let customer = Arc::new(Customer::start_with_events(&[rabbit::SHARED_NODE.url()], &prefix));
    let mut figures = Figures::new("crash of the receiver at every step, RabbitMQ");
    let mut counts = CrashCounts::default();
    let ids = kill_receivers_at_each_call(&polyai, &site, &["receive"], &mut counts, |event_id| {
        let customer = Arc::clone(&customer);
        move || Some(if customer.receives_event(&event_id) { Step::Durable } else { Step::Nothing })
    });
    finish_receivers(&site, work, &customer, &ids);
    counts.set_figures(&mut figures);
    figures.set("lost", 0).set("archived_twice", 0);
    figures.print();
}

/// Reads from a spool's file whether it holds an event. Returns `None` while a stopped thread has the file locked.
fn step_in_spool(file: &Path, event_id: &str) -> Option<Step> {
    let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let query = "SELECT count(*) FROM messages WHERE id = ?1";
    let count = file.query_row(query, [event_id], |row| row.get::<_, u32>(0));
    Some(if count.ok()? > 0 { Step::Durable } else { Step::Nothing })
}

#[test]
fn a_receiver_crash_at_any_step_loses_nothing_on_the_spool() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 300);
    let (site, prefix) = on_rabbitmq(&polyai);
    let spool = ["receive", "--set", "spool.path=spool.db"];
    // No broker listens on this port.
    let unavailable = [&spool[..], &["--set", "queue.url=amqp://guest:guest@127.0.0.1:1/"]].concat();
    let mut figures = Figures::new("crash of the receiver at every step, spool");
    let mut counts = CrashCounts::default();
    let ids = kill_receivers_at_each_call(&polyai, &site, &unavailable, &mut counts, |event_id| {
        let file = site.path().join("spool.db");
        move || step_in_spool(&file, &event_id)
    });
    let work = site.polyhook(["work"]).must_not_print("guest:guest").start();
    work.wait_until_ready();
    let customer = Customer::start(&[rabbit::SHARED_NODE.url()], &prefix);
    let mut receive = site.polyhook(spool).must_not_print("guest:guest").start();
    finish_receivers(&site, work, &customer, &ids);
    receive.stop();
    counts.set_figures(&mut figures);
    figures.set("lost", 0).set("archived_twice", 0);
    figures.print();
}
