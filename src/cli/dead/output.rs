//! The output of `polyhook dead`: a table or details for people, JSON for programs.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::{
        output::{self, sanitize},
        table::Table,
    },
    queue::{Attempt, DeadLetter, DeadLetterSummary, HistoryEntry},
    shell,
    wording::short_age,
};

const HEADER: [&str; 7] = ["ID", "REASON", "DEAD", "CONVERSATION", "TRIES", "PROJECT", "CORRELATION ID"];
/// The ids, the reason and the age are never cut.
const UNCUT_COLUMNS: usize = 4;

/// A table with one dead letter per row.
#[derive(Debug)]
pub(super) struct DeadLetterTable {
    now: Timestamp,
    table: Table<{ HEADER.len() }>,
}

impl DeadLetterTable {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { now, table: Table::new(HEADER, UNCUT_COLUMNS) }
    }

    pub(super) fn row(&mut self, letter: &DeadLetter) {
        let summary = DeadLetterSummary::new(letter);
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        self.table.row([
            summary.id.to_owned(),
            summary.reason.to_owned(),
            short_age(letter.age(self.now)),
            or_dash(summary.conversation_id.as_deref()),
            summary.tries.to_string(),
            or_dash(summary.project_id.as_deref()),
            or_dash(summary.correlation_id),
        ]);
    }

    /// Prints the rows that the table still holds back.
    pub(super) fn flush(&mut self) {
        self.table.flush();
    }
}

/// The result of a replay or drop as JSON.
#[derive(Debug, Serialize)]
pub(super) struct SettledDeadLetter<'a> {
    /// `replayed`, `dropped`, `gone`, `failed`, `dry_run`
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(flatten)]
    pub(super) summary: DeadLetterSummary<'a>,
}

/// Prints all fields of a dead letter, its attempts and replays in order of time, and its body if wanted.
pub(super) fn print_details(letter: &DeadLetter, with_body: bool, now: Timestamp) {
    let DeadLetter { message, .. } = letter;
    let DeadLetterSummary { account_id, project_id, conversation_id, .. } = DeadLetterSummary::new(letter);
    let field = |name: &str, text: &str| output::line(format!("  {name:<15}{}", sanitize(text)));
    let or_none = |name: Option<String>| name.unwrap_or_else(|| "not named by the event".to_owned());
    output::line(format!(
        "{} {}, dead for {} (since {})",
        output::bold(sanitize(&message.id)),
        output::red(sanitize(letter.reason())),
        short_age(letter.age(now)),
        letter.since()
    ));
    field("conversation", &or_none(conversation_id));
    field("project", &or_none(project_id));
    field("account", &or_none(account_id));
    field("event", &format!("{}, environment {}", message.kind, message.environment));
    field("received", &message.received_at.to_string());
    field("trace", message.traceparent.as_deref().unwrap_or("none"));
    field("body", &format!("{} bytes of {}", message.body.len(), message.content_type));
    field("tries", &letter.history.attempt_count().to_string());
    print_history(letter);
    let id = shell::last_argument(&message.id);
    field("when fixed", &format!("polyhook dead replay {id}"));
    field("not needed", &format!("polyhook dead drop {id}"));
    if with_body {
        output::line("");
        for text in String::from_utf8_lossy(&message.body).lines() {
            output::line(sanitize(text));
        }
    }
}

fn print_history(letter: &DeadLetter) {
    for entry in letter.entries() {
        match entry {
            HistoryEntry::Replay(at) => output::line(format!("  {at}  replayed")),
            HistoryEntry::Attempt(attempt) => print_attempt(attempt),
        }
    }
}

fn print_attempt(attempt: &Attempt) {
    let Attempt { at, reason, detail, status, correlation_id } = attempt;
    let status = status.map(|status| format!(", HTTP {status}")).unwrap_or_default();
    output::line(format!("  {at}  {}{status}", output::red(sanitize(reason))));
    output::line(format!("      {}", sanitize(detail)));
    if let Some(id) = correlation_id {
        output::line(format!("      PolyAI correlation id {}", sanitize(id)));
    }
}

/// Returns `1 dead letter`, `2 dead letters` and so on.
pub(super) fn count(count: u64) -> String {
    match count {
        0 => "no dead letters".to_owned(),
        count => output::counted(count, "dead letter"),
    }
}
