//! The checks of RabbitMQ, with a real broker.

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use tokio::runtime::Runtime;

use super::{Diagnosis, call, doctor, unused_address};
use crate::support::{
    process::{Installation, SimulatedPolyAi, eventually},
    rabbit::{self, SHARED_NODE, exclusive_node_blocking},
};

fn queue(url: &str, prefix: &str) -> String {
    format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}\nspool.path = \"spool.db\"")
}

/// Changes the broker from outside.
fn change_broker(work: impl AsyncFnOnce(lapin::Channel)) {
    Runtime::new().unwrap().block_on(async {
        let connection =
            Connection::connect(&SHARED_NODE.url(), ConnectionProperties::default()).await.unwrap();
        work(connection.create_channel().await.unwrap()).await;
        // The channel may be closing already.
        let _ = connection.close(200, "OK".into()).await;
    });
}

#[test]
fn reports_missing_foreign_and_filled_queues() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let prefix = rabbit::unique_prefix();
    let site = Installation::new(&polyai.access, &queue(&SHARED_NODE.url(), &prefix));
    let found = doctor(&site, &["--role", "receive"]);
    found.is_ok(&["broker.connection", "broker.permissions", "broker.round_trip", "spool"]);
    found.has("broker.topology", "warn", "nothing is declared yet");
    let policies = found.findings.iter().find(|finding| finding["check"] == "broker.policies").unwrap();
    for command in policies["next"].as_str().unwrap().split("; ") {
        let words: Vec<_> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
        assert_eq!(words[0], "rabbitmqctl", "{policies}");
        SHARED_NODE.ctl(&words[1..]);
    }
    let found = doctor(&site, &["--role", "receive"]);
    found.has("broker.topology", "warn", "nothing is declared yet");

    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    receive.wait_for("a connection", |line| line.contains("connected to the broker").then_some(()));
    receive.stop();
    doctor(&site, &["--role", "receive"]).is_ok(&["broker.topology", "broker.round_trip"]);

    let [fetch, dead, unrouted] = ["fetch", "dead", "unrouted"].map(|name| format!("{prefix}.{name}"));
    change_broker(async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        for queue in [&fetch, &dead, &unrouted] {
            let sent = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                b"{}",
                BasicProperties::default(),
            );
            sent.await.unwrap().await.unwrap();
        }
    });
    // The broker updates the counts of a quorum queue only every few seconds.
    eventually("counted", || {
        let shown = doctor(&site, &[]).text();
        ["1 waiting job,", "1 dead letter", "1 event "].iter().all(|words| shown.contains(words))
    });
    let found = doctor(&site, &[]);
    found.has("broker.topology", "warn", "1 waiting job, and no worker takes jobs");
    found.has("broker.topology", "warn", "1 dead letter").has(
        "broker.topology",
        "warn",
        "1 event for which no queue is bound",
    );

    change_broker(async |channel| {
        for queue in [&fetch, &dead] {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        }
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(fetch.as_str().into(), durable, FieldTable::default()).await.unwrap();
    });
    let found = doctor(&site, &[]);
    found.has("broker.topology", "warn", &format!("missing: {dead}")).fails_only("broker.topology");
    found.has("broker.topology", "fail", "other properties than polyhook needs");
    found.has("broker.topology", "fail", &format!("rabbitmqctl delete_queue -p / {fetch}"));
}

#[test]
fn reports_login_tls_and_permission_errors() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let port = SHARED_NODE.port();
    let prefix = rabbit::unique_prefix();
    let ask = |url: &str, more: &[&str]| {
        let site = Installation::new(&polyai.access, &queue(url, &prefix));
        Diagnosis::read(
            &call(&site, &[&["--role", "receive"], more].concat()).must_not_print("hunter2").run(),
        )
    };
    let found = ask(&format!("amqp://guest:hunter2@127.0.0.1:{port}/%2f"), &[]);
    found.has("broker.connection", "fail", "refused the login").fails_only("broker.connection");
    found.has("broker.topology", "skipped", "no node accepts the connection");
    let found = ask(&format!("amqp://guest:guest@127.0.0.1:{port}/nowhere"), &[]);
    found.has("broker.connection", "fail", "virtual host").fails_only("broker.connection");
    ask(&format!("amqp://guest:guest@{}/%2f", unused_address()), &[]).has(
        "broker.connection",
        "fail",
        "refused",
    );
    ask(&format!("amqps://guest:guest@127.0.0.1:{port}/%2f"), &[]).has("broker.connection", "fail", "TLS");

    // A certificate of a private authority is not trusted.
    let own = SHARED_NODE.tls_url().replace("amqps://guest:guest@", "https://").replace("%2f", "");
    let found = ask(&SHARED_NODE.url(), &["--url", &own]);
    found
        .has("public_url", "fail", "no trusted TLS connection: invalid peer certificate")
        .fails_only("public_url");

    let user = format!("user-{prefix}");
    SHARED_NODE.ctl(&["add_user", &user, "hunter2"]);
    let ours = format!("^{prefix}\\.");
    let url = format!("amqp://{user}:hunter2@127.0.0.1:{port}/%2f");
    let ask = |role: &str| {
        let site = Installation::new(&polyai.access, &queue(&url, &prefix));
        Diagnosis::read(&call(&site, &["--role", role]).must_not_print("hunter2").run())
    };
    // A receiver neither consumes nor publishes to the default exchange.
    SHARED_NODE.ctl(&["set_permissions", "-p", "/", &user, &ours, &ours, &ours]);
    ask("receive").is_ok(&["broker.permissions"]).has("broker.topology", "warn", "start a worker first");
    let found = ask("work");
    found.has("broker.permissions", "fail", "lacks permission to write it, which the role `work` needs");
    let amq_default = found.findings.iter().find(|finding| finding["target"] == "amq.default").unwrap();
    // polyhook works with the permissions that the command grants.
    let command = amq_default["next"].as_str().unwrap().split('`').nth(1).unwrap();
    let arguments: Vec<_> = command.split_whitespace().skip(1).map(|word| word.trim_matches('\'')).collect();
    assert_eq!(arguments[..4], ["set_permissions", "-p", "/", &user]);
    SHARED_NODE.ctl(&arguments);
    ask("work").is_ok(&["broker.permissions", "broker.round_trip"]);
    let site = Installation::new(&polyai.access, &queue(&url, &prefix));
    let mut run = site.polyhook(["run"]).must_not_print("hunter2").start();
    run.wait_for("a connection", |line| line.contains("connected to the broker").then_some(()));
    run.stop();
    ask("run").is_ok(&["broker.permissions", "broker.topology"]);
}

#[test]
fn reports_a_broker_that_accepts_no_messages() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let node = exclusive_node_blocking();
    let site = Installation::new(&polyai.access, &queue(&node.url(), "polyhook"));
    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let found = doctor(&site, &["--role", "receive"]);
    found.has("broker.round_trip", "fail", "short of memory or disk").fails_only("broker.round_trip");
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    node.ctl(&["set_policy", "everything", ".*", r#"{"max-length":0}"#]);
    doctor(&site, &["--role", "receive"]).has("broker.round_trip", "fail", "a policy");
    node.pause();
    let found = doctor(&site, &["--role", "receive"]);
    found.has("broker.connection", "fail", "does not answer within");
    node.resume();
    node.ctl(&["clear_policy", "everything"]);
}
