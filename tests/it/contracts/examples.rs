//! `deploy/examples` against a real broker, a folder and an S3 bucket, as a user who may do no more than its README says.

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
use polyhook_simulator::{CallInfo, Channel, Delivery, EventOptions};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{World, eventually, root};
use crate::{
    rabbitmq_faults::fragile,
    support::{rabbit::Node, seaweed::Seaweed},
};

const PATIENCE: Duration = Duration::from_mins(1);
/// `pid` tells whom to signal; `exit` how it ended. It ends when our end of its input is closed, however that comes.
const LEASH: &str = r#"
    exec 3<&0
    "$@" </dev/null 2>&1 & pid=$!
    echo "pid $pid"
    (read -r _ <&3; kill -9 $pid) 2>/dev/null & leash=$!
    wait $pid; code=$?
    kill $leash
    echo "exit $code"
"#;

/// One of the examples at work.
struct Example {
    name: &'static str,
    /// Its working directory.
    folder: PathBuf,
    queue: String,
    leash: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Example {
    fn start(name: &'static str, program: &[PathBuf], at: &Site) -> Self {
        let folder = at.folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let queue = format!("{}-{name}", at.user);
        let mut leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .args(program)
            .current_dir(&folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(at.environment.iter().map(|(name, value)| (name, value)))
            .env("QUEUE", &queue)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = leash.stdout.take().unwrap();
        let lines = Arc::<(Mutex<Vec<String>>, Condvar)>::default();
        let said = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(mut lines) = said.0.lock() else { return };
                lines.push(line);
                said.1.notify_all();
            }
        });
        Self { name, folder, queue, leash, lines }
    }

    /// Waits until it has said so this often; the first such line.
    #[track_caller]
    fn says(&self, beginning: &str, times: usize) -> String {
        let (deadline, (lines, changed)) = (Instant::now() + PATIENCE, &*self.lines);
        let mut lines = lines.lock().unwrap();
        loop {
            let mut fitting = lines.iter().filter(|line| line.starts_with(beginning));
            if fitting.clone().count() >= times {
                return fitting.next().unwrap().clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} does not say {beginning:?} {times} times: {lines:#?}", self.name);
            lines = changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn count(&self, beginning: &str) -> usize {
        self.lines.0.lock().unwrap().iter().filter(|line| line.starts_with(beginning)).count()
    }

    /// What it has done, by conversation.
    fn done(&self) -> Vec<String> {
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
        let pid = self.says("pid ", 1)["pid ".len()..].parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert_eq!(self.says("exit ", 1), "exit 0", "{}", self.name);
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}

/// What the examples are told.
struct Site {
    user: String,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Site {
    fn new(world: &World, node: &Node, s3: &Seaweed) -> Self {
        let prefix = &world.config.queue.prefix;
        let user = format!("customer-{prefix}");
        let exchange = prefix.replace('.', "\\\\.");
        // As `rabbitmqctl add_user` and `set_permissions` do, in one call.
        node.ctl(&[
            "eval",
            &format!(
                r#"rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"customer">>, <<"test">>),
                rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"/">>, <<"^{user}">>,
                    <<"^({user}.*|amq\\.default)$">>, <<"^({user}.*|{exchange}\\.(conversations|events))$">>, <<"test">>)."#
            ),
        ]);
        let archive = s3.config("");
        let environment = vec![
            ("AMQP_URL", node.url().replace("guest:guest", &format!("{user}:customer"))),
            ("EXCHANGE", world.name("polyhook.conversations")),
            ("AWS_ENDPOINT_URL", archive.endpoint.unwrap()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", archive.access_key_id.unwrap()),
            ("AWS_SECRET_ACCESS_KEY", archive.secret_access_key.unwrap().expose().to_owned()),
        ];
        Self { user, folder: world.folder.path().to_owned(), environment }
    }
}

fn tool(path: &str) -> PathBuf {
    let path = root().join(".tools/examples").join(path);
    assert!(path.exists(), "no {} here: run scripts/install-test-tools", path.display());
    path
}

fn consumers(at: &Site) -> Vec<Example> {
    let source = |path: &str| root().join("deploy/examples").join(path);
    let symlinks = ["--preserve-symlinks", "--preserve-symlinks-main"].map(PathBuf::from);
    let [first, second] = symlinks;
    let rust = Path::new(env!("CARGO_BIN_EXE_polyhook")).with_file_name("examples").join("conversations");
    assert!(
        rust.exists(),
        "`cargo test` builds it, a part of the tests does not: cargo build --example conversations"
    );
    vec![
        Example::start("python", &[tool("venv/bin/python"), source("python/conversations.py")], at),
        Example::start("node", &["node".into(), first, second, tool("node/conversations.js")], at),
        Example::start("rust", &[rust], at),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_take_each_conversation_once_and_outlive_the_broker() {
    let (node, s3) = tokio::join!(fragile(), Seaweed::shared());
    let world = World::start(&node, |_| ()).await;
    let site = block_in_place(|| Site::new(&world, &node, &s3));
    let examples = consumers(&site);
    let events_site = Site {
        environment: [&site.environment[..], &[("EXCHANGE", world.name("polyhook.events"))]].concat(),
        user: site.user.clone(),
        folder: site.folder.clone(),
    };
    let events = [tool("venv/bin/python"), root().join("deploy/examples/python/events.py")];
    let events = Example::start("events", &events, &events_site);
    let all_say = |beginning: &str, times| {
        block_in_place(|| {
            for example in &examples {
                example.says(beginning, times);
            }
        });
    };
    all_say("waiting", 1);
    block_in_place(|| events.says("waiting", 1));
    let customer = Customer::new(&node, &world).await;

    // A conversation in a folder, and the same announced again.
    let first = world.call(Channel::Voice);
    world.deliver(&first).await;
    all_say(&format!("done {}", first.id), 1);
    let announced = customer.get(&customer.inbox).await.unwrap();
    world.send(Delivery::completed(&first, &EventOptions { seed: 2, ..EventOptions::default() })).await;
    all_say(&format!("repeat {}", first.id), 1);

    // What is no announcement is a dead letter, and the next one is taken.
    customer.publish(b"no JSON").await;
    all_say("poison", 1);
    // One that was replaced in the archive since it was announced.
    let mut changed: Value = serde_json::from_slice(&announced).unwrap();
    changed["id"] = "a".repeat(64).into();
    changed["data"]["manifest"]["revision"] = 0.into();
    changed["data"]["manifest"]["objects"][1]["sha256"] = "0".repeat(64).into();
    customer.publish(changed.to_string().as_bytes()).await;
    all_say(&format!("outdated {}", first.id), 1);

    // From a bucket.
    let second = world.call(Channel::Voice);
    archive_in_bucket(&world, &s3, &second).await;
    all_say(&format!("done {}", second.id), 1);

    world.send(Delivery::handoff(&first, &EventOptions::default())).await;
    block_in_place(|| events.says(&format!("handoff.created live {}", first.id), 1));
    block_in_place(|| events.stop());

    // RabbitMQ forgets the queue it made last, for a second (`polyhook::queue::rabbitmq`, topology).
    tokio::time::sleep(Duration::from_secs(2)).await;
    block_in_place(|| node.kill());
    block_in_place(|| node.restart());
    all_say("waiting", 2);
    eventually("ready again", async || world.app.queue().queue.ready().await.is_ok()).await;
    let third = world.call(Channel::Webchat);
    world.deliver(&third).await;
    all_say(&format!("done {}", third.id), 1);

    // Erased at the customer's too; and a late announcement of it finds nothing.
    world.erase(&first).await;
    all_say(&format!("erased {}", first.id), 1);
    let customer = Customer::new(&node, &world).await;
    changed["id"] = "b".repeat(64).into();
    customer.publish(changed.to_string().as_bytes()).await;
    all_say(&format!("gone {}", first.id), 1);

    for example in &examples {
        let dead = customer.get(&format!("{}.dead", example.queue)).await;
        assert_eq!(dead.as_deref(), Some(&b"no JSON"[..]), "{}", example.name);
        let mut wanted = [second.id.clone(), third.id.clone()];
        wanted.sort();
        assert_eq!(example.done(), wanted, "{}", example.name);
        for call in [&first, &second, &third] {
            assert_eq!(example.count(&format!("done {}", call.id)), 1, "{} did it twice", example.name);
        }
    }

    // Damaged: not done, and tried again until it is a dead letter.
    let mut damaged: Value = serde_json::from_slice(&announced).unwrap();
    damaged["id"] = "c".repeat(64).into();
    let place = world.folder.path().join("damaged");
    std::fs::write(&place, r#"{"revision":1}"#).unwrap();
    let url = format!("file://{}", place.display());
    damaged["data"]["manifest"]["objects"] =
        json!([{ "name": "conversation.json", "sha256": "0".repeat(64) }]);
    damaged["data"]["urls"] = json!({ "conversation.json": url, "manifest.json": url });
    customer.publish(damaged.to_string().as_bytes()).await;
    all_say("retry", 1);
    block_in_place(|| examples.iter().for_each(Example::stop));
    drop(examples);
    world.end().await;
}

async fn archive_in_bucket(world: &World, s3: &Seaweed, call: &CallInfo) {
    let mut config = world.config.clone();
    config.archive = s3.config(&format!("contracts/{}", world.config.queue.prefix));
    let request = FetchRequest {
        conversation_id: call.id.clone(),
        account_id: None,
        project_id: None,
        trigger: Trigger::Command,
        event_id: None,
        received_at: Clock::System.now(),
        traceparent: None,
        any_environment: true,
        discovery: None,
    };
    world.worker(&config).archive_now(&request).await.unwrap();
}

/// Somebody who may do everything, and listens too.
struct Customer {
    _connection: Connection,
    channel: lapin::Channel,
    exchange: String,
    inbox: String,
}

impl Customer {
    async fn new(node: &Node, world: &World) -> Self {
        let connection = Connection::connect(&node.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let inbox = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
        let inbox = inbox.name().as_str().to_owned();
        let exchange = world.name("polyhook.conversations");
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
