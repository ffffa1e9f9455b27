//! Publishing tail events for followers, without any effect on deliveries and jobs.
//!
//! A follower that bound a queue to `<prefix>.events` would change the routing of events: an event that no other queue
//! wants would no longer be kept in `<prefix>.unrouted`, and a job whose queue is missing would count as routed and not
//! return to its publisher. So tail events have an exchange of their own, `<prefix>.tail`. Each is a message of its own,
//! published after the fact: without PolyAI's body, not persistent, on a channel of its own, by a task that no other task
//! waits for. Events that the task cannot keep up with are dropped; their numbers show a follower how many are missing.
//!
//! If no follower has bound a queue, an event is returned, and for [`PAUSE`] no further event is even built.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use lapin::{BasicProperties, types::ShortString};
use metrics::counter;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    confirm::OutgoingMessage,
    publisher::{PublisherConfig, Publishers},
    unconfirmed::PublishResult,
};
use crate::queue::TailEvent;

/// One channel, which keeps the order. The window is smaller than the credit that a channel has with a queue (200 or more),
/// so that even a queue that accepts nothing does not make the broker stop reading from the connection.
pub(super) const CONFIG: PublisherConfig = PublisherConfig { tasks: 1, window: 64, eager: false };
/// Events that may wait for the task.
const BUFFERED_EVENTS: usize = 1024;
/// The pause after an event that was returned or not confirmed.
const PAUSE: Duration = Duration::from_secs(1);
/// Bounds the wait for the confirm of an event.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// The message that carries a tail event.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct NumberedEvent {
    /// Identifies the sender: one open queue of one process.
    #[serde(rename = "from")]
    pub(super) sender: u64,
    /// Position among the sender's events, from one. Dropped events are counted, too.
    pub(super) number: u64,
    #[serde(rename = "note")]
    pub(super) event: TailEvent,
}

/// The callers' side of the task that publishes tail events.
#[derive(Debug)]
pub(super) struct TailPublisher {
    events: mpsc::Sender<TailEvent>,
    pause: Arc<Pause>,
    dropped: Arc<AtomicU64>,
    /// The terminal of this process, if it shows events.
    terminal: OnceLock<mpsc::Sender<TailEvent>>,
}

/// The end of the present pause. An atomic, because every delivery reads it.
#[derive(Debug)]
struct Pause {
    created_at: Instant,
    until_ms: AtomicU64,
}

impl Pause {
    fn is_over(&self) -> bool {
        self.elapsed_ms() >= self.until_ms.load(Ordering::Relaxed)
    }

    fn start(&self) {
        let pause = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.store(self.elapsed_ms().saturating_add(pause), Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.created_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl TailPublisher {
    /// Returns the callers' side and the task, which ends with `closing`.
    pub(super) fn new(
        exchange: ShortString,
        publishers: Publishers,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        // It is exported from the beginning, so that the first step counts.
        counter!("polyhook_notes_dropped_total").increment(0);
        let (sender, mut events) = mpsc::channel(BUFFERED_EVENTS);
        let pause = Arc::new(Pause { created_at: Instant::now(), until_ms: AtomicU64::new(0) });
        let this = Self {
            events: sender,
            pause: Arc::clone(&pause),
            dropped: Arc::default(),
            terminal: OnceLock::new(),
        };
        let dropped = Arc::clone(&this.dropped);
        let (sender, mut number) = (fastrand::u64(..), 0);
        let publishers = Arc::new(publishers);
        let task = stream::poll_fn(move |context| events.poll_recv(context))
            .take_until(closing.cancelled_owned())
            .map(move |event| {
                number += 1 + dropped.swap(0, Ordering::Relaxed);
                outgoing_message(&exchange, &NumberedEvent { sender, number, event })
            })
            .for_each_concurrent(CONFIG.window, move |message| {
                let (publishers, pause) = (Arc::clone(&publishers), Arc::clone(&pause));
                async move {
                    // A pause may have started since the event was built.
                    if pause.is_over()
                        && !matches!(
                            timeout(CONFIRM_TIMEOUT, publishers.publish(Box::new(message))).await,
                            Ok(Ok(PublishResult::Stored))
                        )
                    {
                        pause.start();
                    }
                }
            });
        (this, task)
    }

    /// Returns the events from now on. Only the first caller gets them.
    pub(super) fn own_events(&self) -> mpsc::Receiver<TailEvent> {
        let (sender, events) = mpsc::channel(BUFFERED_EVENTS);
        let _ = self.terminal.set(sender);
        events
    }

    /// Returns false during a pause, unless the process shows events. The caller then need not build an event.
    pub(super) fn wants_events(&self) -> bool {
        self.pause.is_over() || self.terminal.get().is_some()
    }

    /// Publishes an event, or drops it if too many are waiting. Never waits.
    pub(super) fn send(&self, event: TailEvent) {
        if let Some(terminal) = self.terminal.get() {
            let _ = terminal.try_send(event.clone());
        }
        if self.events.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            counter!("polyhook_notes_dropped_total").increment(1);
        }
    }
}

fn outgoing_message(exchange: &ShortString, numbered: &NumberedEvent) -> OutgoingMessage {
    let TailEvent { at, what, kind, environment, .. } = &numbered.event;
    let routing_key = format!("{}.{kind}.{environment}", what.label());
    OutgoingMessage {
        exchange: exchange.clone(),
        // For people who inspect the broker. A follower binds to all keys.
        routing_key: ShortString::try_new(routing_key).unwrap_or_else(|_| what.label().into()),
        properties: BasicProperties::default()
            .with_app_id("polyhook".into())
            .with_content_type("application/json".into())
            .with_timestamp(u64::try_from(at.as_second()).unwrap_or_default()),
        body: serde_json::to_vec(numbered).unwrap_or_default().into(),
    }
}
