//! One follower of the queue for everybody who watches.
//!
//! The follower runs while at least one person watches, and for [`LINGER`] longer, so that a page that is loaded again misses
//! nothing. It writes into a bounded log, and each viewer reads the log at an own pace. So no viewer can block the follower or
//! another viewer: one that is too slow misses lines, and learns how many.

use std::{
    collections::VecDeque,
    future::pending,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{QueueBackend, QueueConfig, QueueUrlError, TailEvent, TailMessage, rabbitmq, sqlite},
    wording::plural,
};

/// Lines that are kept for viewers who read slowly or come back.
const MAX_LINES: usize = 1000;
/// Time after which a line is forgotten: its conversation may be erased.
const MAX_AGE: Duration = Duration::from_mins(5);
/// People who may watch at the same time.
const MAX_VIEWERS: usize = 32;
/// The time for which the follower continues without a viewer.
const LINGER: Duration = Duration::from_secs(10);
/// The past that a new viewer of an embedded queue sees. RabbitMQ keeps no past.
const PAST: Duration = Duration::from_mins(5);
/// The time between two attempts to follow.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// A viewer waits longer than this for the broker only with an explanation.
const NOTE_AFTER: Duration = Duration::from_secs(2);

/// The queue whose events are followed.
#[derive(Clone, Debug)]
enum TailSource {
    File(PathBuf),
    Broker(Box<QueueConfig>),
}

/// See the module.
#[derive(Debug)]
pub struct LiveFeed {
    source: TailSource,
    clock: Clock,
    lifecycle: Lifecycle,
    log: Mutex<Log>,
    /// The number of the next line.
    next_number: watch::Sender<u64>,
    viewers: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Log {
    /// The number of the first line in `lines`. The first line of all has the number 1.
    first_number: u64,
    /// Each with the time at which it was added.
    lines: VecDeque<(Duration, Arc<LiveLine>)>,
    is_followed: bool,
    /// Distinguishes the periods in which the queue was followed, across processes.
    period: u64,
}

/// A line for viewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveLine {
    /// An event.
    Event(Box<TailEvent>),
    /// A note about the following itself.
    Note(String),
}

/// A place in the log, which a browser sends back after an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivePlace {
    period: u64,
    number: u64,
}

impl LivePlace {
    /// Reads what [`LivePlace::to_string`](ToString::to_string) has written.
    pub fn parse(text: &str) -> Option<Self> {
        let (period, number) = text.split_once('-')?;
        Some(Self { period: period.parse().ok()?, number: number.parse().ok()? })
    }
}

impl std::fmt::Display for LivePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.period, self.number)
    }
}

impl LiveFeed {
    /// Follows nothing until somebody watches.
    pub fn new(config: &QueueConfig, clock: Clock, lifecycle: Lifecycle) -> Result<Arc<Self>, QueueUrlError> {
        let source = match config.backend()? {
            QueueBackend::Sqlite(path) => TailSource::File(path),
            QueueBackend::RabbitMq => TailSource::Broker(Box::new(config.clone())),
        };
        Ok(Arc::new(Self {
            source,
            clock,
            lifecycle,
            log: Mutex::default(),
            next_number: watch::Sender::new(1),
            viewers: watch::Sender::new(0),
        }))
    }

    /// Lets one more person watch. Returns `None` if too many do. `last` is the last line that this viewer has seen.
    pub fn watch(self: &Arc<Self>, last: Option<LivePlace>) -> Option<LiveViewer> {
        let mut log = self.log();
        let has_room = self.viewers.send_if_modified(|viewers| {
            let has_room = *viewers < MAX_VIEWERS;
            *viewers += usize::from(has_room);
            has_room
        });
        if !has_room {
            return None;
        }
        let continues = log.is_followed && last.is_some_and(|last| last.period == log.period);
        if !log.is_followed {
            log.start_period();
            self.next_number.send_replace(log.next_number());
            self.lifecycle.spawn("live feed", Arc::clone(self).follow_while_watched());
        }
        let next = match last {
            Some(last) if continues => last.number.saturating_add(1).min(log.next_number()),
            _ => log.first_number,
        };
        let changes = self.next_number.subscribe();
        let has_gap = last.is_some() && !continues;
        Some(LiveViewer { feed: Arc::clone(self), changes, next, has_gap })
    }

    /// Returns a token that is cancelled when the drain starts. Nobody watches longer.
    pub fn draining(&self) -> CancellationToken {
        self.lifecycle.draining()
    }

    /// Returns true if past events can be shown.
    pub fn knows_past(&self) -> bool {
        matches!(self.source, TailSource::File(_))
    }

    /// Returns the log without lines that are too old.
    fn log(&self) -> MutexGuard<'_, Log> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let first_kept = self.clock.elapsed().saturating_sub(MAX_AGE);
        while log.lines.front().is_some_and(|(added, _)| *added < first_kept) {
            log.remove_first();
        }
        log
    }

    fn push(&self, line: LiveLine) {
        let mut log = self.log();
        log.push(self.clock.elapsed(), line);
        // Sent while the log is locked, so that the numbers rise.
        self.next_number.send_replace(log.next_number());
    }

    async fn follow_while_watched(self: Arc<Self>) {
        let draining = self.lifecycle.draining();
        loop {
            tokio::select! {
                () = draining.cancelled() => return,
                () = self.wait_until_unwatched() => {}
                () = self.follow() => {}
            }
            let mut log = self.log();
            // Somebody may have come in the last moment.
            if *self.viewers.borrow() == 0 {
                log.is_followed = false;
                return;
            }
        }
    }

    async fn wait_until_unwatched(&self) {
        let mut viewers = self.viewers.subscribe();
        loop {
            let _ = viewers.wait_for(|viewers| *viewers == 0).await;
            if timeout(LINGER, viewers.wait_for(|viewers| *viewers > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Follows the queue for as long as it is polled.
    async fn follow(&self) {
        let since = self.clock.now().checked_sub(PAST).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut last_error = None;
        loop {
            let result = match &self.source {
                TailSource::File(path) => self.follow_file(path.clone(), since).await,
                TailSource::Broker(config) => self.follow_broker(config).await,
            };
            // The same error is reported once.
            if let Err(error) = result
                && last_error.as_ref() != Some(&error)
            {
                self.push(LiveLine::Note(error.clone()));
                last_error = Some(error);
            }
            sleep(RETRY_DELAY).await;
        }
    }

    async fn follow_file(&self, path: PathBuf, since: Timestamp) -> Result<(), String> {
        let opened = tokio::task::spawn_blocking(move || sqlite::Follower::open(&path, since)).await;
        let mut messages: mpsc::Receiver<_> = opened.map_err(|error| error.to_string())??.start();
        while let Some(message) = messages.recv().await {
            self.push(LiveLine::of(message));
        }
        Ok(())
    }

    async fn follow_broker(&self, config: &QueueConfig) -> Result<(), String> {
        // Dropped with this future, which closes the connection and ends its tasks: nobody waits for them.
        let lifecycle = Lifecycle::new();
        let _ended = lifecycle.draining().drop_guard();
        let mut follower = rabbitmq::Follower::open(config, &lifecycle).map_err(|error| error.to_string())?;
        if timeout(NOTE_AFTER, follower.wait_until_ready()).await.is_err() {
            let reason = follower.not_ready_reason();
            self.push(LiveLine::Note(format!("waiting for the broker: {reason}")));
        }
        loop {
            self.push(LiveLine::of(follower.next().await));
        }
    }
}

impl Log {
    /// Returns the number of the next line.
    fn next_number(&self) -> u64 {
        self.first_number + self.lines.len() as u64
    }

    fn start_period(&mut self) {
        *self =
            Self { first_number: 1, lines: VecDeque::new(), is_followed: true, period: fastrand::u64(..) };
    }

    fn push(&mut self, now: Duration, line: LiveLine) {
        if self.lines.len() == MAX_LINES {
            self.remove_first();
        }
        self.lines.push_back((now, Arc::new(line)));
    }

    fn remove_first(&mut self) {
        self.lines.pop_front();
        self.first_number += 1;
    }
}

impl LiveLine {
    fn of(message: TailMessage) -> Self {
        match message {
            TailMessage::Event(event) => Self::Event(event),
            TailMessage::Missed(count) => Self::missed(count),
            TailMessage::Interrupted(reason) => Self::Note(reason),
        }
    }

    fn missed(count: u64) -> Self {
        Self::Note(plural(count, "1 event is missing here", "{} events are missing here"))
    }
}

/// A person who watches. Dropping it makes room for another.
#[derive(Debug)]
pub struct LiveViewer {
    feed: Arc<LiveFeed>,
    changes: watch::Receiver<u64>,
    /// The number of the next line to read.
    next: u64,
    /// True if lines may be missing since this viewer watched last.
    has_gap: bool,
}

impl LiveViewer {
    /// Waits for lines and returns at most `max` of them, with the place after the last one. If this viewer was too slow for
    /// the log, the first line says how many lines are missing. Safe to cancel.
    pub async fn next(&mut self, max: usize) -> (Vec<Arc<LiveLine>>, LivePlace) {
        if !self.has_gap {
            let next = self.next;
            if self.changes.wait_for(|number| *number > next).await.is_err() {
                // The feed is part of this viewer.
                return pending().await;
            }
        }
        let mut lines = Vec::new();
        if std::mem::take(&mut self.has_gap) {
            let gap =
                "the connection was interrupted for a while; events may be missing here, or be shown twice";
            lines.push(Arc::new(LiveLine::Note(gap.to_owned())));
        }
        let log = self.feed.log();
        let missed = log.first_number.saturating_sub(self.next);
        if missed > 0 {
            lines.push(Arc::new(LiveLine::missed(missed)));
        }
        let start = self.next.max(log.first_number);
        let skipped = usize::try_from(start - log.first_number).unwrap_or(usize::MAX);
        lines.extend(log.lines.iter().skip(skipped).take(max).map(|(_, line)| Arc::clone(line)));
        let taken = log.lines.len().saturating_sub(skipped).min(max) as u64;
        self.next = start + taken;
        (lines, LivePlace { period: log.period, number: self.next - 1 })
    }
}

impl Drop for LiveViewer {
    fn drop(&mut self) {
        self.feed.viewers.send_modify(|viewers| *viewers -= 1);
    }
}

#[cfg(test)]
mod tests;
