//! A status in words: the same sentences on a terminal and in the console.

use std::{fmt::Write, time::Duration};

use bytesize::ByteSize;
use jiff::Timestamp;

use super::report::{Part, ProcessStatus, QueueStatus, SpoolStatus, StatusReport};
use crate::{
    index::LastIndexPass,
    reconcile::{LastAudit, LastPass},
    wording::counted,
};

/// The time after which a job of the embedded queue should be in flight.
const MAX_START: Duration = Duration::from_secs(5);

/// The importance of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// A fact.
    Plain,
    /// A fact of minor importance.
    Minor,
    /// A person should look at it.
    Warning,
    /// Something does not work.
    Failure,
}

/// The subject of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The versions.
    Polyhook,
    /// The backend of the queue.
    Queue,
    /// The jobs that a worker could take now.
    Waiting,
    /// The jobs that workers hold.
    InFlight,
    /// The jobs for a later time.
    Delayed,
    /// The dead letters.
    Dead,
    /// The events for which no queue is bound.
    Unrouted,
    /// The spool.
    Spool,
    /// The last pass of reconciliation.
    LastPass,
    /// The last audit.
    LastAudit,
    /// The last pass over the index.
    Index,
    /// The running process.
    Process,
}

impl Topic {
    /// Returns its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Polyhook => "polyhook",
            Self::Queue => "queue",
            Self::Waiting => "waiting",
            Self::InFlight => "in flight",
            Self::Delayed => "delayed",
            Self::Dead => "dead",
            Self::Unrouted => "unrouted",
            Self::Spool => "spool",
            Self::LastPass => "last pass",
            Self::LastAudit => "last audit",
            Self::Index => "index",
            Self::Process => "process",
        }
    }
}

/// A fact about an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Its subject.
    pub topic: Topic,
    /// A fragment without a period at its end. Parts of it may come from outside and are not escaped.
    pub text: String,
    /// Its importance.
    pub tone: Tone,
}

/// The commands that say why jobs fail.
pub(super) const WHY_JOBS_FAIL: &str =
    "`polyhook tail` shows why, `polyhook doctor --role work` tests the access";

/// Writes an age.
pub type AgeFormat = fn(Duration) -> String;

/// Returns everything about a report but the conditions of the process, in the order in which people read it.
pub fn sentences(report: &StatusReport, age: AgeFormat) -> Vec<Sentence> {
    let now = report.checked_at;
    let mut writer = Writer { age, sentences: Vec::new() };
    let versions = &report.versions;
    let broker = versions.broker.as_deref().map(|broker| format!(", {broker}")).unwrap_or_default();
    writer.add(Topic::Polyhook, Tone::Minor, format!("{}{broker}", versions.polyhook));
    let process = report.process.known();
    writer.part(Topic::Queue, &report.queue, |writer, queue| writer.queue(queue, process));
    writer.part(Topic::Spool, &report.spool, Writer::spool);
    writer.part(Topic::LastPass, &report.last_pass, |writer, pass| writer.last_pass(pass, now));
    writer.part(Topic::LastAudit, &report.last_audit, |writer, audit| writer.last_audit(audit, now));
    writer.part(Topic::Index, &report.index, |writer, pass| writer.index(pass, now));
    writer.part(Topic::Process, &report.process, |writer, process| {
        writer.process(process, versions.process.as_deref());
    });
    writer.sentences
}

struct Writer {
    age: AgeFormat,
    sentences: Vec<Sentence>,
}

impl Writer {
    fn add(&mut self, topic: Topic, tone: Tone, text: impl Into<String>) {
        self.sentences.push(Sentence { topic, text: text.into(), tone });
    }

    fn age(&self, age_ms: u64) -> String {
        (self.age)(Duration::from_millis(age_ms))
    }

    fn ago(&self, since: Timestamp, now: Timestamp) -> String {
        (self.age)(Duration::try_from(now.duration_since(since)).unwrap_or_default())
    }

    fn part<T>(&mut self, topic: Topic, part: &Part<T>, known: impl FnOnce(&mut Self, &T)) {
        match part {
            Part::Known(part) => known(self, part),
            Part::Absent { text, .. } => self.add(topic, Tone::Minor, text.as_str()),
            Part::Failed(error) => self.add(topic, Tone::Failure, error.as_str()),
        }
    }

    fn queue(&mut self, queue: &QueueStatus, process: Option<&ProcessStatus>) {
        let place = match queue.workers {
            None => format!("embedded, {}", queue.address),
            Some(workers) => format!("{}, {}", queue.address, counted(workers, "worker")),
        };
        self.add(Topic::Queue, Tone::Plain, place);
        self.waiting(queue, process);
        let in_flight = match (queue.in_flight_jobs, queue.workers) {
            (Some(jobs), Some(2..)) => {
                format!("{} of the process below; other workers hold more", counted(jobs, "job"))
            }
            (Some(jobs), _) => counted(jobs, "job"),
            (None, _) => queue.reason_unknown("in_flight_jobs").unwrap_or_default(),
        };
        self.add(Topic::InFlight, Tone::Plain, in_flight);
        self.delayed(queue);
        let dead = counted(queue.dead_letters, "dead letter");
        match queue.dead_letters {
            0 => self.add(Topic::Dead, Tone::Plain, dead),
            _ => self.add(
                Topic::Dead,
                Tone::Warning,
                format!("{dead}; `polyhook dead list` names the reasons"),
            ),
        }
        if queue.workers.is_some() && queue.unrouted_events > 0 {
            let events = counted(queue.unrouted_events, "event");
            self.add(Topic::Unrouted, Tone::Plain, format!("{events} for which no queue is bound"));
        }
    }

    fn waiting(&mut self, queue: &QueueStatus, process: Option<&ProcessStatus>) {
        let mut waiting = counted(queue.waiting_jobs, "job");
        let stuck = queue.waiting_jobs > 0 && lacks_worker(queue, process);
        if stuck {
            let _ = write!(waiting, "; no worker takes them: {}", start_worker(queue));
        }
        let gap = if stuck { "; " } else { ", " };
        match (queue.oldest_age_ms, queue.reason_unknown("oldest_age_ms")) {
            (Some(age), _) if queue.workers.is_some() => {
                let _ = write!(waiting, "{gap}the oldest for at most {}", self.age(age));
            }
            (Some(age), _) => {
                let _ = write!(waiting, "{gap}the oldest for {}", self.age(age));
            }
            (None, Some(unknown)) => {
                let _ = write!(waiting, "{gap}age of the oldest {unknown}");
            }
            (None, None) => {}
        }
        self.add(Topic::Waiting, if stuck { Tone::Warning } else { Tone::Plain }, waiting);
    }

    fn delayed(&mut self, queue: &QueueStatus) {
        let (retry, refresh) = (queue.retry_jobs, counted(queue.refresh_jobs, "refresh"));
        let counts = match retry {
            0 => format!("no retries, {refresh}"),
            _ => format!("{} after a failure, {refresh}", counted(retry, "job")),
        };
        match (retry, queue.workers) {
            (1.., _) => {
                let text = format!("{counts}; {WHY_JOBS_FAIL}");
                self.add(Topic::Delayed, Tone::Warning, text);
            }
            (0, None) => self.add(Topic::Delayed, Tone::Plain, counts),
            // RabbitMQ cannot list the queues of other delays.
            (0, Some(_)) => {
                self.add(Topic::Delayed, Tone::Plain, format!("{counts} (default and configured delays)"));
            }
        }
    }

    fn spool(&mut self, spool: &SpoolStatus) {
        let SpoolStatus { messages, bytes, max_bytes, oldest_age_ms, .. } = spool;
        let mut text =
            format!("{}, {} of {}", counted(*messages, "message"), ByteSize(*bytes), ByteSize(*max_bytes));
        if let Some(age) = oldest_age_ms {
            let _ = write!(text, ", the oldest for {}", self.age(*age));
        }
        self.add(Topic::Spool, if *messages > 0 { Tone::Warning } else { Tone::Plain }, text);
    }

    fn last_pass(&mut self, pass: &LastPass, now: Timestamp) {
        let started = self.ago(pass.started_at, now);
        if let Some(why) = &pass.failure {
            let mut text = format!("failed {started} ago");
            let _ = match pass.completed_at {
                Some(at) => write!(text, "; last complete pass {} ago", self.ago(at, now)),
                None => write!(text, "; no complete pass yet"),
            };
            if pass.failed_windows > 0 {
                let _ =
                    write!(text, "; {} of PolyAI's list unread", counted(pass.failed_windows as u64, "part"));
            }
            return self.add(Topic::LastPass, Tone::Warning, format!("{text}: {why}"));
        }
        let mut text = format!("{started} ago, {}", counted(pass.projects as u64, "project"));
        if pass.unsettled_calls > 0 {
            let _ = write!(text, ", {} not settled", counted(pass.unsettled_calls as u64, "call"));
        }
        self.add(Topic::LastPass, Tone::Plain, text);
    }

    fn last_audit(&mut self, audit: &LastAudit, now: Timestamp) {
        let verdict = if audit.complete { "complete" } else { "incomplete" };
        let counts: Vec<_> = audit
            .counts
            .iter()
            .map(|(finding, count)| format!("{count} {}", finding.replace('_', " ")))
            .collect();
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        let text = format!("{} {verdict} ({} ago){counts}", audit.date, self.ago(audit.audited_at, now));
        self.add(Topic::LastAudit, if audit.complete { Tone::Plain } else { Tone::Warning }, text);
    }

    fn index(&mut self, pass: &LastIndexPass, now: Timestamp) {
        let mut text = pass
            .newest_archived_at
            .map_or("no call yet".to_owned(), |at| format!("newest call archived {} ago", self.ago(at, now)));
        let _ = write!(text, ", {} waiting", counted(pass.changes, "change"));
        if pass.days > 0 {
            let _ = write!(text, ", {} to compare", counted(pass.days, "day"));
        }
        match &pass.failure {
            Some(why) => {
                self.add(Topic::Index, Tone::Warning, format!("{text}; the last pass failed: {why}"));
            }
            None => self.add(Topic::Index, Tone::Plain, text),
        }
    }

    fn process(&mut self, process: &ProcessStatus, version: Option<&str>) {
        let version = version.map(|version| format!("polyhook {version} at ")).unwrap_or_default();
        match &process.detail {
            None => self.add(Topic::Process, Tone::Plain, format!("ready, {version}{}", process.url)),
            Some(detail) => self.add(Topic::Process, Tone::Failure, format!("not ready: {detail}")),
        }
    }
}

impl QueueStatus {
    /// Returns the reason why a value is not known, as a part of a sentence.
    pub(super) fn reason_unknown(&self, key: &str) -> Option<String> {
        self.unknown.get(key).map(|why| format!("unknown: {why}"))
    }
}

/// Returns true if waiting jobs show that no worker runs. The embedded queue does not know its workers: a process that is not
/// one says so itself. Without a process, a job that waits for long says it.
pub(super) fn lacks_worker(queue: &QueueStatus, process: Option<&ProcessStatus>) -> bool {
    let waits_long = || queue.oldest_age_ms.is_some_and(|age| Duration::from_millis(age) > MAX_START);
    match (queue.workers, process) {
        (Some(workers), _) => workers == 0,
        (None, _) if queue.in_flight_jobs != Some(0) => false,
        (None, Some(process)) => process.running_jobs.is_none(),
        (None, None) => waits_long(),
    }
}

/// Returns what to do if no worker runs.
pub(super) fn start_worker(queue: &QueueStatus) -> &'static str {
    match queue.workers {
        Some(_) => "start `polyhook work`",
        None => "start `polyhook work` or `run`",
    }
}
