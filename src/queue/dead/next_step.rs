//! Hints for people: what to do about a dead letter.

use super::DeadLetter;

/// Returns what to do about a dead letter, by its reason and the text of its last attempt. docs/runbook.md has the same
/// reasons with more words.
pub fn next_step(letter: &DeadLetter) -> String {
    let detail = letter.last_attempt().map_or("", |last| &last.detail);
    let step = if detail.contains("without PolyAI's error envelope") {
        "A gateway, proxy or firewall between here and PolyAI answered until the end: correct it, then replay."
    } else {
        next_step_for(letter.reason())
    };
    let is_refresh = detail.contains("the archive keeps revision");
    let archived = if is_refresh { "The call is archived, and only its refresh failed. " } else { "" };
    format!("{archived}{step}")
}

/// Returns what to do for a reason.
pub fn next_step_for(reason: &str) -> &'static str {
    match reason {
        "key_rejected" | "key_lacks_scope" => {
            "Put a valid API key into projects.api_key_file, or ask PolyAI to extend it to the project; then replay."
        }
        "unknown_project" => {
            "Add the project to [[projects]], or correct polyai.region and the ids of the project; then replay."
        }
        "unknown_conversation" => {
            "A test delivery: drop it. Otherwise check account, project and region, then ask PolyAI's support with the \
             correlation id."
        }
        "in_progress" | "bad_answer" => "Ask PolyAI's support with the correlation id, and replay later.",
        "api_unavailable" | "network" | "timeout" | "rate_limited" => {
            "An outage was longer than the retry schedule: replay when it is over."
        }
        "archive" => {
            "Check the disk or the bucket of the archive with `polyhook doctor --role work`, then replay."
        }
        "not_served" => "A wrong host: check it with `polyhook doctor --role work`, then replay.",
        "redirected" => {
            "The text says where the redirect leads and why it is not followed: correct that, then replay."
        }
        "request_refused" => "Ask PolyAI's support with the correlation id.",
        "too_large" => "The conversation has more JSON than polyhook reads: report it.",
        "no_conversation_id" => "The event names no conversation: look at its body, then drop it.",
        "announce" => "The conversation is archived but not announced: fix the queue, then replay.",
        "refresh" => {
            "The conversation is archived and announced, but its next fetch is not scheduled: fix the queue, then \
             replay."
        }
        "maxlen" | "expired" | "rejected" | "dead_lettered" => {
            "A policy or another consumer of the fetch queue removed the job: undo that, then replay."
        }
        "panicked" => "A bug in polyhook: report it with the log, and replay after an update.",
        "delivery_limit" => "Workers end while they run this job: check their memory limit, then replay.",
        "unknown" => "polyhook did not write it: look at it, then drop it.",
        _ => "The text of the last attempt says what happened: fix that, then replay.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_each_reason_of_the_runbook() {
        let runbook = include_str!("../../../docs/runbook.md");
        let section = runbook.split("## PolyhookDeadLetters").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let reasons: Vec<&str> =
            rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
        assert!(reasons.len() > 20, "{reasons:?}");
        for reason in reasons {
            assert_ne!(next_step_for(reason), next_step_for("another word"), "{reason}");
        }
    }
}
