//! Publishing one message on a channel and reading its confirm.
//!
//! [`publish_one`] ends when the broker has confirmed or rejected the message, or the channel has ended. Its result says
//! which. The module doc of [`publisher`](super::publisher) explains why a returned message may come with the confirm of
//! another one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions, types::ShortString};

/// A message and its destination.
#[derive(Debug)]
pub(super) struct OutgoingMessage {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// The outcome of one message. It does not hold lapin's own type, which is large and contains a returned message whole.
pub(super) struct ConfirmResult {
    pub(super) number: u64,
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
/// No other task publishes on this channel, and [`Unconfirmed::send`] polls at once, so the messages go out in order.
pub(super) async fn publish_one(channel: &Channel, number: u64, message: OutgoingMessage) -> ConfirmResult {
    let OutgoingMessage { exchange, routing_key, properties, body } = message;
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
    ConfirmResult { number, with_returned_message, confirm }
}

/// The messages of one channel that are not confirmed yet, oldest first.
///
/// Only the oldest one wakes the task. RabbitMQ confirms many messages at once, and usually in order, so one wake-up
/// serves all of them; a wake-up for each would be the largest cost of publishing. [`Unconfirmed::completed`] finds those
/// that were confirmed before an older one.
pub(super) struct Unconfirmed<F> {
    /// `None` is a completed message behind an older one.
    messages: VecDeque<Option<Pin<Box<F>>>>,
    /// Results that nobody has taken yet.
    completed: Vec<ConfirmResult>,
}

impl<F: Future<Output = ConfirmResult>> Unconfirmed<F> {
    pub(super) fn new() -> Self {
        Self { messages: VecDeque::new(), completed: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.completed.is_empty()
    }

    /// Adds a message and sends it.
    pub(super) fn send(&mut self, message: F) {
        self.messages.push_back(Some(Box::pin(message)));
        let last = self.messages.len() - 1;
        self.poll(last, &mut Context::from_waker(Waker::noop()));
    }

    /// Waits until the oldest message has completed. Then returns every result that is there. A confirm that is visible
    /// implies that all earlier ones are, with the returned messages they may carry.
    pub(super) async fn next(&mut self) -> Vec<ConfirmResult> {
        poll_fn(|context| {
            if !self.messages.is_empty() {
                self.poll(0, context);
            }
            if self.completed.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        self.completed()
    }

    /// Returns every result that is there.
    pub(super) fn completed(&mut self) -> Vec<ConfirmResult> {
        for index in 0..self.messages.len() {
            self.poll(index, &mut Context::from_waker(Waker::noop()));
        }
        while let Some(None) = self.messages.front() {
            self.messages.pop_front();
        }
        std::mem::take(&mut self.completed)
    }

    fn poll(&mut self, index: usize, context: &mut Context<'_>) {
        let Some(message) = &mut self.messages[index] else { return };
        if let Poll::Ready(result) = message.as_mut().poll(context) {
            self.completed.push(result);
            self.messages[index] = None;
        }
    }
}
