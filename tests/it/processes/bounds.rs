//! How full the bounded buffers are, as `/metrics` tells it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rusqlite::Connection;
use serde_json::json;

use crate::support::{
    process::{Installation, SimulatedPolyAi, SimulatorAccess, deliver, eventually, metric},
    rabbit,
};

#[test]
fn what_a_receiver_holds_is_told_and_given_back() {
    const HELD: usize = 3;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, HELD);
    let site = Installation::new(&polyai.access, "queue.publish_timeout = \"3s\"");
    let mut receive = site.polyhook(["receive"]).start();
    let (admin, address) = (receive.wait_until_ready(), receive.receiver_address());
    let holds = |connections, body_bytes, in_flight, writes| {
        metric(admin, "polyhook_connections{listener=\"public\"}") == connections
            && metric(admin, "polyhook_body_bytes") == body_bytes
            && metric(admin, "polyhook_deliveries_in_flight") == in_flight
            && metric(admin, "polyhook_queue_writes") == writes
    };
    eventually("nothing yet", || holds(0, 0, 0, 0));

    // Charged in steps of 16 KiB for what has come, not for what was announced.
    let slow = unfinished(address, 100_000, 20_000);
    eventually("a body is being read", || holds(1, 32 << 10, 0, 0));
    drop(slow);
    eventually("it is gone", || holds(0, 0, 0, 0));

    let queue = Connection::open(site.path().join("polyhook-data/queue.db")).unwrap();
    queue.execute_batch("BEGIN IMMEDIATE").unwrap();
    let senders: Vec<_> = polyai
        .ids()
        .into_iter()
        .map(|id| {
            let (secret, event) = (site.secret.clone(), polyai.event(&id));
            std::thread::spawn(move || deliver(address, &secret, &format!("evt-{id}"), &event))
        })
        .collect();
    eventually("deliveries wait for the queue", || holds(HELD, HELD * (16 << 10), HELD, HELD));
    queue.execute_batch("COMMIT").unwrap();
    for sender in senders {
        assert_eq!(sender.join().unwrap(), Some(204));
    }
    eventually("all is given back", || holds(0, 0, 0, 0));
    receive.stop();
}

#[test]
fn what_a_worker_holds_is_told_and_given_back() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 2);
    let SimulatorAccess { account_id, project_id, .. } = &polyai.access;
    // With two projects one job of each may wait for a slow answer beside those that have a slot.
    let config = format!(
        r#"
        queue = {{ url = "{}", prefix = "{}", publish_timeout = "3s" }}
        spool.path = "spool.db"
        worker.concurrency = 2
        [[projects]]
        account_id = "{account_id}"
        project_id = "{project_id}"
        api_key_file = "key"
        [[projects]]
        account_id = "{account_id}"
        project_id = "another"
        api_key_file = "key"
        "#,
        rabbit::SHARED_NODE.url(),
        rabbit::unique_prefix()
    );
    let site = Installation::new(&polyai.access, &config);
    let mut run = site.polyhook(["run"]).must_not_print("guest:guest").start();
    let admin = run.wait_until_ready();
    let holds = |held, running, waiting| {
        metric(admin, "polyhook_jobs_held") == held
            && metric(admin, "polyhook_jobs_running") == running
            && metric(admin, "polyhook_jobs_waiting") == waiting
    };
    let slowly = json!({ "fault": { "action": { "delay": "5s" }, "operations": ["v3_conversation"] } });
    polyai.control("POST", "faults", &slowly);
    for id in polyai.ids() {
        assert_eq!(
            deliver(run.receiver_address(), &site.secret, &format!("evt-{id}"), &polyai.event(&id)),
            Some(204)
        );
    }
    eventually("both are being worked on", || holds(2, 2, 0));
    eventually("one waits without a slot", || holds(2, 2, 1));
    eventually("all is done", || holds(0, 0, 0) && site.manifests().len() == 2);
    run.stop();
}

/// A request whose body stays unfinished.
fn unfinished(to: SocketAddr, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    write!(stream, "POST /polyai-events HTTP/1.1\r\nhost: slow\r\ncontent-length: {announced}\r\n\r\n")
        .unwrap();
    stream.write_all(&vec![b'x'; sent]).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it is answered");
    stream
}
