use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn message(body: &[u8]) -> Message {
    Message {
        id: "evt_1".to_owned(),
        dedup: DedupKey::new("evt_1", body),
        kind: "conversation.completed".to_owned(),
        environment: "live".to_owned(),
        conversation_id: Event::read(body).conversation_id,
        received_at: "2026-11-22T10:20:30.123456Z".parse().unwrap(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        content_type: "application/json".to_owned(),
        body: Bytes::copy_from_slice(body),
    }
}

fn history(failures: usize, detail: &str) -> History {
    let mut history = History::default();
    for _ in 0..failures {
        history.push(Attempt {
            at: "2026-11-22T10:20:30Z".parse().unwrap(),
            reason: "rate_limited".into(),
            detail: detail.to_owned(),
            status: Some(429),
            correlation_id: Some("corr-1".to_owned()),
        });
    }
    history
}

#[test]
fn keeps_message_and_history_across_the_broker() {
    let sent = message(br#"{"data":{"conversation_id":"CA1"}}"#);
    let history = history(15, "said \"später\"");
    let properties = retry(&sent, &history, Duration::from_millis(9500)).unwrap();
    assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "9500");
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "CA1");
    assert_eq!(
        read(&properties, "polyhook.fetch", sent.body.to_vec(), Timestamp::UNIX_EPOCH),
        (sent, history)
    );
}

#[test]
fn derives_missing_properties_from_the_body() {
    let body = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#;
    let now = "2026-11-22T10:20:30Z".parse().unwrap();
    let (read, history) = read(&BasicProperties::default(), "", body.to_vec(), now);
    assert_eq!(read.routing_key(), "conversation.completed.live");
    assert_eq!(read.id, event::message_id(None, body));
    assert_eq!((read.received_at, history), (now, History::default()));
}

#[test]
fn puts_the_reason_of_a_dead_letter_into_headers() {
    let dead = dead(&message(b"{}"), &history(3, "no such project")).unwrap();
    assert_eq!(text(&dead, REASON).as_deref(), Some("rate_limited"));
    assert_eq!(text(&dead, DETAIL).as_deref(), Some("no such project"));
    assert_eq!(text(&dead, CORRELATION_ID).as_deref(), Some("corr-1"));
    assert_eq!(dead.headers().as_ref().unwrap().inner().get(FAILURES), Some(&AMQPValue::LongLongInt(3)));
    // A dead letter without any attempt can be written, too.
    assert!(super::dead(&message(b"{}"), &History::default()).is_ok());
}

#[test]
fn reads_the_reason_of_a_message_that_the_broker_dead_lettered() {
    let death = |reason: &str| {
        let mut death = FieldTable::default();
        put(&mut death, "reason", reason);
        put(&mut death, "queue", "polyhook.fetch");
        death.insert("time".into(), AMQPValue::Timestamp(1_790_000_000));
        AMQPValue::FieldTable(death)
    };
    let of =
        |properties: BasicProperties| read_dead(&properties, "", b"{}".to_vec(), Timestamp::UNIX_EPOCH).1;
    let with = |properties: BasicProperties, reasons: &[&str]| {
        let mut headers = properties.headers().clone().unwrap_or_default();
        let deaths: Vec<_> = reasons.iter().copied().map(death).collect();
        headers.insert(X_DEATH.into(), AMQPValue::FieldArray(deaths.into()));
        of(properties.with_headers(headers))
    };
    // Retried twice, then lost by the workers: the latest comes first.
    let before = history(2, "too many requests");
    let found = with(job(&message(b"{}"), &before).unwrap(), &["delivery_limit", "expired"]);
    let last = found.attempts.last().unwrap();
    assert_eq!((&*last.reason, last.at.as_second(), found.failures), ("delivery_limit", 1_790_000_000, 3));
    assert_eq!(found.attempts[..2], before.attempts);
    assert_eq!(with(BasicProperties::default(), &["a-new-one"]).attempts[0].reason, "dead_lettered");
    // The history of polyhook takes precedence; a message without both has none.
    assert_eq!(with(dead(&message(b"{}"), &before).unwrap(), &["expired"]), before);
    assert_eq!(of(BasicProperties::default()), History::default());
    assert_eq!(with(BasicProperties::default(), &[]), History::default());
}

#[test]
fn shortens_or_refuses_values_that_are_too_long() {
    let long = Message { content_type: "x".repeat(300), ..message(b"{}") };
    assert!(event(&long).is_ok());
    assert_eq!(event(&Message { id: "x".repeat(300), ..message(b"{}") }), Err(TooLong("id")));
    // Control characters take six bytes each in JSON.
    let json = bounded_json(&history(20, &"\u{1}é".repeat(20_000)));
    assert!(json.len() <= MAX_HISTORY_BYTES);
    assert_eq!(serde_json::from_str::<History>(&json).unwrap().failures, 20);
}

proptest! {
    #[test]
    fn reads_any_header(
        value in ".{0,300}",
        kind in ".{0,60}",
        time in any::<u64>(),
        key in ".{0,100}",
        body in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut headers = FieldTable::default();
        for name in [ENVIRONMENT, RECEIVED_AT, HISTORY, TRACEPARENT] {
            put(&mut headers, name, &value);
        }
        let mut properties = BasicProperties::default().with_headers(headers).with_timestamp(time);
        if let Ok(kind) = ShortString::try_new(kind) {
            properties = properties.with_type(kind);
        }
        let (message, _) = read(&properties, &key, body, Timestamp::UNIX_EPOCH);
        prop_assert!(event(&message).is_ok());
    }
}
