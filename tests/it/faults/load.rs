//! A sender of deliveries at a constant rate that does not depend on the answers (an open loop).
//!
//! Each delivery is for a conversation of its own. A delivery without a 204 is sent again, with PolyAI's delays scaled
//! down, until [`Load::finish`].

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

use super::{Figures, deployment::RECOVERY_TIMEOUT, milliseconds};
use crate::support::process::SimulatedPolyAi;

/// The default ack budget of a receiver.
const ACK_BUDGET: Duration = Duration::from_secs(4);
/// The longest time that an answer may take here: the ack budget, and a tolerance for this machine and the sender.
pub(super) const MAX_ANSWER_TIME: Duration = Duration::from_millis(4250);
/// After this time the sender stops waiting for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The delays before a delivery is sent again; the last one repeats. PolyAI's are 1, 5, 15, 60 and 240 minutes.
const RETRY_DELAYS: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

/// Deliveries that a background task sends.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    /// The receiver that gets the next attempts.
    target: Mutex<SocketAddr>,
    secret: Secret,
    deliveries: Vec<(String, Vec<u8>)>,
    record: Mutex<DeliveryRecord>,
    /// The number of deliveries that were sent at least once.
    sent: AtomicUsize,
    /// No new deliveries are sent.
    stopped: AtomicBool,
    /// Nothing is sent again.
    aborted: AtomicBool,
}

/// The results of all attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct DeliveryRecord {
    /// The attempts that were answered 204, by conversation.
    pub(super) acknowledged: BTreeMap<String, Acknowledged>,
    /// Attempts that were answered 503 or 408.
    pub(super) refused: usize,
    /// Of these, the 503s without `Retry-After`.
    pub(super) without_retry_after: usize,
    /// Attempts without an answer: the connection was refused or closed, or the answer did not come in time.
    pub(super) unanswered: usize,
    /// Attempts that took longer than [`MAX_ANSWER_TIME`].
    pub(super) late: usize,
    /// The longest time of an attempt.
    pub(super) longest: Duration,
    /// Answers that a signed delivery must never get.
    pub(super) unexpected: Vec<String>,
    /// The start of the latest attempt that was acknowledged.
    latest_acknowledged: Option<Instant>,
}

/// An attempt that was answered 204.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

impl Load {
    /// Starts to send the events of all conversations of `polyai` to `target`.
    pub(super) fn start(polyai: &SimulatedPolyAi, target: SocketAddr, per_second: u32) -> Self {
        let deliveries = polyai.ids().into_iter().map(|id| (id.clone(), polyai.event(&id))).collect();
        Self::with_deliveries(deliveries, polyai, target, per_second)
    }

    /// Starts to send these bodies, each with the id of its conversation, to `target`.
    pub(super) fn with_deliveries(
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
            aborted: AtomicBool::new(false),
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

    /// Sends all further attempts to this receiver.
    pub(super) fn redirect_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// Reads the results so far.
    pub(super) fn inspect<T>(&self, read: impl FnOnce(&DeliveryRecord) -> T) -> T {
        read(&self.shared.record.lock().unwrap())
    }

    /// Returns the number of deliveries that were answered 204.
    pub(super) fn acknowledged(&self) -> usize {
        self.inspect(|record| record.acknowledged.len())
    }

    /// Returns the number of attempts that were refused.
    pub(super) fn refused(&self) -> usize {
        self.inspect(|record| record.refused)
    }

    /// Waits until an attempt that began after `moment` is acknowledged. Returns the time since `moment`.
    #[track_caller]
    pub(super) fn wait_for_acknowledgement_after(&self, moment: Instant) -> Duration {
        loop {
            assert!(!self.has_sent_everything(), "there are too few conversations for this scenario");
            if self.inspect(|record| record.latest_acknowledged.is_some_and(|sent| sent >= moment)) {
                return moment.elapsed();
            }
            assert!(moment.elapsed() < RECOVERY_TIMEOUT, "deliveries are not acknowledged any more");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn has_sent_everything(&self) -> bool {
        self.shared.sent.load(Ordering::SeqCst) >= self.shared.deliveries.len()
    }

    /// Stops new deliveries, waits until every delivery that was sent is acknowledged, and returns the results.
    #[track_caller]
    pub(super) fn finish(self) -> DeliveryRecord {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let start = Instant::now();
        loop {
            let (sent, acknowledged) = (self.shared.sent.load(Ordering::SeqCst), self.acknowledged());
            if sent == acknowledged {
                break;
            }
            let missing = sent - acknowledged;
            assert!(start.elapsed() < RECOVERY_TIMEOUT, "{missing} deliveries are never acknowledged");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.shared.aborted.store(true, Ordering::SeqCst);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.shared.record.lock().unwrap().clone()
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

/// Sends one delivery until it is acknowledged.
async fn deliver(shared: Arc<Shared>, number: usize) {
    let (id, body) = &shared.deliveries[number];
    for attempt in 0.. {
        if shared.aborted.load(Ordering::SeqCst) {
            return;
        }
        let target = *shared.target.lock().unwrap();
        let request = request(target, &shared.secret, id, body);
        let sent = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, exchange(target, &request)).await;
        let times = Acknowledged { sent, answered: Instant::now() };
        if shared.record.lock().unwrap().add_attempt(id, times, answer.ok().flatten().as_deref()) {
            return;
        }
        sleep(RETRY_DELAYS[RETRY_DELAYS.len().min(attempt + 1) - 1]).await;
    }
}

impl DeliveryRecord {
    /// Adds the result of an attempt. Returns whether it was acknowledged.
    fn add_attempt(&mut self, id: &str, times: Acknowledged, answer: Option<&str>) -> bool {
        let time = times.answered - times.sent;
        if time > MAX_ANSWER_TIME {
            self.late += 1;
        }
        self.longest = self.longest.max(time);
        match answer.map(|head| (status(head), head)) {
            Some(("204", _)) => {
                self.acknowledged.insert(id.to_owned(), times);
                self.latest_acknowledged = self.latest_acknowledged.max(Some(times.sent));
                return true;
            }
            Some(("503", head)) => {
                self.refused += 1;
                if !has_retry_after(head) {
                    self.without_retry_after += 1;
                }
            }
            // The receiver did not read the body in time. PolyAI sends it again.
            Some(("408", _)) => self.refused += 1,
            Some((_, head)) => self.unexpected.push(head.lines().next().unwrap_or_default().to_owned()),
            None => self.unanswered += 1,
        }
        false
    }

    /// Returns the 99th percentile of the times to a 204.
    pub(super) fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// Returns the time from sending to the answer that this percentage of the acknowledged deliveries did not exceed.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let mut times: Vec<_> = self.acknowledged.values().map(|times| times.answered - times.sent).collect();
        times.sort_unstable();
        times.get(times.len() * percent / 100).copied().unwrap_or_default()
    }

    /// Sets the figures of the answers, and checks that every request was answered correctly and in time.
    #[track_caller]
    pub(super) fn check(&self, figures: &mut Figures) {
        figures
            .set("acknowledged", self.acknowledged.len())
            .set("refused", self.refused)
            .set("unanswered", self.unanswered)
            .set("late", self.late)
            .set("longest_answer_ms", milliseconds(self.longest))
            .set("p99_acknowledged_ms", milliseconds(self.p99()));
        assert!(
            self.unexpected.is_empty(),
            "PolyAI does not repeat a signed delivery after these answers: {:?}",
            self.unexpected
        );
        assert_eq!(self.without_retry_after, 0, "503s without Retry-After");
        assert_eq!(
            self.late, 0,
            "answers after the ack budget of {ACK_BUDGET:?}; the longest took {:?}",
            self.longest
        );
    }
}

/// Returns the status of an answer's head.
pub(super) fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

pub(super) fn has_retry_after(head: &str) -> bool {
    head.to_ascii_lowercase().contains("\r\nretry-after:")
}

/// Returns a delivery that is signed now.
pub(super) fn request(target: SocketAddr, secret: &Secret, id: &str, body: &[u8]) -> Vec<u8> {
    request_at(target, secret, id, body, Clock::System.now().as_second())
}

/// Returns a delivery that is signed at `now`, in Unix seconds.
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

/// Sends a request and returns the head of the answer, or `None` without a complete head.
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
