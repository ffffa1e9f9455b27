//! Sends signed deliveries over HTTP/1.1 and measures the responses.
//!
//! There are two loops. The closed loop keeps every connection busy and measures throughput. The open loop sends at fixed
//! times, independent of the responses, over as many connections as needed. It measures latency from the time at which a
//! delivery was due, so a receiver that stalls also pays for the deliveries that had to wait.
//!
//! The bodies are signed in advance, and again every minute, so that the client uses little CPU and a run may be long. Each
//! delivery has a unique event id, so it is not a duplicate.

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
use polyhook_bench::{MeasurementArgs, Measurements, event, schedule};
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// A delivery without a response after this time has failed.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between signings. A receiver accepts a signature for five minutes.
const SIGNING_INTERVAL: Duration = Duration::from_mins(1);
/// Number of different bodies.
const BODIES: u64 = 64;

/// Posts signed deliveries to a receiver and measures its answers.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Receiver: `http://HOST:PORT/PATH`
    #[arg(long)]
    url: String,
    /// Signing secret of the deliveries
    #[arg(long)]
    secret: String,
    /// Connections; in the open loop their maximum
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Deliveries per second, in an open loop
    #[arg(long)]
    rate: Option<u32>,
    #[command(flatten)]
    measurement: MeasurementArgs,
    /// Number of projects in the events
    #[arg(long, default_value_t = 1)]
    projects: u64,
    /// Stop after N deliveries at the latest
    #[arg(long, default_value_t = u64::MAX)]
    deliveries: u64,
}

/// The bytes of a request before and after its event id.
type RequestTemplate = (Vec<u8>, Vec<u8>);

/// The data that all clients share.
#[derive(Debug)]
struct Plan {
    address: String,
    path: String,
    secret: String,
    bodies: Vec<Vec<u8>>,
    requests: RwLock<Vec<RequestTemplate>>,
    /// Makes the event ids of this run unique.
    run: u64,
    next: AtomicU64,
    deliveries: u64,
    measured_from: Instant,
    end: Instant,
    /// Shared by all clients: a histogram for each of thousands of connections would take gigabytes.
    measured: Mutex<Measurements>,
}

impl Plan {
    fn new(args: &Args, start: Instant) -> Self {
        let rest = args.url.strip_prefix("http://").unwrap_or(&args.url);
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let measured_from = start + args.measurement.warmup;
        let plan = Self {
            address: address.to_owned(),
            path: path.to_owned(),
            secret: args.secret.clone(),
            bodies: (0..BODIES.max(args.projects))
                .map(|n| event(n, args.projects, args.measurement.body_bytes))
                .collect(),
            requests: RwLock::default(),
            run: u64::try_from(now().as_nanos() & u128::from(u64::MAX)).unwrap_or_default(),
            next: AtomicU64::new(0),
            deliveries: args.deliveries,
            measured_from,
            end: measured_from + args.measurement.duration,
            measured: Mutex::default(),
        };
        plan.sign();
        plan
    }

    /// Signs all bodies with the current time.
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

    /// Writes the next delivery into `into`. Returns false if enough have been sent.
    fn next_request(&self, into: &mut Vec<u8>) -> bool {
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

#[expect(clippy::disallowed_methods, reason = "a receiver checks the signature against the real time")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Signs all bodies again before their signatures expire.
async fn refresh_signatures(plan: Arc<Plan>) {
    loop {
        sleep(SIGNING_INTERVAL).await;
        plan.sign();
    }
}

/// One connection, opened again if the receiver has closed it.
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

    /// Sends `request` and returns the status of the response.
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
                if let Some((status, keep)) = parse_complete(&answer)? {
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

    /// Sends `request` and records the result; the delivery was due at `since`.
    async fn deliver(&mut self, plan: &Plan, since: Instant) {
        let within = since >= plan.measured_from && since < plan.end;
        let sent = timeout_at(since + RESPONSE_TIMEOUT, self.send()).await;
        let mut measured = plan.measured.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(Ok(status)) if (200..300).contains(&status) => measured.success(since.elapsed(), within),
            Ok(Ok(status)) => measured.failure(status.to_string()),
            Ok(Err(error)) => measured.failure(error.kind().to_string()),
            Err(_) => {
                self.stream = None;
                measured.failure("no response");
            }
        }
    }
}

/// Returns the status, and whether the connection stays open, once the response is complete.
fn parse_complete(answer: &[u8]) -> io::Result<Option<(u16, bool)>> {
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

/// Keeps one connection busy until the end.
async fn run_closed_loop(plan: Arc<Plan>) {
    let mut client = Client::new(&plan);
    loop {
        let now = Instant::now();
        if now >= plan.end || !plan.next_request(&mut client.request) {
            return;
        }
        client.deliver(&plan, now).await;
    }
}

/// Sends each delivery when it is due, on the connection that has been idle the longest. Opens the connections one after
/// another during most of the warm-up, because opening thousands at once would be a load of its own.
async fn run_open_loop(plan: Arc<Plan>, rate: u32, connections: usize, start: Instant) {
    // The lock serves the connections in order. A channel alone would prefer those that were just served, and the receiver
    // closes a connection that is idle for some seconds.
    let due = Arc::new(sync::Mutex::new(schedule(start, plan.end, rate)));
    let connections = u32::try_from(connections).unwrap_or(u32::MAX);
    let pause = plan.measured_from.duration_since(start) * 4 / 5 / connections;
    let mut clients = JoinSet::new();
    for n in 0..connections {
        let (plan, due) = (Arc::clone(&plan), Arc::clone(&due));
        clients.spawn(async move {
            let mut client = Client::new(&plan);
            sleep_until(start + pause * n).await;
            // A failure shows again at the first delivery.
            let _ = client.connected().await;
            loop {
                let Ok(at) = due.lock().await.recv().await else { break };
                if !plan.next_request(&mut client.request) {
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
    signing.spawn(refresh_signatures(Arc::clone(&plan)));
    if let Some(rate) = args.rate {
        run_open_loop(Arc::clone(&plan), rate, args.connections, start).await;
    } else {
        let clients: JoinSet<_> = (0..args.connections).map(|_| run_closed_loop(Arc::clone(&plan))).collect();
        clients.join_all().await;
    }
    // A closed loop with a number of deliveries may end early.
    let time = Instant::now().min(plan.end).duration_since(plan.measured_from);
    plan.measured.lock().unwrap_or_else(PoisonError::into_inner).report(time).print();
}
