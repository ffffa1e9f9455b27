//! The operator's view: liveness, readiness, metrics without identifiers, and a drain that answers every open request.

use std::{
    io::{ErrorKind, Write},
    time::Duration,
};

use futures_util::FutureExt;
use polyhook::{
    app::App,
    config::Roles,
    lifecycle::{Lifecycle, ShutdownOutcome},
    queue::{QueueError, QueueKind},
    signature::EVENT_ID_HEADER,
};
use tokio::net::TcpStream;

use super::{
    harness::{Server, clock, config, get, metrics, timed, until},
    queues::{Behaviour, FakeQueue},
    wire::{Request, Wire, event_body},
};

#[tokio::test]
async fn readyz_reports_the_state_of_the_queue() {
    let queue = FakeQueue::new(Behaviour::Store);
    let lifecycle = Lifecycle::new();
    let admin = Server::admin(&queue, lifecycle.clone()).await;
    let ready = admin.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));

    queue.set_ready(Some(Err(QueueError::Unavailable("the disk is full".to_owned()))));
    let unready = admin.get("/readyz").await;
    assert_eq!((unready.status, unready.body.as_str()), (503, "not ready: the disk is full\n"));
    assert_eq!(admin.get("/livez").await.status, 200, "liveness must not depend on the disk");

    queue.set_ready(None);
    let (silent, time) = timed(admin.get("/readyz")).await;
    assert_eq!((silent.status, silent.body.as_str()), (503, "not ready: the queue does not answer\n"));
    assert!(time < Duration::from_secs(4), "slower than a probe's timeout: {time:?}");
    assert_eq!(admin.get("/livez").await.body, "ok\n");

    queue.set_ready(Some(Ok(())));
    assert_eq!(admin.get("/readyz").await.status, 200, "must be ready again without a restart");
    lifecycle.drain();
    let draining = admin.get("/readyz").await;
    assert_eq!((draining.status, draining.body.as_str()), (503, "draining\n"));
    assert_eq!(admin.get("/livez").await.status, 200);
}

#[tokio::test]
async fn metrics_count_outcomes_without_identifiers() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(&config(&folder), Roles::RECEIVE, Some(metrics()), clock()).await.unwrap();
    let (public, admin) = (app.public_address().unwrap(), app.admin_address().unwrap());
    let before = scrape(admin).await;
    let request = Request::signed(event_body("CA-in-a-label")).with(EVENT_ID_HEADER, "evt-in-a-label");
    for status in [204, 204] {
        assert_eq!(Wire::open(public).await.ask(&request).await.status, status);
    }
    assert_eq!(Wire::open(public).await.ask(&Request::unsigned("{}")).await.status, 401);
    assert_eq!(get(public, "/label-of-a-path").await.status, 404);

    let after = scrape(admin).await;
    // Other tests of this process change the metrics, too.
    let more = |series: &str| value(&after, series) - value(&before, series);
    for outcome in ["accepted", "duplicate", "unverified", "not_found"] {
        assert!(
            more(&format!("polyhook_deliveries_total{{outcome=\"{outcome}\"}}")) >= 1.0,
            "{outcome}\n{after}"
        );
    }
    assert!(more("polyhook_ack_seconds_count") >= 4.0, "{after}");
    assert!(
        after.contains("polyhook_ack_seconds_bucket{le=\"0.25\"}"),
        "a histogram, to be added up: {after}"
    );
    assert!(
        value(&after, &format!("polyhook_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))) > 0.0
    );
    assert!(after.contains("polyhook_queue_depth{queue=\"fetch\"} "), "{after}");
    for identifier in ["evt-in-a-label", "CA-in-a-label", "label-of-a-path", "127.0.0.1", "queue.db"] {
        assert!(!after.contains(identifier), "{identifier} is in a label:\n{after}");
    }

    for path in ["/livez", "/readyz"] {
        assert_eq!(get(admin, path).await.status, 200);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(public, path).await.status, 404, "{path} is not for everybody");
    }
    let delivery = Wire::open(admin).await.ask(&request).await;
    assert_eq!(delivery.status, 404, "the admin listener must not accept deliveries");
    app.lifecycle().drain();
    assert_eq!(app.run_until_shutdown().await, ShutdownOutcome::Drained);
}

#[tokio::test]
async fn serves_metrics_when_the_queue_hangs() {
    let queue = FakeQueue::new(Behaviour::Store);
    queue.set_ready(None);
    let admin = Server::admin(&queue, Lifecycle::new()).await;
    let (metrics, time) = timed(admin.get("/metrics")).await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    assert!(time < Duration::from_secs(4), "{time:?}");
}

async fn scrape(admin: std::net::SocketAddr) -> String {
    let answer = get(admin, "/metrics").await;
    assert_eq!(answer.status, 200);
    answer.body
}

fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_open_requests_and_accepts_no_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(&config(&folder), Roles::RECEIVE, Some(metrics()), clock()).await.unwrap();
    let (public, lifecycle) = (app.public_address().unwrap(), app.lifecycle().clone());
    let mut idle = Wire::open(public).await;
    idle.ask(&Request::event("evt-0")).await.assert_taken();
    let mut silent = Wire::open(public).await;
    let mut midway = Vec::new();
    for n in 1..=5 {
        let bytes = Request::event(&format!("evt-{n}")).sized();
        let (first, rest) = bytes.split_at(bytes.len() - 10);
        let mut wire = Wire::open(public).await;
        wire.send(first).await;
        midway.push((wire, rest.to_vec()));
    }
    // The headers have arrived when a later request has been answered.
    idle.ask(&Request::unsigned("")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let sender = async {
        lifecycle.drain();
        idle.closed().await;
        silent.closed().await;
        let refused = loop {
            match TcpStream::connect(public).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        for (wire, rest) in &mut midway {
            wire.send(rest).await;
            wire.answer().await.assert_taken();
            wire.closed().await;
        }
    };
    let ((ending, time), ()) = tokio::join!(timed(app.run_until_shutdown()), sender);
    assert_eq!(ending, ShutdownOutcome::Drained);
    assert!(time < Duration::from_secs(5), "{time:?}");

    let app = App::start(&config(&folder), Roles::RECEIVE, None, clock()).await.unwrap();
    let depths = app.queue().queue.depths().await.unwrap();
    assert!(depths.contains(&(QueueKind::Fetch, 6)), "{depths:?}");
    app.lifecycle().drain();
    assert_eq!(app.run_until_shutdown().await, ShutdownOutcome::Drained);
}

#[tokio::test]
async fn a_drain_waits_for_publishes() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let server = Server::start(&queue).await;
    let (mut one, mut two) = (server.open().await, server.open().await);
    one.send(&Request::event("evt-1").sized()).await;
    two.send(&Request::event("evt-2").sized()).await;
    until("both wait for the queue", || queue.inside() == 2).await;
    let sender = async {
        until("the drain has begun", || server.lifecycle.draining().is_cancelled()).await;
        assert!(one.is_silent_for(Duration::from_millis(200)).await);
        queue.release(2);
        one.answer().await.assert_taken();
        two.answer().await.assert_taken();
    };
    let (ending, ()) = tokio::join!(server.end(), sender);
    assert_eq!(ending, ShutdownOutcome::Drained);
}

/// A client that sends a request while the drain starts cannot know of it.
#[tokio::test]
async fn a_drain_answers_requests_that_have_arrived_before() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let (mut idle, mut begun, mut fresh) = (server.open().await, server.open().await, server.open().await);
    for wire in [&mut idle, &mut begun] {
        wire.ask(&Request::unsigned("")).await;
    }
    let request = |n: u8| Request::event(&format!("evt-{n}")).sized();
    let bytes = request(1);
    let (first, rest) = bytes.split_at(30);
    begun.send(first).await;
    // The first bytes have arrived when later requests have been answered.
    for _ in 0..3 {
        server.ask(&Request::unsigned("")).await;
    }
    let mut waiting = std::net::TcpStream::connect(server.address).unwrap();
    waiting.write_all(&request(2)).unwrap();
    // Sent without a turn of the server, which shares this thread.
    for (wire, n) in [(&mut idle, 3), (&mut fresh, 4)] {
        wire.send(&request(n)).now_or_never().expect("the socket takes it at once");
    }
    server.lifecycle.drain();
    begun.send(rest).await;
    for wire in [&mut idle, &mut begun, &mut fresh, &mut Wire::from(waiting)] {
        wire.answer().await.assert_taken();
        wire.closed().await;
    }
    assert_eq!(server.end().await, ShutdownOutcome::Drained);
    assert_eq!(queue.stored().len(), 4);
}
