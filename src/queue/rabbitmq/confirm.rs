//! Publishing one message on a channel and reading its confirm.
//!
//! [`publish_one`] ends when the broker has confirmed or rejected the message, or the channel has ended. Its result says
//! which. The module doc of [`publisher`](super::publisher) explains why a returned message may come with the confirm of
//! another one.

use bytes::Bytes;
use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions, types::ShortString};

/// A message and its destination. It is large, and several tasks hand it on, so it travels in a box.
#[derive(Debug)]
pub(super) struct OutgoingMessage {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// The outcome of one message. It does not hold lapin's own type, which is large and contains a returned message whole.
pub(super) struct ConfirmResult {
    /// A returned message came with this confirm. It may be another message than this one.
    pub(super) with_returned_message: bool,
    pub(super) confirm: Confirm,
}

/// The broker's confirm for one message.
pub(super) enum Confirm {
    Ack,
    Nack,
    /// The channel is not in confirm mode.
    NotRequested,
    /// The channel ended before the confirm.
    Lost(String),
}

/// Publishes a message and waits for its confirm. The first poll takes the delivery tag and queues all frames in one go.
/// No other task publishes on this channel, and [`Unconfirmed::send`](super::unconfirmed::Unconfirmed::send) polls at once, so the
/// messages go out in order.
pub(super) async fn publish_one(channel: &Channel, message: Box<OutgoingMessage>) -> ConfirmResult {
    let OutgoingMessage { exchange, routing_key, properties, body } = *message;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let published = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
    let confirmation = match published {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    let with_returned_message =
        matches!(confirmation, Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))));
    let confirm = match confirmation {
        Ok(Confirmation::Ack(_)) => Confirm::Ack,
        Ok(Confirmation::Nack(_)) => Confirm::Nack,
        Ok(Confirmation::NotRequested) => Confirm::NotRequested,
        Err(error) => Confirm::Lost(error.to_string()),
    };
    ConfirmResult { with_returned_message, confirm }
}
