//! A status as a screen of text, and as one line.

use std::{fmt::Write, time::Duration};

use bytesize::ByteSize;
use console::{pad_str, truncate_str};
use jiff::Timestamp;

use crate::{
    cli::{
        dead::output::short_age,
        output::{self, counted},
    },
    index::LastIndexPass,
    reconcile::{LastAudit, LastPass},
    status::{Part, ProcessStatus, QueueStatus, SpoolStatus, StatusReport},
};

/// The size of the screen. The cursor needs the 24th line.
pub(super) const MAX_WIDTH: usize = 80;
const MAX_LINES: usize = 23;
/// The narrowest screen for which lines are wrapped.
const MIN_WIDTH: usize = 60;
/// The lines of one value. An error that needs more is cut.
const MAX_VALUE_LINES: usize = 3;
/// The lines of the reason why a pass failed.
const MAX_REASON_LINES: usize = 4;
/// The time after which a job of the embedded queue should be in flight.
const MAX_START: Duration = Duration::from_secs(5);
/// The width of the names, with the gap after them.
const NAME_WIDTH: usize = 12;

/// The importance of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Minor,
    Warning,
    Failure,
}

/// A line of the screen: a name, which may be empty, and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    name: &'static str,
    text: String,
    tone: Tone,
}

impl Line {
    /// Returns the line with its colour.
    pub(super) fn styled(&self) -> String {
        let text = match self.tone {
            Tone::Plain => output::sanitize(&self.text),
            Tone::Minor => output::dimmed(&self.text),
            Tone::Warning => output::yellow(&self.text),
            Tone::Failure => output::red(&self.text),
        };
        let name = pad_str(self.name, NAME_WIDTH, console::Alignment::Left, None);
        format!("{}{text}", output::bold(name)).trim_end().to_owned()
    }
}

/// Returns the screen of a report, which fits a terminal of 24 lines of `width` columns (at least 60).
pub(super) fn lines(report: &StatusReport, width: usize) -> Vec<Line> {
    let mut screen = Screen { width: width.clamp(MIN_WIDTH, MAX_WIDTH) - NAME_WIDTH, lines: Vec::new() };
    let versions = &report.versions;
    let broker = versions.broker.as_deref().map(|broker| format!(", {broker}")).unwrap_or_default();
    screen.add("polyhook", Tone::Minor, &format!("{}{broker}; {:.0}", versions.polyhook, report.checked_at));
    let process = report.process.known();
    screen.part("queue", &report.queue, |screen, queue| screen.queue(queue, process));
    screen.part("spool", &report.spool, Screen::spool);
    screen.part("last pass", &report.last_pass, |screen, pass| screen.last_pass(pass, report.checked_at));
    screen
        .part("last audit", &report.last_audit, |screen, audit| screen.last_audit(audit, report.checked_at));
    screen.part("index", &report.index, |screen, pass| screen.index(pass, report.checked_at));
    screen.part("process", &report.process, |screen, process| {
        screen.process(process, versions.process.as_deref());
    });
    screen.lines
}

/// Returns a report as one line of `name=value` pairs. What is not known is left out.
pub(super) fn one_line(report: &StatusReport) -> String {
    let mut line = format!("{:.0}", report.checked_at);
    let mut add = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(line, " {name}={value}");
    };
    if let Some(queue) = report.queue.known() {
        if let Some(workers) = queue.workers {
            add("workers", &workers);
        }
        add("waiting", &queue.waiting_jobs);
        if let Some(age) = queue.oldest_age_ms {
            add("oldest", &age_text(age));
        }
        if let Some(jobs) = queue.in_flight_jobs {
            add("in_flight", &jobs);
        }
        add("delayed", &queue.delayed_jobs);
        add("dead", &queue.dead_letters);
    }
    if let Some(spool) = report.spool.known() {
        add("spool", &spool.messages);
    }
    if let Some(pass) = report.last_pass.known() {
        add("last_pass", &ago(pass.started_at, report.checked_at));
        if pass.failure.is_some() {
            add(
                "last_complete_pass",
                &pass.completed_at.map_or("never".to_owned(), |at| ago(at, report.checked_at)),
            );
        }
    }
    match &report.process {
        Part::Known(process) => {
            add("process", &if process.ready { "ready" } else { "not_ready" });
            add("conditions", &process.conditions.len());
        }
        Part::Absent { state, .. } => add("process", state),
        Part::Failed(_) => {}
    }
    for (part, error) in report.errors() {
        add(&format!("{part}_error"), &format!("{error:?}"));
    }
    line
}

struct Screen {
    /// The width of the texts.
    width: usize,
    lines: Vec<Line>,
}

impl Screen {
    /// Adds a value, wrapped and cut if necessary.
    fn add(&mut self, name: &'static str, tone: Tone, text: &str) {
        self.add_lines(name, tone, text, MAX_VALUE_LINES);
    }

    fn add_lines(&mut self, name: &'static str, tone: Tone, text: &str, max_lines: usize) {
        let max_lines = max_lines.min(MAX_LINES - self.lines.len());
        for (number, text) in
            wrap_and_cut(&output::sanitize(text), self.width, max_lines).into_iter().enumerate()
        {
            self.lines.push(Line { name: if number == 0 { name } else { "" }, text, tone });
        }
    }

    fn part<T>(&mut self, name: &'static str, part: &Part<T>, known: impl FnOnce(&mut Self, &T)) {
        match part {
            Part::Known(part) => known(self, part),
            Part::Absent { text, .. } => self.add(name, Tone::Minor, text),
            Part::Failed(error) => self.add(name, Tone::Failure, error),
        }
    }

    fn queue(&mut self, queue: &QueueStatus, process: Option<&ProcessStatus>) {
        let unknown = |key| queue.unknown.get(key).map(|why| format!("unknown: {why}"));
        self.add(
            "queue",
            Tone::Plain,
            &match queue.workers {
                None => format!("embedded, {}", queue.address),
                Some(workers) => format!("{}, {}", queue.address, counted(workers, "worker")),
            },
        );
        let mut waiting = counted(queue.waiting_jobs, "job");
        let stuck = queue.waiting_jobs > 0 && lacks_worker(queue, process);
        if stuck {
            waiting += match queue.workers {
                Some(_) => "; no worker takes them: start `polyhook work`",
                None => "; no worker takes them: start `polyhook work` or `run`",
            };
        }
        let gap = if stuck { "; " } else { ", " };
        match (queue.oldest_age_ms, unknown("oldest_age_ms")) {
            (Some(age), _) if queue.workers.is_some() => {
                let _ = write!(waiting, "{gap}the oldest for at most {}", age_text(age));
            }
            (Some(age), _) => {
                let _ = write!(waiting, "{gap}the oldest for {}", age_text(age));
            }
            (None, Some(unknown)) => {
                let _ = write!(waiting, "{gap}age of the oldest {unknown}");
            }
            (None, None) => {}
        }
        self.add("waiting", if stuck { Tone::Warning } else { Tone::Plain }, &waiting);
        self.add(
            "in flight",
            Tone::Plain,
            &match (queue.in_flight_jobs, queue.workers) {
                (Some(jobs), Some(2..)) => {
                    format!("{} of the process below; other workers hold more", counted(jobs, "job"))
                }
                (Some(jobs), _) => counted(jobs, "job"),
                (None, _) => unknown("in_flight_jobs").unwrap_or_default(),
            },
        );
        self.delayed(queue);
        let dead = counted(queue.dead_letters, "dead letter");
        match queue.dead_letters {
            0 => self.add("dead", Tone::Plain, &dead),
            _ => self.add("dead", Tone::Warning, &format!("{dead}; `polyhook dead list` names the reasons")),
        }
        if queue.workers.is_some() && queue.unrouted_events > 0 {
            let events = counted(queue.unrouted_events, "event");
            self.add("unrouted", Tone::Plain, &format!("{events} for which no queue is bound"));
        }
    }

    fn delayed(&mut self, queue: &QueueStatus) {
        let (retry, refresh) = (queue.retry_jobs, counted(queue.refresh_jobs, "refresh"));
        let counts = match retry {
            0 => format!("no retries, {refresh}"),
            _ => format!("{} after a failure, {refresh}", counted(retry, "job")),
        };
        match (retry, queue.workers) {
            (1.., _) => {
                let text = format!("{counts}; find out why with `polyhook doctor --role work`");
                self.add("delayed", Tone::Warning, &text);
            }
            (0, None) => self.add("delayed", Tone::Plain, &counts),
            // RabbitMQ cannot list the queues of other delays.
            (0, Some(_)) => {
                self.add("delayed", Tone::Plain, &format!("{counts} (default and configured delays)"));
            }
        }
    }

    fn spool(&mut self, spool: &SpoolStatus) {
        let SpoolStatus { messages, bytes, max_bytes, oldest_age_ms, .. } = spool;
        let mut text =
            format!("{}, {} of {}", counted(*messages, "message"), ByteSize(*bytes), ByteSize(*max_bytes));
        if let Some(age) = oldest_age_ms {
            let _ = write!(text, ", the oldest for {}", age_text(*age));
        }
        self.add("spool", if *messages > 0 { Tone::Warning } else { Tone::Plain }, &text);
    }

    fn last_pass(&mut self, pass: &LastPass, now: Timestamp) {
        let started = ago(pass.started_at, now);
        if let Some(why) = &pass.failure {
            let mut text = format!("failed {started} ago");
            let _ = match pass.completed_at {
                Some(at) => write!(text, "; last complete pass {} ago", ago(at, now)),
                None => write!(text, "; no complete pass yet"),
            };
            if pass.failed_windows > 0 {
                let _ =
                    write!(text, "; {} of PolyAI's list unread", counted(pass.failed_windows as u64, "part"));
            }
            return self.add_lines("last pass", Tone::Warning, &format!("{text}: {why}"), MAX_REASON_LINES);
        }
        let mut text = format!("{started} ago, {}", counted(pass.projects as u64, "project"));
        if pass.unsettled_calls > 0 {
            let _ = write!(text, ", {} not settled", counted(pass.unsettled_calls as u64, "call"));
        }
        self.add("last pass", Tone::Plain, &text);
    }

    fn last_audit(&mut self, audit: &LastAudit, now: Timestamp) {
        let verdict = if audit.complete { "complete" } else { "incomplete" };
        let counts: Vec<_> = audit
            .counts
            .iter()
            .map(|(finding, count)| format!("{count} {}", finding.replace('_', " ")))
            .collect();
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        let text = format!("{} {verdict} ({} ago){counts}", audit.date, ago(audit.audited_at, now));
        self.add("last audit", if audit.complete { Tone::Plain } else { Tone::Warning }, &text);
    }

    fn index(&mut self, pass: &LastIndexPass, now: Timestamp) {
        let mut text = pass
            .newest_archived_at
            .map_or("no call yet".to_owned(), |at| format!("newest call archived {} ago", ago(at, now)));
        let _ = write!(text, ", {} waiting", counted(pass.changes, "change"));
        if pass.days > 0 {
            let _ = write!(text, ", {} to compare", counted(pass.days, "day"));
        }
        match &pass.failure {
            Some(why) => self.add("index", Tone::Warning, &format!("{text}; the last pass failed: {why}")),
            None => self.add("index", Tone::Plain, &text),
        }
    }

    fn process(&mut self, process: &ProcessStatus, version: Option<&str>) {
        let version = version.map(|version| format!("polyhook {version} at ")).unwrap_or_default();
        match &process.detail {
            None => self.add("process", Tone::Plain, &format!("ready, {version}{}", process.url)),
            Some(detail) => self.add("process", Tone::Failure, &format!("not ready: {detail}")),
        }
        for (number, condition) in process.conditions.iter().enumerate() {
            let left = MAX_LINES - self.lines.len();
            let more = process.conditions.len() - number;
            if left <= MAX_VALUE_LINES && more > 1 {
                let text =
                    format!("{}; {}/readyz lists them", counted(more as u64, "more condition"), process.url);
                return self.add("degraded", Tone::Warning, &text);
            }
            let text = format!("{}: {}", condition.name, condition.text);
            self.add_lines("degraded", Tone::Warning, &text, MAX_VALUE_LINES.max(left / more));
        }
    }
}

/// Returns true if waiting jobs show that no worker runs. The embedded queue does not know its workers: a process that is not
/// one says so itself. Without a process, a job that waits for long says it.
fn lacks_worker(queue: &QueueStatus, process: Option<&ProcessStatus>) -> bool {
    let waits_long = || queue.oldest_age_ms.is_some_and(|age| Duration::from_millis(age) > MAX_START);
    match (queue.workers, process) {
        (Some(workers), _) => workers == 0,
        (None, _) if queue.in_flight_jobs != Some(0) => false,
        (None, Some(process)) => process.running_jobs.is_none(),
        (None, None) => waits_long(),
    }
}

/// Wraps a text into at most `max_lines` lines and cuts the rest.
fn wrap_and_cut(text: &str, width: usize, max_lines: usize) -> Vec<String> {
    let mut lines = output::wrap(text, width);
    if lines.len() > max_lines {
        let rest = lines.split_off(max_lines.saturating_sub(1)).join(" ");
        lines.extend((max_lines > 0).then_some(rest));
    }
    lines.into_iter().map(|line| truncate_str(&line, width, "…").into_owned()).collect()
}

fn age_text(age_ms: u64) -> String {
    short_age(Duration::from_millis(age_ms))
}

fn ago(since: Timestamp, now: Timestamp) -> String {
    short_age(Duration::try_from(now.duration_since(since)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
