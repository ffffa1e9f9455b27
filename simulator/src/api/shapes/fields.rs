//! Fields that both shapes have.

use serde_json::{Map, Value, json};

use crate::calls::{Conversation, Turn};

/// Returns the metrics: plain strings if `strict`, else lists of `{timestamp, value}`.
pub(super) fn metrics(call: &Conversation, strict: bool) -> Value {
    let end = call.at(call.duration_ms);
    let mut metrics = vec![
        ("CALL_DURATION", vec![(end, call.duration_ms.div_ceil(1000).to_string())]),
        ("TOTAL_AGENT_TURNS", vec![(end, call.turns.len().to_string())]),
        (
            "CALL_TURN",
            call.turns.iter().map(|turn| (call.at(turn.agent_from), call.intent.to_owned())).collect(),
        ),
    ];
    if let Some((_, reason)) = call.handoff {
        metrics.push(("HANDOFF_REASON", vec![(end, reason.to_owned())]));
    }
    let metrics: Map<_, _> = metrics
        .into_iter()
        .map(|(name, values)| {
            let value = match (strict, &values[..]) {
                (true, [(_, only)]) => json!(only),
                (true, _) => values.iter().map(|(_, value)| json!(value)).collect(),
                (false, _) => values
                    .iter()
                    .map(|(at, value)| json!({ "timestamp": at.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string(), "value": value }))
                    .collect(),
            };
            (name.to_owned(), value)
        })
        .collect();
    Value::Object(metrics)
}

/// Returns the latency of a turn as an object, as recorded answers have it.
pub(super) fn latency(turn: &Turn) -> Value {
    json!({ "label": null, "perceived_latency": turn.latency(), "perceived_latency_percentile_1d": null })
}
