//! Deliveries, as a receiver sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::stream;
use http::{Method, StatusCode};
use serde_json::json;

use super::{
    Fixture, answer,
    receiver::{Received, Receiver},
};
use crate::{AttemptOutcome, Delivery, EventOptions, Scenario, SenderOptions, SignatureForm};

/// Options that shorten a minute to 0.6 ms.
fn fast() -> SenderOptions {
    SenderOptions { time_scale: 0.00001, timeout: Duration::from_millis(300), ..SenderOptions::default() }
}

async fn deliver_one(answers: &[u16], options: SenderOptions) -> (crate::DeliveryReport, usize) {
    let fixture = Fixture::start(Scenario { calls: 1, ..Scenario::default() }).await;
    let (receiver, url) = Receiver::start(&fixture, answers).await;
    let sender = fixture.simulator.sender(url, options).unwrap();
    let report =
        sender.deliver(Delivery::completed(&fixture.simulator.calls()[0], &EventOptions::default())).await;
    let got = receiver.received();
    for received in &got {
        received.assert_signed_by(fixture.simulator.signing_secret(), fixture.clock.now().as_second());
        assert_eq!(
            (received.event_id(), &received.body),
            (got[0].event_id(), &got[0].body),
            "the same on a retry"
        );
    }
    fixture.stop().await;
    (report, got.len())
}

#[tokio::test]
async fn retries_the_same_answers_as_polyai() {
    let (report, got) = deliver_one(&[503, 429, 408, 0, 500], fast()).await;
    assert_eq!((report.outcome, report.tries, got), (AttemptOutcome::Answered { status: 204 }, 6, 6));
    assert_eq!(report.earlier[3], AttemptOutcome::Timeout);
    for lost in [400, 401, 404, 410, 413, 422, 302] {
        let (report, got) = deliver_one(&[lost], fast()).await;
        assert_eq!((report.outcome, got), (AttemptOutcome::Answered { status: lost }, 1));
    }
    let (report, got) = deliver_one(&[503; 9], fast()).await;
    assert_eq!((report.outcome, report.tries, got), (AttemptOutcome::Answered { status: 503 }, 6, 6));
}

#[tokio::test]
async fn waits_as_long_as_polyai() {
    let options = SenderOptions::default();
    let seconds: Vec<_> = options.delays.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [60, 300, 900, 3_600, 14_400]);
    assert_eq!(options.timeout, Duration::from_secs(5));
    let started = std::time::Instant::now();
    let (report, _) = deliver_one(&[503, 503], SenderOptions { time_scale: 0.001, ..fast() }).await;
    assert_eq!(report.tries, 3);
    assert!(
        started.elapsed() >= Duration::from_millis(360),
        "one minute and five minutes, a thousand times faster"
    );
}

#[tokio::test]
async fn retries_when_no_receiver_listens() {
    let fixture = Fixture::start(Scenario { calls: 1, ..Scenario::default() }).await;
    let closed = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let sender = fixture.simulator.sender(format!("http://{closed}/").parse().unwrap(), fast()).unwrap();
    let report = sender.deliver(Delivery::new("e", "test", "{}")).await;
    assert_eq!((report.outcome, report.tries), (AttemptOutcome::Network, 6));
    fixture.stop().await;
}

#[tokio::test]
async fn the_body_form_sends_only_the_signature_header() {
    let fixture = Fixture::start(Scenario { calls: 1, ..Scenario::default() }).await;
    let (receiver, url) = Receiver::start(&fixture, &[]).await;
    let headers = BTreeMap::from([("x-custom".to_owned(), "mine".to_owned())]);
    let sender = fixture
        .simulator
        .sender(url, SenderOptions { form: SignatureForm::Body, headers, ..fast() })
        .unwrap();
    assert!(sender.deliver(Delivery::new("e", "test", "{ }")).await.outcome.accepted());
    let got = &receiver.received()[0];
    assert!(got.event_id().is_none() && !got.headers.contains_key("x-polyai-timestamp"));
    assert_eq!(
        (&got.headers["x-custom"], &got.headers["content-type"]),
        (&"mine".parse().unwrap(), &"application/json".parse().unwrap())
    );
    got.assert_signed_by(fixture.simulator.signing_secret(), fixture.clock.now().as_second());
    fixture.stop().await;
}

#[tokio::test]
async fn a_run_keeps_the_rate_and_counts_outcomes() {
    let fixture = Fixture::start(Scenario { calls: 60, ..Scenario::default() }).await;
    let (receiver, url) = Receiver::start(&fixture, &[503, 401]).await;
    let options = SenderOptions { rate: Some(200.0), duplicates: 0.2, reorder: 5, ..fast() };
    let sender = fixture.simulator.sender(url, options).unwrap();
    let calls = fixture.simulator.calls();
    let events = EventOptions { alerts: 0.2, ..EventOptions::default() };
    let deliveries: Vec<_> = Delivery::of_calls(&calls, &events).collect();
    let expected = deliveries.len();
    let summary = fixture.simulator.state().run_sender(&sender, stream::iter(deliveries)).await;
    assert_eq!(summary.deliveries, expected as u64 + summary.duplicates);
    assert!(summary.duplicates > 3);
    assert_eq!((summary.refused, summary.exhausted, summary.accepted), (1, 0, summary.deliveries - 1));
    assert_eq!(
        (summary.tries, summary.statuses[&503], summary.statuses[&401]),
        (summary.deliveries + 1, 1, 1)
    );
    let least = Duration::from_millis(5) * u32::try_from(summary.deliveries - 1).unwrap();
    assert!(u128::from(summary.duration_ms) + 1 >= least.as_millis(), "{} {least:?}", summary.duration_ms);
    assert!(summary.latencies_ms.p50 <= summary.latencies_ms.p99 && summary.latencies_ms.max > 0.0);
    let kinds: BTreeSet<_> = receiver.received().iter().map(Received::kind).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["alerts.triggered", "conversation.completed", "handoff.created"]
    );
    assert_eq!(fixture.simulator.state().deliveries().len() as u64, summary.deliveries);
    fixture.stop().await;
}

#[tokio::test]
async fn a_waiting_retry_does_not_block_other_deliveries() {
    let fixture = Fixture::start(Scenario { calls: 1, ..Scenario::default() }).await;
    let (receiver, url) = Receiver::start(&fixture, &[503]).await;
    // One at a time, and a first retry after 600 ms.
    let sender =
        fixture.simulator.sender(url, SenderOptions { concurrency: 1, time_scale: 0.01, ..fast() }).unwrap();
    let deliveries = (0..20).map(|n| Delivery::new(format!("e{n}"), "test", "{}"));
    let summary = sender.run(stream::iter(deliveries)).await;
    assert_eq!((summary.accepted, summary.tries), (20, 21));
    assert_eq!(receiver.received()[20].event_id(), Some("e0"), "sent again after all others");
    fixture.stop().await;
}

#[tokio::test]
async fn registered_endpoints_receive_their_event_types() {
    let fixture = Fixture::start(Scenario { calls: 12, ..Scenario::default() }).await;
    let (receiver, url) = Receiver::start(&fixture, &[]).await;
    let body = json!({ "name": "n", "url": url, "event_types": ["conversation.completed"], "headers": { "x-mine": "1" } });
    let (_, made) = answer(fixture.request(Method::POST, "/v1/webhook-endpoints", &body)).await;
    let (status, started) = answer(fixture.request(
        Method::POST,
        "/_simulator/deliver",
        &json!({ "events": { "form": "reference" } }),
    ))
    .await;
    assert_eq!((status, &started["deliveries"]), (StatusCode::ACCEPTED, &json!(12)));
    tokio::time::timeout(Duration::from_secs(10), async {
        while fixture.simulator.state().deliveries().len() < 12 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let secret = made["signing_secret"].as_str().unwrap();
    for got in receiver.received() {
        got.assert_signed_by(secret, fixture.clock.now().as_second());
        assert_eq!(got.headers["x-mine"], "1");
        assert_eq!(got.kind(), "conversation.completed");
    }
    let (_, listed) = answer(fixture.request(Method::GET, "/_simulator/deliveries", &json!(null))).await;
    assert_eq!(listed["deliveries"].as_array().unwrap().len(), 12);
    fixture.stop().await;
}
