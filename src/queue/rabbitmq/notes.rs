//! Telling those who follow what happens, without a say in what happens.
//!
//! A follower that bound a queue to `<prefix>.events` would change what becomes of an event: one that nobody else
//! wants would no longer be kept in `<prefix>.unrouted`, and a job whose queue is missing would count as routed
//! and not come back to its publisher. So there is an exchange of its own, `<prefix>.tail`, and what happened is
//! told there in a message of its own, after it has happened: no body of PolyAI's, not persistent, on a channel of
//! its own, by a task that nobody waits for. What it cannot keep up with is left out, and the numbers of the notes
//! tell a follower how much that was.
//!
//! Where nobody has bound a queue a note comes back, and for [`QUIET`] no other is even made.

use std::{
    sync::{
        Arc,
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

use super::publisher::{Manner, Parcel, Publishers, Receipt};
use crate::queue::TailEvent;

/// In order, by one channel. Fewer at a time than the credit a channel has with a queue (200 or more), so that not
/// even a queue that takes nothing makes the broker stop reading from our connection.
pub(super) const MANNER: Manner = Manner { tasks: 1, window: 64 };
/// How many notes may wait for the task.
const PLACES: usize = 1024;
/// How long it is not tried again after a note came back, or did not get through.
const QUIET: Duration = Duration::from_secs(1);
/// How long the broker may take to take one.
const PATIENCE: Duration = Duration::from_secs(1);

/// A note on its way.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Numbered {
    /// Who tells it: one queue of one process.
    pub(super) from: u64,
    /// Counts what that one wanted to tell, from one, what it left out included.
    pub(super) number: u64,
    pub(super) note: TailEvent,
}

/// The way in.
#[derive(Debug)]
pub(super) struct Notes {
    sender: mpsc::Sender<TailEvent>,
    quiet: Arc<Quiet>,
    left_out: Arc<AtomicU64>,
}

/// Until when nothing is told.
#[derive(Debug)]
struct Quiet {
    begun: Instant,
    until_ms: AtomicU64,
}

impl Quiet {
    fn is_over(&self) -> bool {
        self.elapsed_ms() >= self.until_ms.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        let quiet = u64::try_from(QUIET.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.store(self.elapsed_ms().saturating_add(quiet), Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Notes {
    /// The way in, and the task behind it, which ends with `closing`.
    pub(super) fn new(
        exchange: ShortString,
        publishers: Publishers,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut notes) = mpsc::channel(PLACES);
        let quiet = Arc::new(Quiet { begun: Instant::now(), until_ms: AtomicU64::new(0) });
        let told = Self { sender, quiet: Arc::clone(&quiet), left_out: Arc::default() };
        let left_out = Arc::clone(&told.left_out);
        let (from, mut number) = (fastrand::u64(..), 0);
        let publishers = Arc::new(publishers);
        let task = stream::poll_fn(move |context| notes.poll_recv(context))
            .take_until(closing.cancelled_owned())
            .map(move |note| {
                number += 1 + left_out.swap(0, Ordering::Relaxed);
                parcel(&exchange, &Numbered { from, number, note })
            })
            .for_each_concurrent(MANNER.window, move |parcel| {
                let (publishers, quiet) = (Arc::clone(&publishers), Arc::clone(&quiet));
                async move {
                    // What is no longer wanted by now would only keep others waiting.
                    if quiet.is_over()
                        && !matches!(
                            timeout(PATIENCE, publishers.publish(parcel)).await,
                            Ok(Ok(Receipt::Stored))
                        )
                    {
                        quiet.begin();
                    }
                }
            });
        (told, task)
    }

    /// Whether somebody may want to know. Where not, a note need not even be made.
    pub(super) fn are_wanted(&self) -> bool {
        self.quiet.is_over()
    }

    /// Tells it, or does not: never waits.
    pub(super) fn tell(&self, note: TailEvent) {
        if self.sender.try_send(note).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            counter!("polyhook_notes_dropped_total").increment(1);
        }
    }
}

fn parcel(exchange: &ShortString, numbered: &Numbered) -> Parcel {
    let TailEvent { at, what, kind, environment, .. } = &numbered.note;
    let routing_key = format!("{}.{kind}.{environment}", what.label());
    Parcel {
        exchange: exchange.clone(),
        // For whoever looks at the broker; a follower takes all of them.
        routing_key: ShortString::try_new(routing_key).unwrap_or_else(|_| what.label().into()),
        properties: BasicProperties::default()
            .with_app_id("polyhook".into())
            .with_content_type("application/json".into())
            .with_timestamp(u64::try_from(at.as_second()).unwrap_or_default()),
        body: serde_json::to_vec(numbered).unwrap_or_default().into(),
    }
}
