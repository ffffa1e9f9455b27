//! A disk that is full or read-only, and a queue file that is damaged or deleted, under load.
//!
//! Deliveries get 503 at once, nobody hangs or exits who was running, and when the cause is gone all goes on by itself.

use std::{
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
    load::{Load, Record},
    oracle::{self, Bus},
    pick,
    stage::{CALLS, RATE, Stage},
};
use crate::support::{
    process::{Installation, Process, SimulatedPolyAi, TEST_TIMEOUT, eventually, eventually_within},
    rabbit::{ClientCertificate, Node},
    small_disk::SmallDisk,
};

/// What becomes of what was in a queue file that is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// It is put back.
    Nothing,
    /// Lost with the file, by the hand that moved it away at this moment, unless it had been archived.
    Before(Instant),
}

/// `polyhook run` with its queue on a disk of its own.
struct Embedded {
    polyai: SimulatedPolyAi,
    site: Installation,
    disk: SmallDisk,
    run: Process,
    load: Load,
}

impl Embedded {
    fn start() -> Self {
        let polyai = SimulatedPolyAi::start(CALLS, pick(5000, 10_000));
        let site = Installation::new(&polyai.access, "queue = { url = \"sqlite:small/queue.db\" }");
        let disk = SmallDisk::mount(site.path().join("small"), 24);
        let run = site.polyhook(["run"]).start();
        run.wait_until_ready();
        let load = Load::start(&polyai, run.receiver_address(), RATE);
        let stage = Self { polyai, site, disk, run, load };
        eventually("under way", || stage.load.acknowledged() > 20);
        stage
    }

    /// Deliveries are refused from some moment on, and nobody waits for that long.
    #[track_caller]
    fn refuses(&self) {
        let before = self.load.look(|record| record.refused);
        eventually_within(Duration::from_secs(20), "refused", || {
            self.load.look(|record| record.refused) > before + 20
        });
        let probe = Instant::now();
        let refused =
            crate::support::process::deliver(self.run.receiver_address(), &self.site.secret, "probe", b"{}");
        assert_eq!(refused, Some(503));
        assert!(probe.elapsed() < Duration::from_secs(2), "a 503 after {:?}", probe.elapsed());
    }

    /// The cause is gone: it goes on by itself.
    fn recovers(&mut self, figures: &mut Figures) {
        let gone = Instant::now();
        figures.times("cause_gone_to_acknowledged", vec![self.load.recovered_since(gone)]);
        assert!(self.run.is_running());
        thread::sleep(Duration::from_secs(3));
    }

    /// Starts it as a supervisor does: again and again, until it stays.
    fn start_again(&mut self) {
        self.run = self.site.polyhook(["run"]).start();
        loop {
            let mut is_up = false;
            eventually("up or gone", || {
                is_up = self.run.stderr().iter().any(|line| line.contains("receiving deliveries"));
                is_up || !self.run.is_running()
            });
            if is_up {
                self.load.aim(self.run.receiver_address());
                return;
            }
            self.run = self.site.polyhook(["run"]).start();
        }
    }

    /// Everything acknowledged is archived, but for the loss.
    fn judge(mut self, loss: Loss, mut figures: Figures) {
        let mut record = self.load.finish();
        let queue = self.disk.file("queue.db");
        let mut thrown_away = 0;
        if let Loss::Before(moved) = loss {
            let archived = oracle::archived(&self.site.archive());
            let before = forget(&mut record, moved);
            thrown_away = before.iter().filter(|id| !archived.contains_key(*id)).count();
        }
        oracle::judge(&record, &self.site.archive(), &Bus::Embedded(&queue), None, &mut figures);
        figures.set("thrown_away", thrown_away);
        self.run.stop();
        drop(self.polyai);
        figures.print();
    }
}

/// Takes out what was acknowledged before that moment; it may not have been noticed at once.
fn forget(record: &mut Record, loss: Instant) -> Vec<String> {
    let noticed = loss + Duration::from_secs(1);
    let before =
        record.acknowledged.iter().filter(|(_, at)| **at < noticed).map(|(id, _)| id.clone()).collect();
    record.acknowledged.retain(|_, at| *at >= noticed);
    before
}

#[test]
fn a_full_disk_under_the_embedded_queue() {
    let mut stage = Embedded::start();
    let mut figures = Figures::of("disk full, embedded queue");
    stage.disk.fill();
    stage.refuses();
    thread::sleep(pick(Duration::from_secs(1), Duration::from_mins(1)));
    stage.disk.free();
    stage.recovers(&mut figures);
    stage.judge(Loss::Nothing, figures);
}

#[test]
fn a_read_only_disk_under_the_embedded_queue() {
    let mut stage = Embedded::start();
    let mut figures = Figures::of("disk read-only, embedded queue");
    // The kernel lets nobody take a disk's writability away while files are open for writing.
    stage.run.stop();
    stage.disk.make_read_only(true);
    let mut failing = stage.site.polyhook(["run"]).start();
    thread::sleep(Duration::from_secs(1));
    if failing.is_running() {
        failing.signal(Signal::SIGTERM);
        failing.wait(TEST_TIMEOUT);
    }
    stage.disk.make_read_only(false);
    stage.start_again();
    stage.recovers(&mut figures);
    stage.judge(Loss::Nothing, figures);
}

#[test]
fn a_queue_file_that_is_damaged() {
    let mut stage = Embedded::start();
    let mut figures = Figures::of("queue file damaged while running, then while stopped");
    overwrite(&stage.disk.file("queue.db"));
    overwrite(&stage.disk.file("queue.db-wal"));
    // What it has in memory may hide the damage for a while.
    let before = stage.load.look(|record| record.refused);
    let damaged = Instant::now();
    while damaged.elapsed() < Duration::from_secs(5) && stage.load.look(|record| record.refused) == before {
        thread::sleep(Duration::from_millis(50));
    }
    figures.set("noticed_while_running", stage.load.look(|record| record.refused) > before);
    move_away(&stage.disk);
    stage.recovers(&mut figures);

    stage.run.stop();
    overwrite(&stage.disk.file("queue.db"));
    let mut failing = stage.site.polyhook(["run"]).start();
    thread::sleep(Duration::from_secs(1));
    // It may have given up, or refuse deliveries until somebody does something; both are right.
    if failing.is_running() {
        failing.signal(Signal::SIGTERM);
        failing.wait(TEST_TIMEOUT);
    }
    move_away(&stage.disk);
    let moved = Instant::now();
    stage.start_again();
    stage.recovers(&mut figures);
    stage.judge(Loss::Before(moved), figures);
}

#[test]
fn a_queue_file_that_is_deleted() {
    let mut stage = Embedded::start();
    let mut figures = Figures::of("queue file deleted while running");
    // So that there is something in it.
    stage.polyai.control("POST", "faults", &json!({ "fault": { "action": { "delay": "2s" } } }));
    let before = stage.load.acknowledged();
    eventually("some are waiting", || stage.load.acknowledged() > before + 100);
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        fs::remove_file(stage.disk.file(name)).unwrap();
    }
    stage.polyai.control("DELETE", "faults", &Value::Null);
    stage.recovers(&mut figures);
    stage.judge(Loss::Nothing, figures);
}

/// Every page but the first, which says that it is ours.
fn overwrite(path: &Path) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(4096)).unwrap();
    let garbage: Vec<u8> =
        std::iter::repeat_with(|| fastrand::u8(..)).take(usize::try_from(length).unwrap()).collect();
    file.write_all(&garbage).unwrap();
}

/// What the message says to do.
fn move_away(disk: &SmallDisk) {
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        let (from, to) = (disk.file(name), disk.file(&format!("damaged-{}-{name}", fastrand::u32(..))));
        if from.exists() {
            fs::rename(from, to).unwrap();
        }
    }
}

#[test]
fn a_full_disk_under_the_spool() {
    let node = Node::start(ClientCertificate::Optional);
    let stage =
        Stage::set_with(&[node.url()], pick(4000, 15_000), "spool = { path = \"small/spool.db\" }", |site| {
            Some(SmallDisk::mount(site.path().join("small"), 8))
        });
    let load = stage.load();
    let mut figures = Figures::of("broker stopped and the spool's disk full");
    load.recovered_since(Instant::now());
    node.stop();
    let disk = stage.disk.as_ref().unwrap();
    disk.fill();
    let before = load.look(|record| record.refused);
    eventually_within(Duration::from_secs(20), "refused", || {
        load.look(|record| record.refused) > before + 20
    });
    thread::sleep(pick(Duration::from_secs(1), Duration::from_mins(1)));
    disk.free();
    let freed = Instant::now();
    node.restart();
    figures.times("cause_gone_to_acknowledged", vec![load.recovered_since(freed)]);
    stage.announces_since(freed);
    stage.judge(load, figures);
}
