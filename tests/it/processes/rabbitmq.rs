//! Receiver, worker and a broker: what is answered with 204 is archived, announced and readable by other consumers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use serde_json::Value;

use super::read_json;
use crate::support::{
    process::{
        Installation, PolyhookCommand, SimulatedPolyAi, SimulatorAccess, TEST_TIMEOUT, deliver, eventually,
        manifests, metric,
    },
    rabbit,
};

/// A running `support/consumer.py`.
pub(super) struct Consumer {
    child: Child,
    lines: Receiver<Value>,
}

impl Consumer {
    pub(super) fn start(url: &str, prefix: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".tools/venv/bin/python");
        assert!(python.exists(), "no Python with pika here: run scripts/install-test-tools");
        let mut child = Command::new(python)
            .arg(root.join("tests/it/support/consumer.py"))
            .args([url, prefix])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        let consumer = Self { child, lines };
        assert_eq!(consumer.next()["bound"], true);
        consumer
    }

    pub(super) fn next(&self) -> Value {
        self.lines.recv_timeout(TEST_TIMEOUT).expect("the consumer still reads")
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Checks the properties and headers that all messages have.
#[track_caller]
fn assert_envelope(line: &Value) {
    let headers = &line["headers"];
    assert_eq!(line["delivery_mode"], 2, "{line}");
    assert_eq!(line["app_id"], "polyhook", "{line}");
    assert!(line["timestamp"].as_u64().unwrap() > 1_600_000_000, "{line}");
    let (kind, key) = (line["type"].as_str().unwrap(), line["routing_key"].as_str().unwrap());
    assert!(key.strip_prefix(kind).is_some_and(|environment| environment.starts_with('.')), "{line}");
    let trace: Vec<_> = headers["traceparent"].as_str().unwrap().split('-').collect();
    assert_eq!(trace.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{line}");
}

#[track_caller]
fn assert_event(line: &Value) {
    assert_envelope(line);
    let received = line["headers"]["polyhook-received-at"].as_str().unwrap();
    let received: jiff::Timestamp = received.parse().unwrap();
    assert_eq!(line["timestamp"], received.as_second(), "{line}");
    assert_eq!(line["content_type"], "application/json", "{line}");
}

fn body(line: &Value) -> Vec<u8> {
    // Decodes base64 without another dependency.
    let text = line["body"].as_str().unwrap().trim_end_matches('=');
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let bits = four.iter().fold(0u32, |bits, byte| bits << 6 | u32::from(value(*byte)));
        let bits = bits << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

struct Services {
    site: Installation,
    url: String,
    prefix: String,
}

impl Services {
    fn new(access: &SimulatorAccess, worker: &str) -> Self {
        let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
        let queue =
            format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\", publish_timeout = \"3s\" }}\n");
        Self { site: Installation::new(access, &(queue + worker)), url, prefix }
    }
}

#[test]
fn archives_and_announces_thousands_of_deliveries_once() {
    let long = std::env::var_os("POLYHOOK_TEST_LONG").is_some();
    // The share of conversations that are delivered twice. In a long run a delivery rarely repeats another one.
    let (calls, duplicates, deliveries) = if long { (10_000, "0.01", 10_000) } else { (1500, "1", 3000) };
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, calls);
    let Services { site, url, prefix } = Services::new(&polyai.access, "worker.concurrency = 32");
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    let mut work = site.polyhook(["work"]).must_not_print("guest:guest").start();
    let (receiver_admin, worker_admin) = (receive.wait_until_ready(), work.wait_until_ready());
    let consumer = Consumer::start(&url, &prefix);

    let start = Instant::now();
    let summary = simulate_deliveries(&site, receive.receiver_address(), calls, duplicates);
    let sent_in = start.elapsed();
    let accepted = summary["accepted"].as_u64().unwrap();
    assert_eq!(accepted, summary["deliveries"].as_u64().unwrap(), "{summary}");
    assert!(accepted >= deliveries, "including duplicates: {summary}");

    let ids: BTreeSet<String> = polyai.ids().into_iter().collect();
    assert_eq!(ids.len(), calls);
    let Consumed { conversations, events, announcements } = consume_all(&consumer, &prefix, calls);
    let archived_in = start.elapsed();
    assert_eq!((&conversations, events.len()), (&ids, calls), "the event of every call and nothing else");
    assert_eq!(announcements.keys().collect::<BTreeSet<_>>(), ids.iter().collect());
    for (id, announcement_ids) in &announcements {
        assert_eq!(announcement_ids.len(), 1, "{id} is announced with one id");
    }

    eventually("the queue is empty", || metric(worker_admin, "polyhook_queue_depth{queue=\"fetch\"}") == 0);
    for queue in ["dead", "retry"] {
        assert_eq!(metric(worker_admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}")), 0, "{queue}");
    }
    let answered = |outcome: &str| {
        metric(receiver_admin, &format!("polyhook_deliveries_total{{outcome=\"{outcome}\"}}"))
    };
    assert_eq!(answered("accepted") + answered("duplicate"), usize::try_from(accepted).unwrap());
    work.stop();
    receive.stop();
    let manifests = manifests(&site.archive());
    assert_eq!(manifests.len(), calls);
    for path in manifests {
        let manifest = read_json(&path);
        assert!(ids.contains(manifest["conversation_id"].as_str().unwrap()));
        assert_eq!(manifest["revision"], 1, "archived once: {manifest}");
    }
    eprintln!(
        "{accepted} deliveries taken in {sent_in:.1?}, all archived and announced after {archived_in:.1?}"
    );
}

/// Delivers every call with `polyhook simulate`. A simulator with the same seed has the same calls; it sends as fast as it
/// gets answers. Returns its summary.
fn simulate_deliveries(site: &Installation, to: SocketAddr, calls: usize, duplicates: &str) -> Value {
    site.write("scenario.toml", SimulatedPolyAi::CHATS);
    let (target, calls) = (format!("http://{to}/polyai-events"), calls.to_string());
    let arguments = [
        "simulate",
        "--scenario",
        "scenario.toml",
        "--calls",
        &calls,
        "--listen",
        "127.0.0.1:0",
        "--exit",
        "--json",
        "--deliver-to",
        &target,
        "--duplicates",
        duplicates,
        "--reorder",
        "50",
        "--time-scale",
        "0.01",
    ];
    let sent = PolyhookCommand::new(site.path(), arguments).may_print_secrets().run().expect_exit_code(0);
    serde_json::from_str(sent.stdout.lines().last().unwrap()).unwrap()
}

/// The messages that a consumer has received.
struct Consumed {
    /// The conversations of the events.
    conversations: BTreeSet<String>,
    /// The bodies of the events by message id.
    events: BTreeMap<String, Vec<u8>>,
    /// The message ids of the announcements by conversation.
    announcements: BTreeMap<String, BTreeSet<String>>,
}

/// Reads messages until there is an event and an announcement of every call, and checks each of them.
fn consume_all(consumer: &Consumer, prefix: &str, calls: usize) -> Consumed {
    let mut events: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut announcements: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut conversations = BTreeSet::new();
    while events.len() < calls || announcements.len() < calls {
        let line = consumer.next();
        let message: Value = serde_json::from_slice(&body(&line)).unwrap();
        let message_id = line["message_id"].as_str().unwrap().to_owned();
        if line["exchange"] == format!("{prefix}.events") {
            assert_event(&line);
            assert_eq!(message["type"], line["type"]);
            let id = message["data"]["conversation_id"].as_str().unwrap();
            assert_eq!(line["correlation_id"], id);
            conversations.insert(id.to_owned());
            let before = events.insert(message_id, body(&line));
            assert!(before.is_none_or(|before| before == body(&line)), "a duplicate has the same bytes");
        } else {
            assert_envelope(&line);
            assert_eq!(line["type"], "conversation.ready");
            assert_eq!((&message["id"], &message["specversion"]), (&line["message_id"], &"1.0".into()));
            let id = message["data"]["manifest"]["conversation_id"].as_str().unwrap().to_owned();
            announcements.entry(id).or_default().insert(message_id);
        }
    }
    Consumed { conversations, events, announcements }
}

#[test]
fn other_consumers_read_the_original_bytes() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let Services { site, url, prefix } = Services::new(&polyai.access, "");
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    receive.wait_until_ready();
    let consumer = Consumer::start(&url, &prefix);
    let deliveries: [(&[u8], &str); 5] = [
        (
            b"{ \"type\" : \"alerts.triggered\",\t\"alert\": {\"name\": \"Antwortzeit \xc3\xbc\"} }\r\n",
            "alerts.triggered.unknown",
        ),
        (
            br#"{"event_type":"handoff.created","data":{"environment":"pre-release"}}"#,
            "handoff.created.pre-release",
        ),
        (br#"{"type":"an.unknown.type","data":{"environment":"live"}}"#, "an.unknown.type.live"),
        (b"\x00\xff not JSON \xfe", "unparsed.unknown"),
        (b"", "unparsed.unknown"),
    ];
    for (number, (sent, routing_key)) in deliveries.iter().enumerate() {
        let event_id = format!("evt-{number}");
        assert_eq!(deliver(receive.receiver_address(), &site.secret, &event_id, sent), Some(204));
        let line = consumer.next();
        assert_event(&line);
        assert_eq!(body(&line), *sent);
        assert_eq!((&line["message_id"], &line["routing_key"]), (&event_id.into(), &(*routing_key).into()));
        // A consumer with the secret can verify the signature again.
        let signature =
            polyhook::signature::sign(&polyhook::secret::Secret::new(&*site.secret), None, &body(&line));
        let verify = ["verify", "--signature", &signature];
        site.polyhook(verify).input(sent).run().expect_exit_code(0);
    }
    receive.stop();
}

/// Out of memory, for example. RabbitMQ notices that each worker's connection has ended.
#[test]
fn a_job_that_kills_every_worker_becomes_a_dead_letter() {
    // This PolyAI never answers: the workers are killed meanwhile.
    let polyai = TcpListener::bind("127.0.0.1:0").unwrap();
    polyai.set_nonblocking(true).unwrap();
    let access = SimulatorAccess::unreachable(polyai.local_addr().unwrap());
    let Services { site, url: _, prefix } = Services::new(&access, "");
    // Three deliveries instead of a hundred.
    let (policy, pattern) = (format!("limit-{prefix}"), format!("^{prefix}.fetch$"));
    let set = ["set_policy", "--apply-to", "queues", &policy, &pattern, r#"{"delivery-limit":2}"#];
    rabbit::SHARED_NODE.ctl(&set);
    let mut receive = site.polyhook(["receive"]).start();
    let admin = receive.wait_until_ready();
    let event = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","account_id":"acme","project_id":"desk","environment":"live"}}"#;
    assert_eq!(deliver(receive.receiver_address(), &site.secret, "evt_1", event), Some(204));
    for _ in 0..3 {
        let mut work = site.polyhook(["work"]).start();
        let mut request = None;
        eventually("asked for the conversation", || {
            request = polyai.accept().ok();
            request.is_some()
        });
        work.kill();
    }
    eventually("dead", || metric(admin, "polyhook_queue_depth{queue=\"dead\"}") == 1);
    let listed = site.polyhook(["dead", "list", "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&listed["id"], &listed["reason"]), (&"evt_1".into(), &"delivery_limit".into()), "{listed}");
    receive.stop();
    rabbit::SHARED_NODE.ctl(&["clear_policy", &policy]);
}
