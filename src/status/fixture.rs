//! A status for unit tests.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Condition, DeliveryCounts, Part, ProcessCounts, ProcessStatus, QueueStatus, SpoolStatus, StatusReport,
    Versions,
};
use crate::{
    index::LastIndexPass,
    reconcile::{LastAudit, LastPass},
};

pub(crate) fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// Returns the jobs of an installation on RabbitMQ where many things are not in order.
pub(crate) fn queue() -> QueueStatus {
    QueueStatus {
        backend: "rabbitmq",
        address: "amqp://mq.example:5672/polyhook".to_owned(),
        workers: Some(2),
        waiting_jobs: 12,
        oldest_age_ms: Some(200_000),
        in_flight_jobs: Some(8),
        delayed_jobs: 43,
        retry_jobs: 3,
        refresh_jobs: 40,
        dead_letters: 1,
        unrouted_events: 5,
        unknown: BTreeMap::new(),
    }
}

/// Returns the status of an installation where many things are not in order.
pub(crate) fn report() -> StatusReport {
    StatusReport {
        complete: true,
        checked_at: at("2026-11-30T10:50:12Z"),
        versions: Versions {
            polyhook: "0.1.0",
            process: Some("0.1.0".to_owned()),
            broker: Some("RabbitMQ 4.0.5".to_owned()),
        },
        queue: Part::Known(queue()),
        spool: Part::Known(SpoolStatus {
            path: "spool.db".to_owned(),
            messages: 0,
            bytes: 20_480,
            max_bytes: 1 << 30,
            oldest_age_ms: None,
        }),
        last_pass: Part::Known(LastPass {
            started_at: at("2026-11-30T10:49:00Z"),
            projects: 1,
            failed_windows: 0,
            unsettled_calls: 3,
            completed_at: Some(at("2026-11-30T10:49:02Z")),
            failure: None,
        }),
        last_audit: Part::Known(LastAudit {
            date: "2026-11-29".parse().unwrap(),
            audited_at: at("2026-11-30T07:50:00Z"),
            complete: false,
            deep: false,
            listed: 100,
            archived: 98,
            counts: BTreeMap::from([("missing".to_owned(), 2), ("hidden_transcript".to_owned(), 1)]),
        }),
        index: Part::Known(LastIndexPass {
            started_at: at("2026-11-30T10:50:00Z"),
            completed_at: None,
            newest_archived_at: Some(at("2026-11-30T10:48:00Z")),
            changes: 3,
            days: 0,
            failure: None,
        }),
        process: Part::Known(process(1)),
    }
}

/// Returns the status of an installation where everything is in order and archived.
pub(crate) fn calm_report() -> StatusReport {
    let mut report = report();
    report.queue = Part::Known(QueueStatus {
        waiting_jobs: 0,
        oldest_age_ms: None,
        in_flight_jobs: Some(0),
        delayed_jobs: 40,
        retry_jobs: 0,
        dead_letters: 0,
        ..queue()
    });
    if let Part::Known(audit) = &mut report.last_audit {
        (audit.complete, audit.archived) = (true, 100);
        audit.counts.clear();
    }
    report.process = Part::Known(process(0));
    report
}

pub(crate) fn process(conditions: usize) -> ProcessStatus {
    let condition =
        |n| Condition { name: format!("condition{n}"), text: "the broker is away: ".repeat(1 + n * 20) };
    ProcessStatus {
        url: "http://127.0.0.1:9090".to_owned(),
        ready: true,
        detail: None,
        conditions: (0..conditions).map(condition).collect(),
        running_jobs: Some(8),
        version: None,
        held_jobs: None,
        oldest_age_ms: None,
        counts: ProcessCounts {
            started_at: Some(at("2026-11-30T09:00:00Z")),
            deliveries: Some(DeliveryCounts {
                received: 16,
                verified: 13,
                unverified: 3,
                repeated: 2,
                not_durable: 0,
            }),
            archived: Some(7),
        },
    }
}
