//! The inputs of micro-benchmarks and instruction counts, with the same bytes in every run.

use bytes::Bytes;
use jiff::Timestamp;
use polyhook::{
    event::{self, DedupKey, Event},
    queue::Message,
    secret::Secret,
};

/// The time of all inputs, in Unix seconds; independent of the machine's clock.
pub(crate) const NOW: i64 = 1_795_000_000;
/// The usual size of a delivery, in bytes.
pub(crate) const USUAL_BYTES: usize = 600;

/// Returns [`NOW`] as a timestamp.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a constant")
}

/// Returns `count` signing secrets. Deliveries are signed with the last one, as late in a rotation.
pub(crate) fn secrets(count: usize) -> Vec<Secret> {
    (0..count).map(|n| Secret::new(format!("whsec_{n:032}"))).collect()
}

/// Returns the id of the `n`th conversation.
pub(crate) fn conversation_id(n: usize) -> String {
    format!("KA{n:06}b8f2c4d6e8")
}

/// Returns the body of the `n`th delivery, `bytes` long: the fields that polyhook reads, then text.
pub(crate) fn body(n: usize, bytes: usize) -> Bytes {
    let start = format!(
        r#"{{"type":"conversation.completed","id":"evt-{n:06}","created_at":"2026-11-18T13:46:40Z","data":{{"conversation_id":"{}","account_id":"acme-uk","project_id":"PROJECT-1a2b","environment":"live","channel":"VOICE-SIP","in_progress":false,"total_duration":90.5,"handoff":null,"turns":["#,
        conversation_id(n)
    );
    let turn = r#"{"user_input":"I would like to book a table","agent_response":"For how many people?"},"#;
    let end = r#"{"note":""#;
    let close = r#""}]}}"#;
    let mut body = start;
    while body.len() + turn.len() + end.len() + close.len() <= bytes {
        body.push_str(turn);
    }
    body.push_str(end);
    body.extend(std::iter::repeat_n('x', bytes.saturating_sub(body.len() + close.len())));
    body.push_str(close);
    assert_eq!(body.len(), bytes, "too few bytes for the fields of a delivery");
    Bytes::from(body)
}

/// Returns the `n`th delivery as the receiver gives it to the queue.
pub(crate) fn message(n: usize, bytes: usize) -> Message {
    let body = body(n, bytes);
    let event = Event::read(&body);
    let id = event::message_id(Some(event_id(n).as_bytes()), &body);
    Message {
        dedup: DedupKey::new(&id, &body),
        id,
        kind: event.kind,
        environment: event.environment,
        conversation_id: event.conversation_id,
        received_at: now(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body,
    }
}

/// Returns PolyAI's event id of the `n`th delivery.
pub(crate) fn event_id(n: usize) -> String {
    format!("evt-{n:06}")
}
