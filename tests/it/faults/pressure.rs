//! Too many clients, and clients that are too slow. Honest traffic goes on beside them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use polyhook::secret::Secret;
use rusqlite::{Connection, OpenFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    time::{sleep, timeout},
};

use super::{
    Figures,
    load::{self, ACK_BUDGET, Load},
    oracle::{self, Bus},
    pick,
    stage::{CALLS, RATE},
};
use crate::support::process::{Installation, Process, SimulatedPolyAi, eventually};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The largest `VmRSS` while `lasting` runs, in KiB, after what it was at first.
fn resident(process: &Process, lasting: Duration) -> (u64, u64) {
    let (start, first) = (Instant::now(), process.status_kib("VmRSS"));
    let mut largest = first;
    while start.elapsed() < lasting {
        largest = largest.max(process.status_kib("VmRSS"));
        std::thread::sleep(Duration::from_millis(100));
    }
    (first, largest)
}

#[test]
fn a_thousand_slow_clients_do_not_slow_the_honest_ones() {
    const SLOW: usize = 1000;
    let lasting = pick(Duration::from_secs(10), Duration::from_mins(2));
    let polyai = SimulatedPolyAi::start(CALLS, pick(3000, 10_000));
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    let mut figures = Figures::of("1000 clients of one byte a second");
    let (runtime, address) = (runtime(), run.receiver_address());
    let closed = Arc::new(Mutex::new(0));
    for number in 0..SLOW {
        let closed = Arc::clone(&closed);
        runtime.spawn(async move {
            sleep(Duration::from_millis(u64::try_from(number).unwrap())).await;
            loop {
                // Each as long as it is let, then again.
                drip(address).await;
                *closed.lock().unwrap() += 1;
            }
        });
    }
    std::thread::sleep(Duration::from_secs(2));
    let load = Load::start(&polyai, address, RATE);
    let (first, largest) = resident(&run, lasting);
    let record = load.finish();
    runtime.shutdown_background();
    let mut waits = record.waits.clone();
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    figures
        .set("slow_clients", SLOW)
        .set("slow_connections_closed", *closed.lock().unwrap())
        .set("resident_kib", first)
        .set("largest_resident_kib", largest);
    let queue = site.path().join("polyhook-data/queue.db");
    oracle::judge(&record, &site.archive(), &Bus::Embedded(&queue), None, &mut figures);
    assert_eq!(record.refused, 0, "no honest delivery is refused");
    assert!(p99 < Duration::from_millis(500), "p99 of the honest ones: {p99:?}");
    assert!(largest < 128 << 10, "{largest} KiB");
    run.stop();
    figures.print();
}

/// A delivery, one byte a second, until the connection is closed.
async fn drip(to: std::net::SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(to).await else { return sleep(Duration::from_secs(1)).await };
    let head = b"POST /polyai-events HTTP/1.1\r\nhost: slow\r\ncontent-length: 600\r\n\r\n";
    // Half of them are slow with the head, half with the body.
    let whole = if fastrand::bool() { head.len() } else { 0 };
    let mut slow = head[whole..].iter().copied().chain(std::iter::repeat(b'x'));
    if stream.write_all(&head[..whole]).await.is_err() {
        return;
    }
    let mut answer = [0; 256];
    loop {
        if stream.write_all(&[slow.next().unwrap()]).await.is_err() {
            return;
        }
        match timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
            Err(_) => {}
            Ok(_) => return,
        }
    }
}

/// What became of a flood.
#[derive(Debug, Default)]
struct Flood {
    taken: usize,
    refused: usize,
    without_retry_after: usize,
    late: usize,
    longest: Duration,
    other: Vec<String>,
}

#[test]
fn a_flood_is_taken_as_far_as_it_can_be_and_refused_beyond() {
    const CAPACITY: usize = 16;
    let lasting = pick(Duration::from_secs(8), Duration::from_mins(2));
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, &format!("server.max_in_flight = {CAPACITY}"));
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let mut figures = Figures::of("flood at three times what may be in flight");
    let (runtime, address) = (runtime(), receive.receiver_address());
    let (flood, over) = (Arc::<Mutex<Flood>>::default(), Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..3 * CAPACITY)
        .map(|sender| {
            let (flood, over) = (Arc::clone(&flood), Arc::clone(&over));
            let secret = Secret::new(&*polyai.access.secret);
            runtime.spawn(async move {
                for number in 0.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    // Of a kind that asks for nothing, so that it stays to be counted.
                    let (id, body) = (
                        format!("{sender}-{number}"),
                        format!(r#"{{"type":"tea.ready","n":"{sender}-{number}"}}"#),
                    );
                    let request = load::request(address, &secret, &id, body.as_bytes());
                    let start = Instant::now();
                    let answer = load::exchange(address, &request).await;
                    flood.lock().unwrap().note(start.elapsed(), answer.as_deref());
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let (first, largest) = resident(&receive, lasting);
    over.store(true, Ordering::SeqCst);
    for sender in senders {
        runtime.block_on(sender).unwrap();
    }
    let flood = std::mem::take(&mut *flood.lock().unwrap());
    figures
        .set("acknowledged", flood.taken)
        .set("refused", flood.refused)
        .set("late", flood.late)
        .set("longest_answer_ms", u64::try_from(flood.longest.as_millis()).unwrap())
        .set("resident_kib", first)
        .set("largest_resident_kib", largest);
    let stored = || {
        let queue = site.path().join("polyhook-data/queue.db");
        let open = Connection::open_with_flags(queue, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        open.query_row("SELECT count(*) FROM messages WHERE state = 'stored'", [], |row| {
            row.get::<_, usize>(0)
        })
        .unwrap()
    };
    eventually("stored", || stored() >= flood.taken);
    figures.set("lost", flood.taken.saturating_sub(stored()));
    assert!(flood.taken > 0 && flood.refused > 0, "{flood:?}");
    assert_eq!((flood.without_retry_after, flood.late), (0, 0), "{flood:?}");
    assert!(flood.other.is_empty(), "{flood:?}");
    assert!(largest - first < 32 << 10, "memory grows under a flood: from {first} to {largest} KiB");
    receive.stop();
    figures.print();
}

impl Flood {
    fn note(&mut self, wait: Duration, answer: Option<&str>) {
        self.longest = self.longest.max(wait);
        if wait > ACK_BUDGET {
            self.late += 1;
        }
        match answer.map(|head| (head.split(' ').nth(1).unwrap_or_default(), head)) {
            Some(("204", _)) => self.taken += 1,
            Some(("503", head)) => {
                self.refused += 1;
                if !head.to_ascii_lowercase().contains("\r\nretry-after:") {
                    self.without_retry_after += 1;
                }
            }
            other => self.other.push(format!("{other:?}")),
        }
    }
}
