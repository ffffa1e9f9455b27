//! Too many clients, and clients that send too slowly, beside honest traffic.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use polyhook::secret::Secret;
use rusqlite::{Connection, OpenFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Figures,
    deployment::SMALL_CALLS,
    load::{self, DeliveryRecord, Load, MAX_ANSWER_TIME},
    milliseconds,
    oracle::{self, AnnouncementSource},
    short_or_long,
};
use crate::support::process::{Installation, Process, SimulatedPolyAi, eventually, metric};

/// The rate of deliveries beside the slow clients.
const HONEST_DELIVERIES_PER_SECOND: u32 = 10;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Watches `VmRSS` for a while. Returns the first value and the largest one, in KiB.
fn resident_kib(process: &Process, duration: Duration) -> (u64, u64) {
    let (start, first) = (Instant::now(), process.status_kib("VmRSS"));
    let mut largest = first;
    while start.elapsed() < duration {
        largest = largest.max(process.status_kib("VmRSS"));
        std::thread::sleep(Duration::from_millis(100));
    }
    (first, largest)
}

/// `polyhook run` with the embedded queue, and honest traffic.
struct Service {
    site: Installation,
    run: Process,
    admin: SocketAddr,
}

impl Service {
    fn start(polyai: &SimulatedPolyAi) -> Self {
        let site = Installation::new(&polyai.access, "");
        let run = site.polyhook(["run"]).start();
        let admin = run.wait_until_ready();
        raise_priority(&run);
        Self { site, run, admin }
    }

    fn start_load(&self, polyai: &SimulatedPolyAi) -> Load {
        Load::start(polyai, self.run.receiver_address(), HONEST_DELIVERIES_PER_SECOND)
    }

    /// Returns the number of deliveries that were refused because they did not become durable in time. That is no fault of the
    /// clients: on a busy machine, a write may take seconds.
    fn not_durable_in_time(&self) -> usize {
        let count =
            |outcome| metric(self.admin, &format!("polyhook_deliveries_total{{outcome=\"{outcome}\"}}"));
        count("late") + count("not_durable")
    }

    fn check(&self, record: &DeliveryRecord, figures: &mut Figures) {
        let queue = self.site.path().join("polyhook-data/queue.db");
        oracle::check(record, &self.site.archive(), &AnnouncementSource::Embedded(&queue), None, figures);
    }
}

/// Gives the threads of a service precedence over other work on this machine. With too little processor time for a
/// thousand clients, a service is slow for all of them, and the test would show nothing. Needs root; without it, the test
/// needs an idle machine.
fn raise_priority(service: &Process) {
    let threads = std::fs::read_dir(format!("/proc/{}/task", service.pid())).unwrap();
    let threads = threads.map(|thread| thread.unwrap().file_name());
    let mut renice = Command::new("renice");
    renice.args(["-n", "-15", "-p"]).args(threads).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = renice.status();
}

#[test]
fn a_thousand_slow_clients_do_not_delay_honest_ones() {
    const SLOW_CLIENTS: usize = 1000;
    let duration = short_or_long(Duration::from_secs(6), Duration::from_mins(2));
    let polyai = SimulatedPolyAi::start(SMALL_CALLS, short_or_long(3000, 10_000));
    let mut crowded = Service::start(&polyai);
    // The same honest traffic at the same time on the same machine, without slow clients.
    let mut quiet = Service::start(&polyai);
    let mut figures = Figures::new("1000 clients of one byte a second");
    let slow = SlowClients::start(SLOW_CLIENTS, crowded.run.receiver_address());
    let (crowded_load, quiet_load) = (crowded.start_load(&polyai), quiet.start_load(&polyai));
    let (first, largest) = resident_kib(&crowded.run, duration);
    let (record, quiet_record) = (crowded_load.finish(), quiet_load.finish());
    figures
        .set("slow_clients", SLOW_CLIENTS)
        .set("slow_connections_closed", slow.stop())
        .set("resident_kib", first)
        .set("largest_resident_kib", largest)
        .set("p99_without_slow_clients_ms", milliseconds(quiet_record.p99()));
    crowded.check(&record, &mut figures);
    quiet.check(&quiet_record, &mut Figures::new("without slow clients"));
    assert!(
        record.refused <= crowded.not_durable_in_time(),
        "honest deliveries were refused: {}",
        record.refused
    );
    // With few deliveries, other work on the machine decides the slowest ones.
    let percent = short_or_long(50, 99);
    let (crowded_time, quiet_time) = (record.percentile(percent), quiet_record.percentile(percent));
    assert!(
        crowded_time < Duration::from_millis(400) + 3 * quiet_time,
        "{percent} % of the honest clients: {crowded_time:?}; without slow clients {quiet_time:?}"
    );
    assert!(largest < 128 << 10, "{largest} KiB");
    crowded.run.stop();
    quiet.run.stop();
    figures.print();
}

/// Clients that send one byte per second. Each connects again when its connection is closed.
struct SlowClients {
    runtime: Runtime,
    closed: Arc<AtomicUsize>,
}

impl SlowClients {
    /// Starts the clients, one every millisecond, and waits until each has connected.
    fn start(count: usize, address: SocketAddr) -> Self {
        let runtime = runtime();
        let (connected, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        for number in 0..count {
            let (connected, closed) = (Arc::clone(&connected), Arc::clone(&closed));
            runtime.spawn(async move {
                sleep(Duration::from_millis(u64::try_from(number).unwrap())).await;
                loop {
                    match TcpStream::connect(address).await {
                        Ok(stream) => {
                            connected.fetch_add(1, Ordering::SeqCst);
                            send_slowly(stream).await;
                            closed.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(_) => sleep(Duration::from_secs(1)).await,
                    }
                }
            });
        }
        eventually("connected", || connected.load(Ordering::SeqCst) >= count);
        Self { runtime, closed }
    }

    /// Stops the clients and returns the number of connections that the server closed.
    fn stop(self) -> usize {
        self.runtime.shutdown_background();
        self.closed.load(Ordering::SeqCst)
    }
}

/// Sends a delivery, one byte per second, until the connection is closed.
async fn send_slowly(mut stream: TcpStream) {
    let head = b"POST /polyai-events HTTP/1.1\r\nhost: slow\r\ncontent-length: 600\r\n\r\n";
    // Half of the clients send the head slowly, the others the body.
    let at_once = if fastrand::bool() { head.len() } else { 0 };
    let mut slow = head[at_once..].iter().copied().chain(std::iter::repeat(b'x'));
    if stream.write_all(&head[..at_once]).await.is_err() {
        return;
    }
    let mut answer = [0; 256];
    loop {
        if stream.write_all(&[slow.next().unwrap()]).await.is_err() {
            return;
        }
        if timeout(Duration::from_secs(1), stream.read(&mut answer)).await.is_ok() {
            return;
        }
    }
}

#[test]
fn accepts_a_flood_up_to_its_capacity_and_refuses_the_rest() {
    const CAPACITY: usize = 16;
    let duration = short_or_long(Duration::from_secs(6), Duration::from_mins(2));
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, &format!("server.max_in_flight = {CAPACITY}"));
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let mut figures = Figures::new("flood at three times what may be in flight");
    let flood = Flood::start(3 * CAPACITY, receive.receiver_address(), &polyai.access.secret);
    eventually("refused", || flood.answers.lock().unwrap().refused > 0);
    let (first, largest) = resident_kib(&receive, duration);
    let answers = flood.stop();
    figures
        .set("acknowledged", answers.accepted)
        .set("refused", answers.refused)
        .set("late", answers.late)
        .set("longest_answer_ms", milliseconds(answers.longest))
        .set("resident_kib", first)
        .set("largest_resident_kib", largest);
    let stored = || {
        let queue = site.path().join("polyhook-data/queue.db");
        let open = Connection::open_with_flags(queue, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let query = "SELECT count(*) FROM messages WHERE state = 'stored'";
        open.query_row(query, [], |row| row.get::<_, usize>(0)).unwrap()
    };
    eventually("stored", || stored() >= answers.accepted);
    figures.set("lost", answers.accepted.saturating_sub(stored()));
    assert!(answers.accepted > 0 && answers.refused > 0, "{answers:?}");
    assert_eq!((answers.without_retry_after, answers.late), (0, 0), "{answers:?}");
    assert!(answers.unexpected.is_empty(), "{answers:?}");
    assert!(largest - first < 32 << 10, "memory grows under a flood: from {first} to {largest} KiB");
    receive.stop();
    figures.print();
}

/// Clients that each send one delivery after another, as fast as they are answered.
struct Flood {
    runtime: Runtime,
    senders: Vec<JoinHandle<()>>,
    answers: Arc<Mutex<FloodAnswers>>,
    stopped: Arc<AtomicBool>,
}

impl Flood {
    fn start(clients: usize, address: SocketAddr, secret: &str) -> Self {
        let runtime = runtime();
        let (answers, stopped) = (Arc::<Mutex<FloodAnswers>>::default(), Arc::<AtomicBool>::default());
        let senders = (0..clients).map(|client| {
            let (answers, stopped) = (Arc::clone(&answers), Arc::clone(&stopped));
            let secret = Secret::new(secret);
            runtime.spawn(async move {
                for number in 0.. {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let id = format!("{client}-{number}");
                    // An event of a type without jobs: the queue keeps it, and the test can count it.
                    let body = format!(r#"{{"type":"tea.ready","n":"{id}"}}"#);
                    let request = load::request(address, &secret, &id, body.as_bytes());
                    let start = Instant::now();
                    let answer = load::exchange(address, &request).await;
                    answers.lock().unwrap().add(start.elapsed(), answer.as_deref());
                }
            })
        });
        let senders = senders.collect();
        Self { runtime, senders, answers, stopped }
    }

    /// Waits for the answers to the last deliveries and returns all answers.
    fn stop(self) -> FloodAnswers {
        self.stopped.store(true, Ordering::SeqCst);
        for sender in self.senders {
            self.runtime.block_on(sender).unwrap();
        }
        std::mem::take(&mut *self.answers.lock().unwrap())
    }
}

/// The answers to a flood.
#[derive(Debug, Default)]
struct FloodAnswers {
    accepted: usize,
    refused: usize,
    without_retry_after: usize,
    late: usize,
    longest: Duration,
    unexpected: Vec<String>,
}

impl FloodAnswers {
    fn add(&mut self, time: Duration, answer: Option<&str>) {
        self.longest = self.longest.max(time);
        if time > MAX_ANSWER_TIME {
            self.late += 1;
        }
        match answer.map(|head| (load::status(head), head)) {
            Some(("204", _)) => self.accepted += 1,
            Some(("503", head)) => {
                self.refused += 1;
                if !load::has_retry_after(head) {
                    self.without_retry_after += 1;
                }
            }
            other => self.unexpected.push(format!("{other:?}")),
        }
    }
}
