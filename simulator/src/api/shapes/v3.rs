//! The shape of the Conversations API v3.

use serde_json::{Map, Value, json};

use super::fields::{latency, metrics};
use crate::calls::{Conversation, Turn, format_time};

/// The optional parts of a v3 conversation.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the query has these switches")]
pub(crate) struct V3Options {
    /// Uses only the types of the published schema.
    pub(crate) strict: bool,
    /// Includes latencies: `include_latency`.
    pub(crate) latency: bool,
    /// Includes the state: `include_context_state`.
    pub(crate) state: bool,
    /// Includes the turns. If false, `turns` is empty.
    pub(crate) turns: bool,
}

/// Returns the v3 shape.
pub(crate) fn v3_conversation(call: &Conversation, options: V3Options) -> Value {
    let (variant_id, variant_name) = call.profile.variant.unzip();
    let absent = |text: Option<&str>| match text {
        Some(text) => json!(text),
        None if options.strict => json!(""),
        None => Value::Null,
    };
    let (destination, reason) = call.handoff.unwrap_or(("", ""));
    let turns: Vec<_> = if options.turns {
        call.turns.iter().map(|turn| v3_turn(call, turn, options)).collect()
    } else {
        Vec::new()
    };
    json!({
        "id": call.profile.id,
        "account_id": call.account_id,
        "project_id": call.project_id,
        "variant_id": absent(variant_id),
        "variant_name": absent(variant_name),
        "environment": call.profile.environment.as_str(),
        "started_at": format_time(call.started_at),
        "channel": call.profile.channel.as_str(),
        "from_number": call.from.as_deref().unwrap_or(""),
        "to_number": call.to.as_deref().unwrap_or(""),
        "in_progress": call.in_progress,
        "num_turns": call.turns.len(),
        "total_duration": call.duration_ms.div_ceil(1000),
        "polyai_duration": call.polyai_ms.div_ceil(1000),
        "handoff": call.handoff.is_some(),
        "handoff_reason": reason,
        "handoff_destination": destination,
        "num_silences": call.turns.iter().filter(|turn| turn.silence).count(),
        "num_ood": call.turns.iter().filter(|turn| turn.out_of_domain).count(),
        "metrics": metrics(call, options.strict),
        "state": if options.state { state(call) } else { json!({}) },
        "turns": turns,
    })
}

fn v3_turn(call: &Conversation, turn: &Turn, options: V3Options) -> Value {
    let mut shape = json!({
        "user_input": turn.user,
        "user_input_dtmf": turn.dtmf,
        "user_input_datetime": format_time(call.at(turn.user_to)),
        "barge_in": turn.barge_in,
        "agent_response": turn.agent,
        "agent_response_datetime": format_time(call.at(turn.agent_from)),
        "translated_user_input": turn.user_english,
        "english_agent_response": turn.agent_english,
        "intents": list(turn.intent.map(|intent| json!(intent)), options.strict),
        "entities": list(turn.entity.as_ref().map(|(name, value)| json!({ *name: value })), options.strict),
        "is_ood": flag(turn.out_of_domain, options.strict),
        "is_silence": flag(turn.silence, options.strict),
    });
    if options.latency {
        shape["latency"] = if options.strict { json!(turn.latency()) } else { latency(turn) };
    }
    shape
}

/// Returns the agent's state, with nested values of every JSON type.
fn state(call: &Conversation) -> Value {
    let mut state = Map::from_iter([
        ("intent".to_owned(), json!(call.intent)),
        ("language".to_owned(), json!(call.language)),
        ("retries".to_owned(), json!({ "asr": 0, "nested": [null, true, 1.5e-3] })),
    ]);
    for (name, value) in call.turns.iter().filter_map(|turn| turn.entity.as_ref()) {
        state.insert((*name).to_owned(), json!(value));
    }
    Value::Object(state)
}

/// Returns a list of one value. Without a value, recorded answers have `null`.
fn list(value: Option<Value>, strict: bool) -> Value {
    match value {
        Some(value) => json!([value]),
        None if strict => json!([]),
        None => Value::Null,
    }
}

/// Returns `true`, or `null` for false in the default shape.
fn flag(set: bool, strict: bool) -> Value {
    if set || strict { json!(set) } else { Value::Null }
}
