//! The state of an installation in one sentence: is anything lost, late or stuck?

use std::time::Duration;

use super::{
    report::{Part, ProcessStatus, QueueStatus, StatusReport},
    sentences::{AgeFormat, Sentence, Tone, Topic, WHY_JOBS_FAIL, lacks_worker, sentences, start_worker},
};
use crate::wording::{counted, plural};

/// The time after which a waiting job is late.
const LATE: Duration = Duration::from_mins(1);

/// Returns the most important fact as a whole sentence. It is [`Tone::Plain`] only if everything is known and in order.
pub fn headline(report: &StatusReport, age: AgeFormat) -> Sentence {
    let worst = findings(report, age).into_iter().next();
    worst.unwrap_or_else(|| {
        let (text, tone) = in_order(report);
        Sentence { topic: Topic::Queue, text, tone }
    })
}

/// Returns what a person should look at as whole sentences, the worst first.
pub fn findings(report: &StatusReport, age: AgeFormat) -> Vec<Sentence> {
    let mut found = Vec::new();
    let mut add = |topic, tone, text: String| found.push(Sentence { topic, text: as_sentence(&text), tone });
    match (&report.process, &report.queue) {
        (Part::Known(ProcessStatus { detail: Some(detail), .. }), _) => {
            add(Topic::Process, Tone::Failure, format!("the process is not ready: {detail}"));
        }
        (Part::Failed(error), _) => {
            add(Topic::Process, Tone::Failure, format!("the process does not answer: {error}"));
        }
        // RabbitMQ counts its workers itself. The file of the embedded queue is on this machine, and so is its process.
        (Part::Absent { state: "not_here", text }, Part::Known(QueueStatus { workers: None, .. })) => {
            add(Topic::Process, Tone::Failure, format!("no polyhook was found: {text}"));
        }
        _ => {}
    }
    match &report.queue {
        Part::Known(queue) => add_jobs(&mut add, queue, report.process.known(), age),
        Part::Failed(error) => {
            add(Topic::Queue, Tone::Failure, format!("it is not known what waits: {error}"));
        }
        Part::Absent { .. } => {}
    }
    if let Part::Known(spool) = &report.spool
        && spool.messages > 0
    {
        let wait = plural(spool.messages, "1 delivery waits in the spool", "{} deliveries wait in the spool");
        let oldest = spool.oldest_age_ms.map(|oldest| format!(", the oldest for {}", age_of(oldest, age)));
        let text = format!("{wait} until the broker takes messages{}", oldest.unwrap_or_default());
        add(Topic::Spool, Tone::Warning, text);
    }
    for condition in report.process.known().map(|process| &process.conditions).into_iter().flatten() {
        let text = format!("the condition {} is open: {}", condition.name, condition.text);
        add(Topic::Process, Tone::Warning, text);
    }
    add_parts(&mut add, report, age);
    found.sort_by_key(|finding| std::cmp::Reverse(finding.tone));
    // A bucket that is away has one reason for several parts.
    let mut texts: Vec<String> = Vec::new();
    found.retain(|finding| {
        let is_new = !texts.contains(&finding.text);
        texts.push(finding.text.clone());
        is_new
    });
    found
}

fn add_jobs(
    add: &mut impl FnMut(Topic, Tone, String),
    queue: &QueueStatus,
    process: Option<&ProcessStatus>,
    age: AgeFormat,
) {
    let oldest = queue.oldest_age_ms.filter(|_| queue.waiting_jobs > 0);
    let is_late = oldest.is_some_and(|oldest| Duration::from_millis(oldest) >= LATE);
    let at_most = if queue.workers.is_some() { "at most " } else { "" };
    let for_long = oldest.map(|oldest| format!(", the oldest for {at_most}{}", age_of(oldest, age)));
    let for_long = for_long.unwrap_or_default();
    if queue.dead_letters > 0 {
        let need =
            plural(queue.dead_letters, "1 dead letter needs a decision", "{} dead letters need a decision");
        add(Topic::Dead, Tone::Warning, format!("{need}: replay or drop"));
    }
    if queue.waiting_jobs > 0 && lacks_worker(queue, process) {
        let wait = plural(queue.waiting_jobs, "1 job waits", "{} jobs wait");
        let text = format!("{wait}, and no worker takes them{for_long}: {}", start_worker(queue));
        add(Topic::Waiting, Tone::Failure, text);
    } else if queue.workers == Some(0) {
        add(Topic::Waiting, Tone::Warning, format!("no worker runs: {}", start_worker(queue)));
    } else if is_late {
        let wait = plural(queue.waiting_jobs, "1 job waits", "{} jobs wait");
        let text = format!("{wait} for a worker{for_long}; find out why with `polyhook doctor --role work`");
        add(Topic::Waiting, Tone::Warning, text);
    }
    if queue.retry_jobs > 0 {
        let wait = plural(queue.retry_jobs, "1 job has failed and waits", "{} jobs have failed and wait");
        let text = format!("{wait} for the next try; {WHY_JOBS_FAIL}");
        add(Topic::Delayed, Tone::Warning, text);
    }
}

/// Adds what other parts say about themselves, with the sentences of the status.
fn add_parts(add: &mut impl FnMut(Topic, Tone, String), report: &StatusReport, age: AgeFormat) {
    for Sentence { topic, text, tone } in sentences(report, age) {
        let what = match topic {
            Topic::LastAudit if tone == Tone::Warning => "last audit: ",
            Topic::LastPass if tone == Tone::Warning => "reconciliation ",
            Topic::Index if tone == Tone::Warning => "index: ",
            Topic::LastAudit | Topic::LastPass | Topic::Index | Topic::Spool if tone == Tone::Failure => "",
            _ => continue,
        };
        add(topic, tone, format!("{what}{text}"));
    }
}

/// Returns the sentence for a report without findings.
fn in_order(report: &StatusReport) -> (String, Tone) {
    let Some(queue) = report.queue.known() else {
        return ("The queue has not answered yet.".to_owned(), Tone::Minor);
    };
    match (queue.waiting_jobs, queue.in_flight_jobs) {
        (0, Some(0)) => ("Everything is archived; nothing waits.".to_owned(), Tone::Plain),
        (0, None) => ("Nothing waits; it is not known how many jobs are in flight.".to_owned(), Tone::Plain),
        (waiting, in_flight) => {
            let jobs = counted(waiting + in_flight.unwrap_or_default(), "job");
            let verb = if waiting + in_flight.unwrap_or_default() == 1 { "is" } else { "are" };
            (format!("{jobs} {verb} on the way to the archive; nothing is late."), Tone::Plain)
        }
    }
}

fn age_of(age_ms: u64, age: AgeFormat) -> String {
    age(Duration::from_millis(age_ms))
}

/// Returns `text` with a period, and with a capital letter if it begins with a word.
fn as_sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let first = text.split(' ').next().unwrap_or_default();
    if !first.chars().all(char::is_alphabetic) {
        return format!("{text}.");
    }
    let mut rest = text.chars();
    let capital = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{capital}{}.", rest.as_str())
}

#[cfg(test)]
mod tests;
