//! The trigger: a token holder, such as an agent's own `end_function`, names a conversation to fetch.
//!
//! The body is read as leniently as an event of PolyAI's. The message that is published is polyhook's own
//! `conversation.discovered`, so the worker treats the conversation like one that reconciliation has found: it waits for
//! the end of the call, and does nothing if the archive has the conversation. Equal requests have equal ids, so the queue
//! recognises a second one as a duplicate.

use crate::event::{self, CONVERSATION_DISCOVERED, Discovery, DiscoverySource, Event};

/// The longest id of a conversation: an AMQP short string, which `correlation_id` is, holds no more.
const MAX_ID_BYTES: usize = 255;

/// The reason why a body names no conversation. The sender holds a token, so the answer states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TriggerError {
    /// Not a JSON object, or none with a conversation.
    NoConversation,
    /// No conversation of PolyAI's has such an id.
    WrongId,
}

impl TriggerError {
    /// Returns the body of the answer: one line of JSON.
    pub(super) fn body(self) -> &'static str {
        match self {
            Self::NoConversation => {
                "{\"error\":\"the body names no conversation; send JSON with conversation_id\"}\n"
            }
            Self::WrongId => {
                "{\"error\":\"conversation_id is not an id: 1 to 255 bytes, no control characters, not . or ..\"}\n"
            }
        }
    }
}

/// Reads the conversation that the body of a request names.
pub(super) fn read(body: &[u8]) -> Result<Discovery, TriggerError> {
    let event = Event::read(body);
    let conversation_id = event.conversation_id.ok_or(TriggerError::NoConversation)?;
    if !is_id(&conversation_id) {
        return Err(TriggerError::WrongId);
    }
    let optional = |id: Option<String>| id.filter(|id| is_id(id)).unwrap_or_default();
    Ok(Discovery {
        conversation_id,
        account_id: optional(event.account_id),
        project_id: optional(event.project_id),
        environment: Some(event.environment).filter(|name| name != event::UNKNOWN),
        started_at: event::started_at(body),
        source: DiscoverySource::Trigger,
        ..Discovery::default()
    })
}

/// Returns the event that the request causes, and its body.
pub(super) fn event(found: &Discovery) -> (Event, Vec<u8>) {
    let body = found.body().unwrap_or_default();
    let environment = found.environment.clone().unwrap_or_else(|| event::UNKNOWN.to_owned());
    let name = |id: &String| Some(id.clone()).filter(|id| !id.is_empty());
    let event = Event {
        kind: CONVERSATION_DISCOVERED.to_owned(),
        environment,
        conversation_id: Some(found.conversation_id.clone()),
        account_id: name(&found.account_id),
        project_id: name(&found.project_id),
    };
    (event, body)
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_names_a_conversation() {
        let all = Discovery {
            conversation_id: "CA1".to_owned(),
            account_id: "acme".to_owned(),
            project_id: "desk".to_owned(),
            environment: Some("pre-release".to_owned()),
            started_at: "2026-11-03T23:59:58Z".parse().ok(),
            source: DiscoverySource::Trigger,
            ..Discovery::default()
        };
        for body in [
            r#"{"conversation_id":"CA1","account_id":"acme","project_id":"desk","environment":"pre-release","started_at":"2026-11-03T23:59:58Z"}"#,
            r#"{"conversationId":"CA1","accountId":"acme","agentId":"desk","client_env":"pre-release","startedAt":"2026-11-03T23:59:58Z"}"#,
            r#"{"type":"x","data":{"conversation_id":"CA1","account_id":"acme","agent_id":"desk","clientEnv":"pre-release","started_at":"2026-11-03T23:59:58Z"}}"#,
        ] {
            let found = read(body.as_bytes()).unwrap();
            assert_eq!(found, all, "{body}");
            let (event, written) = event(&found);
            assert_eq!(event, Event::read(&written), "{body}");
            assert_eq!(Discovery::read(&written), Some(all.clone()));
        }
        for body in [
            r#"{"conversation_id":"CA1"}"#,
            r#"{"conversation_id":"CA1","environment":null,"account_id":"","project_id":[],"started_at":7,"state":NaN,}"#,
        ] {
            let found = read(body.as_bytes()).unwrap();
            let (event, written) = event(&found);
            assert_eq!(
                (&*event.environment, &event.account_id, &event.project_id),
                ("unknown", &None, &None)
            );
            assert_eq!(event, Event::read(&written));
            assert_eq!(Discovery::read(&written), Some(found));
        }
        assert_eq!(read(br#"{"conversation_id":12}"#).unwrap().conversation_id, "12");
    }

    #[test]
    fn rejects_what_names_none() {
        for body in ["", "{}", "[]", "no JSON", "\"CA1\"", r#"{"id":"CA1"}"#, r#"{"conversation_id":null}"#] {
            assert_eq!(read(body.as_bytes()), Err(TriggerError::NoConversation), "{body}");
        }
        let long = "a".repeat(MAX_ID_BYTES + 1);
        for id in [".", "..", "C\\nA", "C\\u0000", &long] {
            let body = format!(r#"{{"conversation_id":"{id}"}}"#);
            assert_eq!(read(body.as_bytes()), Err(TriggerError::WrongId), "{body}");
        }
    }
}
