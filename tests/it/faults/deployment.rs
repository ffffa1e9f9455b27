//! The deployment of most scenarios: a receiver and a worker on brokers of their own, a customer that receives
//! announcements, and a simulated PolyAI.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    Figures,
    load::Load,
    oracle::{self, AnnouncementSource, Customer, DeletedMessages},
    short_or_long,
};
use crate::support::{
    process::{self, Installation, Process, SimulatedPolyAi, metric},
    rabbit,
    small_disk::SmallDisk,
};

/// The longest time that any recovery may take.
pub(super) const RECOVERY_TIMEOUT: Duration = process::TEST_TIMEOUT;
/// A scenario of calls that are small to fetch; one in ten has a short recording.
pub(super) const SMALL_CALLS: &str = "
    epoch = \"2026-11-03T12:00:00Z\"
    mix = { webchat = 0.9, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
";

/// Returns the usual rate of deliveries.
pub(super) fn deliveries_per_second() -> u32 {
    short_or_long(20, 50)
}

/// All processes of a scenario except the brokers; see the [module](self).
#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) polyai: SimulatedPolyAi,
    pub(super) site: Installation,
    pub(super) prefix: String,
    pub(super) receiver: Mutex<Process>,
    pub(super) worker: Mutex<Process>,
    pub(super) customer: Customer,
    /// The disk of the spool, if it has one of its own.
    pub(super) disk: Option<SmallDisk>,
    deleted: Mutex<Option<DeletedMessages>>,
}

impl Deployment {
    /// Starts all processes on the brokers at `urls`, with this number of conversations to deliver.
    pub(super) fn start(urls: &[String], calls: usize) -> Self {
        Self::start_with(urls, calls, "spool = { path = \"spool.db\" }", |_| None)
    }

    /// Starts all processes with another configuration of the spool. Mounts the disk before they start.
    pub(super) fn start_with(
        urls: &[String],
        calls: usize,
        spool: &str,
        mount_disk: impl FnOnce(&Installation) -> Option<SmallDisk>,
    ) -> Self {
        let polyai = SimulatedPolyAi::start(SMALL_CALLS, calls);
        let prefix = rabbit::unique_prefix();
        let config = format!(
            "queue = {{ url = {urls:?}, prefix = \"{prefix}\" }}\n\
             {spool}\n\
             worker.concurrency = 8\n\
             retry.delays = [\"1s\", \"2s\", \"4s\", \"8s\", \"15s\", \"30s\"]\n"
        );
        let site = Installation::new(&polyai.access, &config);
        let disk = mount_disk(&site);
        let receiver = start(&site, "receive");
        let worker = start(&site, "work");
        receiver.wait_until_ready();
        worker.wait_until_ready();
        let customer = Customer::start(urls, &prefix);
        Self {
            polyai,
            site,
            prefix,
            receiver: Mutex::new(receiver),
            worker: Mutex::new(worker),
            customer,
            disk,
            deleted: Mutex::default(),
        }
    }

    /// Tells the checks that a person deleted acknowledged deliveries.
    pub(super) fn expect_loss(&self, deleted: DeletedMessages) {
        *self.deleted.lock().unwrap() = Some(deleted);
    }

    /// Starts to send deliveries to the receiver.
    pub(super) fn start_load(&self) -> Load {
        let receiver = self.receiver.lock().unwrap().receiver_address();
        Load::start(&self.polyai, receiver, deliveries_per_second())
    }

    /// Kills the receiver with `kill -9`, starts another one, as a supervisor does, and waits until it listens.
    pub(super) fn replace_receiver(&self, load: &Load) {
        let mut receiver = self.receiver.lock().unwrap();
        receiver.kill();
        *receiver = start(&self.site, "receive");
        load.redirect_to(receiver.receiver_address());
    }

    /// Kills the worker with `kill -9` and starts another one.
    pub(super) fn replace_worker(&self) {
        let mut worker = self.worker.lock().unwrap();
        worker.kill();
        *worker = start(&self.site, "work");
    }

    /// Waits until one more conversation is announced. Returns the time since `moment`.
    #[track_caller]
    pub(super) fn wait_for_announcement_after(&self, moment: Instant) -> Duration {
        let before = self.customer.announced();
        while self.customer.announced() == before {
            assert!(moment.elapsed() < RECOVERY_TIMEOUT, "conversations are not announced any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        moment.elapsed()
    }

    /// Ends the load, checks all results, and stops both processes, which must still run.
    #[track_caller]
    pub(super) fn finish(self, load: Load, mut figures: Figures) {
        let record = load.finish();
        oracle::check(
            &record,
            &self.site.archive(),
            &AnnouncementSource::RabbitMq(&self.customer),
            self.deleted.into_inner().unwrap(),
            &mut figures,
        );
        let mut worker = self.worker.into_inner().unwrap();
        let admin = worker.wait_until_ready();
        figures.set("dead", metric(admin, "polyhook_queue_depth{queue=\"dead\"}"));
        worker.stop();
        self.receiver.into_inner().unwrap().stop();
        figures.print();
    }
}

fn start(site: &Installation, role: &str) -> Process {
    site.polyhook([role]).must_not_print("guest:guest").start()
}
