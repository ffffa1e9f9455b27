//! The findings of the checks, and their output.

use serde::Serialize;
use serde_json::json;

use super::super::{output, table::Table};

/// The width up to which columns are aligned.
const MAX_PADDING: usize = 40;

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
        let mut table = Table::without_header(MAX_PADDING);
        for Finding { check, target, status, message, next } in &self.0 {
            let next = next.as_deref().map_or_else(String::new, |next| format!(" → {next}"));
            let text = format!("{message}{next}");
            table.styled_row(
                status.style(),
                [status.label().to_owned(), (*check).to_owned(), target.clone(), text],
            );
        }
        table.flush();
        let counts = |status: Status| format!("{} {}", self.count(status), status.label());
        output::line(Status::ALL.map(counts).join(", "));
    }
}
