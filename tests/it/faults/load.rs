//! Deliveries at a steady rate, whatever becomes of them: an open loop, as the world is.
//!
//! Each is of a conversation of its own. What is not answered 204 is sent again by PolyAI's policy, on a shorter
//! scale and without an end, until [`Load::finish`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use polyhook::{clock::Clock, secret::Secret, signature};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    time::{sleep, sleep_until, timeout},
};

use super::Figures;
use crate::support::process::SimulatedPolyAi;

/// What a receiver promises by default.
pub(super) const ACK_BUDGET: Duration = Duration::from_secs(4);
/// What this machine and the sender itself may add to it.
const MARGIN: Duration = Duration::from_millis(250);
/// An answer that has not come by then never comes.
const SILENCE: Duration = Duration::from_secs(15);
/// PolyAI waits 1, 5, 15, 60 and 240 minutes; the last one again and again.
const WAITS: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

/// Deliveries in progress.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    /// Where the ingress sends them at present.
    target: Mutex<SocketAddr>,
    secret: Secret,
    deliveries: Vec<(String, Vec<u8>)>,
    record: Mutex<Record>,
    sent: AtomicUsize,
    stopped: AtomicBool,
    over: AtomicBool,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// Conversations by the time they were answered 204.
    pub(super) acknowledged: BTreeMap<String, Instant>,
    /// Answers of 503.
    pub(super) refused: usize,
    /// Of these, without `Retry-After`.
    pub(super) without_retry_after: usize,
    /// Attempts that found nobody there: refused or broken connections, no answer.
    pub(super) nobody: usize,
    /// Attempts that ended after the ack budget.
    pub(super) late: usize,
    /// The longest wait for an answer.
    pub(super) longest: Duration,
    /// All waits for a 204.
    pub(super) waits: Vec<Duration>,
    /// Answers that nobody may get for a genuine delivery.
    pub(super) wrong: Vec<String>,
    /// When the latest acknowledged attempt began.
    latest: Option<Instant>,
}

impl Load {
    /// Starts sending the conversations of `polyai` to `target`, so many a second.
    pub(super) fn start(polyai: &SimulatedPolyAi, target: SocketAddr, per_second: u32) -> Self {
        let deliveries = polyai.ids().into_iter().map(|id| (id.clone(), polyai.event(&id))).collect();
        Self::of(deliveries, polyai, target, per_second)
    }

    /// The same with these bodies, by conversation.
    pub(super) fn of(
        deliveries: Vec<(String, Vec<u8>)>,
        polyai: &SimulatedPolyAi,
        target: SocketAddr,
        per_second: u32,
    ) -> Self {
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            secret: Secret::new(&*polyai.access.secret),
            deliveries,
            record: Mutex::default(),
            sent: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("load")
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(send_all(Arc::clone(&shared), per_second));
        Self { shared, runtime }
    }

    /// From now on they go there.
    pub(super) fn aim(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.shared.record.lock().unwrap())
    }

    /// How many were answered 204.
    pub(super) fn acknowledged(&self) -> usize {
        self.look(|record| record.acknowledged.len())
    }

    /// Waits until one that was sent after `moment` is acknowledged, and says how long that took.
    #[track_caller]
    pub(super) fn recovered_since(&self, moment: Instant) -> Duration {
        loop {
            assert!(!self.is_spent(), "there are too few conversations for this scenario");
            if self.look(|record| record.latest.is_some_and(|latest| latest >= moment)) {
                return moment.elapsed();
            }
            assert!(moment.elapsed() < super::stage::PATIENCE, "nothing is acknowledged any more");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether every conversation has been sent, so that there is no load any more.
    pub(super) fn is_spent(&self) -> bool {
        self.shared.sent.load(Ordering::SeqCst) >= self.shared.deliveries.len()
    }

    /// Sends no new ones, waits until each of the old ones is acknowledged, and says what became of them.
    #[track_caller]
    pub(super) fn finish(self) -> Record {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let start = Instant::now();
        loop {
            let (sent, done) = (self.shared.sent.load(Ordering::SeqCst), self.acknowledged());
            if sent == done {
                break;
            }
            assert!(start.elapsed() < super::stage::PATIENCE, "{} are never acknowledged", sent - done);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.give_up()
    }

    /// Ends at once, whether or not all are acknowledged.
    pub(super) fn give_up(self) -> Record {
        self.shared.over.store(true, Ordering::SeqCst);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.shared.record.lock().unwrap().clone()
    }
}

impl Record {
    /// Puts what is counted into the figures, and sees that every request was answered as it must be.
    #[track_caller]
    pub(super) fn judge(&self, figures: &mut Figures) {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        figures
            .set("acknowledged", self.acknowledged.len())
            .set("refused", self.refused)
            .set("nobody_there", self.nobody)
            .set("late", self.late)
            .set("longest_answer_ms", ms(self.longest))
            .set("p99_acknowledged_ms", ms(p99));
        assert!(self.wrong.is_empty(), "a genuine delivery is never lost by its answer: {:?}", self.wrong);
        assert_eq!(self.without_retry_after, 0, "every 503 says when to come again");
        assert_eq!(self.late, 0, "every request is answered in time; the longest took {:?}", self.longest);
    }
}

async fn send_all(shared: Arc<Shared>, per_second: u32) {
    let start = tokio::time::Instant::now();
    for number in 0..u32::try_from(shared.deliveries.len()).unwrap() {
        sleep_until(start + Duration::from_secs(1) * number / per_second).await;
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        shared.sent.fetch_add(1, Ordering::SeqCst);
        tokio::runtime::Handle::current().spawn(deliver(Arc::clone(&shared), number as usize));
    }
}

/// One delivery, until it is acknowledged.
async fn deliver(shared: Arc<Shared>, number: usize) {
    let (id, body) = &shared.deliveries[number];
    for attempt in 0.. {
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        let target = *shared.target.lock().unwrap();
        let request = request(target, &shared.secret, id, body);
        let start = Instant::now();
        let answer = timeout(SILENCE, exchange(target, &request)).await;
        let wait = start.elapsed();
        if shared.record.lock().unwrap().note(id, start, wait, answer.ok().flatten().as_deref()) {
            return;
        }
        let pause = WAITS[WAITS.len().min(attempt + 1) - 1];
        sleep(pause).await;
    }
}

impl Record {
    /// Whether it is acknowledged.
    fn note(&mut self, id: &str, start: Instant, wait: Duration, answer: Option<&str>) -> bool {
        if wait > ACK_BUDGET + MARGIN {
            self.late += 1;
        }
        self.longest = self.longest.max(wait);
        match answer.map(|head| (head.split(' ').nth(1).unwrap_or_default(), head)) {
            Some(("204", _)) => {
                self.acknowledged.insert(id.to_owned(), start + wait);
                self.waits.push(wait);
                self.latest = self.latest.max(Some(start));
                return true;
            }
            Some(("503", head)) => {
                self.refused += 1;
                if !head.to_ascii_lowercase().contains("\r\nretry-after:") {
                    self.without_retry_after += 1;
                }
            }
            // A body that did not arrive in time because nobody read it: PolyAI sends it again.
            Some(("408", _)) => self.refused += 1,
            Some((_, head)) => self.wrong.push(head.lines().next().unwrap_or_default().to_owned()),
            None => self.nobody += 1,
        }
        false
    }
}

pub(super) fn request(target: SocketAddr, secret: &Secret, id: &str, body: &[u8]) -> Vec<u8> {
    request_at(target, secret, id, body, Clock::System.now().as_second())
}

/// The same, signed at a time of one's own.
pub(super) fn request_at(target: SocketAddr, secret: &Secret, id: &str, body: &[u8], now: i64) -> Vec<u8> {
    let signature = signature::sign(secret, Some(now), body);
    let head = format!(
        "POST /polyai-events HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         x-polyai-signature: {signature}\r\nx-polyai-timestamp: {now}\r\nx-polyai-event-id: evt-{id}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The head of the answer, if there is a whole one.
pub(super) async fn exchange(target: SocketAddr, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(target).await.ok()?;
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&answer).into_owned())
}
