//! The output of `polyhook dead`: a table or details for people, JSON for programs.

use jiff::Timestamp;
use serde::Serialize;

use super::age;
use crate::{
    cli::{
        output::{self, sanitize},
        table::Table,
    },
    event::Event,
    queue::{Attempt, DeadLetter},
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
            short_age(age(letter, self.now)),
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

/// A dead letter as JSON, without attempts and body.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetterSummary<'a> {
    id: &'a str,
    reason: &'a str,
    detail: Option<&'a str>,
    status: Option<u16>,
    correlation_id: Option<&'a str>,
    dead_since: Timestamp,
    tries: usize,
    replays: usize,
    event_type: &'a str,
    environment: &'a str,
    account_id: Option<String>,
    project_id: Option<String>,
    conversation_id: Option<String>,
    received_at: Timestamp,
}

impl<'a> DeadLetterSummary<'a> {
    pub(super) fn new(letter: &'a DeadLetter) -> Self {
        let DeadLetter { message, history, .. } = letter;
        let last = history.attempts.last();
        let event = Event::read(&message.body);
        Self {
            id: &message.id,
            reason: letter.reason(),
            detail: last.map(|last| last.detail.as_str()),
            status: last.and_then(|last| last.status),
            correlation_id: letter.correlation_id(),
            dead_since: letter.since(),
            tries: history.attempt_count(),
            replays: history.replays.len(),
            event_type: &message.kind,
            environment: &message.environment,
            account_id: event.account_id,
            project_id: event.project_id,
            conversation_id: event.conversation_id,
            received_at: message.received_at,
        }
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

/// A dead letter as JSON, with attempts and, if wanted, body.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetterDetails<'a> {
    #[serde(flatten)]
    summary: DeadLetterSummary<'a>,
    attempts: &'a [Attempt],
    replayed_at: &'a [Timestamp],
    traceparent: Option<&'a str>,
    content_type: &'a str,
    body_bytes: usize,
    /// Set if the body is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// Set if the body is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'a> DeadLetterDetails<'a> {
    pub(super) fn new(letter: &'a DeadLetter, with_body: bool) -> Self {
        let DeadLetter { message, history, .. } = letter;
        let text = std::str::from_utf8(&message.body).ok();
        Self {
            summary: DeadLetterSummary::new(letter),
            attempts: &history.attempts,
            replayed_at: &history.replays,
            traceparent: message.traceparent.as_deref(),
            content_type: &message.content_type,
            body_bytes: message.body.len(),
            body: text.filter(|_| with_body),
            body_hex: (with_body && text.is_none()).then(|| hex::encode(&message.body)),
        }
    }
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
        short_age(age(letter, now)),
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
    let mut replays = letter.history.replays.iter().copied().peekable();
    for attempt in &letter.history.attempts {
        while let Some(at) = replays.next_if(|at| *at <= attempt.at) {
            output::line(format!("  {at}  replayed"));
        }
        let Attempt { at, reason, detail, status, correlation_id } = attempt;
        let status = status.map(|status| format!(", HTTP {status}")).unwrap_or_default();
        output::line(format!("  {at}  {}{status}", output::red(sanitize(reason))));
        output::line(format!("      {}", sanitize(detail)));
        if let Some(id) = correlation_id {
            output::line(format!("      PolyAI correlation id {}", sanitize(id)));
        }
    }
    for at in replays {
        output::line(format!("  {at}  replayed"));
    }
}

/// Returns `1 dead letter`, `2 dead letters` and so on.
pub(super) fn count(count: u64) -> String {
    match count {
        0 => "no dead letters".to_owned(),
        count => output::counted(count, "dead letter"),
    }
}
