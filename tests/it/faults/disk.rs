//! A full or read-only disk, and a damaged or deleted queue file, under load.
//!
//! Deliveries are refused with 503 at once. A running process neither hangs nor exits, and it continues by itself when
//! the cause is gone.

use std::{
    collections::BTreeMap,
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    Figures,
    deployment::{Deployment, SMALL_CALLS, deliveries_per_second},
    load::{DeliveryRecord, Load},
    oracle::{self, AnnouncementSource},
    short_or_long,
};
use crate::support::{
    process::{Installation, Process, SimulatedPolyAi, TEST_TIMEOUT, deliver, eventually, eventually_within},
    rabbit::exclusive_node_blocking,
    small_disk::SmallDisk,
};

/// The deliveries that may be missing at the end of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// A person moved the queue file away at this moment, with everything that was acknowledged before.
    AcknowledgedBefore(Instant),
}

/// `polyhook run` with its queue on a disk of its own, under load.
struct EmbeddedService {
    polyai: SimulatedPolyAi,
    site: Installation,
    disk: SmallDisk,
    run: Process,
    load: Load,
}

impl EmbeddedService {
    fn start() -> Self {
        let polyai = SimulatedPolyAi::start(SMALL_CALLS, short_or_long(5000, 10_000));
        let site = Installation::new(&polyai.access, "queue = { url = \"sqlite:small/queue.db\" }");
        let disk = SmallDisk::mount(site.path().join("small"), 24);
        let run = site.polyhook(["run"]).start();
        run.wait_until_ready();
        let load = Load::start(&polyai, run.receiver_address(), deliveries_per_second());
        let service = Self { polyai, site, disk, run, load };
        eventually("under load", || service.load.acknowledged() > 20);
        service
    }

    /// Waits until deliveries are refused, and checks that they are refused without a wait.
    #[track_caller]
    fn assert_refuses_at_once(&self) {
        assert_refuses_soon(&self.load);
        // The machine may delay a probe, but a wait in the receiver would delay every probe.
        let fastest = (0..3).map(|_| {
            let start = Instant::now();
            let status = deliver(self.run.receiver_address(), &self.site.secret, "probe", b"{}");
            assert_eq!(status, Some(503));
            start.elapsed()
        });
        let fastest = fastest.min().unwrap();
        assert!(fastest < Duration::from_secs(2), "a 503 after {fastest:?}");
    }

    /// Waits until deliveries are acknowledged again, without a restart, and some more time under load.
    fn wait_for_recovery(&mut self, figures: &mut Figures) {
        let ended = Instant::now();
        let acknowledged = self.load.wait_for_acknowledgement_after(ended);
        figures.set_durations("cause_gone_to_acknowledged", vec![acknowledged]);
        assert!(self.run.is_running());
        thread::sleep(Duration::from_secs(3));
    }

    /// Starts the service until it stays, as a supervisor does.
    fn restart_until_up(&mut self) {
        self.run = self.site.polyhook(["run"]).start();
        loop {
            let mut is_up = false;
            eventually("up or ended", || {
                is_up = self.run.stderr().iter().any(|line| line.contains("receiving deliveries"));
                is_up || !self.run.is_running()
            });
            if is_up {
                self.load.redirect_to(self.run.receiver_address());
                return;
            }
            self.run = self.site.polyhook(["run"]).start();
        }
    }

    /// Starts the service on an unusable disk or file. It may exit or keep running without accepting deliveries.
    fn run_in_vain(&self) {
        let mut failing = self.site.polyhook(["run"]).start();
        thread::sleep(Duration::from_secs(1));
        if failing.is_running() {
            failing.signal(Signal::SIGTERM);
            failing.wait(TEST_TIMEOUT);
        }
    }

    /// Moves the queue's files away, as the error message says.
    fn move_queue_away(&self) {
        for name in QUEUE_FILES {
            let to = format!("damaged-{}-{name}", fastrand::u32(..));
            let (from, to) = (self.disk.file(name), self.disk.file(&to));
            if from.exists() {
                fs::rename(from, to).unwrap();
            }
        }
    }

    /// Ends the load and checks that everything acknowledged is archived, except for the loss.
    fn finish(mut self, loss: Loss, mut figures: Figures) {
        let mut record = self.load.finish();
        let queue = self.disk.file("queue.db");
        let mut deleted = 0;
        if let Loss::AcknowledgedBefore(moment) = loss {
            let archived = oracle::archived_revisions(&self.site.archive());
            let before = remove_acknowledged_before(&mut record, moment);
            deleted = before.iter().filter(|id| !archived.contains_key(*id)).count();
        }
        let announcements = AnnouncementSource::Embedded(&queue);
        oracle::check(&record, &self.site.archive(), &announcements, None, &mut figures);
        figures.set("thrown_away", deleted);
        self.run.stop();
        drop(self.polyai);
        figures.print();
    }
}

const QUEUE_FILES: [&str; 3] = ["queue.db", "queue.db-wal", "queue.db-shm"];

/// Waits until twenty more attempts are refused.
#[track_caller]
fn assert_refuses_soon(load: &Load) {
    let before = load.refused();
    eventually_within(Duration::from_secs(20), "refused", || load.refused() > before + 20);
}

/// Removes what was acknowledged before `moment` and returns the conversations.
fn remove_acknowledged_before(record: &mut DeliveryRecord, moment: Instant) -> Vec<String> {
    let (before, after) = std::mem::take(&mut record.acknowledged)
        .into_iter()
        .partition::<BTreeMap<_, _>, _>(|(_, times)| times.answered < moment);
    record.acknowledged = after;
    before.into_keys().collect()
}

#[test]
fn the_embedded_queue_recovers_from_a_full_disk() {
    let mut service = EmbeddedService::start();
    let mut figures = Figures::new("disk full, embedded queue");
    service.disk.fill();
    service.assert_refuses_at_once();
    thread::sleep(short_or_long(Duration::from_secs(1), Duration::from_mins(1)));
    service.disk.free();
    service.wait_for_recovery(&mut figures);
    service.finish(Loss::Nothing, figures);
}

#[test]
fn the_embedded_queue_recovers_from_a_read_only_disk() {
    let mut service = EmbeddedService::start();
    let mut figures = Figures::new("disk read-only, embedded queue");
    // The kernel refuses to make a file system read-only while files on it are open for writing.
    service.run.stop();
    service.disk.make_read_only(true);
    service.run_in_vain();
    service.disk.make_read_only(false);
    service.restart_until_up();
    service.wait_for_recovery(&mut figures);
    service.finish(Loss::Nothing, figures);
}

#[test]
fn the_embedded_queue_recovers_when_a_damaged_file_is_moved_away() {
    let mut service = EmbeddedService::start();
    let mut figures = Figures::new("queue file damaged while running, then while stopped");
    overwrite(&service.disk.file("queue.db"));
    overwrite(&service.disk.file("queue.db-wal"));
    // Cached pages may hide the damage for a while.
    let before = service.load.refused();
    let damaged = Instant::now();
    while damaged.elapsed() < Duration::from_secs(5) && service.load.refused() == before {
        thread::sleep(Duration::from_millis(50));
    }
    figures.set("noticed_while_running", service.load.refused() > before);
    service.move_queue_away();
    service.wait_for_recovery(&mut figures);

    service.run.stop();
    overwrite(&service.disk.file("queue.db"));
    service.run_in_vain();
    service.move_queue_away();
    let moved = Instant::now();
    service.restart_until_up();
    service.wait_for_recovery(&mut figures);
    service.finish(Loss::AcknowledgedBefore(moved), figures);
}

#[test]
fn the_embedded_queue_restores_a_deleted_file() {
    let mut service = EmbeddedService::start();
    let mut figures = Figures::new("queue file deleted while running");
    // Slow answers fill the queue.
    service.polyai.control("POST", "faults", &json!({ "fault": { "action": { "delay": "2s" } } }));
    let before = service.load.acknowledged();
    eventually("some are waiting", || service.load.acknowledged() > before + 50);
    for name in QUEUE_FILES {
        fs::remove_file(service.disk.file(name)).unwrap();
    }
    service.polyai.control("DELETE", "faults", &Value::Null);
    service.wait_for_recovery(&mut figures);
    service.finish(Loss::Nothing, figures);
}

/// Overwrites every page except the first, which identifies the file as polyhook's.
fn overwrite(path: &Path) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(4096)).unwrap();
    let garbage: Vec<u8> =
        std::iter::repeat_with(|| fastrand::u8(..)).take(usize::try_from(length).unwrap()).collect();
    file.write_all(&garbage).unwrap();
}

#[test]
fn the_spool_recovers_from_a_full_disk() {
    let node = exclusive_node_blocking();
    let calls = short_or_long(4000, 15_000);
    let spool = "spool = { path = \"small/spool.db\" }";
    let deployment = Deployment::start_with(&[node.url()], calls, spool, |site| {
        Some(SmallDisk::mount(site.path().join("small"), 8))
    });
    let load = deployment.start_load();
    let mut figures = Figures::new("broker stopped and the spool's disk full");
    load.wait_for_acknowledgement_after(Instant::now());
    node.stop();
    let disk = deployment.disk.as_ref().unwrap();
    disk.fill();
    assert_refuses_soon(&load);
    thread::sleep(short_or_long(Duration::from_secs(1), Duration::from_mins(1)));
    disk.free();
    let freed = Instant::now();
    node.restart();
    figures.set_durations("cause_gone_to_acknowledged", vec![load.wait_for_acknowledgement_after(freed)]);
    deployment.wait_for_announcement_after(freed);
    deployment.finish(load, figures);
}
