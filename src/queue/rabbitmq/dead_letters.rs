//! Reading the dead letters to replay or discard them, and searching other queues for messages to erase.
//!
//! AMQP cannot read a message without consuming it. So a cursor consumes messages, acknowledges only those that it has
//! replayed (confirmed in the fetch queue first) or discarded, and leaves the others unacknowledged. The broker returns
//! those when the channel ends, however it ends. Consequences:
//!
//! * While a cursor is open, the messages it has read, and up to [`WINDOW`] more, are hidden from other cursors and are not
//!   counted as dead letters.
//! * A crash between the confirm and the acknowledgement leaves a dead letter **and** a job. Replaying that letter as well
//!   does no harm.
//! * The broker ends a cursor that holds a message for longer than its `consumer_timeout` (30 minutes by default). The
//!   caller gets an error, and the queue is as before.
//!
//! A consumer gets no more messages than its prefetch. Once that many messages were left unacknowledged, the cursor
//! continues with another consumer on the same channel. (`basic.get` would need no prefetch, but each call costs a write
//! to the quorum queue's log.)

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::time::{Duration, sleep, timeout};

use super::{message, message_publisher::MessagePublisher};
use crate::{
    clock::Clock,
    event::Event,
    queue::{DeadLetter, DeadLetters, LeaseId, QueueError},
};

/// The prefetch of a consumer.
const WINDOW: u16 = 64;
/// Bounds each request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time without a message, the queue is counted to find out whether it is empty.
const EMPTY_CHECK_DELAY: Duration = Duration::from_millis(200);
/// The interval at which returned messages are counted until all are back in the queue.
const RETURN_CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Bounds the return of unacknowledged messages.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);

/// A cursor over the messages that a queue holds when it is opened.
pub(super) struct DeadLetterCursor<'a> {
    publisher: &'a MessagePublisher,
    clock: &'a Clock,
    queue_name: ShortString,
    channel: Channel,
    consumer: Consumer,
    /// The first delivery tag of the present consumer. A channel counts from 1.
    first_tag: u64,
    /// The last delivery tag that was read.
    last_tag: u64,
    /// Unacknowledged messages of the present consumer. At [`WINDOW`] it gets no more.
    unacknowledged: AtomicU64,
    /// Messages that were acknowledged, of all consumers.
    acknowledged: AtomicU64,
    total: u64,
    /// Messages still to be read. Messages that arrive meanwhile are left to the next cursor; otherwise replaying jobs that
    /// fail again at once would never end.
    remaining: u64,
}

impl<'a> DeadLetterCursor<'a> {
    /// Starts to consume the queue `name`.
    pub(super) async fn open(
        publisher: &'a MessagePublisher,
        clock: &'a Clock,
        name: &ShortString,
    ) -> Result<Self, QueueError> {
        let channel = publisher.connection()?.channel().await.map_err(QueueError::Unavailable)?;
        let total = count(name, &channel).await?;
        request(name, channel.basic_qos(WINDOW, BasicQosOptions::default())).await?;
        let consumer = consume(name, &channel).await?;
        Ok(Self {
            publisher,
            clock,
            queue_name: name.clone(),
            channel,
            consumer,
            first_tag: 1,
            last_tag: 0,
            unacknowledged: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            total,
            remaining: total,
        })
    }

    /// Returns the next delivery, or `None` if the queue has no more for this consumer.
    async fn next_delivery(&mut self) -> Result<Option<Delivery>, QueueError> {
        let mut empty = false;
        loop {
            match timeout(EMPTY_CHECK_DELAY, self.consumer.next()).await {
                Ok(Some(Ok(delivery))) => return Ok(Some(delivery)),
                Ok(Some(Err(error))) => return Err(unreadable(&self.queue_name, &error)),
                Ok(None) => {
                    return Err(unreadable(
                        &self.queue_name,
                        &"the broker cancelled the consumer; was the queue deleted?",
                    ));
                }
                // Messages that were on their way when the queue was counted have arrived by now.
                Err(_) if empty => return Ok(None),
                Err(_) => empty = count(&self.queue_name, &self.channel).await? == 0,
            }
        }
    }

    /// Continues after the unacknowledged messages with another consumer.
    async fn replace_consumer(&mut self) -> Result<(), QueueError> {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        request(&self.queue_name, cancel).await?;
        self.consumer = consume(&self.queue_name, &self.channel).await?;
        self.first_tag = self.last_tag + 1;
        self.unacknowledged.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the channel, which returns the unacknowledged messages, and waits until they are back in the queue. The broker
    /// confirms the close earlier, and a cursor that is opened then would see too few messages.
    async fn return_unacknowledged(mut self) -> Result<(), QueueError> {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        request(&self.queue_name, cancel).await?;
        let mut returned = self.last_tag - self.acknowledged.load(Ordering::Relaxed);
        while let Some(Some(Ok(_))) = self.consumer.next().now_or_never() {
            returned += 1;
        }
        let expected = count(&self.queue_name, &self.channel).await? + returned;
        request(&self.queue_name, self.channel.close(200, "OK".into())).await?;
        let channel = self.publisher.connection()?.channel().await.map_err(QueueError::Unavailable)?;
        while count(&self.queue_name, &channel).await? < expected {
            sleep(RETURN_CHECK_INTERVAL).await;
        }
        Ok(())
    }

    async fn acknowledge(&self, lease: LeaseId) -> Result<(), QueueError> {
        let only_this = BasicAckOptions { multiple: false };
        self.channel.basic_ack(lease.0, only_this).await.map_err(|error| {
            QueueError::Unavailable(format!(
                "the connection ended before a dead letter could be removed, so it is listed again: {error}"
            ))
        })?;
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        if lease.0 >= self.first_tag {
            self.unacknowledged.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[async_trait]
impl DeadLetters for DeadLetterCursor<'_> {
    fn total(&self) -> u64 {
        self.total
    }

    fn hides_letters(&self) -> bool {
        true
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        if self.unacknowledged.load(Ordering::Relaxed) >= u64::from(WINDOW) {
            self.replace_consumer().await?;
        }
        let Some(delivery) = self.next_delivery().await? else {
            self.remaining = 0;
            return Ok(None);
        };
        self.remaining -= 1;
        self.last_tag = delivery.delivery_tag;
        self.unacknowledged.fetch_add(1, Ordering::Relaxed);
        let lease = LeaseId(delivery.delivery_tag);
        let (message, history) = message::read_dead(
            &delivery.properties,
            delivery.routing_key.as_str(),
            delivery.data,
            self.clock.now(),
        );
        Ok(Some(DeadLetter { message, history, lease }))
    }

    async fn replay(&self, letter: DeadLetter) -> Result<(), QueueError> {
        let DeadLetter { message, mut history, lease } = letter;
        history.replay(self.clock.now());
        let properties = message::job(&message, &history)?;
        let fetch = &self.publisher.topology.fetch;
        self.publisher.publish_to_queue(fetch, properties, message.body).await?;
        self.acknowledge(lease).await
    }

    async fn discard(&self, letter: DeadLetter) -> Result<(), QueueError> {
        self.acknowledge(letter.lease).await
    }

    async fn close(self: Box<Self>) {
        // If the broker does not answer, the end of the connection returns the messages.
        let _ = timeout(RETURN_TIMEOUT, self.return_unacknowledged()).await;
    }
}

/// Removes the messages about a conversation from a queue and returns their number. With `dry_run` it only counts them.
pub(super) async fn erase(
    publisher: &MessagePublisher,
    clock: &Clock,
    name: &ShortString,
    conversation_id: &str,
    dry_run: bool,
) -> Result<u64, QueueError> {
    let mut cursor = Box::new(DeadLetterCursor::open(publisher, clock, name).await?);
    let mut found = 0;
    let result = loop {
        match cursor.next().await {
            Ok(Some(letter)) if Event::is_about(&letter.message.body, conversation_id) => {
                found += 1;
                if !dry_run && let Err(error) = cursor.discard(letter).await {
                    break Err(error);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break Ok(found),
            Err(error) => break Err(error),
        }
    };
    cursor.close().await;
    result
}

/// Counts the messages that no consumer holds.
async fn count(name: &ShortString, channel: &Channel) -> Result<u64, QueueError> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let counting = channel.queue_declare(name.clone(), passive, FieldTable::default());
    Ok(u64::from(request(name, counting).await?.message_count()))
}

async fn consume(name: &ShortString, channel: &Channel) -> Result<Consumer, QueueError> {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    request(name, channel.basic_consume(name.clone(), "".into(), options, arguments)).await
}

/// Waits for the broker's answer for a bounded time.
async fn request<T>(
    name: &ShortString,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| unreadable(name, &error)),
        Err(_) => Err(QueueError::Timeout(REQUEST_TIMEOUT)),
    }
}

fn unreadable(name: &ShortString, reason: &dyn fmt::Display) -> QueueError {
    QueueError::Unavailable(format!("the queue `{name}` cannot be read: {reason}"))
}
