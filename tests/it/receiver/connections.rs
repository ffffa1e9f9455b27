//! What a connection may cost and for how long: clients that do not read, do not send, or only keep connections open.

use std::time::Duration;

use polyhook::{lifecycle::ShutdownOutcome, signature::SIGNATURE_HEADER, web::ServerConfig};
use tokio::time::timeout;

use super::{
    harness::{Server, TOLERANCE, budget, server, signature, timed, until},
    http2::{Frame, Http2, literal},
    queues::{Behaviour, FakeQueue},
    wire::{Request, Wire},
};

const BUDGET: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(1);
/// An ordinary window of HTTP/2.
const WINDOW: u32 = 65_535;

/// A load balancer keeps idle connections for minutes, and answers 502 if one is closed while it sends a request.
#[tokio::test]
async fn keeps_an_idle_connection_for_longer_than_the_budget() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut wire = server.open().await;
    let mut http2 = Http2::open(server.address, WINDOW).await;
    wire.ask(&Request::event("evt-1")).await.assert_taken();
    http2.post(1, &[], false).await;
    let body = http2.body(1).await;
    assert!(wire.is_silent_for(BUDGET * 3).await, "closed");
    wire.ask(&Request::event("evt-2")).await.assert_taken();
    http2.post(3, &[], false).await;
    assert_eq!(http2.body(3).await, body);
}

#[tokio::test]
async fn closes_a_connection_without_a_request_after_the_idle_timeout() {
    let queue = FakeQueue::new(Behaviour::Store);
    let config = ServerConfig { idle_timeout: IDLE, ..server() };
    let server = Server::with(&config, &signature(), &queue).await;
    let mut wire = server.open().await;
    wire.ask(&Request::event("evt-1")).await.assert_taken();
    assert!(wire.is_silent_for(IDLE / 2).await, "closed");
    wire.ask(&Request::event("evt-2")).await.assert_taken();
    let ((), time) = timed(wire.closed()).await;
    assert!((IDLE / 2..IDLE + TOLERANCE).contains(&time), "{time:?}");

    let mut http2 = Http2::open(server.address, WINDOW).await;
    http2.post(1, &[], false).await;
    http2.body(1).await;
    let ((), time) = timed(async {
        // Frames that are not a request do not keep it open.
        while http2.try_ping().await.is_ok() && timeout(IDLE / 20, http2.closed()).await.is_err() {}
    })
    .await;
    assert!((IDLE / 2..IDLE + TOLERANCE).contains(&time), "{time:?}");
}

#[tokio::test]
async fn closes_the_oldest_idle_connection_for_a_new_one() {
    let queue = FakeQueue::new(Behaviour::Store);
    let config = ServerConfig { max_connections: Some(4), ..server() };
    let server = Server::with(&config, &signature(), &queue).await;
    let mut first = server.open().await;
    first.ask(&Request::event("evt-1")).await.assert_taken();
    let mut second = Http2::open(server.address, WINDOW).await;
    second.post(1, &[], false).await;
    second.body(1).await;
    let mut third = server.open().await;
    third.ask(&Request::event("evt-3")).await.assert_taken();
    queue.behave(Behaviour::Hold);
    let mut busy = server.open().await;
    busy.send(&Request::event("evt-4").sized()).await;
    until("the queue has it", || queue.inside() == 1).await;
    queue.behave(Behaviour::Store);
    // The first one was idle for the longest time, until it was used again.
    first.ask(&Request::event("evt-5")).await.assert_taken();

    server.ask(&Request::event("evt-6")).await.assert_taken();
    second.closed().await;
    third.ask(&Request::event("evt-7")).await.assert_taken();
    let mut newest = server.open().await;
    newest.ask(&Request::event("evt-8")).await.assert_taken();
    newest.ask(&Request::event("evt-9")).await.assert_taken();
    let mut one_more = server.open().await;
    one_more.ask(&Request::event("evt-10")).await.assert_taken();
    first.closed().await;
    queue.release(1);
    busy.answer().await.assert_taken();
}

/// Strangers can send parts of bodies with a well-formed signature on any number of connections.
#[tokio::test]
async fn a_connection_whose_body_is_still_arriving_makes_room() {
    let queue = FakeQueue::new(Behaviour::Store);
    let config = ServerConfig { max_connections: Some(4), ..budget(Duration::from_mins(2)) };
    let server = Server::with(&config, &signature(), &queue).await;
    let forged = Request::unsigned("{}").with(SIGNATURE_HEADER, "0".repeat(64)).sized();
    let mut strangers = Vec::new();
    for _ in 0..4 {
        let mut wire = server.open().await;
        wire.send(&forged[..forged.len() - 1]).await;
        strangers.push(wire);
    }
    for number in 0..4 {
        let event = Request::event(&format!("evt-{number}"));
        timeout(BUDGET * 20, server.ask(&event)).await.expect("it waits for a stranger").assert_taken();
    }
    timeout(BUDGET * 20, strangers[0].closed()).await.expect("the oldest has made room");
}

#[tokio::test]
async fn a_new_connection_waits_while_all_others_have_a_request() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let config = ServerConfig { max_connections: Some(2), ..server() };
    let server = Server::with(&config, &signature(), &queue).await;
    let mut busy = [server.open().await, server.open().await];
    for wire in &mut busy {
        wire.send(&Request::event("evt-1").sized()).await;
    }
    until("the queue has both", || queue.inside() == 2).await;
    queue.behave(Behaviour::Store);
    let mut new = server.open().await;
    new.send(&Request::event("evt-2").sized()).await;
    assert!(new.is_silent_for(BUDGET / 2).await, "there was no room");
    queue.release(2);
    for wire in &mut busy {
        wire.answer().await.assert_taken();
    }
    new.answer().await.assert_taken();
}

#[tokio::test]
async fn closes_a_half_sent_header_on_a_used_connection() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut wire = server.open().await;
    wire.ask(&Request::event("evt-1")).await.assert_taken();
    assert!(wire.is_silent_for(BUDGET * 2).await, "closed");
    let bytes = Request::event("evt-2").sized();
    let ((), time) = timed(async {
        for byte in &bytes {
            if wire.try_send(&[*byte]).await.is_err() || !wire.is_silent_for(BUDGET / 20).await {
                break;
            }
        }
        wire.closed().await;
    })
    .await;
    assert!((BUDGET / 2..BUDGET + TOLERANCE).contains(&time), "{time:?}");
    assert_eq!(queue.entered(), 1);
}

#[tokio::test]
async fn closes_a_connection_whose_client_pipelines_and_never_reads() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut wire = Wire::open_with_small_buffers(server.address).await;
    let requests = Request::unsigned("{}").sized().repeat(1000);
    // More than the buffers of both sockets hold.
    timeout(BUDGET + 10 * TOLERANCE, async { while wire.try_send(&requests).await.is_ok() {} })
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn closes_an_http2_connection_whose_client_takes_no_answer() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    for window in [0, 1, 5] {
        let mut http2 = Http2::open(server.address, window).await;
        http2.post(1, &[], false).await;
        http2.next_such(Frame::is_headers).await;
        let ((), time) = timed(http2.answer_pings_until_closed()).await;
        assert!((BUDGET / 2..BUDGET + TOLERANCE).contains(&time), "{window}: {time:?}");
    }
}

#[tokio::test]
async fn sends_an_answer_through_a_window_that_opens_slowly() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut http2 = Http2::open(server.address, 0).await;
    http2.post(1, &[], false).await;
    let mut body = Vec::new();
    while body.len() < "{\"error\":\"unauthorized\"}\n".len() {
        http2.allow(1, 5).await;
        body.extend(http2.next_such(Frame::is_data).await.payload);
    }
    assert_eq!(body, b"{\"error\":\"unauthorized\"}\n");
}

#[tokio::test]
async fn the_drain_ends_although_clients_do_not_read() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut clients = Vec::new();
    for window in [0, 1, WINDOW] {
        let mut http2 = Http2::open(server.address, window).await;
        http2.post(1, &[], false).await;
        http2.next_such(Frame::is_headers).await;
        clients.push(http2);
    }
    let mut pipelining = Wire::open_with_small_buffers(server.address).await;
    let requests = Request::unsigned("{}").sized().repeat(100_000);
    let _ = timeout(BUDGET / 2, pipelining.try_send(&requests)).await;
    let mut half_sent = server.open().await;
    half_sent.send(b"POST ").await;
    let (outcome, time) = timed(server.end()).await;
    assert_eq!(outcome, ShutdownOutcome::Drained);
    assert!(time < BUDGET + 2 * TOLERANCE, "{time:?}");
}

#[tokio::test]
async fn answers_a_client_that_has_closed_its_sending_side() {
    let queue = FakeQueue::new(Behaviour::Slow(BUDGET / 4));
    let server = Server::start(&queue).await;
    for bytes in [Request::event("evt-1").sized(), Request::event("evt-2").chunked(7)] {
        let mut wire = server.open().await;
        wire.send(&bytes).await;
        wire.finish().await;
        wire.answer().await.assert_taken();
        wire.closed().await;
    }
    let mut wire = server.open().await;
    wire.send(&[Request::event("evt-3").sized(), Request::unsigned("{}").sized()].concat()).await;
    wire.finish().await;
    wire.answer().await.assert_taken();
    assert_eq!(wire.answer().await.status, 401);
    wire.closed().await;
    assert_eq!(queue.stored().len(), 3);
}

#[tokio::test]
async fn rejects_more_than_8_kib_of_headers() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let with_filler = |size| Request::event("evt-1").with("x-filler", vec![b'a'; size]);
    server.ask(&with_filler(7 << 10)).await.assert_taken();
    for size in [8 << 10, 30 << 10] {
        let mut wire = server.open().await;
        let _ = wire.try_send(&with_filler(size).sized()).await;
        let answer = wire.try_answer().await;
        assert!(answer.is_none_or(|answer| answer.status == 431), "{size}");
        wire.closed().await;
    }
    let mut http2 = Http2::open(server.address, WINDOW).await;
    assert_eq!(http2.server_setting(6).await, Some(8 << 10), "SETTINGS_MAX_HEADER_LIST_SIZE");
}

#[tokio::test]
async fn bounds_the_streams_of_a_connection() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let mut http2 = Http2::open(server.address, WINDOW).await;
    assert_eq!(http2.server_setting(3).await, Some(32), "SETTINGS_MAX_CONCURRENT_STREAMS");
    // Without a well-formed signature, the answer would not wait for the body.
    let signature = literal(SIGNATURE_HEADER, &"0".repeat(64));
    for number in 0..33 {
        http2.post(2 * number + 1, &signature, true).await;
    }
    let refused = http2.next_such(Frame::is_reset).await;
    assert_eq!(refused.stream, 65);
}
