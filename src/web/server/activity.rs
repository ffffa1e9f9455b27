//! What one connection is doing, and until when it may do it.
//!
//! The connection's stream, requests and answers report to its [`Activity`]. The connection's task asks for the
//! [`deadline`](Activity::deadline) after each step, so that one timer serves all time limits and a request sets none.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU8, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    task::Waker,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::limits::ConnectionLimits;
use crate::lifecycle::DRAIN_TIMEOUT;

/// A time that never comes.
const NEVER: u64 = u64::MAX;
/// Time that a client has to end a connection without open requests after the drain has started.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time in which a request may still arrive on a connection of HTTP/1.1 after the drain has started. It was sent before its
/// client could know.
const LAST_REQUEST_DELAY: Duration = Duration::from_millis(100);

const OPEN: u8 = 0;
const MAKING_ROOM: u8 = 1;
const DRAINING: u8 = 2;

/// The state of one connection. Times are microseconds since the start of its listener.
#[derive(Debug)]
pub(super) struct Activity {
    listener_started: Instant,
    transfer_timeout: u64,
    idle_timeout: u64,
    accepted: u64,
    /// Requests whose answer is not handed over.
    requests: AtomicU32,
    /// Bodies of requests that have not arrived completely.
    arriving: AtomicU32,
    /// Answers that are ready, but not handed over.
    answers: AtomicU32,
    had_request: AtomicBool,
    is_http2: AtomicBool,
    /// The last time when a request ended, or one started while there was no other.
    idle_since: AtomicU64,
    /// The time when the first bytes of a request's header arrived, or [`NEVER`] if there are none.
    header_since: AtomicU64,
    /// The last time when an answer was handed over, or became ready when there was no other.
    answer_since: AtomicU64,
    /// The time since when the socket takes no bytes, or [`NEVER`] if it does.
    write_since: AtomicU64,
    closing: AtomicU8,
    closing_since: AtomicU64,
    task: AtomicWaker,
}

impl Activity {
    /// Creates the state of a connection that is accepted now.
    pub(super) fn new(listener_started: Instant, limits: &ConnectionLimits) -> Self {
        let accepted = micros(listener_started.elapsed());
        Self {
            listener_started,
            transfer_timeout: micros(limits.transfer_timeout),
            idle_timeout: micros(limits.idle_timeout),
            accepted,
            requests: AtomicU32::new(0),
            arriving: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            had_request: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            idle_since: AtomicU64::new(accepted),
            header_since: AtomicU64::new(NEVER),
            answer_since: AtomicU64::new(accepted),
            write_since: AtomicU64::new(NEVER),
            closing: AtomicU8::new(OPEN),
            closing_since: AtomicU64::new(NEVER),
            task: AtomicWaker::new(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        micros(self.listener_started.elapsed())
    }

    pub(super) fn instant(&self, time: u64) -> Instant {
        self.listener_started + Duration::from_micros(time)
    }

    /// Records that bytes arrived. Between the requests of HTTP/1.1 they are a header. HTTP/2 also sends other frames
    /// then, such as PINGs.
    pub(super) fn bytes_received(&self) {
        if self.requests.load(Relaxed) == 0
            && self.header_since.load(Relaxed) == NEVER
            && !self.is_http2.load(Relaxed)
        {
            self.header_since.store(self.now(), Relaxed);
        }
    }

    /// Records that the socket takes no bytes.
    pub(super) fn write_blocked(&self) {
        if self.write_since.load(Relaxed) == NEVER {
            self.write_since.store(self.now(), Relaxed);
        }
    }

    /// Records that the socket has taken all bytes.
    pub(super) fn write_finished(&self) {
        self.write_since.store(NEVER, Relaxed);
    }

    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_since.load(Relaxed) != NEVER
    }

    pub(super) fn request_started(&self, is_http2: bool) {
        if self.requests.fetch_add(1, Relaxed) == 0 {
            self.idle_since.store(self.now(), Relaxed);
        }
        self.header_since.store(NEVER, Relaxed);
        self.is_http2.store(is_http2, Relaxed);
        self.had_request.store(true, Relaxed);
    }

    pub(super) fn body_started(&self) {
        self.arriving.fetch_add(1, Release);
    }

    /// Records that a body has arrived completely, or is given up.
    pub(super) fn body_ended(&self) {
        self.arriving.fetch_sub(1, Release);
    }

    pub(super) fn answer_ready(&self) {
        if self.answers.load(Relaxed) == 0 {
            self.answer_since.store(self.now(), Relaxed);
        }
        self.answers.fetch_add(1, Release);
    }

    pub(super) fn answer_taken(&self) {
        self.answer_since.store(self.now(), Relaxed);
        self.answers.fetch_sub(1, Release);
    }

    pub(super) fn request_ended(&self) {
        self.idle_since.store(self.now(), Relaxed);
        let before = self.requests.fetch_sub(1, Release);
        // A stream of HTTP/2 ends in a task of its own, perhaps after the last step of the connection's task.
        if before == 1 && self.is_http2.load(Relaxed) {
            self.task.wake();
        }
    }

    /// Returns since when the connection is without a complete request, if it is. Strangers can send parts of a body for as
    /// long as a genuine one may take, so these do not keep others from their place.
    pub(super) fn idle_since(&self) -> Option<u64> {
        self.has_no_complete_request().then(|| self.idle_since.load(Relaxed))
    }

    fn has_no_complete_request(&self) -> bool {
        self.requests.load(Acquire) <= self.arriving.load(Acquire)
    }

    /// Closes the connection, or lets it end its open requests first.
    pub(super) fn make_room(&self) {
        self.close(MAKING_ROOM);
    }

    /// Lets the connection end its open requests in the time of the drain.
    pub(super) fn drain(&self) {
        self.close(DRAINING);
    }

    fn close(&self, reason: u8) {
        self.closing_since.store(self.now(), Relaxed);
        self.closing.store(reason, Release);
        self.task.wake();
    }

    pub(super) fn makes_room(&self) -> bool {
        self.closing.load(Acquire) == MAKING_ROOM
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Acquire) != OPEN
    }

    /// Returns true if the HTTP library should end the connection after its open requests. Told earlier, it would close one
    /// of HTTP/1.1 on which a request is arriving. Such a connection ends at its deadline.
    pub(super) fn may_shut_down(&self) -> bool {
        match self.closing.load(Acquire) {
            OPEN => false,
            DRAINING => self.requests.load(Acquire) > 0 || self.is_http2.load(Relaxed),
            _ => true,
        }
    }

    /// Lets a change by another task wake this one.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Returns the time at which the connection must be closed unless something happens before.
    pub(super) fn deadline(&self) -> u64 {
        let requests = self.requests.load(Acquire);
        let mut deadline = self.write_since.load(Relaxed).saturating_add(self.transfer_timeout);
        if self.answers.load(Acquire) > 0 {
            deadline = deadline.min(self.answer_since.load(Relaxed).saturating_add(self.transfer_timeout));
        }
        // A request has a time limit of its own.
        if requests == 0 {
            deadline = deadline.min(self.request_deadline());
        }
        match self.closing.load(Acquire) {
            MAKING_ROOM if self.has_no_complete_request() => 0,
            DRAINING => deadline.min(self.drain_deadline(requests)),
            _ => deadline,
        }
    }

    /// Returns the time until which the next request must have arrived.
    fn request_deadline(&self) -> u64 {
        if !self.had_request.load(Relaxed) {
            return self.accepted.saturating_add(self.transfer_timeout);
        }
        let header = self.header_since.load(Relaxed).saturating_add(self.transfer_timeout);
        header.min(self.idle_since.load(Relaxed).saturating_add(self.idle_timeout))
    }

    fn drain_deadline(&self, requests: u32) -> u64 {
        let since = self.closing_since.load(Relaxed);
        let idle_since = self.idle_since.load(Relaxed);
        let requests_until = if requests > 0 || self.header_since.load(Relaxed) != NEVER {
            since.saturating_add(self.transfer_timeout)
        } else if idle_since > since || self.is_http2.load(Relaxed) || self.is_write_blocked() {
            since.max(idle_since)
        } else {
            return since + micros(LAST_REQUEST_DELAY);
        };
        let last = since + micros(DRAIN_TIMEOUT.saturating_sub(CLOSE_TIMEOUT));
        requests_until.saturating_add(micros(CLOSE_TIMEOUT)).min(last)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        transfer_timeout: Duration::from_secs(4),
        idle_timeout: Duration::from_mins(10),
        max_connections: 1,
        max_header_bytes: 8 << 10,
        half_close: true,
    };

    /// Returns the seconds from now to the deadline, or `None` if there is none.
    fn seconds_left(activity: &Activity) -> Option<u64> {
        let deadline = activity.deadline();
        (deadline != NEVER).then(|| deadline.saturating_sub(activity.now()) / 1_000_000)
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_and_a_begun_header_have_the_short_time_limit() {
        let activity = Activity::new(Instant::now(), &LIMITS);
        assert_eq!(seconds_left(&activity), Some(4));
        pass(1).await;
        activity.bytes_received();
        assert_eq!(seconds_left(&activity), Some(3), "bytes do not prolong it");
        activity.request_started(false);
        assert_eq!(seconds_left(&activity), None, "the request has its own");
        activity.request_ended();
        assert_eq!(seconds_left(&activity), Some(600));
        pass(599).await;
        activity.bytes_received();
        assert_eq!(seconds_left(&activity), Some(1), "one byte does not prolong the idle time");
        activity.request_started(false);
        activity.request_ended();
        activity.bytes_received();
        pass(3).await;
        activity.bytes_received();
        assert_eq!(seconds_left(&activity), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_http2_do_not_count_as_a_header() {
        let activity = Activity::new(Instant::now(), &LIMITS);
        activity.bytes_received();
        activity.request_started(true);
        activity.request_ended();
        activity.bytes_received();
        assert_eq!(seconds_left(&activity), Some(600));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_and_bytes_that_the_client_does_not_take_have_a_time_limit() {
        let activity = Activity::new(Instant::now(), &LIMITS);
        activity.request_started(true);
        activity.answer_ready();
        pass(3).await;
        activity.request_started(true);
        activity.answer_ready();
        assert_eq!(seconds_left(&activity), Some(1), "another answer does not prolong it");
        activity.answer_taken();
        activity.request_ended();
        assert_eq!(seconds_left(&activity), Some(4), "the client takes answers");
        activity.answer_taken();
        assert_eq!(seconds_left(&activity), None);
        activity.write_blocked();
        pass(2).await;
        activity.write_blocked();
        assert_eq!(seconds_left(&activity), Some(2));
        activity.write_finished();
        assert_eq!(seconds_left(&activity), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_makes_room_at_once_and_a_busy_one_after_its_request() {
        let activity = Activity::new(Instant::now(), &LIMITS);
        activity.request_started(false);
        activity.make_room();
        assert_eq!(seconds_left(&activity), None);
        activity.request_ended();
        assert_eq!(seconds_left(&activity), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_still_arriving_does_not_keep_the_place() {
        let activity = Activity::new(Instant::now(), &LIMITS);
        pass(5).await;
        activity.request_started(false);
        activity.body_started();
        assert_eq!(activity.idle_since(), Some(5_000_000), "it counts from the start of the request");
        activity.body_ended();
        assert_eq!(activity.idle_since(), None);
        activity.make_room();
        assert_eq!(seconds_left(&activity), None, "the whole delivery is answered first");
        activity.body_started();
        assert_eq!(seconds_left(&activity), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_every_connection_before_its_time_is_over() {
        let activity = Activity::new(Instant::now(), &LIMITS);
        activity.request_started(false);
        activity.request_ended();
        activity.drain();
        assert_eq!(seconds_left(&activity), Some(0), "a request may be on its way");
        assert!(activity.deadline() > activity.now() && !activity.may_shut_down());
        activity.bytes_received();
        assert_eq!((seconds_left(&activity), activity.may_shut_down()), (Some(4), false), "with its header");
        activity.request_started(true);
        assert_eq!((seconds_left(&activity), activity.may_shut_down()), (Some(5), true), "with a request");
        pass(1).await;
        activity.request_ended();
        assert_eq!((seconds_left(&activity), activity.may_shut_down()), (Some(1), true), "after the request");
        let slow = ConnectionLimits { transfer_timeout: Duration::from_secs(30), ..LIMITS };
        let activity = Activity::new(Instant::now(), &slow);
        activity.request_started(true);
        activity.drain();
        assert_eq!(seconds_left(&activity), Some(7));
    }
}
