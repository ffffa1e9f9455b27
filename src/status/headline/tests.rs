use super::*;
use crate::{
    status::{
        Condition,
        fixture::{calm_report, report},
    },
    wording::short_age,
};

/// Returns the headline of a calm installation after a change.
fn after(change: impl FnOnce(&mut StatusReport)) -> (Tone, String) {
    let mut report = calm_report();
    change(&mut report);
    let Sentence { text, tone, .. } = headline(&report, short_age);
    (tone, text)
}

fn with_queue(change: impl FnOnce(&mut QueueStatus)) -> (Tone, String) {
    after(|report| {
        if let Part::Known(queue) = &mut report.queue {
            change(queue);
        }
    })
}

/// Changes a queue of the embedded kind.
fn with_file(change: impl FnOnce(&mut QueueStatus)) -> (Tone, String) {
    with_queue(|queue| {
        (queue.backend, queue.workers) = ("sqlite", None);
        change(queue);
    })
}

fn with_process(change: impl FnOnce(&mut ProcessStatus)) -> (Tone, String) {
    after(|report| {
        if let Part::Known(process) = &mut report.process {
            change(process);
        }
    })
}

#[test]
fn says_in_one_sentence_whether_jobs_are_in_order_late_or_stuck() {
    let minutes = |minutes: u64| Some(minutes * 60_000);
    for (found, tone, text) in [
        (with_queue(|_| ()), Tone::Plain, "Everything is archived; nothing waits."),
        (
            with_queue(|queue| (queue.waiting_jobs, queue.in_flight_jobs) = (2, Some(1))),
            Tone::Plain,
            "3 jobs are on the way to the archive; nothing is late.",
        ),
        (
            with_file(|queue| queue.in_flight_jobs = Some(1)),
            Tone::Plain,
            "1 job is on the way to the archive; nothing is late.",
        ),
        (
            with_queue(|queue| queue.in_flight_jobs = None),
            Tone::Plain,
            "Nothing waits; it is not known how many jobs are in flight.",
        ),
        (
            with_queue(|queue| queue.dead_letters = 5),
            Tone::Warning,
            "5 dead letters need a decision: replay or drop.",
        ),
        (
            with_file(|queue| (queue.waiting_jobs, queue.oldest_age_ms) = (3, minutes(12))),
            Tone::Warning,
            "3 jobs wait for a worker, the oldest for 12m; find out why with `polyhook doctor --role work`.",
        ),
        (
            with_queue(|queue| (queue.waiting_jobs, queue.oldest_age_ms) = (1, minutes(2))),
            Tone::Warning,
            "1 job waits for a worker, the oldest for at most 2m; find out why with `polyhook doctor --role work`.",
        ),
        (
            with_queue(|queue| (queue.waiting_jobs, queue.oldest_age_ms) = (1, Some(59_999))),
            Tone::Plain,
            "1 job is on the way to the archive; nothing is late.",
        ),
        (
            with_queue(|queue| (queue.workers, queue.waiting_jobs) = (Some(0), 2)),
            Tone::Failure,
            "2 jobs wait, and no worker takes them: start `polyhook work`.",
        ),
        (
            with_queue(|queue| queue.workers = Some(0)),
            Tone::Warning,
            "No worker runs: start `polyhook work`.",
        ),
        (
            with_queue(|queue| queue.retry_jobs = 1),
            Tone::Warning,
            "1 job has failed and waits for the next try; `polyhook tail` shows why, `polyhook doctor --role work` tests the access.",
        ),
    ] {
        assert_eq!(found, (tone, text.to_owned()));
    }
}

#[test]
fn says_in_one_sentence_which_part_does_not_work() {
    let absent = || Part::absent("not_here", "none answers at http://h (admin.listen)");
    let condition = Condition { name: "polyai_key".to_owned(), text: "the key is rejected".to_owned() };
    for (found, tone, text) in [
        (
            after(|report| report.queue = Part::Failed("the broker does not answer; start it".to_owned())),
            Tone::Failure,
            "It is not known what waits: the broker does not answer; start it.",
        ),
        (
            after(|report| report.queue = Part::absent("pending", "")),
            Tone::Minor,
            "The queue has not answered yet.",
        ),
        (
            with_process(|process| process.detail = Some("the disk is full".to_owned())),
            Tone::Failure,
            "The process is not ready: the disk is full.",
        ),
        (
            after(|report| report.process = Part::Failed("it hangs: restart it".to_owned())),
            Tone::Failure,
            "The process does not answer: it hangs: restart it.",
        ),
        // On RabbitMQ the process may be elsewhere, and the broker counts the workers.
        (after(|report| report.process = absent()), Tone::Plain, "Everything is archived; nothing waits."),
        (
            after(|report| {
                report.process = absent();
                if let Part::Known(queue) = &mut report.queue {
                    queue.workers = None;
                }
            }),
            Tone::Failure,
            "No polyhook was found: none answers at http://h (admin.listen).",
        ),
        (
            with_process(|process| process.conditions.push(condition)),
            Tone::Warning,
            "The condition polyai_key is open: the key is rejected.",
        ),
        (
            after(|report| {
                if let Part::Known(spool) = &mut report.spool {
                    (spool.messages, spool.oldest_age_ms) = (2, Some(3_600_000));
                }
            }),
            Tone::Warning,
            "2 deliveries wait in the spool until the broker takes messages, the oldest for 1h.",
        ),
        (
            after(|report| {
                if let Part::Known(pass) = &mut report.last_pass {
                    pass.failure = Some("the key is rejected".to_owned());
                }
            }),
            Tone::Warning,
            "Reconciliation failed 1m ago; last complete pass 1m ago: the key is rejected.",
        ),
        (
            after(|report| report.last_audit = self::report().last_audit),
            Tone::Warning,
            "Last audit: 2026-11-29 incomplete (3h ago): 1 hidden transcript, 2 missing.",
        ),
        (
            after(|report| report.index = Part::Failed("s3://b cannot be read".to_owned())),
            Tone::Failure,
            "s3://b cannot be read.",
        ),
    ] {
        assert_eq!(found, (tone, text.to_owned()));
    }
}

#[test]
fn findings_begin_with_the_worst_and_name_a_cause_once() {
    let mut report = report();
    let away = "s3://b does not answer".to_owned();
    report.last_pass = Part::Failed(away.clone());
    report.last_audit = Part::Failed(away.clone());
    report.index = Part::Failed(away);
    let found = findings(&report, short_age);
    let topics: Vec<_> = found.iter().map(|finding| finding.topic).collect();
    let expected = [Topic::LastPass, Topic::Dead, Topic::Waiting, Topic::Delayed, Topic::Process];
    assert_eq!(topics, expected, "{found:#?}");
    assert_eq!(findings(&calm_report(), short_age), []);
}
