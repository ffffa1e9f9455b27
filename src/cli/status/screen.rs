//! A status as a screen of text, and as one line.

use std::{fmt::Write, time::Duration};

use console::{pad_str, truncate_str};
use jiff::Timestamp;

use crate::{
    cli::output::{self, counted},
    status::{Part, ProcessStatus, Sentence, StatusReport, Tone, Topic, sentences},
    wording::short_age,
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
/// The width of the names, with the gap after them.
const NAME_WIDTH: usize = 12;

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
    for mut sentence in sentences(report, short_age) {
        if sentence.topic == Topic::Polyhook {
            let _ = write!(sentence.text, "; {:.0}", report.checked_at);
        }
        screen.sentence(&sentence);
    }
    if let Some(process) = report.process.known() {
        screen.conditions(process);
    }
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
    fn add_lines(&mut self, name: &'static str, tone: Tone, text: &str, max_lines: usize) {
        let max_lines = max_lines.min(MAX_LINES - self.lines.len());
        for (number, text) in
            wrap_and_cut(&output::sanitize(text), self.width, max_lines).into_iter().enumerate()
        {
            self.lines.push(Line { name: if number == 0 { name } else { "" }, text, tone });
        }
    }

    fn sentence(&mut self, sentence: &Sentence) {
        let max_lines = match sentence.topic {
            Topic::LastPass => MAX_REASON_LINES,
            _ => MAX_VALUE_LINES,
        };
        self.add_lines(sentence.topic.label(), sentence.tone, &sentence.text, max_lines);
    }

    fn conditions(&mut self, process: &ProcessStatus) {
        for (number, condition) in process.conditions.iter().enumerate() {
            let left = MAX_LINES - self.lines.len();
            let more = process.conditions.len() - number;
            if left <= MAX_VALUE_LINES && more > 1 {
                let text =
                    format!("{}; {}/readyz lists them", counted(more as u64, "more condition"), process.url);
                return self.add_lines("degraded", Tone::Warning, &text, MAX_VALUE_LINES);
            }
            let text = format!("{}: {}", condition.name, condition.text);
            self.add_lines("degraded", Tone::Warning, &text, MAX_VALUE_LINES.max(left / more));
        }
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
