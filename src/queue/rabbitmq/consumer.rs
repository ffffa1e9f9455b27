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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Link, Session},
    desk::Desk,
    message,
};
use crate::{
    clock::Clock,
    queue::{Job, Lease},
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
    pub(super) closing: CancellationToken,
}

impl Taker {
    /// Takes jobs until the queue is closed.
    pub(super) async fn run(mut self) {
        tokio::select! {
            () = self.closing.cancelled() => return,
            () = self.desk.wanted() => {}
        }
        while let Some(session) = self.session().await {
            let ended = self.serve(&session).await;
            self.desk.forget();
            if let Err(reason) = ended {
                session.fail(reason);
                self.wait_for_end_of(&session).await;
            }
        }
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

    /// Takes jobs through one channel. `Ok` once the queue is closed, else why the channel ended.
    async fn serve(&self, session: &Arc<Session>) -> Result<(), String> {
        let channel = session.channel().await?;
        let mut consumer = self.consume(&channel).await?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {
                    self.hand_back(&channel, &consumer).await;
                    return Ok(());
                }
                reason = session.ended() => return Err(reason.to_string()),
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.desk.put(delivery.acker.clone(), self.read(delivery)),
                    Some(Err(error)) => return Err(format!("taking jobs from `{}` ended: {error}", self.queue)),
                    None => return Err(format!("the broker ended taking jobs from `{}`: was it deleted?", self.queue)),
                },
                _ = look.tick() => for held in self.desk.overdue() {
                    let nack = BasicNackOptions { requeue: true, multiple: false };
                    if held.acker.nack(nack).await.is_ok() {
                        tracing::warn!(message.id = held.message.id, "the end of a job could not be recorded; it is given back");
                    }
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
        Job { message, history, lease: Lease(0) }
    }

    /// Asks for no more and returns what is held. Closing the channel returns it all at once.
    async fn hand_back(&self, channel: &Channel, consumer: &Consumer) {
        self.desk.forget();
        let goodbye = async {
            channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            channel.close(200, "OK".into()).await
        };
        if !matches!(tokio::time::timeout(GOODBYE, goodbye).await, Ok(Ok(()))) {
            tracing::debug!(
                "the broker did not answer the goodbye; it has the jobs back when the connection ends"
            );
        }
    }
}
