//! What was found, and how it is shown.

use serde::Serialize;
use serde_json::json;

use super::super::{output, table::Table};

/// The width up to which columns are aligned.
const MAX_PADDING: usize = 40;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Green.
    Ok,
    /// Amber: it works, but not as it should, or not for long.
    Warn,
    /// Red: it does not work.
    Fail,
    /// Not looked at, and why.
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

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    target: String,
    status: Status,
    said: String,
    /// What to do next.
    next: Option<String>,
}

impl Finding {
    pub(super) fn is_red(&self) -> bool {
        self.status == Status::Fail
    }

    pub(super) fn is_green(&self) -> bool {
        self.status == Status::Ok
    }

    /// Whether both say the same of the same thing; how they say it may differ in milliseconds.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.check, &self.target, self.status) == (other.check, &other.target, other.status)
    }
}

/// What a finding is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    check: &'static str,
    target: String,
}

impl Subject {
    pub(super) fn new(check: &'static str, target: impl Into<String>) -> Self {
        Self { check, target: target.into() }
    }

    pub(super) fn ok(&self, said: impl Into<String>) -> Finding {
        self.finding(Status::Ok, said.into(), None)
    }

    pub(super) fn warn(&self, said: impl Into<String>, next: impl Into<String>) -> Finding {
        self.finding(Status::Warn, said.into(), Some(next.into()))
    }

    pub(super) fn fail(&self, said: impl Into<String>, next: impl Into<String>) -> Finding {
        self.finding(Status::Fail, said.into(), Some(next.into()))
    }

    pub(super) fn skipped(&self, said: impl Into<String>, next: impl Into<String>) -> Finding {
        self.finding(Status::Skipped, said.into(), Some(next.into()))
    }

    fn finding(&self, status: Status, said: String, next: Option<String>) -> Finding {
        Finding { check: self.check, target: self.target.clone(), status, said, next }
    }
}

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Report(Vec<Finding>);

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self(findings)
    }

    pub(super) fn is_red(&self) -> bool {
        self.0.iter().any(Finding::is_red)
    }

    fn count(&self, status: Status) -> usize {
        self.0.iter().filter(|finding| finding.status == status).count()
    }

    pub(super) fn show(&self, json: bool) {
        if json {
            let summary: serde_json::Map<_, _> = Status::ALL
                .into_iter()
                .map(|status| (status.label().to_owned(), json!(self.count(status))))
                .collect();
            output::json(&json!({ "ok": !self.is_red(), "summary": summary, "findings": self.0 }));
            return;
        }
        let mut table = Table::without_header(MAX_PADDING);
        for Finding { check, target, status, said, next } in &self.0 {
            let next = next.as_deref().map_or_else(String::new, |next| format!(" → {next}"));
            let cells =
                [status.label().to_owned(), (*check).to_owned(), target.clone(), format!("{said}{next}")];
            table.styled_row(status.style(), cells);
        }
        table.flush();
        let counted = |status: Status| format!("{} {}", self.count(status), status.label());
        output::line(Status::ALL.map(counted).join(", "));
    }
}
