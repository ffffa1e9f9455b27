//! The spool while the broker is unavailable, as an operator sees it.

use serde_json::json;

use crate::support::{
    process::{Installation, SimulatedPolyAi, deliver, eventually, get, metric},
    rabbit::{exclusive_node_blocking, unique_prefix},
};

#[test]
fn counts_verifies_and_drains_spooled_deliveries() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 40);
    let ids = polyai.ids();
    let node = exclusive_node_blocking();
    node.stop();
    let (url, prefix) = (node.url(), unique_prefix());
    let site = Installation::new(
        &polyai.access,
        &format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}\nspool = {{ path = \"spool.db\" }}"),
    );
    let spool =
        |command: &str| site.polyhook(["spool", command, "--json"]).must_not_print("guest:guest").run();
    let (status, verified) =
        (spool("status").expect_exit_code(0).json(), spool("verify").expect_exit_code(0).json());
    assert_eq!((&status["exists"], &status["messages"]), (&json!(false), &json!(0)));
    assert_eq!(verified, json!({ "ok": true, "messages": 0, "problems": [] }));

    // The receiver starts and is ready without the broker, and reports it as degraded.
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    let admin = receive.wait_until_ready();
    let (_, ready) = get(admin, "/readyz").unwrap();
    assert!(ready.starts_with("ready\ndegraded: broker: ") && ready.contains("the spool"), "{ready}");
    for id in &ids[..20] {
        assert_eq!(deliver(receive.receiver_address(), &site.secret, id, &polyai.event(id)), Some(204));
    }
    assert_eq!(metric(admin, "polyhook_spool_messages"), 20);
    assert!(metric(admin, "polyhook_spool_bytes") > 20 * 100);
    let status = spool("status").expect_exit_code(0).json();
    assert_eq!((&status["messages"], &status["max_bytes"]), (&json!(20), &json!(1 << 30)), "{status}");
    assert!(status["oldest_received_at"].is_string());
    let text = site.polyhook(["spool", "status"]).run().expect_exit_code(0).stdout;
    assert!(text.contains("20 deliveries wait, the oldest for "), "{text}");
    assert_eq!(spool("verify").expect_exit_code(0).json()["messages"], 20);
    let drained =
        site.polyhook(["spool", "drain", "--json"]).must_not_print("guest:guest").run().expect_exit_code(1);
    assert_eq!(drained.json(), json!({ "moved": 0, "left": 20 }));
    assert!(drained.stderr.contains("cannot be reached"), "{}", drained.stderr);

    // After a kill, `spool drain` publishes everything without the receiver.
    receive.kill();
    node.restart();
    assert_eq!(spool("drain").expect_exit_code(0).json(), json!({ "moved": 20, "left": 0 }));
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    let mut work = site.polyhook(["work"]).must_not_print("guest:guest").start();
    let admin = receive.wait_until_ready();
    // A duplicate of a delivery that the killed process had spooled.
    assert_eq!(deliver(receive.receiver_address(), &site.secret, &ids[0], &polyai.event(&ids[0])), Some(204));

    // The broker fails while the receiver runs, and the receiver stops before it is back. A metric shows the failure.
    node.kill();
    eventually("the metric shows it", || metric(admin, "polyhook_condition{condition=\"broker\"}") == 1);
    for id in &ids[20..] {
        assert_eq!(deliver(receive.receiver_address(), &site.secret, id, &polyai.event(id)), Some(204));
    }
    receive.stop();
    assert_eq!(spool("status").expect_exit_code(0).json()["messages"], 20);
    node.restart();
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    eventually("archived", || site.manifests().len() == 40);
    assert_eq!(spool("status").expect_exit_code(0).json()["messages"], 0);
    receive.stop();
    work.stop();
}

#[test]
fn exits_with_1_and_names_the_damaged_spool() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "spool = { path = \"spool.db\" }");
    site.write("spool.db", &"?".repeat(9000));
    for command in ["status", "verify"] {
        let said = site.polyhook(["spool", command]).run().expect_exit_code(1);
        assert!(said.stderr.contains("spool.db"), "{command}: {}", said.stderr);
    }
    let said = site.polyhook(["spool", "verify", "--json"]).run().expect_exit_code(1).json();
    assert_eq!(said["ok"], false);
    let said = site.polyhook(["spool", "drain"]).run().expect_exit_code(1);
    assert!(said.stderr.contains("not a RabbitMQ URL"), "{}", said.stderr);
    let none = site.polyhook(["spool", "status", "--set", "spool.path="]).run().expect_exit_code(1);
    assert!(none.stderr.contains("there is no spool"), "{}", none.stderr);
}
