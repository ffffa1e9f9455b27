//! Signed deliveries over HTTP/1.1, and what became of them.
//!
//! Two loops. The closed one keeps every connection busy and shows throughput. The open one sends at times that were
//! fixed before, whatever the answers do, over as many connections as it takes, and counts a delivery's latency from
//! the time at which it was due: a receiver that stalls is not spared the deliveries that would have come meanwhile.
//!
//! The bodies are signed before they are sent, and again every minute, so that the client costs little and a run may be
//! long; each delivery has an event id of its own, which makes it a new one.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use hmac::{Hmac, KeyInit, Mac};
use polyhook_bench::{Course, Measured, event, pace};
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// An answer that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a signature is used; a receiver takes it for five minutes.
const SIGNED_FOR: Duration = Duration::from_mins(1);
/// Different bodies.
const BODIES: u64 = 64;

/// Posts signed deliveries to a receiver and measures its answers.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Where to: `http://HOST:PORT/PATH`
    #[arg(long)]
    url: String,
    /// What the deliveries are signed with.
    #[arg(long)]
    secret: String,
    /// Connections; in the open loop, the most of them.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Deliveries a second, in an open loop.
    #[arg(long)]
    rate: Option<u32>,
    #[command(flatten)]
    course: Course,
    /// How many projects the events are of.
    #[arg(long, default_value_t = 1)]
    projects: u64,
    /// Ends after so many deliveries, if that is earlier.
    #[arg(long, default_value_t = u64::MAX)]
    deliveries: u64,
}

/// A request without the event id: what stands before it, and after.
type Request = (Vec<u8>, Vec<u8>);

/// All that the senders share.
#[derive(Debug)]
struct Plan {
    address: String,
    path: String,
    secret: String,
    bodies: Vec<Vec<u8>>,
    requests: RwLock<Vec<Request>>,
    /// Told apart from those of other runs.
    run: u64,
    next: AtomicU64,
    deliveries: u64,
    measured_from: Instant,
    end: Instant,
    /// One for all: a histogram for each of thousands of connections would take gigabytes.
    measured: Mutex<Measured>,
}

impl Plan {
    fn new(args: &Args, start: Instant) -> Self {
        let rest = args.url.strip_prefix("http://").unwrap_or(&args.url);
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let measured_from = start + args.course.warmup;
        let plan = Self {
            address: address.to_owned(),
            path: path.to_owned(),
            secret: args.secret.clone(),
            bodies: (0..BODIES.max(args.projects))
                .map(|n| event(n, args.projects, args.course.body_bytes))
                .collect(),
            requests: RwLock::default(),
            run: u64::try_from(now().as_nanos() & u128::from(u64::MAX)).unwrap_or_default(),
            next: AtomicU64::new(0),
            deliveries: args.deliveries,
            measured_from,
            end: measured_from + args.course.duration,
            measured: Mutex::default(),
        };
        plan.sign();
        plan
    }

    /// Signs all bodies for now.
    fn sign(&self) {
        let Self { address, path, secret, .. } = self;
        let stamp = now().as_secs().to_string();
        let signed = |body: &Vec<u8>| {
            let mut key = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
                .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
            key.update(stamp.as_bytes());
            key.update(b".");
            key.update(body);
            let signature = hex::encode(key.finalize().into_bytes());
            let head = format!(
                "POST /{path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: PolyAI-Webhooks/1.0\r\ncontent-type: application/json\r\n\
                 x-polyai-timestamp: {stamp}\r\nx-polyai-signature: {signature}\r\ncontent-length: {}\r\nx-polyai-event-id: evt_",
                body.len()
            );
            (head.into_bytes(), [b"\r\n\r\n", &**body].concat())
        };
        let requests = self.bodies.iter().map(signed).collect();
        *self.requests.write().unwrap_or_else(PoisonError::into_inner) = requests;
    }

    /// The next delivery, unless there are enough.
    fn request(&self, into: &mut Vec<u8>) -> bool {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        if n >= self.deliveries {
            return false;
        }
        let requests = self.requests.read().unwrap_or_else(PoisonError::into_inner);
        let (head, rest) = &requests[usize::try_from(n).unwrap_or_default() % requests.len()];
        into.clear();
        into.extend_from_slice(head);
        into.extend_from_slice(format!("{:016x}{n:x}", self.run).as_bytes());
        into.extend_from_slice(rest);
        true
    }
}

#[expect(clippy::disallowed_methods, reason = "the signature is of the time it is")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Keeps the signatures fresh.
async fn sign_again(plan: Arc<Plan>) {
    loop {
        sleep(SIGNED_FOR).await;
        plan.sign();
    }
}

/// One connection, made anew where the receiver has closed it.
struct Client {
    address: String,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    fn new(plan: &Plan) -> Self {
        Self { address: plan.address.clone(), stream: None, request: Vec::new(), answer: Vec::new() }
    }

    async fn connected(&mut self) -> io::Result<&mut TcpStream> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends what stands in `request`; the status of the answer.
    async fn send(&mut self) -> io::Result<u16> {
        let request = std::mem::take(&mut self.request);
        let mut answer = std::mem::take(&mut self.answer);
        answer.clear();
        let got = async {
            let stream = self.connected().await?;
            stream.write_all(&request).await?;
            loop {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some((status, keep)) = whole(&answer)? {
                    return Ok((status, keep));
                }
            }
        }
        .await;
        self.request = request;
        self.answer = answer;
        match got {
            Ok((status, true)) => Ok(status),
            other => {
                self.stream = None;
                other.map(|(status, _)| status)
            }
        }
    }

    /// Sends, and notes how it ended; `since` is when the delivery was due.
    async fn deliver(&mut self, plan: &Plan, since: Instant) {
        let within = since >= plan.measured_from && since < plan.end;
        let sent = timeout_at(since + PATIENCE, self.send()).await;
        let mut measured = plan.measured.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(Ok(status)) if (200..300).contains(&status) => measured.success(since.elapsed(), within),
            Ok(Ok(status)) => measured.failure(status.to_string()),
            Ok(Err(error)) => measured.failure(error.kind().to_string()),
            Err(_) => {
                self.stream = None;
                measured.failure("no answer");
            }
        }
    }
}

/// Status, and whether the connection stays, once the whole answer is there.
fn whole(answer: &[u8]) -> io::Result<Option<(u16, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let httparse::Status::Complete(head) = response.parse(answer).map_err(broken)? else { return Ok(None) };
    let status = response.code.unwrap_or_default();
    let find = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let length = find("content-length")
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok())
        .unwrap_or_default();
    let keep = !find("connection").is_some_and(|header| header.value.eq_ignore_ascii_case(b"close"));
    Ok((answer.len() >= head + length).then_some((status, keep)))
}

/// Keeps one connection busy.
async fn closed(plan: Arc<Plan>) {
    let mut client = Client::new(&plan);
    loop {
        let now = Instant::now();
        if now >= plan.end || !plan.request(&mut client.request) {
            return;
        }
        client.deliver(&plan, now).await;
    }
}

/// Sends what is due to whichever connection has been free the longest. They are made one after another during most
/// of the warm-up: thousands at once would be a load of their own.
async fn open(plan: Arc<Plan>, rate: u32, connections: usize, start: Instant) {
    // They stand in line for it: a channel alone lets those who have just been served in before those who wait, and a
    // connection that is silent for some seconds is closed.
    let due = Arc::new(sync::Mutex::new(pace(start, plan.end, rate)));
    let connections = u32::try_from(connections).unwrap_or(u32::MAX);
    let pause = plan.measured_from.duration_since(start) * 4 / 5 / connections;
    let mut clients = JoinSet::new();
    for n in 0..connections {
        let (plan, due) = (Arc::clone(&plan), Arc::clone(&due));
        clients.spawn(async move {
            let mut client = Client::new(&plan);
            sleep_until(start + pause * n).await;
            // Where it cannot be made, the first delivery says so.
            let _ = client.connected().await;
            loop {
                let Ok(at) = due.lock().await.recv().await else { break };
                if !plan.request(&mut client.request) {
                    break;
                }
                client.deliver(&plan, at).await;
            }
        });
    }
    clients.join_all().await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let start = Instant::now();
    let plan = Arc::new(Plan::new(&args, start));
    let mut signing = JoinSet::new();
    signing.spawn(sign_again(Arc::clone(&plan)));
    if let Some(rate) = args.rate {
        open(Arc::clone(&plan), rate, args.connections, start).await;
    } else {
        let clients: JoinSet<_> = (0..args.connections).map(|_| closed(Arc::clone(&plan))).collect();
        clients.join_all().await;
    }
    // In the closed loop, with a number of deliveries, it may have ended before.
    let time = Instant::now().min(plan.end).duration_since(plan.measured_from);
    plan.measured.lock().unwrap_or_else(PoisonError::into_inner).report(time).print();
}
