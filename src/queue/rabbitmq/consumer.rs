//! Taking jobs from the fetch queue.
//!
//! At most `prefetch` jobs are held by this process; each is acknowledged when its end is recorded, never
//! earlier. They come through one channel; when that ends, however it ends, the broker has them back.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Consumer, ErrorKind,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Link, Session},
    desk::{Desk, Held},
    message,
    publisher::{Parcel, Publishers, Receipt},
};
use crate::{
    clock::Clock,
    queue::{History, Job, LeaseId, Message},
};

/// How often jobs are looked for that are to be given back.
const LOOK: Duration = Duration::from_secs(1);
/// How long handing everything back may take when the queue is closed.
const GOODBYE: Duration = Duration::from_secs(1);

pub(super) struct Taker {
    pub(super) queue: ShortString,
    pub(super) prefetch: u16,
    pub(super) desk: Arc<Desk>,
    pub(super) clock: Clock,
    /// The connection to consume on.
    pub(super) link: watch::Receiver<Link>,
    /// The one that declares the topology.
    pub(super) publishing: watch::Receiver<Link>,
    /// Publishes anew what was in our hands when somebody deleted the queue.
    pub(super) publishers: Arc<Publishers>,
    /// No new jobs are wanted any more; those that are running go on.
    pub(super) draining: CancellationToken,
    pub(super) closing: CancellationToken,
}

/// Why a channel ended.
enum End {
    /// The queue is closed.
    Closed,
    /// The broker has the jobs back.
    Lost(String),
    /// The broker took the consumer away, as it does with a deleted queue: nobody but us has the jobs.
    Deleted(String),
}

impl From<String> for End {
    fn from(reason: String) -> Self {
        Self::Lost(reason)
    }
}

impl Taker {
    /// Takes jobs until the queue is closed.
    pub(super) async fn run(mut self) {
        tokio::select! {
            () = self.closing.cancelled() => return,
            () = self.desk.wanted() => {}
        }
        let mut orphans = Vec::new();
        while let Some(session) = self.session().await {
            self.publish_anew(&mut orphans).await;
            let reason = match self.serve(&session).await {
                End::Closed => return,
                End::Lost(reason) => reason,
                End::Deleted(reason) => {
                    orphans.extend(self.desk.take_orphans());
                    reason
                }
            };
            self.desk.forget();
            session.fail(reason);
            self.wait_for_end_of(&session).await;
        }
        self.publish_anew(&mut orphans).await;
    }

    /// Puts jobs whose queue was deleted into the new one; those for which that fails wait for the next time.
    async fn publish_anew(&self, orphans: &mut Vec<(Message, History)>) {
        let mut left = Vec::new();
        for (message, history) in orphans.drain(..) {
            let Ok(properties) = message::job(&message, &history) else { continue };
            let (exchange, routing_key) = (ShortString::default(), self.queue.clone());
            let parcel = Parcel { exchange, routing_key, properties, body: message.body.clone() };
            match timeout(GOODBYE, self.publishers.publish(parcel)).await {
                Ok(Ok(Receipt::Stored)) => {
                    tracing::warn!(event.id = message.id, "a job of the deleted queue was published anew");
                }
                _ => left.push((message, history)),
            }
        }
        *orphans = left;
    }

    /// Waits for a connection; `None` once the queue is closed.
    async fn session(&mut self) -> Option<Arc<Session>> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            link = self.link.wait_for(|link| matches!(link, Link::Up(_))) => match &*link.ok()? {
                Link::Up(session) => Some(Arc::clone(session)),
                Link::Away(_) => None,
            },
        }
    }

    async fn wait_for_end_of(&mut self, session: &Arc<Session>) {
        let over = |link: &Link| !matches!(link, Link::Up(current) if Arc::ptr_eq(current, session));
        tokio::select! {
            () = self.closing.cancelled() => {}
            // An error is the end of the connection's keeper: the same end is on its way to us.
            _ = self.link.wait_for(over) => {}
        }
    }

    /// Takes jobs through one channel until it ends.
    async fn serve(&self, session: &Arc<Session>) -> End {
        match self.take(session).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn take(&self, session: &Arc<Session>) -> Result<End, End> {
        let channel = session.channel().await?;
        let mut consumer = self.consume(&channel).await?;
        let mut look = tokio::time::interval(LOOK);
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {
                    self.hand_back(&channel, &consumer).await;
                    return Ok(End::Closed);
                }
                reason = session.ended() => return Err(End::Lost(reason.to_string())),
                () = self.draining.cancelled(), if !draining => {
                    draining = true;
                    // What comes in between goes back when the channel closes.
                    let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
                    if timeout(GOODBYE, cancelled).await.is_ok() {
                        give_back(self.desk.take_waiting()).await;
                    }
                }
                delivery = consumer.next(), if !draining => match delivery {
                    Some(Ok(delivery)) => self.desk.put(delivery.acker.clone(), self.read(delivery)),
                    Some(Err(error)) => {
                        return Err(End::Lost(format!("taking jobs from `{}` ended: {error}", self.queue)));
                    }
                    // With its channel alive, only the broker can have ended it.
                    None if channel.status().connected() => {
                        return Err(End::Deleted(format!("the queue `{}` was deleted; it is declared again", self.queue)));
                    }
                    None => return Err(End::Lost("the channel for taking jobs ended".to_owned())),
                },
                _ = look.tick() => for held in give_back(self.desk.overdue()).await {
                    tracing::warn!(event.id = held.message.id, "the end of a job could not be recorded; it is given back");
                },
            }
        }
    }

    async fn consume(&self, channel: &Channel) -> Result<Consumer, String> {
        let (qos, options) = (BasicQosOptions::default(), BasicConsumeOptions::default());
        let consumer = match channel.basic_qos(self.prefetch, qos).await {
            Ok(()) => {
                channel.basic_consume(self.queue.clone(), "".into(), options, FieldTable::default()).await
            }
            Err(error) => Err(error),
        };
        consumer.map_err(|error| {
            if let ErrorKind::ProtocolError(said) = error.kind()
                && said.get_id() == 404
                && let Link::Up(declarer) = &*self.publishing.borrow()
            {
                // Somebody deleted it while we were connected: it is declared on connecting.
                declarer.fail(format!("the queue `{}` is gone; it is declared again", self.queue));
            }
            format!("the broker lets us take no jobs from `{}`: {error}", self.queue)
        })
    }

    fn read(&self, delivery: Delivery) -> Job {
        let (message, history) = message::read(&delivery.properties, delivery.data, self.clock.now());
        Job { message, history, lease: LeaseId(0) }
    }

    /// Asks for no more and returns what is held. Closing the channel returns it all at once.
    async fn hand_back(&self, channel: &Channel, consumer: &Consumer) {
        self.desk.forget();
        let goodbye = async {
            channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            channel.close(200, "OK".into()).await
        };
        if !matches!(timeout(GOODBYE, goodbye).await, Ok(Ok(()))) {
            tracing::debug!(
                "the broker did not answer the goodbye; it has the jobs back when the connection ends"
            );
        }
    }
}

/// Hands jobs back to the broker; those for which that worked.
async fn give_back(jobs: Vec<Held>) -> Vec<Held> {
    let mut given = Vec::new();
    for held in jobs {
        if held.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await.is_ok() {
            given.push(held);
        }
    }
    given
}
