//! A tail event in words: the same in `tail`, `run`, `demo` and the console. Names in it come from outside and are not escaped.

use std::time::Duration;

use super::{TailEvent, TailEventKind};
use crate::wording::duration;

impl TailEvent {
    /// Returns the most important fact. `again_in` comes before the time until the next attempt.
    pub fn main_text(&self, again_in: &str) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.what {
            TailEventKind::Delivery | TailEventKind::Ready => self.kind.clone(),
            TailEventKind::Done => match self.after_ms {
                Some(ms) => format!("after {}", duration(Duration::from_millis(ms))),
                None => self.kind.clone(),
            },
            TailEventKind::Dead => reason.to_owned(),
            TailEventKind::Retry => {
                let wait = self.retry_at.map(|at| Duration::try_from(at.duration_since(self.at)));
                let wait = wait
                    .map(|wait| format!("{again_in}{}", duration(whole_seconds(wait.unwrap_or_default()))));
                let parts = [Some(in_words(reason)).filter(|reason| !reason.is_empty()), wait];
                parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Returns further facts, the more important ones first. With `names_live` it names the environment `live`, too.
    pub fn details(&self, names_live: bool) -> impl Iterator<Item = String> {
        let Self { attempt, status, after_ms, kind, environment, what, .. } = self;
        let is_first = *what == TailEventKind::Done && *attempt == Some(1);
        let shows_kind = matches!(what, TailEventKind::Delivery | TailEventKind::Ready)
            || (*what == TailEventKind::Done && after_ms.is_none());
        let shows_duration = matches!(what, TailEventKind::Retry | TailEventKind::Dead);
        [
            status.map(|status| format!("HTTP {status}")),
            attempt.filter(|_| !is_first).map(|attempt| format!("try {attempt}")),
            (!shows_kind).then(|| kind.clone()),
            (names_live || environment != "live").then(|| environment.clone()),
            after_ms
                .filter(|_| shows_duration)
                .map(|ms| format!("after {}", duration(Duration::from_millis(ms)))),
        ]
        .into_iter()
        .flatten()
    }
}

/// Returns the reason of a failed attempt in words. The word itself is in dead letters, logs and metrics.
fn in_words(reason: &str) -> String {
    match reason {
        "recording_not_found" | "recording_not_ready" => "no recording yet".to_owned(),
        "in_progress" => "call in progress".to_owned(),
        reason => reason.replace('_', " "),
    }
}

/// Rounds to seconds, and less than one to one. The next attempt is planned some milliseconds after the failed one.
fn whole_seconds(wait: Duration) -> Duration {
    let rounded = wait.saturating_add(Duration::from_millis(500)).as_secs();
    Duration::from_secs(if wait.is_zero() { 0 } else { rounded.max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_shown_as_it_is_configured() {
        for (ms, seconds) in [(0, 0), (1, 1), (999, 1), (1001, 1), (1499, 1), (1500, 2), (30_040, 30)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), Duration::from_secs(seconds), "{ms}");
        }
        assert_eq!(whole_seconds(Duration::MAX), Duration::from_secs(u64::MAX));
    }
}
