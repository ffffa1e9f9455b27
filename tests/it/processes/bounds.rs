//! `/metrics` shows how much of each bounded resource is in use.

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
fn reports_what_the_receiver_holds_until_it_is_released() {
    const HELD: usize = 3;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, HELD);
    let site = Installation::new(&polyai.access, "queue.publish_timeout = \"3s\"");
    let mut receive = site.polyhook(["receive"]).start();
    let (admin, address) = (receive.wait_until_ready(), receive.receiver_address());
    // Buffers have up to twice the bytes that have arrived.
    let holds = |connections, arrived: usize, in_flight, writes| {
        metric(admin, "polyhook_connections{listener=\"public\"}") == connections
            && (arrived..=2 * arrived).contains(&metric(admin, "polyhook_body_bytes"))
            && metric(admin, "polyhook_deliveries_in_flight") == in_flight
            && metric(admin, "polyhook_queue_writes") == writes
    };
    eventually("nothing is held yet", || holds(0, 0, 0, 0));

    // Charged are the bytes that have arrived, not the announced length.
    let slow = unfinished_request(address, 100_000, 20_000);
    eventually("a body is being read", || holds(1, 20_000, 0, 0));
    drop(slow);
    eventually("the connection is closed", || holds(0, 0, 0, 0));

    let queue = Connection::open(site.path().join("polyhook-data/queue.db")).unwrap();
    queue.execute_batch("BEGIN IMMEDIATE").unwrap();
    let bodies: usize = polyai.ids().into_iter().map(|id| polyai.event(&id).len()).sum();
    let senders: Vec<_> = polyai
        .ids()
        .into_iter()
        .map(|id| {
            let (secret, event) = (site.secret.clone(), polyai.event(&id));
            std::thread::spawn(move || deliver(address, &secret, &format!("evt-{id}"), &event))
        })
        .collect();
    eventually("deliveries wait for the queue", || holds(HELD, bodies, HELD, HELD));
    queue.execute_batch("COMMIT").unwrap();
    for sender in senders {
        assert_eq!(sender.join().unwrap(), Some(204));
    }
    eventually("everything is released", || holds(0, 0, 0, 0));
    receive.stop();
}

#[test]
fn reports_the_jobs_that_the_worker_holds_until_they_are_done() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 2);
    let SimulatorAccess { account_id, project_id, .. } = &polyai.access;
    // With two projects, one job of each may wait for a slow response beside the jobs that run.
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
    let delay = json!({ "fault": { "action": { "delay": "5s" }, "operations": ["v3_conversation"] } });
    polyai.control("POST", "faults", &delay);
    for id in polyai.ids() {
        assert_eq!(
            deliver(run.receiver_address(), &site.secret, &format!("evt-{id}"), &polyai.event(&id)),
            Some(204)
        );
    }
    eventually("both jobs run", || holds(2, 2, 0));
    eventually("one job waits without a slot", || holds(2, 2, 1));
    eventually("all is done", || holds(0, 0, 0) && site.manifests().len() == 2);
    run.stop();
}

/// Sends a request whose body never ends.
fn unfinished_request(to: SocketAddr, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    // Without a well-formed signature it would be answered at once.
    let signature = "0".repeat(64);
    let head = format!("host: slow\r\nx-polyai-signature: {signature}\r\ncontent-length: {announced}");
    write!(stream, "POST /polyai-events HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    stream.write_all(&vec![b'x'; sent]).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "the request was answered");
    stream
}
