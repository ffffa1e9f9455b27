//! Reads dead letters within bounds.
//!
//! RabbitMQ hides letters from other processes while they are read, and does not count them. So pages read only the first
//! ones of a long queue there, and say so. The embedded queue is read to its end.

use std::{ops::ControlFlow, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    console::error::PageError,
    queue::{DeadLetter, Queue, QueueError},
};

/// The longest time until the queue answers at all.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);

/// Bounds of one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    letters: u64,
    time: Duration,
    /// The bounds if reading hides letters.
    letters_if_hidden: u64,
    time_if_hidden: Duration,
}

/// A list shows the first letters.
pub(super) const LIST: Limits = Limits {
    letters: 100_000,
    time: Duration::from_secs(20),
    letters_if_hidden: 1_000,
    time_if_hidden: Duration::from_secs(2),
};
/// One letter is usually one of those that a list shows.
pub(super) const ONE: Limits = Limits {
    letters: 250_000,
    time: Duration::from_secs(20),
    letters_if_hidden: 10_000,
    time_if_hidden: Duration::from_secs(5),
};
/// A person asked for all, and waits for it.
pub(super) const SELECTION: Limits = Limits {
    letters: 250_000,
    time: Duration::from_secs(30),
    letters_if_hidden: 250_000,
    time_if_hidden: Duration::from_secs(30),
};

/// The extent of a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Dead letters in the queue at the beginning.
    pub(super) total: u64,
    /// Dead letters that were read.
    pub(super) read: u64,
    /// True if a limit ended the reading.
    pub(super) is_cut: bool,
    /// True if reading hides letters from others.
    pub(super) hides: bool,
}

/// Calls `visit` for the first dead letters, until it breaks or a limit is reached.
pub(super) async fn scan(
    queue: &dyn Queue,
    limits: Limits,
    visit: &mut (dyn FnMut(DeadLetter, bool) -> ControlFlow<()> + Send),
) -> Result<Extent, PageError> {
    let result = scan_queue(queue, limits, visit).await;
    result.map_err(|error| queue_failed(&error))
}

async fn scan_queue(
    queue: &dyn Queue,
    limits: Limits,
    visit: &mut (dyn FnMut(DeadLetter, bool) -> ControlFlow<()> + Send),
) -> Result<Extent, QueueError> {
    let opened = timeout(OPEN_TIMEOUT, queue.dead_letters()).await;
    let mut cursor = opened.unwrap_or(Err(QueueError::Timeout(OPEN_TIMEOUT)))?;
    let mut extent = Extent { total: cursor.total(), hides: cursor.hides_letters(), ..Extent::default() };
    let (max_letters, time) = if extent.hides {
        (limits.letters_if_hidden, limits.time_if_hidden)
    } else {
        (limits.letters, limits.time)
    };
    let deadline = Instant::now() + time;
    let result = loop {
        if extent.read == max_letters {
            extent.is_cut = extent.read < extent.total;
            break Ok(extent);
        }
        match timeout_at(deadline, cursor.next()).await {
            Ok(Ok(Some(letter))) => {
                extent.read += 1;
                if visit(letter, extent.hides).is_break() {
                    break Ok(extent);
                }
            }
            Ok(Ok(None)) => break Ok(extent),
            Ok(Err(error)) => break Err(error),
            Err(_) => {
                extent.is_cut = true;
                break Ok(extent);
            }
        }
    };
    cursor.close().await;
    result
}

fn queue_failed(error: &QueueError) -> PageError {
    PageError::unavailable(
        format!("The dead letters cannot be read: {error}."),
        "Nothing is lost. Find the cause with `polyhook doctor`, and reload this page. The other pages work.",
    )
}
