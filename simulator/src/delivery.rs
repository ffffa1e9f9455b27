//! Deliveries: the body of an event in one of PolyAI's two forms, and its id.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::{
    calls::{CallInfo, format_time},
    random::{Purpose, hash, rng, token, uuid},
};

/// The document that a body follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyForm {
    /// `{type, data}`, as in the quickstart of June 2026.
    #[default]
    Quickstart,
    /// `{event_type, …}`, as in the reference of August 2026.
    Reference,
}

/// The form of the bodies, and the selection of events.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventOptions {
    /// The field names and nesting.
    pub form: BodyForm,
    /// Includes the ids of account and project. The quickstart's example does not.
    pub identifiers: bool,
    /// Adds a `handoff.created` for every call that was handed off.
    pub handoffs: bool,
    /// The share of calls that have an alert.
    pub alerts: f64,
    /// The seed of the event ids and of the alerts.
    pub seed: u64,
}

impl Default for EventOptions {
    fn default() -> Self {
        Self { form: BodyForm::Quickstart, identifiers: true, handoffs: true, alerts: 0.0, seed: 1 }
    }
}

/// One event, ready to be signed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The event's id. It stays the same when the event is sent again.
    pub event_id: String,
    /// The event's type, such as `conversation.completed`.
    pub kind: String,
    /// The conversation, if the event is about one.
    pub conversation_id: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Delivery {
    /// A delivery with any body.
    pub fn new(event_id: impl Into<String>, kind: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { event_id: event_id.into(), kind: kind.into(), conversation_id: None, body: body.into() }
    }

    /// A `conversation.completed` event.
    pub fn completed(call: &CallInfo, options: &EventOptions) -> Self {
        Self::of_call(call, "conversation.completed", options)
    }

    /// A `handoff.created` event.
    pub fn handoff(call: &CallInfo, options: &EventOptions) -> Self {
        Self::of_call(call, "handoff.created", options)
    }

    fn of_call(call: &CallInfo, kind: &str, options: &EventOptions) -> Self {
        let mut data = Map::from_iter([
            ("conversation_id".to_owned(), json!(call.id)),
            ("environment".to_owned(), json!(call.environment)),
            ("channel".to_owned(), json!(call.channel)),
            ("started_at".to_owned(), json!(format_time(call.started_at))),
        ]);
        if options.identifiers {
            data.insert("account_id".to_owned(), json!(call.account_id));
            data.insert("project_id".to_owned(), json!(call.project_id));
        }
        let event_id = event_id(options.seed, kind, &call.id);
        let body = match options.form {
            BodyForm::Quickstart => json!({ "type": kind, "data": data }),
            BodyForm::Reference => json!({ "event_type": kind, "event_id": event_id, "data": data }),
        };
        let body = Bytes::from(body.to_string());
        Self { event_id, kind: kind.to_owned(), conversation_id: Some(call.id.clone()), body }
    }

    /// An `alerts.triggered` event in the form of the reference. `number` makes its id unique.
    pub fn alert(project_id: &str, number: u64, at: Timestamp, options: &EventOptions) -> Self {
        let kind = "alerts.triggered";
        let rule = format!("ar_{}", token(options.seed, &format!("alert rule {}", number % 3), 22));
        let event_id = event_id(options.seed, kind, &number.to_string());
        let body = json!({
            "event_type": kind,
            "alert": {
                "id": rule,
                "name": "Slow answers (p95)",
                "project_id": project_id,
                "metric": "turn_latency_p95",
                "operator": ">=",
                "threshold_value": 1_500,
                "current_value": 1_500 + number % 900,
                "previous_state": "ok",
                "triggered_at": format_time(at),
            },
        });
        Self { event_id, kind: kind.to_owned(), conversation_id: None, body: Bytes::from(body.to_string()) }
    }

    /// Returns the events of these calls, in order.
    pub fn of_calls<'a>(calls: &'a [CallInfo], options: &'a EventOptions) -> impl Iterator<Item = Self> + 'a {
        calls.iter().zip(0..).flat_map(move |(call, number)| {
            let mut rng = rng(options.seed, number, Purpose::Events);
            let alert = (rng.f64() < options.alerts)
                .then(|| Self::alert(&call.project_id, number, call.started_at, options));
            let handoff = (options.handoffs && call.handoff).then(|| Self::handoff(call, options));
            [handoff, Some(Self::completed(call, options)), alert].into_iter().flatten()
        })
    }
}

/// Returns an id that follows from the subject of the event. The same event gets the same id, also from another process.
fn event_id(seed: u64, kind: &str, subject: &str) -> String {
    let seed = hash(seed, &format!("{kind} {subject}"));
    format!("evt_{}", uuid(&mut fastrand::Rng::with_seed(seed)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::calls::{Channel, Environment};

    fn call() -> CallInfo {
        CallInfo {
            id: "CA1".to_owned(),
            account_id: "ws-1".to_owned(),
            project_id: "PROJECT-1".to_owned(),
            environment: Environment::PreRelease,
            channel: Channel::Voice,
            started_at: "2026-11-03T00:00:00Z".parse().unwrap(),
            duration_ms: 1,
            turns: 1,
            handoff: true,
            in_progress: false,
            has_audio: true,
            will_have_audio: true,
        }
    }

    #[test]
    fn writes_the_names_of_the_chosen_document() {
        let body = |delivery: Delivery| -> Value { serde_json::from_slice(&delivery.body).unwrap() };
        let quickstart = EventOptions::default();
        let data = json!({
            "conversation_id": "CA1",
            "environment": "pre-release",
            "channel": "VOICE-SIP",
            "started_at": "2026-11-03T00:00:00.000000+00:00",
            "account_id": "ws-1",
            "project_id": "PROJECT-1",
        });
        assert_eq!(
            body(Delivery::completed(&call(), &quickstart)),
            json!({ "type": "conversation.completed", "data": data })
        );
        let reference = EventOptions { form: BodyForm::Reference, ..quickstart };
        let delivery = Delivery::completed(&call(), &reference);
        assert_eq!(
            body(delivery.clone()),
            json!({ "event_type": "conversation.completed", "event_id": delivery.event_id, "data": data })
        );
        let anonymous = EventOptions { identifiers: false, ..quickstart };
        assert!(body(Delivery::completed(&call(), &anonymous))["data"].get("account_id").is_none());
        let alert = Delivery::alert("PROJECT-1", 4, call().started_at, &quickstart);
        assert_eq!(body(alert)["event_type"], "alerts.triggered");
    }

    #[test]
    fn the_same_event_has_the_same_id() {
        let options = EventOptions { alerts: 1.0, ..EventOptions::default() };
        let calls = [call()];
        let events: Vec<_> = Delivery::of_calls(&calls, &options).collect();
        assert_eq!(events, Delivery::of_calls(&calls, &options).collect::<Vec<_>>());
        let mut ids: Vec<_> = events.iter().map(|event| &event.event_id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }
}
