//! Runs `deploy/examples` with a real broker, a folder and an S3 bucket, as a user with the permissions of their README.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use polyhook::{archive::Trigger, clock::Clock, worker::FetchRequest};
use polyhook_simulator::{CallInfo, CallScript, Channel, Delivery, EventOptions, LaterChange, NewCall};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{TestSystem, eventually, root, short_call};
use crate::support::{
    rabbit::{ExclusiveNode, Node, exclusive_node},
    seaweed::Seaweed,
};

const TIMEOUT: Duration = Duration::from_mins(1);
/// Runs a program and prints its `pid` and its `exit` code. Kills the program when standard input is closed, which also happens
/// when the test process dies.
const WATCHDOG: &str = r#"
    exec 3<&0
    "$@" </dev/null 2>&1 & pid=$!
    echo "pid $pid"
    (read -r _ <&3; kill -9 $pid) 2>/dev/null & watchdog=$!
    wait $pid; code=$?
    kill $watchdog
    echo "exit $code"
"#;

/// A running example.
struct Example {
    name: &'static str,
    /// Its working directory.
    folder: PathBuf,
    queue: String,
    watchdog: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Example {
    fn start(name: &'static str, program: &[PathBuf], at: &Environment) -> Self {
        let folder = at.folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let queue = format!("{}-{name}", at.user);
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .args(program)
            .current_dir(&folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(at.variables.iter().map(|(name, value)| (name, value)))
            .env("QUEUE", &queue)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = watchdog.stdout.take().unwrap();
        let lines = Arc::<(Mutex<Vec<String>>, Condvar)>::default();
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(mut lines) = sink.0.lock() else { return };
                lines.push(line);
                sink.1.notify_all();
            }
        });
        Self { name, folder, queue, watchdog, lines }
    }

    /// Waits until the example has printed this many lines with this prefix. Returns the first of them.
    #[track_caller]
    fn wait_for_lines(&self, prefix: &str, wanted: usize) -> String {
        let (deadline, (lines, changed)) = (Instant::now() + TIMEOUT, &*self.lines);
        let mut lines = lines.lock().unwrap();
        loop {
            let mut matching = lines.iter().filter(|line| line.starts_with(prefix));
            if matching.clone().count() >= wanted {
                return matching.next().unwrap().clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not print {prefix:?} {wanted} times: {lines:#?}", self.name);
            lines = changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn count(&self, prefix: &str) -> usize {
        self.lines.0.lock().unwrap().iter().filter(|line| line.starts_with(prefix)).count()
    }

    /// Returns the ids of the conversations that it processed, sorted.
    fn processed(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("done")).unwrap();
        let mut done: Vec<_> = entries
            .map(|entry| {
                serde_json::from_slice::<Value>(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap()
            })
            .map(|summary| summary["conversation_id"].as_str().unwrap().to_owned())
            .collect();
        done.sort();
        done
    }

    fn stop(&self) {
        let pid = self.wait_for_lines("pid ", 1)["pid ".len()..].parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert_eq!(self.wait_for_lines("exit ", 1), "exit 0", "{}", self.name);
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The user, the working directory and the variables of the examples.
#[derive(Clone)]
struct Environment {
    user: String,
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Environment {
    fn new(system: &TestSystem, node: &Node, s3: &Seaweed) -> Self {
        let prefix = &system.config.queue.prefix;
        let user = format!("customer-{prefix}");
        let exchange = prefix.replace('.', "\\\\.");
        // Does the same as `rabbitmqctl add_user` and `set_permissions`, in one call.
        node.ctl(&[
            "eval",
            &format!(
                r#"rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"customer">>, <<"test">>),
                rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"/">>, <<"^{user}">>,
                    <<"^({user}.*|amq\\.default)$">>, <<"^({user}.*|{exchange}\\.(conversations|events))$">>, <<"test">>)."#
            ),
        ]);
        let archive = s3.config("");
        let variables = vec![
            ("AMQP_URL", node.url().replace("guest:guest", &format!("{user}:customer"))),
            ("EXCHANGE", system.prefixed("polyhook.conversations")),
            ("AWS_ENDPOINT_URL", archive.endpoint.unwrap()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", archive.access_key_id.unwrap()),
            ("AWS_SECRET_ACCESS_KEY", archive.secret_access_key.unwrap().expose().to_owned()),
        ];
        Self { user, folder: system.folder.path().to_owned(), variables }
    }
}

fn tool(path: &str) -> PathBuf {
    let path = root().join(".tools/examples").join(path);
    assert!(path.exists(), "{} is missing: run scripts/install-test-tools", path.display());
    path
}

fn start_examples(at: &Environment) -> Vec<Example> {
    let source = |path: &str| root().join("deploy/examples").join(path);
    let symlinks = ["--preserve-symlinks", "--preserve-symlinks-main"].map(PathBuf::from);
    let [first, second] = symlinks;
    let rust = Path::new(env!("CARGO_BIN_EXE_polyhook")).with_file_name("examples").join("conversations");
    assert!(
        rust.exists(),
        "the example is not built: run cargo build --example conversations (a plain `cargo test` builds it, too)"
    );
    vec![
        Example::start("python", &[tool("venv/bin/python"), source("python/conversations.py")], at),
        Example::start("node", &["node".into(), first, second, tool("node/conversations.js")], at),
        Example::start("rust", &[rust], at),
    ]
}

/// The running examples with everything around them.
struct Consumers {
    node: ExclusiveNode,
    system: TestSystem,
    environment: Environment,
    examples: Vec<Example>,
}

impl Consumers {
    async fn start(s3: &Seaweed) -> Self {
        let node = exclusive_node().await;
        let system =
            TestSystem::start(&node, |config| config.refresh.after = vec![Duration::from_secs(1)]).await;
        let environment = block_in_place(|| Environment::new(&system, &node, s3));
        let examples = start_examples(&environment);
        let consumers = Self { node, system, environment, examples };
        consumers.wait_for_lines("waiting", 1);
        consumers
    }

    /// Waits until every example has printed this many lines with this prefix.
    fn wait_for_lines(&self, prefix: &str, count: usize) {
        block_in_place(|| {
            for example in &self.examples {
                example.wait_for_lines(prefix, count);
            }
        });
    }

    /// Announces a new call and waits until every example has processed it.
    async fn process_call(&self, channel: Channel) -> CallInfo {
        let call = self.system.add_call(channel);
        self.system.announce_call(&call).await;
        self.wait_for_lines(&format!("done {}", call.id), 1);
        call
    }

    async fn restart_broker(&self) {
        // RabbitMQ forgets the last declared queue for a second (`polyhook::queue::rabbitmq`, topology).
        tokio::time::sleep(Duration::from_secs(2)).await;
        block_in_place(|| self.node.kill());
        block_in_place(|| self.node.restart());
        self.wait_for_lines("waiting", 2);
        eventually("ready again", async || self.system.app.queue().queue.ready().await.is_ok()).await;
    }

    /// Checks that every example processed exactly `archived`, each call of `processed` once, and dead-lettered the invalid
    /// message.
    async fn assert_processed(&self, customer: &Customer, archived: &[&CallInfo], processed: &[&CallInfo]) {
        let mut expected: Vec<_> = archived.iter().map(|call| call.id.clone()).collect();
        expected.sort();
        for example in &self.examples {
            let dead = customer.get(&format!("{}.dead", example.queue)).await;
            assert_eq!(dead.as_deref(), Some(&b"not JSON"[..]), "{}", example.name);
            assert_eq!(example.processed(), expected, "{}", example.name);
            for call in processed {
                let times = example.count(&format!("done {}", call.id));
                assert_eq!(times, 1, "{} processed a call more than once", example.name);
            }
        }
    }

    async fn stop(self) {
        block_in_place(|| self.examples.iter().for_each(Example::stop));
        drop(self.examples);
        self.system.shut_down().await;
    }
}

/// Starts the example for other events, sends it a handoff, and stops it.
async fn check_events_example(consumers: &Consumers, call: &CallInfo) {
    let mut environment = consumers.environment.clone();
    environment.variables.push(("EXCHANGE", consumers.system.prefixed("polyhook.events")));
    let program = [tool("venv/bin/python"), root().join("deploy/examples/python/events.py")];
    let events = block_in_place(|| Example::start("events", &program, &environment));
    block_in_place(|| events.wait_for_lines("waiting", 1));
    consumers.system.send(Delivery::handoff(call, &EventOptions::default())).await;
    block_in_place(|| events.wait_for_lines(&format!("handoff.created.live {}", call.id), 1));
    block_in_place(|| events.stop());
}

/// Returns the announcement as if an object had been replaced since, by a newer revision.
fn outdated(announcement: &[u8]) -> Value {
    let mut event: Value = serde_json::from_slice(announcement).unwrap();
    event["id"] = "a".repeat(64).into();
    event["data"]["manifest"]["revision"] = 0.into();
    event["data"]["manifest"]["objects"][1]["sha256"] = "0".repeat(64).into();
    event
}

/// Returns the announcement with an object that does not have its hash, and no newer revision.
fn damaged(announcement: &[u8], folder: &Path) -> Value {
    let mut event: Value = serde_json::from_slice(announcement).unwrap();
    event["id"] = "c".repeat(64).into();
    let path = folder.join("damaged");
    std::fs::write(&path, r#"{"revision":1}"#).unwrap();
    let url = format!("file://{}", path.display());
    event["data"]["manifest"]["objects"] = json!([{ "name": "conversation.json", "sha256": "0".repeat(64) }]);
    event["data"]["urls"] = json!({ "conversation.json": url, "manifest.json": url });
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_process_each_conversation_once_and_survive_a_broker_restart() {
    let s3 = Seaweed::shared().await;
    let consumers = Consumers::start(&s3).await;
    let system = &consumers.system;
    let customer = Customer::new(&consumers.node, system).await;

    // A conversation in a folder, announced twice.
    let first = consumers.process_call(Channel::Voice).await;
    let announcement = customer.get(&customer.inbox).await.unwrap();
    system.send(Delivery::completed(&first, &EventOptions { seed: 2, ..EventOptions::default() })).await;
    consumers.wait_for_lines(&format!("repeat {}", first.id), 1);

    // An invalid message becomes a dead letter, and the example goes on with the next.
    customer.publish(b"not JSON").await;
    consumers.wait_for_lines("poison", 1);
    let mut outdated = outdated(&announcement);
    customer.publish(outdated.to_string().as_bytes()).await;
    consumers.wait_for_lines(&format!("outdated {}", first.id), 1);

    // A conversation in a bucket.
    let second = system.add_call(Channel::Voice);
    archive_in_bucket(system, &s3, &second).await;
    consumers.wait_for_lines(&format!("done {}", second.id), 1);

    check_events_example(&consumers, &first).await;
    consumers.restart_broker().await;
    let third = consumers.process_call(Channel::Webchat).await;

    // An erasure reaches the consumers; a late announcement of the erased call finds no objects.
    system.erase(&first).await;
    consumers.wait_for_lines(&format!("erased {}", first.id), 1);
    let customer = Customer::new(&consumers.node, system).await;
    outdated["id"] = "b".repeat(64).into();
    customer.publish(outdated.to_string().as_bytes()).await;
    consumers.wait_for_lines(&format!("missing {}", first.id), 1);
    consumers.assert_processed(&customer, &[&second, &third], &[&first, &second, &third]).await;

    // PolyAI changes a conversation. The refresh that waits in the broker finds that, and it is processed again.
    let change = LaterChange { after: None, after_requests: Some(1), more_turns: 1, summarised: false };
    let script = CallScript { change: Some(change), ..CallScript::default() };
    // It ends in the future, so that its refresh is not due before it is archived. No refresh waits longer than its age.
    let started_at = Some(Clock::System.now() + Duration::from_hours(1));
    let changing = NewCall { script: Some(script), started_at, ..short_call(Channel::Webchat) };
    let changing = system.sim.state().add_call(&changing).unwrap();
    system.announce_call(&changing).await;
    consumers.wait_for_lines(&format!("done {}", changing.id), 2);

    // A damaged object is not processed; the example retries.
    customer.publish(damaged(&announcement, system.folder.path()).to_string().as_bytes()).await;
    consumers.wait_for_lines("retry", 1);
    consumers.stop().await;
}

async fn archive_in_bucket(system: &TestSystem, s3: &Seaweed, call: &CallInfo) {
    let mut config = system.config.clone();
    config.archive = s3.config(&format!("contracts/{}", system.config.queue.prefix));
    let request = FetchRequest {
        conversation_id: call.id.clone(),
        account_id: None,
        project_id: None,
        trigger: Trigger::Command,
        event_id: None,
        received_at: Clock::System.now(),
        started_at: None,
        environment: None,
        traceparent: None,
        any_environment: true,
        discovery: None,
    };
    system.worker(&config).archive_now(&request).await.unwrap();
}

/// A client with all permissions that publishes announcements and receives those of polyhook.
struct Customer {
    _connection: Connection,
    channel: lapin::Channel,
    exchange: String,
    inbox: String,
}

impl Customer {
    async fn new(node: &Node, system: &TestSystem) -> Self {
        let connection = Connection::connect(&node.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let inbox = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
        let inbox = inbox.name().as_str().to_owned();
        let exchange = system.prefixed("polyhook.conversations");
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(inbox.as_str().into(), exchange.as_str().into(), "#".into(), options, arguments)
            .await
            .unwrap();
        Self { _connection: connection, channel, exchange, inbox }
    }

    async fn publish(&self, body: &[u8]) {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let exchange = self.exchange.as_str().into();
        self.channel
            .basic_publish(exchange, "conversation.ready.live".into(), options, body, properties)
            .await
            .unwrap();
    }

    async fn get(&self, queue: &str) -> Option<Vec<u8>> {
        let options = BasicGetOptions { no_ack: true };
        Some(self.channel.basic_get(queue.into(), options).await.unwrap()?.delivery.data)
    }
}
