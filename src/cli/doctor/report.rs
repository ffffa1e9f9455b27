//! The findings of the checks, and their output.

use serde::Serialize;
use serde_json::json;

use super::super::output::{self, terminal_width};

/// The width of the longest label of a status.
const LABEL_WIDTH: usize = 7;
/// Narrower terminals wrap the lines themselves.
const MIN_WIDTH: usize = 20;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// It works.
    Ok,
    /// It works, but not as it should, or not for long.
    Warn,
    /// It does not work.
    Fail,
    /// It was not checked.
    Skipped,
}

impl Status {
    const ALL: [Self; 4] = [Self::Ok, Self::Warn, Self::Fail, Self::Skipped];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }

    fn style(self) -> fn(&str) -> String {
        match self {
            Self::Ok => |label| output::green(label),
            Self::Warn => |label| output::yellow(label),
            Self::Fail => |label| output::red(label),
            Self::Skipped => |label| output::dimmed(label),
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    target: String,
    #[serde(rename = "state")]
    status: Status,
    message: String,
    /// The next step; none if the status is ok.
    next: Option<String>,
}

impl Finding {
    pub(super) fn is_failure(&self) -> bool {
        self.status == Status::Fail
    }

    pub(super) fn is_ok(&self) -> bool {
        self.status == Status::Ok
    }

    /// Returns the finding as one line, or as lines that fit a terminal of this width, with the next step on its own.
    fn lines(&self, terminal_width: Option<usize>) -> Vec<String> {
        let Self { check, target, status, message, next } = self;
        let padded = |label: &str| format!("{label:<LABEL_WIDTH$} ");
        let label = status.style()(&padded(status.label()));
        let text = output::sanitize(&format!("{check} {target}: {message}"));
        let next = next.as_ref().map(|next| output::sanitize(&format!("→ {next}")));
        let Some(terminal_width) = terminal_width else {
            return vec![[label + &text].into_iter().chain(next).collect::<Vec<_>>().join(" ")];
        };
        let width = terminal_width.saturating_sub(LABEL_WIDTH + 1).max(MIN_WIDTH);
        let mut lines = output::wrap(&text, width);
        lines.extend(next.into_iter().flat_map(|next| output::wrap(&next, width)));
        lines
            .into_iter()
            .enumerate()
            .map(|(number, line)| if number == 0 { label.clone() + &line } else { padded("") + &line })
            .collect()
    }

    /// Returns whether both have the same check, target and status. Their messages may differ, for example in a latency.
    pub(super) fn is_duplicate_of(&self, other: &Self) -> bool {
        (self.check, &self.target, self.status) == (other.check, &other.target, other.status)
    }
}

/// The check and the target that findings are about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    check: &'static str,
    target: String,
}

impl Subject {
    pub(super) fn new(check: &'static str, target: impl Into<String>) -> Self {
        Self { check, target: target.into() }
    }

    pub(super) fn ok(&self, message: impl Into<String>) -> Finding {
        self.finding(Status::Ok, message.into(), None)
    }

    pub(super) fn warn(&self, message: impl Into<String>, next: impl Into<String>) -> Finding {
        self.finding(Status::Warn, message.into(), Some(next.into()))
    }

    pub(super) fn fail(&self, message: impl Into<String>, next: impl Into<String>) -> Finding {
        self.finding(Status::Fail, message.into(), Some(next.into()))
    }

    pub(super) fn skipped(&self, message: impl Into<String>, next: impl Into<String>) -> Finding {
        self.finding(Status::Skipped, message.into(), Some(next.into()))
    }

    fn finding(&self, status: Status, message: String, next: Option<String>) -> Finding {
        Finding { check: self.check, target: self.target.clone(), status, message, next }
    }
}

/// The findings of all checks, in the order of output.
#[derive(Debug)]
pub(super) struct DoctorReport(Vec<Finding>);

impl DoctorReport {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self(findings)
    }

    pub(super) fn has_failures(&self) -> bool {
        self.0.iter().any(Finding::is_failure)
    }

    fn count(&self, status: Status) -> usize {
        self.0.iter().filter(|finding| finding.status == status).count()
    }

    pub(super) fn print(&self, json: bool) {
        if json {
            let summary: serde_json::Map<_, _> = Status::ALL
                .into_iter()
                .map(|status| (status.label().to_owned(), json!(self.count(status))))
                .collect();
            output::json(&json!({ "ok": !self.has_failures(), "summary": summary, "findings": self.0 }));
            return;
        }
        let width = terminal_width();
        for finding in &self.0 {
            finding.lines(width).into_iter().for_each(output::line);
        }
        let counts = |status: Status| format!("{} {}", self.count(status), status.label());
        output::line(Status::ALL.map(counts).join(", "));
    }
}

#[cfg(test)]
mod tests {
    use console::{measure_text_width, strip_ansi_codes};

    use super::*;

    #[test]
    fn fits_a_terminal_and_is_one_line_elsewhere() {
        let path = "/var/lib/polyhook/a/long/path/of/a/queue.db";
        let subject = Subject::new("queue.file", path);
        let finding = subject.fail(
            "cannot write to it: read-only",
            "make the user that runs polyhook its owner, or change queue.url",
        );
        let plain = |width| {
            let lines = finding.lines(width);
            lines.iter().map(|line| strip_ansi_codes(line).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            plain(Some(80)),
            [
                &format!("fail    queue.file {path}: cannot write to"),
                "        it: read-only",
                "        → make the user that runs polyhook its owner, or change queue.url",
            ]
        );
        assert!(plain(Some(60)).iter().all(|line| measure_text_width(line) <= 60));
        let piped = plain(None);
        assert_eq!(piped.len(), 1, "{piped:?}");
        assert!(
            piped[0].ends_with("read-only → make the user that runs polyhook its owner, or change queue.url")
        );
        let ok = Subject::new("archive", "file:x").ok("readable and writable");
        assert_eq!(ok.lines(Some(80)).len(), 1);
    }
}
