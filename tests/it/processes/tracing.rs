//! One trace from PolyAI's delivery to the customer's consumer, as an OTLP collector receives it.

use std::{net::TcpListener, time::Instant};

use serde_json::json;

use super::rabbitmq::Consumer;
use crate::support::{
    otlp::{Collector, Span},
    process::{Installation, SimulatedPolyAi, deliver, eventually, http_request},
    rabbit,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Delivers an event with a `traceparent`, as an instrumented ingress sends it.
fn deliver_traced(to: std::net::SocketAddr, secret: &str, id: &str, traceparent: &str, body: &[u8]) -> u16 {
    let now = polyhook::clock::Clock::System.now().as_second();
    let signature = polyhook::signature::sign(&polyhook::secret::Secret::new(secret), Some(now), body);
    let headers = format!(
        "x-polyai-signature: {signature}\r\nx-polyai-timestamp: {now}\r\nx-polyai-event-id: {id}\r\n\
         traceparent: {traceparent}\r\n"
    );
    http_request(to, "POST", "/polyai-events", &headers, body).unwrap().0
}

#[test]
fn a_conversation_is_one_trace_across_the_queue() {
    let collector = Collector::start();
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 2);
    let ids = polyai.ids();
    polyai.control("PUT", &format!("calls/{}/script", ids[1]), &json!({ "missing": true }));
    let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
    let config = format!(
        "queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}\ntracing.endpoint = \"{}\"\n\
         retry.delays = [\"100ms\"]\n",
        collector.url
    );
    let site = Installation::new(&polyai.access, &config);
    let mut receive = site.polyhook(["receive"]).start();
    let mut work = site.polyhook(["work"]).start();
    work.wait_until_ready();
    receive.wait_until_ready();
    let consumer = Consumer::start(&url, &prefix);
    let to = receive.receiver_address();
    assert_eq!(deliver_traced(to, &site.secret, "evt-traced", PARENT, &polyai.event(&ids[0])), 204);
    // There is no span for an unverified request, nor for a trace that is not sampled.
    assert_eq!(deliver(to, "not-the-configured-secret", "evt-bad", b"{}"), Some(401));
    let unsampled = PARENT.replace("0af7", "1af7").replace("-01", "-00");
    assert_eq!(deliver_traced(to, &site.secret, "evt-unsampled", &unsampled, b"{\"type\":\"x\"}"), 204);
    // A delivery that fails, in a trace that starts here.
    assert_eq!(deliver(to, &site.secret, "evt-unknown", &polyai.event(&ids[1])), Some(204));
    let mut announced = String::new();
    for _ in 0..4 {
        let line = consumer.next();
        let traceparent = line["headers"]["traceparent"].as_str().unwrap().to_owned();
        match line["message_id"].as_str().unwrap() {
            "evt-unsampled" => assert!(
                traceparent.starts_with(&unsampled[..36]) && traceparent.ends_with("-00"),
                "{traceparent}"
            ),
            _ if line["type"] == "conversation.ready" => announced = traceparent,
            _ => {}
        }
    }
    eventually("a dead letter", || work.stderr().iter().any(|line| line.contains("job is a dead letter")));
    // Remaining spans are sent during the shutdown.
    receive.stop();
    work.stop();
    assert_conversation_trace(&collector, &prefix, &announced);

    let all = collector.spans();
    let failed: Vec<_> = all.iter().filter(|span| span.failed && span.kind == "CONSUMER").collect();
    assert_eq!(failed.len(), 2, "one for each attempt: {all:#?}");
    for span in failed {
        assert_eq!(span.attributes["messaging.message.id"], "evt-unknown");
        assert_eq!(span.attributes["error.type"], "unknown_conversation");
    }
    assert!(all.iter().all(|span| span.trace_id != unsampled[3..35]), "{all:#?}");
    assert_eq!(all.iter().filter(|span| span.kind == "SERVER").count(), 2, "{all:#?}");
    let text = collector.text();
    for secret in [&site.secret, &polyai.access.api_key, "guest:guest"] {
        assert!(!text.contains(secret), "a secret is in a span");
    }
}

/// Checks the spans of the conversation and their parents, from the delivery to the announcement.
#[track_caller]
fn assert_conversation_trace(collector: &Collector, prefix: &str, announced: &str) {
    let of = |trace: &str| -> Vec<Span> {
        collector.spans().into_iter().filter(|span| span.trace_id == trace).collect()
    };
    let trace = &PARENT[3..35];
    eventually("the whole trace", || of(trace).len() == 8);
    let spans = of(trace);
    let one = |name: &str| {
        let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        let [span] = named[..] else { panic!("{name}: {spans:#?}") };
        span
    };
    let server = one("POST /polyai-events");
    let publish = one(&format!("publish {prefix}.events"));
    let job = one(&format!("process {prefix}.fetch"));
    let announce = one(&format!("publish {prefix}.conversations"));
    assert_eq!((server.kind.as_str(), server.parent.as_str()), ("SERVER", "b7ad6b7169203331"));
    assert_eq!(server.attributes["http.response.status_code"], "204");
    assert_eq!((publish.kind.as_str(), &publish.parent), ("PRODUCER", &server.id));
    assert_eq!((job.kind.as_str(), &job.parent), ("CONSUMER", &publish.id));
    assert_eq!(job.links, [publish.id.as_str()]);
    assert_eq!(job.attributes["polyhook.outcome"], "archived");
    for (span, operation) in [(publish, "send"), (job, "process"), (announce, "send")] {
        assert_eq!(span.attributes["messaging.system"], "rabbitmq");
        assert_eq!(span.attributes["messaging.operation.type"], operation);
        assert!(span.name.ends_with(&span.attributes["messaging.destination.name"]), "{span:?}");
    }
    assert_eq!(publish.attributes["messaging.message.id"], "evt-traced");
    assert_eq!(
        publish.attributes["messaging.rabbitmq.destination.routing_key"],
        "conversation.completed.live"
    );
    for name in ["GET conversation", "GET audio", "archive recording", "archive commit"] {
        assert_eq!(one(name).parent, job.id, "{name}");
    }
    assert_eq!(announce.parent, job.id);
    assert_eq!(announced, format!("00-{trace}-{}-01", announce.id), "a consumer continues the trace");
}

#[test]
fn a_hanging_collector_delays_nothing() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 30);
    let config = format!("tracing.endpoint = \"http://{}\"\n", hangs.local_addr().unwrap());
    let site = Installation::new(&polyai.access, &config);
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    let to = run.receiver_address();
    for id in polyai.ids() {
        assert_eq!(deliver(to, &site.secret, &format!("evt-{id}"), &polyai.event(&id)), Some(204));
    }
    eventually("archived", || site.manifests().len() == 30);
    let start = Instant::now();
    run.stop();
    assert!(start.elapsed().as_secs() < 8, "{:?}", start.elapsed());
}
