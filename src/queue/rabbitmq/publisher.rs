//! Publishing with confirms that are read in full.
//!
//! A few tasks, each the only owner of one channel. A confirm is told from another by its place in the
//! order of publishing, and lapin counts and sends under two locks: two tasks on one channel would get each
//! other's answers. It also hands a returned message to whichever confirm completes next. So a task polls
//! all its messages itself, looks at everything that has completed before it answers anybody, and where a
//! message came back it fails **all** that had no answer yet. With a window of one that is exact.
//!
//! What comes while messages are unconfirmed goes out together when they are, as a group commit does, or after
//! [`GATHER`]. RabbitMQ (seen with 3.10) confirms a channel's messages in order: behind one that stays
//! unconfirmed all do, so what must not wait for another's queue has channels of its own.
//!
//! The confirms belong to the task, never to a caller: a caller that hangs up leaves nothing behind.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::connection::{Link, Session};
use crate::queue::QueueError;

/// A confirm that takes longer will not come, or not while anybody waits: a queue that has lost its
/// majority keeps quiet. The channel is given up then, so that it does not hold up the others for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// A channel on which a message was refused is closed after this: RabbitMQ (seen with 3.10) goes on refusing for
/// a quorum queue that was full, on that channel, when its limit has long been lifted.
const REFUSING: Duration = Duration::from_secs(5);
/// While messages are unconfirmed, others wait for so long at most to go out together when they are: what a write, a
/// wake-up and a confirm cost, they cost a batch once.
const GATHER: Duration = Duration::from_millis(5);
/// How long unconfirmed messages may take when the queue is closed.
const LAST_CONFIRMS: Duration = Duration::from_secs(2);

/// What is published, and where to.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// What the broker made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    /// Every queue it was routed to has it.
    Stored,
    /// No queue wants it (or, with a window over one, this could not be ruled out).
    Returned,
}

type Answer = Result<Receipt, QueueError>;

struct Order {
    parcel: Parcel,
    answer: oneshot::Sender<Answer>,
}

/// How a group of publishers works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// How many tasks, and channels.
    pub(super) tasks: usize,
    /// How many messages may be unconfirmed on a channel.
    pub(super) window: usize,
}

/// The way in, for everybody.
#[derive(Debug)]
pub(super) struct Publishers {
    orders: Vec<mpsc::Sender<Order>>,
    turn: AtomicUsize,
}

impl Publishers {
    /// The way in and the tasks behind it, to be spawned.
    pub(super) fn new(
        manner: Manner,
        link: &watch::Receiver<Link>,
        closing: &CancellationToken,
    ) -> (Self, Vec<Publisher>) {
        let (orders, tasks) = (0..manner.tasks)
            .map(|_| {
                let (sender, orders) = mpsc::channel(manner.window.max(16));
                (
                    sender,
                    Publisher { manner, orders, early: None, link: link.clone(), closing: closing.clone() },
                )
            })
            .unzip();
        (Self { orders, turn: AtomicUsize::new(0) }, tasks)
    }

    /// Publishes, persistent and mandatory, and waits for the confirm. Not bounded in time: that is the
    /// caller's to do, and safe.
    pub(super) async fn publish(&self, parcel: Parcel) -> Answer {
        let (answer, answered) = oneshot::channel();
        let mut order = Order { parcel, answer };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for n in 0..self.orders.len() {
            match self.orders[(turn + n) % self.orders.len()].try_send(order) {
                Ok(()) => return answered.await.unwrap_or(Err(QueueError::Closed)),
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                    order = back;
                }
            }
        }
        // All are busy: wait in line for one.
        match self.orders[turn % self.orders.len()].send(order).await {
            Ok(()) => answered.await.unwrap_or(Err(QueueError::Closed)),
            Err(_) => Err(QueueError::Closed),
        }
    }
}

/// One task: one channel at a time, for as long as the queue lives.
pub(super) struct Publisher {
    manner: Manner,
    orders: mpsc::Receiver<Order>,
    /// Taken while there was no connection, as far as was known: refused if there still is none, or else the first to go out.
    early: Option<Order>,
    link: watch::Receiver<Link>,
    closing: CancellationToken,
}

/// Why serving a channel ended.
enum End {
    /// The queue is closed, and all is answered.
    Closed,
    /// The connection is over.
    Lost,
    /// Only the channel was given up.
    Renew,
}

impl Publisher {
    /// Publishes what comes in until the queue is closed.
    pub(super) async fn run(mut self) {
        while let Some(session) = self.session().await {
            loop {
                match self.serve(&session).await {
                    End::Closed => return,
                    End::Lost => break,
                    End::Renew => {}
                }
            }
        }
    }

    /// Waits for a connection; refuses what comes in meanwhile. `None` once the queue is closed.
    async fn session(&mut self) -> Option<Arc<Session>> {
        loop {
            let reason = match &*self.link.borrow_and_update() {
                Link::Up(session) => return Some(Arc::clone(session)),
                Link::Away(reason) => Arc::clone(reason),
            };
            self.refuse_early(&reason);
            tokio::select! {
                changed = self.link.changed() => changed.ok()?,
                order = self.orders.recv() => self.early = Some(order?),
                () = self.closing.cancelled(), if !self.orders.is_closed() => self.orders.close(),
            }
        }
    }

    async fn serve(&mut self, session: &Arc<Session>) -> End {
        let channel = match open(session).await {
            Ok(channel) => channel,
            Err(reason) => {
                session.fail(reason);
                return self.lost(session, Unanswered::default()).await;
            }
        };
        let _counted = session.count_channel();
        let mut blocked = session.watch_blocked();
        let mut look = tokio::time::interval(Duration::from_secs(1));
        let mut flights = FuturesUnordered::new();
        let mut unanswered = Unanswered::default();
        let mut incoming = Vec::new();
        let mut deadline = None;
        let mut drained = false;
        let opened = Instant::now();
        let mut gathering = pin!(tokio::time::sleep(GATHER));
        let mut gathered = false;
        if let Some(order) = self.early.take() {
            match session.blocked() {
                Some(reason) => order.refuse(QueueError::Unavailable(reason)),
                None => flights.push(fly(&channel, unanswered.expect(order.answer), order.parcel)),
            }
        }
        loop {
            if drained && flights.is_empty() {
                return End::Closed;
            }
            let renew = unanswered.refused && opened.elapsed() > REFUSING;
            if renew && flights.is_empty() {
                return End::Renew;
            }
            let open = !renew && (gathered || flights.is_empty());
            let room = if open { self.manner.window.saturating_sub(flights.len()) } else { 0 };
            tokio::select! {
                biased;
                _ = session.ended() => return self.lost(session, unanswered).await,
                Some(first) = flights.next(), if !flights.is_empty() => {
                    let landed = all_that_landed(first, &mut flights);
                    if let Err(reason) = unanswered.settle(landed) {
                        // What closed the channel (a deleted exchange?) may need a new declaration.
                        session.fail(reason);
                    }
                }
                _ = blocked.changed() => if let Some(reason) = session.blocked() {
                    unanswered.fail(&QueueError::Unavailable(reason));
                },
                () = self.closing.cancelled(), if deadline.is_none() => {
                    self.orders.close();
                    deadline = Some(Instant::now() + LAST_CONFIRMS);
                }
                _ = look.tick() => {
                    if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                        unanswered.fail(&QueueError::Closed);
                        return End::Closed;
                    }
                    if unanswered.oldest().is_some_and(|age| age > PATIENCE) && session.blocked().is_none() {
                        tracing::warn!(patience = ?PATIENCE, "a message stays unconfirmed; its channel is given up");
                        unanswered.fail(&QueueError::Timeout(PATIENCE));
                        return End::Renew;
                    }
                }
                () = &mut gathering, if !gathered && !flights.is_empty() => gathered = true,
                taken = self.orders.recv_many(&mut incoming, room), if room > 0 && !drained => {
                    drained = taken == 0;
                    gathered = false;
                    gathering.as_mut().reset(tokio::time::Instant::now() + GATHER);
                    let blocked = session.blocked();
                    for order in incoming.drain(..) {
                        if order.answer.is_closed() {
                            // Nobody waits any more, and the sender has been told to come again.
                        } else if let Some(reason) = &blocked {
                            order.refuse(QueueError::Unavailable(reason.clone()));
                        } else {
                            flights.push(fly(&channel, unanswered.expect(order.answer), order.parcel));
                        }
                    }
                }
            }
        }
    }

    /// Answers everybody after the end of a connection, and waits until others know of it too.
    async fn lost(&mut self, session: &Arc<Session>, mut unanswered: Unanswered) -> End {
        unanswered.fail(&QueueError::Unavailable(session.ended().await.to_string()));
        let over = |link: &Link| !matches!(link, Link::Up(current) if Arc::ptr_eq(current, session));
        loop {
            if over(&self.link.borrow_and_update()) {
                return End::Lost;
            }
            let reason = session.ended().await;
            self.refuse_early(&reason);
            tokio::select! {
                changed = self.link.changed() => if changed.is_err() { return End::Closed },
                order = self.orders.recv() => match order {
                    Some(order) => self.early = Some(order),
                    None => return End::Closed,
                },
            }
        }
    }

    /// For when it was looked once more whether there is a connection.
    fn refuse_early(&mut self, reason: &str) {
        if let Some(order) = self.early.take() {
            order.refuse(QueueError::Unavailable(reason.to_owned()));
        }
    }
}

impl Order {
    fn refuse(self, error: QueueError) {
        // Fails where the caller has gone: then nobody wants the answer.
        let _ = self.answer.send(Err(error));
    }
}

async fn open(session: &Session) -> Result<Channel, String> {
    let channel = session.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(|error| format!("the broker does not confirm: {error}"))?;
    Ok(channel)
}

/// What became of a message. The broker's answer is taken apart at once: it is large, and a returned message stands in it
/// whole.
struct Landed {
    number: u64,
    /// A returned message came with it, which may be another one.
    came_back: bool,
    confirm: Confirm,
}

/// What the broker said of it.
enum Confirm {
    Ack,
    Nack,
    /// Nothing, as on a channel without confirms.
    None,
    /// The channel ended before it could say anything.
    Lost(String),
}

/// Publishes and waits for the confirm. The first poll takes the number and queues the frames in one go;
/// nobody else does so on this channel, and new futures are polled in the order in which they came.
async fn fly(channel: &Channel, number: u64, parcel: Parcel) -> Landed {
    let Parcel { exchange, routing_key, properties, body } = parcel;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let published = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
    let outcome = match published {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    let came_back = matches!(outcome, Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))));
    let confirm = match outcome {
        Ok(Confirmation::Ack(_)) => Confirm::Ack,
        Ok(Confirmation::Nack(_)) => Confirm::Nack,
        Ok(Confirmation::NotRequested) => Confirm::None,
        Err(error) => Confirm::Lost(error.to_string()),
    };
    Landed { number, came_back, confirm }
}

/// Everything that has completed by now. Once a confirm is seen, so is every one that completed before it,
/// and with it the returned message it may carry. `FuturesUnordered` may pause without being empty, so
/// only the second pause in a row counts.
fn all_that_landed<F>(first: Landed, flights: &mut FuturesUnordered<F>) -> Vec<Landed>
where
    F: Future<Output = Landed>,
{
    let mut landed = vec![first];
    let mut pauses = 0;
    while pauses < 2 {
        match flights.next().now_or_never() {
            Some(Some(next)) => {
                landed.push(next);
                pauses = 0;
            }
            Some(None) => break,
            None => pauses += 1,
        }
    }
    landed
}

/// Those who wait for an answer, by the number of their message.
#[derive(Default)]
struct Unanswered {
    waiting: HashMap<u64, (oneshot::Sender<Answer>, Instant)>,
    next: u64,
    /// One was refused.
    refused: bool,
}

impl Unanswered {
    fn expect(&mut self, answer: oneshot::Sender<Answer>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, (answer, Instant::now()));
        self.next
    }

    /// How long the first of them has waited.
    fn oldest(&self) -> Option<Duration> {
        self.waiting.values().map(|(_, since)| since.elapsed()).max()
    }

    /// Answers those whose messages landed. The error is a reason why the channel is over.
    fn settle(&mut self, landed: Vec<Landed>) -> Result<(), String> {
        if landed.iter().any(|landed| landed.came_back) {
            for (_, (answer, _)) in self.waiting.drain() {
                let _ = answer.send(Ok(Receipt::Returned));
            }
        }
        let mut over = Ok(());
        for Landed { number, confirm, .. } in landed {
            let answer = match confirm {
                Confirm::Ack => Ok(Receipt::Stored),
                Confirm::Nack => {
                    self.refused = true;
                    Err(QueueError::Refused(
                        "a queue is full or cannot store it (see the broker's log)".to_owned(),
                    ))
                }
                Confirm::None => Err(QueueError::Refused("the channel gives no confirms".to_owned())),
                Confirm::Lost(error) => {
                    over = Err(format!("a publishing channel ended: {error}"));
                    Err(QueueError::Unavailable(format!("the connection to the broker was lost: {error}")))
                }
            };
            if let Some((waiting, _)) = self.waiting.remove(&number) {
                let _ = waiting.send(answer);
            }
        }
        over
    }

    fn fail(&mut self, error: &QueueError) {
        for (_, (answer, _)) in self.waiting.drain() {
            let _ = answer.send(Err(error.clone()));
        }
    }
}
