//! Promise 2: the answer leaves within the ack budget, whatever the queue and the client do.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use futures_util::{StreamExt, future::join_all};
use polyhook::{
    health::Health,
    lifecycle::Lifecycle,
    web::{Receiver, ReceiverConfig, TriggerConfig},
};
use tokio::time::sleep;

use super::{
    harness::{PATH, Server, TOLERANCE, budget, clock, signature, timed, until},
    http2::{Http2, literal},
    queues::{Behaviour, FakeQueue},
    wire::{Answer, Request, event_body},
};

const BUDGET: Duration = Duration::from_secs(1);

/// Tolerates a machine that is busy with other tests. [`answers_exactly_at_the_deadline`] is exact.
#[track_caller]
fn assert_in_time(times: impl IntoIterator<Item = Duration>) {
    for time in times {
        assert!(time < BUDGET + TOLERANCE, "{time:?}");
    }
}

/// Runs on a paused clock that advances only when every task waits, so the machine's speed does not matter.
#[tokio::test(start_paused = true)]
async fn answers_exactly_at_the_deadline() {
    let dawdling = || {
        let bytes = futures_util::stream::iter(event_body("evt-1").into_bytes());
        Body::from_stream(bytes.then(async |byte| {
            sleep(Duration::from_millis(100)).await;
            Ok::<_, Infallible>(vec![byte])
        }))
    };
    let whole = Request::event("evt-1");
    // Reading the body may take three quarters of the budget; the rest is for making it durable.
    for (behaviour, body, status, at_least) in [
        (Behaviour::Hold, Body::from(whole.body.clone()), 503, BUDGET * 9 / 10),
        (Behaviour::Slow(BUDGET * 9 / 10), Body::from(whole.body.clone()), 204, BUDGET * 9 / 10),
        (Behaviour::Slow(BUDGET), Body::from(whole.body.clone()), 503, BUDGET * 9 / 10),
        (Behaviour::Store, dawdling(), 408, BUDGET / 2),
        (
            Behaviour::Store,
            Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, Infallible>>()),
            408,
            BUDGET / 2,
        ),
    ] {
        let queue = FakeQueue::new(behaviour.clone());
        let (server, signature, trigger) = (budget(BUDGET), signature(), TriggerConfig::default());
        let sections = ReceiverConfig { server: &server, signature: &signature, trigger: &trigger };
        let receiver = Receiver::new(sections, queue, clock(), &Health::default(), &Lifecycle::new());
        let mut request = http::Request::post(PATH);
        for (name, value) in &whole.headers {
            request = request.header(name, &value[..]);
        }
        let started = tokio::time::Instant::now();
        let response = receiver.handle(request.body(body).unwrap()).await.unwrap();
        let time = started.elapsed();
        assert_eq!(response.status().as_u16(), status, "{behaviour:?}");
        assert!((at_least..BUDGET).contains(&time), "{behaviour:?}: {time:?}");
    }
}

#[tokio::test]
async fn answers_in_time_when_the_queue_hangs() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let requests: Vec<_> = (0..40).map(|n| Request::event(&format!("evt-{n}"))).collect();
    let answers = join_all(requests.iter().map(|request| timed(server.ask(request)))).await;
    for (answer, _) in &answers {
        answer.assert_unavailable();
    }
    assert!(
        answers.iter().all(|(_, time)| *time > BUDGET / 2),
        "the queue must get its share of the budget: {answers:?}"
    );
    assert_in_time(answers.into_iter().map(|(_, time)| time));
    assert_eq!(queue.inside(), 0, "no publish may continue after the answer");
    assert_eq!(queue.stored(), []);
}

#[tokio::test]
async fn waits_for_a_slow_queue() {
    let queue = FakeQueue::new(Behaviour::Slow(BUDGET / 2));
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    server.ask(&Request::event("evt-1")).await.assert_taken();
}

#[tokio::test]
async fn answers_408_in_time_to_a_slow_body() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let dawdle = async |chunked: bool| {
        let request = Request::event("evt-1");
        let bytes = if chunked { request.chunked(1) } else { request.sized() };
        let head = bytes.len() - if chunked { request.body.len() * 6 + 5 } else { request.body.len() };
        let mut wire = server.open().await;
        wire.send(&bytes[..head]).await;
        let (answer, time) = timed(async {
            for byte in &bytes[head..] {
                sleep(Duration::from_millis(100)).await;
                if !wire.is_silent_for(Duration::from_millis(1)).await
                    || wire.try_send(&[*byte]).await.is_err()
                {
                    break;
                }
            }
            wire.answer().await
        })
        .await;
        assert_timed_out(&answer);
        wire.closed().await;
        time
    };
    assert_in_time(join_all([dawdle(false), dawdle(true), dawdle(false)]).await);
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn answers_408_in_time_to_a_body_that_stops() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let request = Request::event("evt-1");
    let stop = async |bytes: Vec<u8>, missing: usize| {
        let mut wire = server.open().await;
        wire.send(&bytes[..bytes.len() - missing]).await;
        let (answer, time) = timed(wire.answer()).await;
        assert_timed_out(&answer);
        wire.closed().await;
        time
    };
    let times = join_all([
        stop(request.sized(), request.body.len()),
        stop(request.sized(), 1),
        // Every byte of the body, but not the end mark.
        stop(request.chunked(16), 5),
    ])
    .await;
    assert_in_time(times);
    assert_eq!(queue.entered(), 0, "an incomplete body must not be published");
}

#[track_caller]
fn assert_timed_out(answer: &Answer) {
    assert_eq!((answer.status, answer.body.as_str()), (408, "{\"error\":\"request timeout\"}\n"));
    assert_eq!(answer.header("connection"), Some("close"), "the connection cannot be used again");
}

#[tokio::test]
async fn publishes_nothing_of_a_body_that_ends_early() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let request = Request::event("evt-1");
    for bytes in [request.sized(), request.chunked(9)] {
        let mut wire = server.open().await;
        wire.send(&bytes[..bytes.len() - 3]).await;
        drop(wire);
    }
    server.ask(&Request::event("evt-2")).await.assert_taken();
    assert_eq!(queue.entered(), 1);
}

/// The delivery may be durable already, so it must be counted, logged and announced like any other.
#[tokio::test]
async fn a_delivery_goes_on_when_its_client_disconnects() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let mut config = budget(Duration::from_secs(30));
    config.max_in_flight = 2;
    let server = Server::with(&config, &signature(), &queue).await;
    for round in 1..=5 {
        let (mut one, mut two) = (server.open().await, server.open().await);
        one.send(&Request::event("evt-1").sized()).await;
        two.send(&Request::event("evt-2").sized()).await;
        until("both wait for the queue", || queue.entered() == 2 * round).await;
        drop((one, two));
        server.ask(&Request::event("evt-3")).await.assert_unavailable();
        queue.release(2);
        until("both are stored", || queue.stored().len() == 2 * round && queue.inside() == 0).await;
    }
    queue.behave(Behaviour::Store);
    server.ask(&Request::event("evt-4")).await.assert_taken();
}

/// The HTTP library gives up a request whose HTTP/2 stream is reset.
#[tokio::test]
async fn a_delivery_goes_on_when_its_stream_is_reset() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let server = Server::with(&budget(Duration::from_secs(30)), &signature(), &queue).await;
    let mut client = Http2::open(server.address, 65_535).await;
    let event = Request::event("evt-1");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers: Vec<_> =
        event.headers.iter().flat_map(|(name, value)| literal(name, &text(value))).collect();
    client.post(1, &headers, true).await;
    client.data(1, &event.body).await;
    until("it waits for the queue", || queue.entered() == 1).await;
    client.reset(1).await;
    // The reset is read before the next request.
    client.post(3, &[], false).await;
    client.body(3).await;
    queue.release(1);
    until("it is stored", || queue.stored().len() == 1).await;
}

#[tokio::test]
async fn a_panic_affects_only_its_own_request() {
    let queue = FakeQueue::new(Behaviour::Panic);
    let mut config = budget(BUDGET);
    config.max_in_flight = 1;
    let server = Server::with(&config, &signature(), &queue).await;
    let mut wire = server.open().await;
    for n in 1..=3 {
        wire.ask(&Request::event("evt-1")).await.assert_unavailable();
        assert_eq!(queue.entered(), n);
    }
    queue.behave(Behaviour::Store);
    wire.ask(&Request::event("evt-1")).await.assert_taken();
    server.ask(&Request::event("evt-2")).await.assert_taken();
}
