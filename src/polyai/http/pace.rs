//! The time that a transfer may take.
//!
//! The headers of an answer, redirects included, must be complete after [`TransferLimits::headers`]. Of a body, 240 KiB or
//! the rest must arrive in every 30 s, a least rate of 8 KiB/s. So a body of `n` bytes takes at most
//! 30 s + `n` / (8 KiB/s), and never more than [`TransferLimits::total`] (10 min). Only the time in which polyhook waits
//! for the server counts: a slow archive is not the server's fault.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout};

/// The limits of one transfer.
#[derive(Clone, Copy, Debug)]
pub(in crate::polyai) struct TransferLimits {
    /// The longest time from the request to the end of the last header.
    pub(super) headers: Duration,
    /// The time in which `window_bytes` of a body, or its rest, must arrive.
    pub(super) window: Duration,
    /// The bytes that must arrive in each window.
    pub(super) window_bytes: usize,
    /// The longest time for a body.
    pub(super) total: Duration,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            headers: Duration::from_mins(1),
            window: Duration::from_secs(30),
            window_bytes: 240 << 10,
            total: Duration::from_mins(10),
        }
    }
}

/// An error of a body.
#[derive(Debug)]
pub(super) enum PacedError<E> {
    /// The body was slower than the least rate.
    TooSlow,
    /// The connection broke.
    Broken(E),
}

/// The time that a body has left.
struct Pace {
    limits: TransferLimits,
    window: Duration,
    window_bytes: usize,
    total: Duration,
}

impl Pace {
    fn new(limits: TransferLimits) -> Self {
        let TransferLimits { window, window_bytes, total, .. } = limits;
        Self { limits, window, window_bytes, total }
    }

    /// Waits for the next part of a body, or returns `None` if no time is left.
    async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Option<T> {
        let started = Instant::now();
        let next = timeout(self.window.min(self.total), next).await.ok();
        let waited = started.elapsed();
        self.window = self.window.saturating_sub(waited);
        self.total = self.total.saturating_sub(waited);
        next
    }

    /// Counts received bytes and begins the next window if they complete this one.
    fn received(&mut self, bytes: usize) {
        self.window_bytes = self.window_bytes.saturating_sub(bytes);
        if self.window_bytes == 0 {
            (self.window, self.window_bytes) = (self.limits.window, self.limits.window_bytes);
        }
    }
}

/// Ends a body with an error when it is slower than `limits` allow.
pub(super) fn paced<E>(
    parts: impl Stream<Item = Result<Bytes, E>>,
    limits: TransferLimits,
) -> impl Stream<Item = Result<Bytes, PacedError<E>>> {
    stream::try_unfold((Box::pin(parts), Pace::new(limits)), async |(mut parts, mut pace)| {
        let part = pace.wait(parts.next()).await.ok_or(PacedError::TooSlow)?;
        let Some(part) = part.transpose().map_err(PacedError::Broken)? else { return Ok(None) };
        pace.received(part.len());
        Ok(Some((part, (parts, pace))))
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const KIB: usize = 1 << 10;

    /// A body that sends `bytes` after each `pause`, `times` times.
    fn dripping(
        bytes: usize,
        pause: Duration,
        times: usize,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::iter(0..times).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from(vec![0; bytes]))
        })
    }

    /// Returns the received bytes, whether the body was complete, and the time.
    async fn read(body: impl Stream<Item = Result<Bytes, Infallible>>) -> (usize, bool, Duration) {
        let started = Instant::now();
        let mut body = std::pin::pin!(paced(body, TransferLimits::default()));
        let mut got = 0;
        while let Some(part) = body.next().await {
            let Ok(part) = part else { return (got, false, started.elapsed()) };
            got += part.len();
        }
        (got, true, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn ends_a_dripping_or_silent_body_after_one_window() {
        let second = Duration::from_secs(1);
        let (got, complete, took) = read(dripping(1, second, usize::MAX)).await;
        assert!(!complete && got <= 30 && took <= 31 * second, "{got} {took:?}");
        let (_, complete, took) = read(stream::pending()).await;
        assert!(!complete && took <= 31 * second, "{took:?}");
        // A good beginning earns no right to drip later.
        let body = dripping(10 * KIB * KIB, second, 1).chain(dripping(1, second, usize::MAX));
        let (_, complete, took) = read(body).await;
        assert!(!complete && took <= 62 * second, "{took:?}");
        let (_, complete, took) = read(dripping(1, Duration::from_millis(1), usize::MAX)).await;
        assert!(!complete && took <= 31 * second, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_slow_body_is_complete_up_to_the_total_time() {
        let second = Duration::from_secs(1);
        assert_eq!(read(dripping(9 * KIB, second, 500)).await, (500 * 9 * KIB, true, 500 * second));
        let (_, complete, took) = read(dripping(9 * KIB, second, usize::MAX)).await;
        assert!(!complete && took == Duration::from_mins(10), "{took:?}");
        assert_eq!(read(dripping(1, 20 * second, 1)).await, (1, true, 20 * second), "a short rest");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_does_not_count() {
        let parts = dripping(KIB, Duration::from_millis(1), 100);
        let mut body = std::pin::pin!(paced(parts, TransferLimits::default()));
        let mut got = 0;
        while let Some(part) = body.next().await {
            got += part.unwrap().len();
            tokio::time::sleep(Duration::from_mins(5)).await;
        }
        assert_eq!(got, 100 * KIB);
    }
}
