//! The AMQP form of messages: PolyAI's bytes are the body, everything else is in properties and headers.
//!
//! Reading is lenient, because anyone may publish to the fetch queue: a missing value is derived from the body or replaced
//! by a default, as the receiver does.
//!
//! Properties and headers must fit into one frame (128 KiB by default in RabbitMQ), so every text from outside is bounded
//! here. Headers of other publishers are not copied to a retry.

use bytes::Bytes;
use jiff::Timestamp;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::topology::UNROUTED_HEADER;
use crate::{
    event::{self, DedupKey, Event},
    queue::{Announcement, Attempt, History, Message, QueueError},
};

const ENVIRONMENT: &str = "polyhook-environment";
const RECEIVED_AT: &str = "polyhook-received-at";
const HISTORY: &str = "polyhook-history";
const REASON: &str = "polyhook-reason";
const DETAIL: &str = "polyhook-detail";
const FAILURES: &str = "polyhook-failures";
const CORRELATION_ID: &str = "polyhook-correlation-id";
const TRACEPARENT: &str = "traceparent";
/// RabbitMQ's own headers.
const X_DEATH: &str = "x-death";
const X_ACQUIRED_COUNT: &str = "x-acquired-count";

const PERSISTENT: u8 = 2;
/// The longest AMQP short string.
const MAX_SHORT_STRING_BYTES: usize = 255;
/// The longest header value that holds text from outside.
const MAX_HEADER_BYTES: usize = 2048;
/// The longest history as JSON.
const MAX_HISTORY_BYTES: usize = 64 * 1024;

/// The reason and the explanation for a job that was delivered up to the delivery limit.
const DELIVERY_LIMIT: (&str, &str) = (
    "delivery_limit",
    "RabbitMQ delivered it up to the delivery limit, and each worker ended before it had settled the job: \
     find out what kills workers (memory?)",
);

/// The error for a value that AMQP has no room for. Holds the name of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong(&'static str);

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its {} is longer than the 255 bytes AMQP has for it", self.0)
    }
}

impl From<TooLong> for QueueError {
    fn from(error: TooLong) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Converts a text to an AMQP short string. `name` names the text in the error.
pub(super) fn short(text: &str, name: &'static str) -> Result<ShortString, TooLong> {
    ShortString::try_new(text).map_err(|_| TooLong(name))
}

/// Builds the properties of an event. Headers carry only what has no property: the routing key names type and environment.
pub(super) fn event(message: &Message) -> Result<BasicProperties, TooLong> {
    let mut headers = FieldTable::default();
    put(&mut headers, RECEIVED_AT, &message.received_at.to_string());
    put_trace(&mut headers, message.traceparent.as_deref());
    if !event::triggers_fetch(&message.kind) {
        put(&mut headers, UNROUTED_HEADER.0, UNROUTED_HEADER.1);
    }
    // The content type is not signed, so it is no reason to lose a genuine event.
    let content_type =
        short(&message.content_type, "content type").unwrap_or("application/octet-stream".into());
    let properties = properties(message.received_at, headers)
        .with_message_id(short(&message.id, "id")?)
        .with_type(short(&message.kind, "type")?)
        .with_content_type(content_type);
    Ok(with_conversation(properties, message.conversation_id.as_deref()))
}

/// Builds the properties of a job in a delay queue, where it stays for `expiration`.
pub(super) fn retry(
    message: &Message,
    history: &History,
    expiration: std::time::Duration,
) -> Result<BasicProperties, TooLong> {
    Ok(job(message, history)?.with_expiration(expiration.as_millis().to_string().into()))
}

/// Builds the properties of a job that can be consumed at once.
pub(super) fn job(message: &Message, history: &History) -> Result<BasicProperties, TooLong> {
    with_history(message, history)
}

/// Builds the properties of a dead letter. Its headers show the reason to operators.
pub(super) fn dead(message: &Message, history: &History) -> Result<BasicProperties, TooLong> {
    let properties = with_history(message, history)?;
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(FAILURES.into(), i64::try_from(history.failures).unwrap_or(i64::MAX).into());
    if let Some(last) = history.attempts.last() {
        put(&mut headers, REASON, &last.reason);
        put(&mut headers, DETAIL, cut(&last.detail, MAX_HEADER_BYTES));
        if let Some(id) = &last.correlation_id {
            put(&mut headers, CORRELATION_ID, cut(id, MAX_HEADER_BYTES));
        }
    }
    Ok(properties.with_headers(headers))
}

/// Builds the properties of an announcement. The content type says that the body is a complete `CloudEvent`; the headers
/// repeat what a consumer may want to filter by.
pub(super) fn announcement(announcement: &Announcement) -> Result<BasicProperties, TooLong> {
    let mut headers = FieldTable::default();
    put(&mut headers, "cloudEvents:specversion", "1.0");
    put(&mut headers, "cloudEvents:id", &announcement.id);
    put(&mut headers, "cloudEvents:type", &announcement.kind);
    put(&mut headers, "cloudEvents:time", &announcement.time.to_string());
    put(&mut headers, "cloudEvents:subject", cut(&announcement.subject, MAX_HEADER_BYTES));
    put(&mut headers, ENVIRONMENT, &announcement.environment);
    put_trace(&mut headers, announcement.traceparent.as_deref());
    let properties = properties(announcement.time, headers)
        .with_message_id(short(&announcement.id, "id")?)
        .with_type(short(&announcement.kind, "type")?)
        .with_content_type("application/cloudevents+json; charset=utf-8".into());
    Ok(with_conversation(properties, Some(&announcement.subject)))
}

/// Reads a job of any publisher. `now` is the time of receipt if the message has none. The conversation comes from the
/// body, as for the receiver: other publishers may use the correlation id for something else.
pub(super) fn read(
    properties: &BasicProperties,
    routing_key: &str,
    body: Vec<u8>,
    now: Timestamp,
) -> (Message, History) {
    let body = Bytes::from(body);
    let id = event::message_id(properties.message_id().as_ref().map(|id| id.as_str().as_bytes()), &body);
    let Event { kind, environment, conversation_id, .. } = Event::read(&body);
    let named = properties.kind().as_ref().map(ShortString::as_str).filter(|kind| !kind.is_empty());
    let kind = named.map_or(kind, str::to_owned);
    // A retry comes through a delay queue, which changes the routing key.
    let in_key = || Some(routing_key.strip_prefix(&kind)?.strip_prefix('.')?.to_owned());
    let environment = text(properties, ENVIRONMENT)
        .or_else(in_key)
        .filter(|name| !name.is_empty() && name.len() <= MAX_SHORT_STRING_BYTES)
        .unwrap_or(environment);
    let sent_at = || {
        let seconds = i64::try_from((*properties.timestamp())?).ok()?;
        Timestamp::from_second(seconds).ok()
    };
    let received_at =
        text(properties, RECEIVED_AT).and_then(|time| time.parse().ok()).or_else(sent_at).unwrap_or(now);
    let history = text(properties, HISTORY).and_then(|json| serde_json::from_str(&json).ok());
    let message = Message {
        dedup: DedupKey::new(&id, &body),
        id,
        kind,
        environment,
        conversation_id,
        received_at,
        traceparent: text(properties, TRACEPARENT),
        content_type: properties
            .content_type()
            .as_ref()
            .map_or("application/json", ShortString::as_str)
            .to_owned(),
        body,
    };
    (message, history.unwrap_or_default())
}

/// Reads a dead letter. If the broker dead-lettered the message, the broker's reason becomes the last attempt.
pub(super) fn read_dead(
    properties: &BasicProperties,
    routing_key: &str,
    body: Vec<u8>,
    now: Timestamp,
) -> (Message, History) {
    let (message, mut history) = read(properties, routing_key, body, now);
    if text(properties, REASON).is_none()
        && let Some(attempt) = broker_reason(properties, message.received_at)
    {
        history.push(attempt);
    }
    (message, history)
}

/// Returns the time at which RabbitMQ moved the message to its present queue, such as the end of its delay.
pub(super) fn dead_lettered_at(properties: &BasicProperties) -> Option<Timestamp> {
    let AMQPValue::Timestamp(seconds) = last_death(properties)?.inner().get("time")? else { return None };
    Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()
}

/// Returns RabbitMQ's record of the last time it dead-lettered the message
/// (<https://www.rabbitmq.com/docs/dlx#effects>).
fn last_death(properties: &BasicProperties) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get(X_DEATH)? else {
        return None;
    };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(latest) => Some(latest),
        _ => None,
    }
}

/// Returns the last attempt of a message that RabbitMQ dead-lettered.
fn broker_reason(properties: &BasicProperties, default_time: Timestamp) -> Option<Attempt> {
    let latest = last_death(properties)?.inner();
    let (reason, detail) = match latest.get("reason").and_then(as_text).as_deref() {
        Some("delivery_limit") => DELIVERY_LIMIT,
        Some("rejected") => ("rejected", "a consumer that is not polyhook rejected it: find out which"),
        Some("maxlen") => ("maxlen", "the fetch queue was full (a policy?): make room"),
        Some("expired") => ("expired", "it was too old for the fetch queue (a policy?): find out why"),
        _ => ("dead_lettered", "RabbitMQ moved it here, and its x-death header holds no known reason"),
    };
    let at = dead_lettered_at(properties).unwrap_or(default_time);
    Some(attempt_of_broker(at, reason, detail))
}

/// Returns the last attempt of a job that was delivered too often.
pub(super) fn delivery_limit_attempt(at: Timestamp) -> Attempt {
    let (reason, detail) = DELIVERY_LIMIT;
    attempt_of_broker(at, reason, detail)
}

fn attempt_of_broker(at: Timestamp, reason: &'static str, detail: &str) -> Attempt {
    Attempt { at, reason: reason.into(), detail: detail.to_owned(), status: None, correlation_id: None }
}

/// Returns the number of earlier deliveries of a message that RabbitMQ 4.3 or later delivers again, and 0 for other messages.
///
/// Up to RabbitMQ 4.2 each of them counts towards the delivery limit. From 4.3 on, those do not that ended with a
/// `basic.nack` or with the consumer timeout (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
pub(super) fn earlier_deliveries(delivery: &Delivery) -> i64 {
    // The header of a first delivery is a copy from another message.
    let headers = delivery.properties.headers().as_ref().filter(|_| delivery.redelivered);
    match headers.and_then(|headers| headers.inner().get(X_ACQUIRED_COUNT)) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortUInt(count)) => i64::from(*count),
        _ => 0,
    }
}

fn properties(time: Timestamp, headers: FieldTable) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_app_id("polyhook".into())
        .with_timestamp(u64::try_from(time.as_second()).unwrap_or_default())
        .with_headers(headers)
}

/// Adds the conversation's id as the correlation id, unless it is too long for one.
fn with_conversation(properties: BasicProperties, id: Option<&str>) -> BasicProperties {
    match id.and_then(|id| ShortString::try_new(id).ok()) {
        Some(id) => properties.with_correlation_id(id),
        None => properties,
    }
}

/// Adds what the routing key of a queue does not carry.
fn with_history(message: &Message, history: &History) -> Result<BasicProperties, TooLong> {
    let properties = event(message)?;
    let mut headers = properties.headers().clone().unwrap_or_default();
    put(&mut headers, ENVIRONMENT, &message.environment);
    put(&mut headers, HISTORY, &bounded_json(history));
    Ok(properties.with_headers(headers))
}

/// Formats the history as JSON and shortens its texts until it fits. Only texts can make it long, because the number of
/// attempts is bounded.
fn bounded_json(history: &History) -> String {
    let mut history = history.clone();
    let mut max_bytes = MAX_HEADER_BYTES;
    loop {
        for attempt in &mut history.attempts {
            attempt.detail.truncate(cut(&attempt.detail, max_bytes).len());
            if let Some(id) = &mut attempt.correlation_id {
                id.truncate(cut(id, max_bytes).len());
            }
        }
        let json = serde_json::to_string(&history).unwrap_or_default();
        if json.len() <= MAX_HISTORY_BYTES || max_bytes == 0 {
            return json;
        }
        max_bytes /= 2;
    }
}

/// Returns the beginning of `text`, at most `max_bytes` long.
fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

fn put(headers: &mut FieldTable, name: &'static str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
}

fn put_trace(headers: &mut FieldTable, traceparent: Option<&str>) {
    if let Some(trace) = traceparent.filter(|trace| trace.len() <= MAX_SHORT_STRING_BYTES) {
        put(headers, TRACEPARENT, trace);
    }
}

fn text(properties: &BasicProperties, name: &str) -> Option<String> {
    as_text(properties.headers().as_ref()?.inner().get(name)?)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
