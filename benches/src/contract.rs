//! polyhook's AMQP contract for events: exchange, queue, bindings, properties and headers.

use lapin::{
    BasicProperties, Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

/// Routing keys of the events that start a fetch.
const BINDINGS: [&str; 2] = ["conversation.completed.#", "conversation.discovered.#"];
/// The delivery mode of a message that survives a restart of the broker.
pub const PERSISTENT: u8 = 2;

/// The values in the properties and headers of an event.
#[derive(Debug)]
pub struct EventProperties<'a> {
    /// Id of the delivery.
    pub message_id: &'a str,
    /// Event type.
    pub kind: &'a str,
    /// Conversation that the event is about.
    pub conversation_id: &'a str,
    /// Media type of the body.
    pub content_type: &'a str,
    /// Time of receipt, in Unix seconds.
    pub seconds: u64,
    /// The same time with milliseconds, as RFC 3339.
    pub received_at: &'a str,
    /// Trace context (W3C).
    pub traceparent: &'a str,
}

impl EventProperties<'_> {
    /// Builds the properties: only what no property or routing key carries is in a header. A text that is too long for its property
    /// is left out.
    pub fn build(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("polyhook-received-at".into(), AMQPValue::LongString(self.received_at.into()));
        headers.insert("traceparent".into(), AMQPValue::LongString(self.traceparent.into()));
        BasicProperties::default()
            .with_message_id(short(self.message_id))
            .with_correlation_id(short(self.conversation_id))
            .with_type(short(self.kind))
            .with_content_type(short(self.content_type))
            .with_timestamp(self.seconds)
            .with_delivery_mode(PERSISTENT)
            .with_app_id("polyhook".into())
            .with_headers(headers)
    }
}

/// Converts a text to an AMQP short string, or to an empty one if it is longer than 255 bytes.
pub fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

/// Declares a durable quorum queue.
pub async fn declare_queue(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await?;
    Ok(())
}

/// Declares the topic exchange, and the quorum queue with its bindings.
pub async fn declare_topology(channel: &Channel, exchange: &str, queue: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await?;
    declare_queue(channel, queue).await?;
    for key in BINDINGS {
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await?;
    }
    Ok(())
}
