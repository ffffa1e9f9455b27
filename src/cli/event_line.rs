//! Formats an event of the queue as one line, for `tail`, `run` and `demo`.

use console::{measure_text_width, truncate_str};
use jiff::tz::TimeZone;

use super::output::{self, sanitize};
use crate::queue::{TailEvent, TailEventKind};

/// The width of a call's id, a UUID. Shorter ids are padded; no id is ever cut.
const ID_WIDTH: usize = 36;
/// The width of the longest usual id, that of a test chat.
const LONG_ID_WIDTH: usize = 42;
/// The width that a line with such an id column needs.
const LONG_LINE_WIDTH: usize = 86;
/// Terminals that are narrower show the time without milliseconds.
const WIDE: usize = 100;

/// Returns one line about `event`: the time (UTC), the conversation, what happened, and as many details as fit into
/// `max_width`. The id of the event stands for that of a missing conversation.
pub(super) fn format_event(event: &TailEvent, max_width: Option<usize>) -> String {
    let is_wide = max_width.is_none_or(|width| width >= WIDE);
    let format = if is_wide { "%H:%M:%S.%3fZ" } else { "%H:%M:%S" };
    let time = event.at.to_zoned(TimeZone::UTC).strftime(format).to_string();
    let id = sanitize(event.conversation_id.as_deref().unwrap_or(&event.id));
    let has_room = max_width.is_none_or(|width| width >= LONG_LINE_WIDTH);
    let id_width = if has_room { LONG_ID_WIDTH } else { ID_WIDTH };
    let padding = " ".repeat(id_width.saturating_sub(measure_text_width(&id)));
    let start = format!("{} {id}{padding} ", output::dimmed(time));
    let Some(max_width) = max_width else { return start + &longest_text(event, usize::MAX, true) };
    let width_left = max_width.saturating_sub(measure_text_width(&start));
    let text = longest_text(event, width_left, is_wide);
    start + &truncate_str(&text, width_left.max(1), "…")
}

/// Returns the text about an event after its id, with the details that fit.
fn longest_text(event: &TailEvent, max_width: usize, is_wide: bool) -> String {
    let label = event.what.label();
    let colour = |text: &str| match event.what {
        TailEventKind::Delivery => output::bold(text),
        TailEventKind::Done | TailEventKind::Ready => output::green(text),
        TailEventKind::Retry => output::yellow(text),
        TailEventKind::Dead => output::red(text),
    };
    let fits = |text: &String| measure_text_width(text) <= max_width;
    let padded_label = colour(&format!("{label:<8}"));
    let mut text = format!("{padded_label} {}", main_text(event, "again in "));
    if !fits(&text) {
        let shorter = main_text(event, "in ");
        let shorter = [format!("{padded_label} {shorter}"), format!("{} {shorter}", colour(label))];
        return shorter.iter().find(|text| fits(text)).unwrap_or(&shorter[1]).clone();
    }
    for detail in details(event, is_wide) {
        let longer = format!("{text}, {detail}");
        if !fits(&longer) {
            break;
        }
        text = longer;
    }
    text
}

/// Returns the most important fact. `again_in` comes before the time until the next attempt.
fn main_text(event: &TailEvent, again_in: &str) -> String {
    sanitize(&event.main_text(again_in))
}

/// Returns further facts, the more important ones first.
fn details(event: &TailEvent, is_wide: bool) -> impl Iterator<Item = String> {
    let id = event.conversation_id.is_some().then(|| output::dimmed(sanitize(&event.id)));
    event.details(is_wide).map(|detail| sanitize(&detail)).chain(id)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UUID: &str = "1cb77fa1-0844-4f50-a072-797d2c31f051";

    fn event(more: &Value) -> TailEvent {
        let mut event = json!({
            "at": "2026-11-30T10:41:02.125Z", "what": "delivery", "event_type": "conversation.completed",
            "environment": "live", "id": "evt_77c16cb1-ffe4-4cff-94bb-c93bda515ea1", "conversation_id": UUID,
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        serde_json::from_value(event).unwrap()
    }

    fn retry(reason: &str, retry_at: &str) -> TailEvent {
        let more =
            json!({"what": "retry", "reason": reason, "attempt": 1, "status": 404, "retry_at": retry_at});
        event(&more)
    }

    fn at_80(event: &TailEvent) -> String {
        console::strip_ansi_codes(&format_event(event, Some(80))).into_owned()
    }

    #[test]
    fn lines_of_80_columns_have_whole_ids_and_aligned_columns() {
        let done = event(&json!({"what": "done", "attempt": 2, "after_ms": 1234}));
        let dead =
            event(&json!({"what": "dead", "reason": "unknown_conversation", "attempt": 7, "status": 404}));
        let short = event(&json!({"conversation_id": "CA1"}));
        let test_chat = event(&json!({"conversation_id": format!("LOCAL-{UUID}")}));
        let sandbox =
            event(&json!({"what": "ready", "event_type": "conversation.ready", "environment": "sandbox"}));
        let alert = event(&json!({"conversation_id": null, "event_type": "alerts.triggered"}));
        for (event, expected) in [
            (event(&json!({})), format!("10:41:02 {UUID} delivery conversation.completed")),
            (test_chat, format!("10:41:02 LOCAL-{UUID} delivery conversation.compl…")),
            (sandbox, format!("10:41:02 {UUID} ready    conversation.ready")),
            (short, format!("10:41:02 CA1{:33} delivery conversation.completed", "")),
            (
                retry("recording_not_found", "2026-11-30T10:41:12.125Z"),
                format!("10:41:02 {UUID} retry    no recording yet, in 10 s"),
            ),
            (
                retry("recording_not_found", "2026-11-30T11:11:02.125Z"),
                format!("10:41:02 {UUID} retry no recording yet, in 30 min"),
            ),
            (
                retry("timeout", "2026-11-30T10:41:03Z"),
                format!("10:41:02 {UUID} retry    timeout, again in 1 s"),
            ),
            (done, format!("10:41:02 {UUID} done     after 1.2 s, try 2")),
            (dead, format!("10:41:02 {UUID} dead     unknown_conversation")),
            (alert, "10:41:02 evt_77c16cb1-ffe4-4cff-94bb-c93bda515ea1 delivery alerts.triggered".to_owned()),
        ] {
            let line = at_80(&event);
            assert_eq!(line, expected);
            assert!(measure_text_width(&line) <= 80, "{line}");
        }
    }

    #[test]
    fn no_width_cuts_an_id() {
        for width in [0, 1, 20, 45, 46, 50, 79, 120, 500] {
            let event = retry("recording_not_found", "2026-11-30T10:41:12.125Z");
            let line = format_event(&event, Some(width));
            assert!(line.contains(UUID), "{width}: {line}");
            assert!(width < 50 || measure_text_width(&line) <= width, "{width}: {line}");
        }
        let line = format_event(&retry("recording_not_found", "2026-11-30T10:41:12.125Z"), None);
        assert_eq!(
            line,
            format!(
                "10:41:02.125Z {UUID}       retry    no recording yet, again in 10 s, HTTP 404, try 1, conversation.completed, live, evt_77c16cb1-ffe4-4cff-94bb-c93bda515ea1"
            )
        );
    }
}
