//! Promise 10 at the public listener: bodies, deliveries in flight and slow clients are bounded, and other traffic is not
//! affected.

use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use polyhook::signature::{EVENT_ID_HEADER, SIGNATURE_HEADER};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::sleep};

use super::{
    harness::{AT_ONCE, PATH, Server, budget, server, signature, timed, until},
    queues::{Behaviour, FakeQueue},
    wire::{Request, Wire},
};
use crate::support::timing::assert_faster_than;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn accepts_one_mebibyte_and_not_a_byte_more() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for (size, chunked, taken) in
        [(MIB, false, true), (MIB, true, true), (MIB + 1, false, false), (MIB + 1, true, false)]
    {
        let body: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let request = Request::signed(body).with(EVENT_ID_HEADER, "evt-1");
        let before = queue.stored().len();
        let mut wire = server.open().await;
        // The connection of a rejected request may be closed before everything was sent.
        let sent = wire.try_send(&if chunked { request.chunked(8 << 10) } else { request.sized() }).await;
        let answer = wire.answer().await;
        if taken {
            sent.unwrap();
            answer.assert_taken();
            assert_eq!(queue.stored().pop().unwrap().body, request.body);
        } else {
            assert_eq!(answer.status, 413);
            assert_eq!(answer.body, "{\"error\":\"payload too large\"}\n");
            assert_eq!(queue.stored().len(), before);
        }
    }
}

#[tokio::test]
async fn rejects_an_announced_oversized_body_without_reading_it() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for length in ["1048577", "99999999999"] {
        for expect in [false, true] {
            let mut request = Request::signed("{}");
            if expect {
                // A client that sends `Expect: 100-continue` gets no 100.
                request = request.with("expect", "100-continue");
            }
            assert_faster_than(AT_ONCE, async || {
                let mut wire = server.open().await;
                wire.send(&request.head(&format!("content-length: {length}"))).await;
                let answer = wire.answer().await;
                assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
                wire.closed().await;
            })
            .await;
        }
    }
}

/// A client that cannot send the rest of the body can still read the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_413_arrives_although_the_body_is_not_read() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let request = Request::signed(vec![b'x'; 16 * MIB]).sized();
    for _ in 0..5 {
        let mut wire = server.open().await;
        let _ = wire.try_send(&request).await;
        assert_eq!(wire.answer().await.status, 413);
    }
}

#[tokio::test]
async fn body_limit_is_configurable() {
    let queue = FakeQueue::new(Behaviour::Store);
    let mut config = server();
    config.body_limit = "10B".parse().unwrap();
    let server = Server::with(&config, &signature(), &queue).await;
    server.ask(&Request::signed("0123456789")).await.assert_taken();
    assert_eq!(server.ask(&Request::signed("0123456789a")).await.status, 413);
}

#[tokio::test]
async fn answers_503_at_once_beyond_max_in_flight() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let mut config = server();
    config.max_in_flight = 4;
    let server = Server::with(&config, &signature(), &queue).await;
    for round in 1..=3 {
        let mut held = join_all((0..4).map(|_| server.open())).await;
        for (n, wire) in held.iter_mut().enumerate() {
            wire.send(&Request::event(&format!("evt-{n}")).sized()).await;
        }
        until("all four wait for the queue", || queue.inside() == 4).await;
        for _ in 0..3 {
            let request = Request::event("evt-5");
            assert_faster_than(AT_ONCE, async || server.ask(&request).await.assert_unavailable()).await;
        }
        assert_eq!(queue.inside(), 4, "the fifth delivery must not reach the queue");
        queue.release(4);
        for wire in &mut held {
            wire.answer().await.assert_taken();
        }
        assert_eq!(queue.stored().len(), 4 * round);
    }
}

/// Bodies that do not end take at most 64 MiB together, and the oldest of them make room for deliveries. Their signature is
/// well-formed, so that only the whole body could show that it is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_make_room_for_deliveries() {
    const UNSENT: usize = 1000;
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(Duration::from_secs(30)), &signature(), &queue).await;
    let request = Request::unsigned(vec![b'x'; MIB]).with(SIGNATURE_HEADER, "0".repeat(64));
    let bytes = &request.sized()[..];
    let bytes = &bytes[..bytes.len() - UNSENT];
    let mut held = join_all((0..80).map(|_| server.open())).await;
    join_all(held.iter_mut().map(|wire| wire.send(bytes))).await;

    let mut given_up = 0;
    for round in 0..UNSENT - 1 {
        server.ask(&Request::event(&format!("evt-{round}"))).await.assert_taken();
        let mut unanswered = Vec::new();
        for mut wire in held {
            if wire.try_send(b"x").await.is_ok() && wire.is_silent_for(Duration::from_millis(1)).await {
                unanswered.push(wire);
            } else {
                wire.answer().await.assert_unavailable();
                given_up += 1;
            }
        }
        held = unanswered;
        if given_up >= 16 {
            break;
        }
    }
    assert!(given_up >= 16, "80 MiB are held, {given_up} given up");
    let large = Request::signed(vec![b'y'; MIB]);
    for _ in 0..10 {
        server.ask(&large).await.assert_taken();
    }
}

/// A thousand clients send one byte per second, far more than there are slots. Other clients do not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_delay_others() {
    const SLOW: usize = 1000;
    const HONEST: usize = 200;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(10_000), most).unwrap();

    let queue = FakeQueue::new(Behaviour::Store);
    let mut config = server();
    config.max_in_flight = 8;
    let server = Server::with(&config, &signature(), &queue).await;
    let address = server.address;

    let mut slow = JoinSet::new();
    for n in 0..SLOW {
        slow.spawn(async move {
            let bytes = Request::event(&format!("slow-{n}")).sized();
            let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            // Half of them send the header slowly, half the body.
            let at = if n % 2 == 0 { 30 } else { head };
            let mut wire = Wire::open(address).await;
            wire.send(&bytes[..at]).await;
            let mut stream = wire.into_stream();
            for byte in &bytes[at..] {
                sleep(Duration::from_secs(1)).await;
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        });
    }
    sleep(Duration::from_millis(700)).await;

    // Requests to a server without slow clients show how busy the machine is meanwhile.
    let quiet = Server::start(&FakeQueue::new(Behaviour::Store)).await;
    let (mut times, mut quiet_times) = (Vec::new(), Vec::new());
    for n in 0..HONEST {
        times.push(time_of_a_delivery(&server, n).await);
        quiet_times.push(time_of_a_delivery(&quiet, n).await);
        sleep(Duration::from_millis(5)).await;
    }
    // Other work on the machine decides the slowest ones.
    let (p90, quiet_p90) = (p90(times), p90(quiet_times));
    assert!(
        p90 < Duration::from_millis(400) + 3 * quiet_p90,
        "p90 {p90:?}, without slow clients {quiet_p90:?}"
    );
    assert_eq!(queue.entered(), HONEST, "no slow request may reach the queue");
    slow.shutdown().await;
}

/// Delivers on a new connection, because accepting must work, too.
async fn time_of_a_delivery(server: &Server, number: usize) -> Duration {
    let request = Request::event(&format!("honest-{number}"));
    let (answer, time) = timed(server.ask(&request)).await;
    answer.assert_taken();
    time
}

fn p90(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 90 / 100]
}

/// The path is checked before the body is read.
#[tokio::test]
async fn answers_404_without_waiting_for_the_body() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let mut request = Request::signed("{}");
    request.path = format!("{PATH}/elsewhere");
    assert_faster_than(AT_ONCE, async || {
        let mut wire = server.open().await;
        wire.send(&request.head("content-length: 1000")).await;
        assert_eq!(wire.answer().await.status, 404);
    })
    .await;
}
