//! The way of a delivery: its stages with their numbers.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

use crate::{
    console::format,
    status::{Part, QueueStatus, StatusReport},
    wording::{counted, plural},
};

/// A stage on the way of a delivery.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    /// The page that explains the number.
    pub(super) href: &'static str,
    pub(super) kind: StageKind,
    number: fn(&StatusReport) -> Number,
}

/// The meaning of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StageKind {
    /// It counts from the start of the process and only grows.
    Counter,
    /// It is the number of this moment.
    Gauge,
}

/// The number of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// `None`: it is not known, or there is none. The note says why.
    pub(super) value: Option<u64>,
    /// True if there is such a number, although it may be unknown now.
    pub(super) exists: bool,
    pub(super) note: Note,
    /// True if a person should look at it.
    pub(super) is_warning: bool,
}

/// A text below a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    Text(String),
    /// The number counts from this time on.
    Since(Timestamp),
}

/// The stages in the order of a delivery.
pub(super) const STAGES: [Stage; 7] = [
    Stage { name: "received", href: "/live?kind=delivery", kind: StageKind::Counter, number: received },
    Stage { name: "verified", href: "/live?kind=delivery", kind: StageKind::Counter, number: verified },
    Stage { name: "queued", href: "/live?kind=job", kind: StageKind::Gauge, number: queued },
    Stage { name: "fetching", href: "/live?kind=job", kind: StageKind::Gauge, number: fetching },
    Stage { name: "archived", href: "/conversations", kind: StageKind::Counter, number: archived },
    Stage { name: "dead", href: "/dead", kind: StageKind::Gauge, number: dead },
    Stage { name: "spool", href: "#spool", kind: StageKind::Gauge, number: spool },
];

impl Stage {
    pub(super) fn number(&self, report: &StatusReport) -> Number {
        (self.number)(report)
    }
}

impl Number {
    fn known(value: u64, note: impl Into<String>) -> Self {
        Self { value: Some(value), exists: true, note: Note::Text(note.into()), is_warning: false }
    }

    fn unknown(why: impl Into<String>) -> Self {
        Self { value: None, exists: true, note: Note::Text(why.into()), is_warning: false }
    }

    /// Returns the number of a part that cannot be read.
    fn of_part<T>(part: &Part<T>, known: impl FnOnce(&T) -> Self) -> Self {
        match part {
            Part::Known(part) => known(part),
            Part::Absent { text, .. } => Self::unknown(text.as_str()),
            Part::Failed(error) => Self::unknown(error.as_str()),
        }
    }

    fn warning_if(self, is_warning: bool) -> Self {
        Self { is_warning, ..self }
    }
}

impl Note {
    pub(super) fn markup(&self) -> Markup {
        match self {
            Self::Text(text) => html! { (text) },
            Self::Since(at) => html! { "since " (format::time(*at)) },
        }
    }
}

/// Returns a number that a process counts from its start on.
fn counter(
    report: &StatusReport,
    missing: &str,
    count: impl FnOnce(&StatusReport) -> Option<(u64, Option<String>)>,
) -> Number {
    Number::of_part(&report.process, |process| match (count(report), process.counts.started_at) {
        (None, _) => Number::unknown(format!("the process at {} {missing}", process.url)),
        (Some((value, Some(text))), _) => Number::known(value, text),
        (Some((value, None)), Some(at)) => Number { note: Note::Since(at), ..Number::known(value, "") },
        (Some((value, None)), None) => Number::known(value, "since the start of the process"),
    })
}

fn received(report: &StatusReport) -> Number {
    counter(report, "is not a receiver", |report| {
        let deliveries = report.process.known()?.counts.deliveries?;
        Some((deliveries.received, None))
    })
}

fn verified(report: &StatusReport) -> Number {
    let deliveries = report.process.known().and_then(|process| process.counts.deliveries);
    let not_durable = deliveries.map_or(0, |deliveries| deliveries.not_durable);
    let number = counter(report, "is not a receiver", |_| {
        let deliveries = deliveries?;
        let refused = (deliveries.unverified > 0)
            .then(|| format!("{} without a correct signature", deliveries.unverified));
        let not_durable = (not_durable > 0).then(|| format!("{not_durable} answered 503"));
        let repeated = (deliveries.repeated > 0).then(|| counted(deliveries.repeated, "repetition"));
        let notes: Vec<_> = [refused, not_durable, repeated].into_iter().flatten().collect();
        Some((deliveries.verified, (!notes.is_empty()).then(|| notes.join(", "))))
    });
    number.warning_if(not_durable > 0)
}

fn queued(report: &StatusReport) -> Number {
    Number::of_part(&report.queue, |queue| {
        let oldest = queue.oldest_age_ms.filter(|_| queue.waiting_jobs > 0).map(|oldest| {
            let at_most = if queue.workers.is_some() { "at most " } else { "" };
            format!("the oldest for {at_most}{}", format::age(Duration::from_millis(oldest)))
        });
        let retries = (queue.retry_jobs > 0).then(|| {
            format!("{} after a failed try", plural(queue.retry_jobs, "1 more waits", "{} more wait"))
        });
        let notes: Vec<_> = [oldest, retries].into_iter().flatten().collect();
        let note = if notes.is_empty() { "waiting for a worker".to_owned() } else { notes.join(", ") };
        Number::known(queue.waiting_jobs, note).warning_if(queue.retry_jobs > 0)
    })
}

fn fetching(report: &StatusReport) -> Number {
    Number::of_part(&report.queue, |queue| match (queue.in_flight_jobs, queue.workers) {
        (Some(jobs), Some(2..)) => Number::known(jobs, "of this process; other workers hold more"),
        (Some(jobs), _) => Number::known(jobs, "in flight"),
        (None, _) => Number::unknown(unknown(queue, "in_flight_jobs")),
    })
}

fn unknown(queue: &QueueStatus, key: &str) -> String {
    queue.unknown.get(key).map(|why| (*why).to_owned()).unwrap_or_default()
}

fn archived(report: &StatusReport) -> Number {
    counter(report, "is not a worker", |report| Some((report.process.known()?.counts.archived?, None)))
}

fn dead(report: &StatusReport) -> Number {
    Number::of_part(&report.queue, |queue| match queue.dead_letters {
        0 => Number::known(0, "dead letters"),
        count => Number::known(count, "a person must decide").warning_if(true),
    })
}

fn spool(report: &StatusReport) -> Number {
    let exists = !matches!(report.spool, Part::Absent { state: "off" | "none" | "not_here", .. });
    let number = Number::of_part(&report.spool, |spool| {
        let note = format!("{} of {}", format::bytes(spool.bytes), format::bytes(spool.max_bytes));
        Number::known(spool.messages, note).warning_if(spool.messages > 0)
    });
    Number { exists, ..number }
}
