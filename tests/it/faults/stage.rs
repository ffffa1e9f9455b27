//! What most scenarios play on: a receiver and a worker of their own on a broker, a customer who listens, and load.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    Figures,
    load::Load,
    oracle::{self, Bus, Customer, ThrownAway},
};
use crate::support::{
    process::{self, Installation, Process, SimulatedPolyAi, metric},
    rabbit,
    small_disk::SmallDisk,
};

/// How long anything may take to come right again.
pub(super) const PATIENCE: Duration = process::TEST_TIMEOUT;
/// Deliveries a second, where nothing else is said.
pub(super) const RATE: u32 = 50;
/// What a call of these scenarios is like: next to nothing to fetch, and now and then a short recording.
pub(super) const CALLS: &str = "
    epoch = \"2026-11-03T12:00:00Z\"
    mix = { webchat = 0.9, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
";

/// See the module.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) polyai: SimulatedPolyAi,
    pub(super) site: Installation,
    pub(super) prefix: String,
    pub(super) receiver: Mutex<Process>,
    pub(super) worker: Mutex<Process>,
    pub(super) customer: Customer,
    /// Where the spool is, if that is a disk of its own.
    pub(super) disk: Option<SmallDisk>,
    thrown_away: Mutex<Option<ThrownAway>>,
}

impl Stage {
    /// Everything on the brokers at `urls`, with so many conversations to deliver.
    pub(super) fn set(urls: &[String], calls: usize) -> Self {
        Self::set_with(urls, calls, "spool = { path = \"spool.db\" }", |_| None)
    }

    /// The same with another spool, and with a disk that is there before the processes are.
    pub(super) fn set_with(
        urls: &[String],
        calls: usize,
        spool: &str,
        disk: impl FnOnce(&Installation) -> Option<SmallDisk>,
    ) -> Self {
        let polyai = SimulatedPolyAi::start(CALLS, calls);
        let prefix = rabbit::unique_prefix();
        let config = format!(
            "queue = {{ url = {urls:?}, prefix = \"{prefix}\" }}\n\
             {spool}\n\
             worker.concurrency = 8\n\
             retry.delays = [\"1s\", \"2s\", \"4s\", \"8s\", \"15s\", \"30s\"]\n"
        );
        let site = Installation::new(&polyai.access, &config);
        let disk = disk(&site);
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
            thrown_away: Mutex::default(),
        }
    }

    /// Somebody has thrown away deliveries that were acknowledged.
    pub(super) fn may_lose(&self, deliveries: ThrownAway) {
        *self.thrown_away.lock().unwrap() = Some(deliveries);
    }

    pub(super) fn load(&self) -> Load {
        Load::start(&self.polyai, self.receiver.lock().unwrap().receiver_address(), RATE)
    }

    /// `kill -9` and a new one, as a supervisor does. Says when the new one listens.
    pub(super) fn replace_receiver(&self, load: &Load) {
        let mut receiver = self.receiver.lock().unwrap();
        receiver.kill();
        *receiver = start(&self.site, "receive");
        load.aim(receiver.receiver_address());
    }

    /// `kill -9` and a new one.
    pub(super) fn replace_worker(&self) {
        let mut worker = self.worker.lock().unwrap();
        worker.kill();
        *worker = start(&self.site, "work");
    }

    /// Waits for the next conversation to be announced after `moment`, and says how long that took.
    #[track_caller]
    pub(super) fn announces_since(&self, moment: Instant) -> Duration {
        let before = self.customer.announced();
        while self.customer.announced() == before {
            assert!(moment.elapsed() < PATIENCE, "nothing is announced any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        moment.elapsed()
    }

    /// Ends the load and judges everything; both processes must still be there and end well.
    #[track_caller]
    pub(super) fn judge(self, load: Load, mut figures: Figures) {
        let record = load.finish();
        oracle::judge(
            &record,
            &self.site.archive(),
            &Bus::RabbitMq(&self.customer),
            self.thrown_away.into_inner().unwrap(),
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
