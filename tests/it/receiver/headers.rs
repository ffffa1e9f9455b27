//! Connections that never complete a request header are closed after about the ack budget.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    harness::{Server, budget, signature, timed, until},
    queues::{Behaviour, FakeQueue},
    wire::{Request, Wire},
};
use crate::support::timing::assert_faster_than;

const BUDGET: Duration = Duration::from_secs(1);
/// Detecting the protocol and reading the header may each take the budget.
const AT_MOST: Duration = Duration::from_secs(5);

#[tokio::test]
async fn closes_a_connection_with_an_unfinished_header() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let beginnings: [(&str, &[u8]); 7] = [
        ("silence", b""),
        ("half a header", b"POST /polyai-events HTTP/1.1\r\nhost: a\r\nx-polyai-signa"),
        ("one letter", b"P"),
        ("a header without its last line", b"POST /polyai-events HTTP/1.1\r\nhost: a\r\n"),
        ("half of HTTP/2's preface", b"PRI * HTTP/2.0\r\n"),
        ("HTTP/2's preface alone", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // A SETTINGS frame, then nothing: a keep-alive PING is never answered either.
        ("an HTTP/2 connection without a stream", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ];
    let cut_off = async |what, bytes| {
        let mut wire = server.open().await;
        wire.send(bytes).await;
        let ((), time) = timed(wire.closed()).await;
        assert!((BUDGET / 2..AT_MOST).contains(&time), "{what}: {time:?}");
    };
    join_all(beginnings.map(|(what, bytes)| cut_off(what, bytes))).await;
    assert_eq!(queue.entered(), 0);
    server.ask(&Request::event("evt-1")).await.assert_taken();
}

#[tokio::test]
async fn closes_a_connection_that_sends_its_header_byte_by_byte() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut wire = server.open().await;
    let ((), time) = timed(async {
        for byte in Request::event("evt-1").sized() {
            if wire.try_send(&[byte]).await.is_err() || !wire.is_silent_for(Duration::from_millis(50)).await {
                break;
            }
        }
        wire.closed().await;
    })
    .await;
    assert!(time < AT_MOST, "{time:?}");
    assert_eq!(queue.entered(), 0);
}

/// The header timeout does not limit the time of the answer.
#[tokio::test]
async fn keeps_a_connection_that_waits_for_the_queue() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let mut wire = server.open().await;
    let bytes = Request::event("evt-1").sized();
    let (head, rest) = bytes.split_at(20);
    wire.send(head).await;
    sleep(BUDGET * 7 / 10).await;
    wire.send(rest).await;
    until("the queue has it", || queue.entered() == 1).await;
    sleep(BUDGET * 6 / 10).await;
    queue.release(1);
    wire.answer().await.assert_taken();
}

#[tokio::test]
async fn rejects_endless_headers_early() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for request in [
        Request::event("evt-1").with("x-filler", vec![b'a'; 64 << 10]),
        (0..500).fold(Request::event("evt-1"), |request, n| request.with(&format!("x-{n}"), "1")),
    ] {
        assert_faster_than(BUDGET, async || {
            let mut wire = server.open().await;
            let answer = send_and_hear(&mut wire, &request.sized()).await;
            assert!(answer.is_none_or(|status| status == 431), "{answer:?}");
        })
        .await;
    }
    assert_eq!(queue.entered(), 0);
}

async fn send_and_hear(wire: &mut Wire, bytes: &[u8]) -> Option<u16> {
    let _ = wire.try_send(bytes).await;
    wire.try_answer().await.map(|answer| answer.status)
}
