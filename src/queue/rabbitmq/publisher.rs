//! Publishing with confirms that are read in full.
//!
//! Guarantees to the caller of [`Publishers::publish`]: `Stored` means that every queue the message was routed to has
//! confirmed it. Everything else is an error or `Returned`, and the message may then exist or not.
//!
//! Each task is the only owner of one channel, for two reasons that were measured with lapin 4.12:
//!
//! * lapin matches a confirm to a message by the order of publishing, but it counts and sends under two locks. Two tasks
//!   on one channel would get each other's confirms.
//! * lapin attaches a returned message to the confirm that completes next, which may belong to another message. A task
//!   therefore polls all its messages itself, collects everything that has completed before it answers anyone, and
//!   fails **all** unanswered messages if one was returned. With a window of one message this is exact.
//!
//! Messages that arrive while [`UNBATCHED_MESSAGES`] others are unconfirmed go out together, like a group commit: when
//! those are confirmed, or after [`BATCH_DELAY`]. RabbitMQ (seen with 3.10) confirms the messages of a channel in order, so one
//! unconfirmed message holds up all later ones. [`publisher_groups`](super::publisher_groups) says which messages have
//! channels of their own.
//!
//! Confirms belong to the task, never to the caller, because lapin leaks a confirm that is dropped. A caller that stops
//! waiting leaves nothing behind.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{Channel, options::ConfirmSelectOptions};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    confirm::{ConfirmResult, OutgoingMessage, publish_one},
    connection::{Connection, ConnectionState},
    unconfirmed::{Reply, Unconfirmed},
};
use crate::queue::QueueError;

/// A channel whose oldest message is unconfirmed for longer is given up, so that it does not hold up the other messages
/// for ever. A quorum queue that has lost its majority neither confirms nor rejects.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// A channel on which a message was rejected is replaced at this age. RabbitMQ (seen with 3.10) goes on rejecting messages
/// for a quorum queue that was full, on that channel, long after its limit has been lifted.
const REJECTING_CHANNEL_LIFETIME: Duration = Duration::from_secs(5);
/// While fewer messages are unconfirmed, the next ones go out at once.
const UNBATCHED_MESSAGES: usize = 8;
/// Otherwise messages wait at most this long for the unconfirmed ones, to go out together. A write, a wake-up and a
/// confirm then cost once for the whole batch.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Bounds the wait for outstanding confirms when the queue is closed.
const CLOSE_CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval at which the two confirm timeouts are checked.
const TIMEOUT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A message that waits for a publisher task.
struct PublishRequest {
    message: Box<OutgoingMessage>,
    reply: oneshot::Sender<Reply>,
}

impl PublishRequest {
    fn fail(self, error: QueueError) {
        // Fails if the caller has stopped waiting.
        let _ = self.reply.send(Err(error));
    }
}

/// The size of a group of publishers.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublisherConfig {
    /// Number of tasks, each with one channel.
    pub(super) tasks: usize,
    /// Maximum unconfirmed messages on a channel.
    pub(super) window: usize,
    /// True if the channels are open before they are needed. lapin looks at every open channel for each frame it sends, so
    /// channels that may never be needed are opened for their first message.
    pub(super) eager: bool,
}

/// The callers' side of a group of publisher tasks.
#[derive(Debug)]
pub(super) struct Publishers {
    requests: Vec<mpsc::Sender<PublishRequest>>,
    next_task: AtomicUsize,
}

impl Publishers {
    /// Returns the callers' side and the tasks, which the caller has to spawn.
    pub(super) fn new(
        config: PublisherConfig,
        state: &watch::Receiver<ConnectionState>,
        closing: &CancellationToken,
    ) -> (Self, Vec<Publisher>) {
        let (requests, tasks) = (0..config.tasks)
            .map(|_| {
                let (sender, requests) = mpsc::channel(config.window.max(16));
                let (state, closing) = (state.clone(), closing.clone());
                (sender, Publisher { config, requests, first_request: None, state, closing })
            })
            .unzip();
        (Self { requests, next_task: AtomicUsize::new(0) }, tasks)
    }

    /// Publishes a message as mandatory and waits for the confirm. The wait is not bounded; the caller bounds it, and
    /// may stop waiting at any time.
    pub(super) async fn publish(&self, message: Box<OutgoingMessage>) -> Reply {
        let (sender, reply) = oneshot::channel();
        let mut request = PublishRequest { message, reply: sender };
        let first = self.next_task.fetch_add(1, Ordering::Relaxed);
        for n in 0..self.requests.len() {
            match self.requests[(first + n) % self.requests.len()].try_send(request) {
                Ok(()) => return reply.await.unwrap_or(Err(QueueError::Closed)),
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                    request = back;
                }
            }
        }
        // All tasks are busy: wait for one.
        match self.requests[first % self.requests.len()].send(request).await {
            Ok(()) => reply.await.unwrap_or(Err(QueueError::Closed)),
            Err(_) => Err(QueueError::Closed),
        }
    }
}

/// A publisher task. It uses one channel at a time until the queue is closed.
pub(super) struct Publisher {
    config: PublisherConfig,
    requests: mpsc::Receiver<PublishRequest>,
    /// A request that arrived while no connection was known. The state is checked once more before it is refused; if
    /// there is a connection after all, it is the first message to go out.
    first_request: Option<PublishRequest>,
    state: watch::Receiver<ConnectionState>,
    closing: CancellationToken,
}

/// The reason why a channel is no longer used.
enum ChannelEnd {
    /// The queue is closed, and every request has its reply.
    QueueClosed,
    /// The connection has ended.
    ConnectionLost,
    /// Only this channel is given up; the connection is good.
    Replace,
}

impl Publisher {
    /// Publishes requests until the queue is closed.
    pub(super) async fn run(mut self) {
        while let Some(connection) = self.wait_for_connection().await {
            loop {
                match self.use_channel(&connection).await {
                    ChannelEnd::QueueClosed => return,
                    ChannelEnd::ConnectionLost => break,
                    ChannelEnd::Replace => {}
                }
            }
        }
    }

    /// Waits for a connection and refuses requests meanwhile. Returns `None` once the queue is closed.
    async fn wait_for_connection(&mut self) -> Option<Arc<Connection>> {
        loop {
            let reason = match &*self.state.borrow_and_update() {
                ConnectionState::Up(connection) => return Some(Arc::clone(connection)),
                ConnectionState::Down(reason) => Arc::clone(reason),
            };
            self.refuse_first_request(&reason);
            tokio::select! {
                changed = self.state.changed() => changed.ok()?,
                request = self.requests.recv() => self.first_request = Some(request?),
                () = self.closing.cancelled(), if !self.requests.is_closed() => self.requests.close(),
            }
        }
    }

    /// Publishes on one channel until it ends.
    async fn use_channel(&mut self, connection: &Arc<Connection>) -> ChannelEnd {
        if !self.config.eager
            && let Some(end) = self.wait_for_request(connection).await
        {
            return end;
        }
        let channel = match open_channel(connection).await {
            Ok(channel) => channel,
            Err(reason) => {
                connection.fail(reason);
                return self.wait_for_connection_loss(connection).await;
            }
        };
        let _counted = connection.count_channel();
        let mut blocked = connection.watch_blocked();
        let mut timeout_check = tokio::time::interval(TIMEOUT_CHECK_INTERVAL);
        let publish = |message| publish_one(&channel, message);
        let mut state = ChannelState::new(Arc::clone(connection), self.config.window, publish);
        state.publish_all(self.first_request.take());
        let mut incoming = Vec::new();
        loop {
            if let Some(end) = state.end() {
                return end;
            }
            let capacity = state.capacity();
            tokio::select! {
                biased;
                reason = connection.ended() => {
                    state.unconfirmed.fail_all(&QueueError::Unavailable(reason.to_string()));
                    return self.wait_for_connection_loss(connection).await;
                }
                () = state.unconfirmed.oldest_completed() => state.on_confirms(),
                _ = blocked.changed() => state.on_blocked_changed(),
                () = self.closing.cancelled(), if state.close_deadline.is_none() => {
                    self.requests.close();
                    state.on_closing();
                }
                _ = timeout_check.tick() => if let Some(end) = state.on_timeout_check() {
                    return end;
                },
                () = state.batch_timer.as_mut(), if !state.unconfirmed.is_empty() => state.on_batch_timer(),
                received = self.requests.recv_many(&mut incoming, capacity),
                    if capacity > 0 && !state.no_more_requests =>
                {
                    state.on_requests(received, &mut incoming);
                }
            }
        }
    }

    /// Waits for the first request. Returns the reason if no channel is needed for it.
    async fn wait_for_request(&mut self, connection: &Arc<Connection>) -> Option<ChannelEnd> {
        while self.first_request.is_none() {
            tokio::select! {
                biased;
                _ = connection.ended() => return Some(self.wait_for_connection_loss(connection).await),
                () = self.closing.cancelled(), if !self.requests.is_closed() => self.requests.close(),
                request = self.requests.recv() => match request {
                    Some(request) => self.first_request = Some(request),
                    None => return Some(ChannelEnd::QueueClosed),
                },
            }
        }
        None
    }

    /// Refuses requests until the connection's keeper has published the end of the connection. Otherwise this task could
    /// take the ended connection for a new one.
    async fn wait_for_connection_loss(&mut self, connection: &Arc<Connection>) -> ChannelEnd {
        loop {
            if !self.state.borrow_and_update().is(connection) {
                return ChannelEnd::ConnectionLost;
            }
            let reason = connection.ended().await;
            self.refuse_first_request(&reason);
            tokio::select! {
                changed = self.state.changed() => if changed.is_err() { return ChannelEnd::QueueClosed },
                request = self.requests.recv() => match request {
                    Some(request) => self.first_request = Some(request),
                    None => return ChannelEnd::QueueClosed,
                },
            }
        }
    }

    /// Refuses the stored request. Call it only after the connection state was read once more.
    fn refuse_first_request(&mut self, reason: &str) {
        if let Some(request) = self.first_request.take() {
            request.fail(QueueError::Unavailable(reason.to_owned()));
        }
    }
}

async fn open_channel(connection: &Connection) -> Result<Channel, String> {
    let channel = connection.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(|error| format!("the broker does not confirm: {error}"))?;
    Ok(channel)
}

/// The state of one channel. Each event of the loop in [`Publisher::use_channel`] has one method here.
struct ChannelState<P, F> {
    connection: Arc<Connection>,
    window: usize,
    opened_at: Instant,
    /// Publishes a message; see [`publish_one`].
    publish: P,
    unconfirmed: Unconfirmed<F>,
    /// Ends [`BATCH_DELAY`] after the last batch was published.
    batch_timer: Pin<Box<Sleep>>,
    batch_is_due: bool,
    /// The queue is closed; confirms are awaited until then.
    close_deadline: Option<Instant>,
    /// The queue is closed, and the last request was received.
    no_more_requests: bool,
}

impl<P, F> ChannelState<P, F>
where
    P: Fn(Box<OutgoingMessage>) -> F,
    F: Future<Output = ConfirmResult>,
{
    fn new(connection: Arc<Connection>, window: usize, publish: P) -> Self {
        Self {
            connection,
            window,
            opened_at: Instant::now(),
            publish,
            unconfirmed: Unconfirmed::new(),
            batch_timer: Box::pin(sleep(BATCH_DELAY)),
            batch_is_due: false,
            close_deadline: None,
            no_more_requests: false,
        }
    }

    /// Returns true if the channel is to be replaced once all its messages are confirmed.
    fn must_be_replaced(&self) -> bool {
        self.unconfirmed.any_rejected && self.opened_at.elapsed() > REJECTING_CHANNEL_LIFETIME
    }

    /// Ends the channel once nothing is in flight and it is no longer needed.
    fn end(&self) -> Option<ChannelEnd> {
        if !self.unconfirmed.is_empty() {
            None
        } else if self.no_more_requests {
            Some(ChannelEnd::QueueClosed)
        } else {
            self.must_be_replaced().then_some(ChannelEnd::Replace)
        }
    }

    /// Returns how many requests may be taken now.
    fn capacity(&self) -> usize {
        let at_once = self.unconfirmed.len() < UNBATCHED_MESSAGES;
        if (at_once || self.batch_is_due) && !self.must_be_replaced() {
            self.window.saturating_sub(self.unconfirmed.len())
        } else {
            0
        }
    }

    fn on_requests(&mut self, received: usize, incoming: &mut Vec<PublishRequest>) {
        self.no_more_requests = received == 0;
        self.batch_is_due = false;
        self.restart_batch_timer();
        // A caller that has stopped waiting has already answered 503: its sender comes again.
        self.publish_all(incoming.drain(..).filter(|request| !request.reply.is_closed()));
    }

    /// Publishes requests, or refuses them while the broker blocks the connection.
    fn publish_all(&mut self, requests: impl IntoIterator<Item = PublishRequest>) {
        let blocked = self.connection.blocked();
        for request in requests {
            if let Some(reason) = &blocked {
                request.fail(QueueError::Unavailable(reason.clone()));
            } else {
                self.unconfirmed.send((self.publish)(request.message), request.reply);
            }
        }
    }

    /// Answers everything that has completed by now.
    fn on_confirms(&mut self) {
        if let Err(reason) = self.unconfirmed.reply_to_completed() {
            // The cause, such as a deleted exchange, may need a new declaration, which a new connection makes.
            self.connection.fail(reason);
        }
    }

    /// Lets the next batch go out, and answers what was confirmed before an older message.
    fn on_batch_timer(&mut self) {
        self.batch_is_due = true;
        self.restart_batch_timer();
        self.on_confirms();
    }

    fn restart_batch_timer(&mut self) {
        self.batch_timer.as_mut().reset(tokio::time::Instant::now() + BATCH_DELAY);
    }

    /// Fails all unanswered messages if the broker now blocks the connection: lapin would wait without an error.
    fn on_blocked_changed(&mut self) {
        if let Some(reason) = self.connection.blocked() {
            self.unconfirmed.fail_all(&QueueError::Unavailable(reason));
        }
    }

    fn on_closing(&mut self) {
        self.close_deadline = Some(Instant::now() + CLOSE_CONFIRM_TIMEOUT);
    }

    /// Ends the channel if confirms are overdue.
    fn on_timeout_check(&mut self) -> Option<ChannelEnd> {
        if self.close_deadline.is_some_and(|deadline| Instant::now() > deadline) {
            self.unconfirmed.fail_all(&QueueError::Closed);
            return Some(ChannelEnd::QueueClosed);
        }
        let overdue = self.unconfirmed.oldest_age().is_some_and(|age| age > CONFIRM_TIMEOUT);
        if !overdue || self.connection.blocked().is_some() {
            return None;
        }
        tracing::warn!(
            timeout_ms = CONFIRM_TIMEOUT.as_millis(),
            "the broker left a message unconfirmed; its channel is replaced"
        );
        self.unconfirmed.fail_all(&QueueError::Timeout(CONFIRM_TIMEOUT));
        Some(ChannelEnd::Replace)
    }
}
