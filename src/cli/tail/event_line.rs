//! Formats an event as one line.

use std::time::Duration;

use console::{measure_text_width, truncate_str};
use jiff::tz::TimeZone;

use crate::{
    cli::output::{self, sanitize},
    queue::{TailEvent, TailEventKind},
};

/// Returns one line about `event`. If it is wider than `max_width`, the event ID and then the environment are left out;
/// if that is not enough, the line is cut.
pub(super) fn format_event(event: &TailEvent, max_width: Option<usize>) -> String {
    let time = event.at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S.%3fZ").to_string();
    let time = output::dimmed(time);
    let label = format!("{:<8}", event.what.label());
    let label = match event.what {
        TailEventKind::Delivery => output::bold(label),
        TailEventKind::Done | TailEventKind::Ready => output::green(label),
        TailEventKind::Retry => output::yellow(label),
        TailEventKind::Dead => output::red(label),
    };
    let kind = sanitize(&event.kind);
    let environment = format!("{:<7} ", sanitize(&event.environment));
    let conversation = sanitize(event.conversation_id.as_deref().unwrap_or("-"));
    let id = format!(" {}", output::dimmed(sanitize(&event.id)));
    let mut details = sanitize(&details(event));
    if !details.is_empty() {
        details.push_str("  ");
    }
    let line = |environment: &str, id: &str| {
        format!("{time} {label} {kind:<22} {environment}{details}{conversation}{id}")
    };
    let Some(max_width) = max_width else { return line(&environment, &id) };
    let candidates = [line(&environment, &id), line(&environment, ""), line("", "")];
    let [.., shortest] = &candidates;
    let chosen = candidates.iter().find(|line| measure_text_width(line) <= max_width).unwrap_or(shortest);
    truncate_str(chosen, max_width, "…").into_owned()
}

/// Returns the attempt, the reason and the times of an event.
fn details(event: &TailEvent) -> String {
    let mut parts = Vec::new();
    if let Some(attempt) = event.attempt {
        parts.push(format!("try {attempt}"));
    }
    if let Some(reason) = &event.reason {
        let status = event.status.map(|status| format!(" (HTTP {status})")).unwrap_or_default();
        parts.push(format!("{reason}{status}"));
    }
    if let Some(at) = event.retry_at {
        let wait = Duration::try_from(at.duration_since(event.at)).unwrap_or_default();
        parts.push(format!("again in {}", humantime::format_duration(round_up_to_seconds(wait))));
    }
    if let Some(ms) = event.after_ms {
        parts.push(format!("after {}", humantime::format_duration(Duration::from_millis(ms))));
    }
    parts.join(", ")
}

fn round_up_to_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}
