//! Walking through the dead letters, and ending them; and through the events nobody asked for, to erase some.
//!
//! AMQP knows no reading without taking. So a walk takes letters, acknowledges only what it has replayed
//! (confirmed in the fetch queue first) or what is to be discarded, and keeps nothing of the others but the
//! broker's promise: it has them back when the channel ends, however it ends. What that means for others:
//!
//! * While a walk goes on, what it has met, and up to [`WINDOW`] more, is hidden from other walks and not
//!   counted as a dead letter.
//! * A crash between the confirm and the acknowledgement leaves a letter **and** a job. Replaying that letter
//!   as well does no harm.
//! * The broker ends a walk that holds a letter for longer than its `consumer_timeout` (30 minutes by
//!   default): an error, after which everything is where it was.
//!
//! A consumer is given no more than its prefetch, so once that many letters were left alone another consumer of
//! the same channel goes on. (`basic.get` would do without, and cost a write of the quorum queue's log each.)

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

use super::{RabbitMqQueue, message, publisher::Parcel, refused};
use crate::{
    event::Event,
    queue::{DeadLetter, DeadLetters, LeaseId, QueueError},
};

/// How many letters the broker may send ahead.
const WINDOW: u16 = 64;
/// How long the broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After this without a letter it is asked whether there are more.
const QUIET: Duration = Duration::from_millis(200);
/// How often it is looked whether the broker has what was handed back.
const LOOK: Duration = Duration::from_millis(10);
/// How long handing the others back may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct Letters<'a> {
    queue: &'a RabbitMqQueue,
    /// The queue that is walked through.
    name: ShortString,
    channel: Channel,
    consumer: Consumer,
    /// The first delivery tag of this consumer, and the last of all that was met. The channel counts from 1.
    first: u64,
    at: u64,
    /// How many of its letters are neither ended nor given back; at [`WINDOW`] it gets no more.
    held: AtomicU64,
    /// How many letters of all were ended.
    ended: AtomicU64,
    total: u64,
    /// How many of them are still to be met: what comes meanwhile is left to the next walk, or one through
    /// letters that die again at once would never end.
    left: u64,
}

impl<'a> Letters<'a> {
    pub(super) async fn open(queue: &'a RabbitMqQueue, name: &ShortString) -> Result<Self, QueueError> {
        let channel = queue.session()?.channel().await.map_err(QueueError::Unavailable)?;
        let total = count(name, &channel).await?;
        answered(name, channel.basic_qos(WINDOW, BasicQosOptions::default())).await?;
        let consumer = consume(name, &channel).await?;
        Ok(Self {
            queue,
            name: name.clone(),
            channel,
            consumer,
            first: 1,
            at: 0,
            held: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            total,
            left: total,
        })
    }

    /// The next delivery; none once there are no more that somebody else has not taken.
    async fn delivery(&mut self) -> Result<Option<Delivery>, QueueError> {
        let mut empty = false;
        loop {
            match timeout(QUIET, self.consumer.next()).await {
                Ok(Some(Ok(delivery))) => return Ok(Some(delivery)),
                Ok(Some(Err(error))) => return Err(unreadable(&self.name, &error)),
                Ok(None) => {
                    return Err(unreadable(&self.name, &"the broker ended it; was the queue deleted?"));
                }
                // What was on its way when it was counted has arrived by now.
                Err(_) if empty => return Ok(None),
                Err(_) => empty = count(&self.name, &self.channel).await? == 0,
            }
        }
    }

    /// Goes on behind the letters that were left alone.
    async fn next_window(&mut self) -> Result<(), QueueError> {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        answered(&self.name, cancel).await?;
        self.consumer = consume(&self.name, &self.channel).await?;
        self.first = self.at + 1;
        self.held.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the channel, which returns what it holds, and waits until that has happened: the broker answers
    /// earlier, and whoever looks next would find fewer than there are.
    async fn hand_back(mut self) -> Result<(), QueueError> {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        answered(&self.name, cancel).await?;
        let mut held = self.at - self.ended.load(Ordering::Relaxed);
        while let Some(Some(Ok(_))) = self.consumer.next().now_or_never() {
            held += 1;
        }
        let all = count(&self.name, &self.channel).await? + held;
        answered(&self.name, self.channel.close(200, "OK".into())).await?;
        let channel = self.queue.session()?.channel().await.map_err(QueueError::Unavailable)?;
        // More than that would be somebody else's, fewer what somebody else has taken.
        while count(&self.name, &channel).await? < all {
            sleep(LOOK).await;
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
        self.ended.fetch_add(1, Ordering::Relaxed);
        if lease.0 >= self.first {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[async_trait]
impl DeadLetters for Letters<'_> {
    fn total(&self) -> u64 {
        self.total
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.held.load(Ordering::Relaxed) >= u64::from(WINDOW) {
            self.next_window().await?;
        }
        let Some(delivery) = self.delivery().await? else {
            self.left = 0;
            return Ok(None);
        };
        self.left -= 1;
        self.at = delivery.delivery_tag;
        self.held.fetch_add(1, Ordering::Relaxed);
        let lease = LeaseId(delivery.delivery_tag);
        let (message, history) =
            message::read_dead(&delivery.properties, delivery.data, self.queue.clock.now());
        Ok(Some(DeadLetter { message, history, lease }))
    }

    async fn replay(&self, letter: DeadLetter) -> Result<(), QueueError> {
        let DeadLetter { message, mut history, lease } = letter;
        history.replay(self.queue.clock.now());
        let properties = message::job(&message, &history).map_err(refused)?;
        let body = message.body;
        self.queue
            .store_in(&self.queue.topology.fetch, |exchange, routing_key| Parcel {
                exchange,
                routing_key,
                properties,
                body,
            })
            .await?;
        self.acknowledge(lease).await
    }

    async fn discard(&self, letter: DeadLetter) -> Result<(), QueueError> {
        self.acknowledge(letter.lease).await
    }

    async fn close(self: Box<Self>) {
        // Unanswered, the end of the connection does the same.
        let _ = timeout(GOODBYE, self.hand_back()).await;
    }
}

/// Walks through a queue and removes what is about a conversation; how many that were, or would be.
pub(super) async fn erase(
    queue: &RabbitMqQueue,
    name: &ShortString,
    conversation_id: &str,
    dry_run: bool,
) -> Result<u64, QueueError> {
    let mut letters = Box::new(Letters::open(queue, name).await?);
    let mut found = 0;
    let walked = loop {
        match letters.next().await {
            Ok(Some(letter)) if Event::is_about(&letter.message.body, conversation_id) => {
                found += 1;
                if !dry_run && let Err(error) = letters.discard(letter).await {
                    break Err(error);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break Ok(found),
            Err(error) => break Err(error),
        }
    };
    letters.close().await;
    walked
}

/// How many letters nobody has taken.
async fn count(name: &ShortString, channel: &Channel) -> Result<u64, QueueError> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let counting = channel.queue_declare(name.clone(), passive, FieldTable::default());
    Ok(u64::from(answered(name, counting).await?.message_count()))
}

async fn consume(name: &ShortString, channel: &Channel) -> Result<Consumer, QueueError> {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    answered(name, channel.basic_consume(name.clone(), "".into(), options, arguments)).await
}

async fn answered<T>(
    name: &ShortString,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|error| unreadable(name, &error)),
        Err(_) => Err(QueueError::Timeout(ANSWER_TIMEOUT)),
    }
}

fn unreadable(name: &ShortString, why: &dyn fmt::Display) -> QueueError {
    QueueError::Unavailable(format!("what stands in `{name}` cannot be read: {why}"))
}
