//! A [`Call`] in the two shapes PolyAI serves it in.
//!
//! v3 is `snake_case` and has empty strings where the Data API has `null`; the Data API is a camelCase
//! envelope around `snake_case` turns. Both carry what recorded answers have and the published schema has not
//! (June 2026): times with microseconds and `+00:00`, latency as an object, metrics as lists of
//! `{timestamp, value}`, lists that are `null`. v3 can be told to keep to its schema.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    Purpose,
    conversation::{Call, Turn},
    rng, uuid,
};

/// What of a v3 conversation is asked for.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "as many switches as the query has")]
pub(crate) struct V3 {
    /// Only what the published schema allows.
    pub(crate) strict: bool,
    /// `include_latency`
    pub(crate) latency: bool,
    /// `include_context_state`
    pub(crate) state: bool,
    /// Off: `turns` is empty.
    pub(crate) turns: bool,
}

/// The v3 shape.
pub(crate) fn v3(call: &Call, want: V3) -> Value {
    let (variant_id, variant_name) = call.profile.variant.unzip();
    let absent = |text: Option<&str>| match text {
        Some(text) => json!(text),
        None if want.strict => json!(""),
        None => Value::Null,
    };
    let (destination, reason) = call.handoff.unwrap_or(("", ""));
    let turns: Vec<_> = if want.turns {
        call.turns.iter().map(|turn| v3_turn(call, turn, want)).collect()
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
        "started_at": time(call.started_at),
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
        "metrics": metrics(call, want.strict),
        "state": if want.state { state(call) } else { json!({}) },
        "turns": turns,
    })
}

fn v3_turn(call: &Call, turn: &Turn, want: V3) -> Value {
    let mut shape = json!({
        "user_input": turn.user,
        "user_input_dtmf": turn.dtmf,
        "user_input_datetime": time(call.at(turn.user_to)),
        "barge_in": turn.barge_in,
        "agent_response": turn.agent,
        "agent_response_datetime": time(call.at(turn.agent_from)),
        "translated_user_input": turn.user_english,
        "english_agent_response": turn.agent_english,
        "intents": list(turn.intent.map(|intent| json!(intent)), want.strict),
        "entities": list(turn.entity.as_ref().map(|(name, value)| json!({ *name: value })), want.strict),
        "is_ood": flag(turn.out_of_domain, want.strict),
        "is_silence": flag(turn.silence, want.strict),
    });
    if want.latency {
        shape["latency"] = if want.strict { json!(turn.latency()) } else { latency(turn) };
    }
    shape
}

/// The Data API's shape, as its list gives it: without turns, metrics and functions.
pub(crate) fn data_summary(call: &Call) -> Map<String, Value> {
    let id = &call.profile.id;
    let summary = call.summary.map(|(heading, content)| json!({ "heading": heading, "content": content }));
    let shape = json!({
        "accountId": call.account_id,
        "audioUrl": call.has_audio().then(|| format!("conversations/{id}/audio")),
        "channel": call.profile.channel.as_str(),
        "clientEnv": call.profile.environment.as_str(),
        "conversationId": id,
        "createdAt": time(call.started_at),
        "deploymentId": call.deployment,
        "direction": if call.outbound { "outbound" } else { "inbound" },
        "duration": call.duration_ms.div_ceil(1000),
        "finishedAt": (!call.in_progress).then(|| time(call.at(call.duration_ms))),
        "fromNumber": call.from,
        "handoff": call.handoff.is_some(),
        "handoffDestination": call.handoff.map(|(destination, _)| destination),
        "handoffReason": call.handoff.map(|(_, reason)| reason),
        "inProgress": call.in_progress,
        "language": (call.turns.len() > 1).then_some(call.language),
        "note": call.note,
        "polyScore": call.score,
        "polyaiDuration": call.polyai_ms.div_ceil(1000),
        "projectId": call.project_id,
        "shortSummary": summary,
        "startedAt": time(call.started_at),
        "tags": call.tags,
        "toNumber": call.to,
        "totalDuration": call.duration_ms.div_ceil(1000),
        "variantId": call.profile.variant.map(|(_, name)| name),
    });
    match shape {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The Data API's shape in full.
pub(crate) fn data(call: &Call, turns: bool) -> Value {
    let mut shape = data_summary(call);
    let mut functions = Map::new();
    let mut list = Vec::new();
    for (at, turn) in call.turns.iter().enumerate() {
        let events = functions_of(call, at, turn);
        if turns {
            list.push(data_turn(call, at, turn, &events));
        }
        if !events.is_empty() {
            functions.insert((at + 1).to_string(), Value::Array(events));
        }
    }
    shape.insert("functionEvents".to_owned(), Value::Object(functions));
    shape.insert("metrics".to_owned(), metrics(call, false));
    shape.insert("turns".to_owned(), Value::Array(list));
    Value::Object(shape)
}

fn data_turn(call: &Call, at: usize, turn: &Turn, functions: &[Value]) -> Value {
    let short: Vec<_> = functions
        .iter()
        .map(|event| {
            let mut short = json!({
                "arguments": event["arguments"],
                "duration": event["duration"],
                "function_id": event["function_id"],
                "name": event["name"],
                "utterance": turn.agent,
            });
            if !event["handoff"].is_null() {
                short["handoff"] = event["handoff"].clone();
            }
            short
        })
        .collect();
    let heard =
        if turn.user.is_empty() { Vec::new() } else { vec![json!({ "intents": [], "text": turn.user })] };
    let language = if turn.user.is_empty() { "" } else { call.language };
    let input_url = if turn.user.is_empty() || !call.has_audio() {
        String::new()
    } else {
        format!("conversations/{}/turns/{at}/audio", call.profile.id)
    };
    json!({
        "agent_response": turn.agent,
        "agent_response_datetime": time(call.at(turn.agent_from)),
        "asr_lang_code": language,
        "barge_in": turn.barge_in,
        "english_agent_response": turn.agent_english,
        "entities": null,
        "intents": null,
        "is_ood": null,
        "is_silence": null,
        "latency": latency(turn),
        "llm_requests": [],
        "metadata": {
            "asr_corrected_user_input": turn.user,
            "current_node": "",
            "entities": [],
            "function_events": short,
            "retrieved_topics": turn.intent.map_or_else(Vec::new, |intent| vec![intent]),
            "safety": { "filters_triggered": { "provider": "azure" } },
            "top_transcripts": heard,
        },
        "reviews": [],
        "translated_user_input": turn.user_english,
        "tts_lang_code": language,
        "turn_id": turn_id(call, at),
        "user_input": turn.user,
        "user_input_audio_url": input_url,
        "user_input_datetime": time(call.at(turn.user_to)),
        "user_input_dtmf": turn.dtmf,
        "user_input_dtmf_finish_key": if turn.dtmf.is_empty() { "" } else { "#" },
    })
}

/// The functions the agent ran in a turn: one at the start, one per thing it took down, one to hand off.
fn functions_of(call: &Call, at: usize, turn: &Turn) -> Vec<Value> {
    let hands_off = (turn.intent == Some("handoff")).then_some(call.handoff).flatten();
    let (name, arguments) = match (&turn.entity, at, hands_off) {
        (_, 0, _) => ("start_function", json!({})),
        (Some((entity, value)), ..) => ("save_detail", json!({ *entity: value })),
        (None, _, Some(_)) => ("hand_off", json!({})),
        _ => return Vec::new(),
    };
    let mut dice = rng(call.profile.index, at as u64, Purpose::Functions);
    let started = call.at(turn.user_to).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    vec![json!({
        "arguments": arguments,
        "content": null,
        "conversation_id": call.profile.id,
        "duration": dice.u32(20..4_200),
        "error": null,
        "function_id": format!("FUNCTION-{}", name.replace('_', "-")),
        "function_version": null,
        "handoff": hands_off.map(|(destination, reason)| json!({ "reason": reason, "type": destination })),
        "hangup": null,
        "id": uuid(&mut dice),
        "llm_request_id": (at > 0).then(|| uuid(&mut dice)),
        "logs": null,
        "name": name,
        "start_time": started,
        "state_changes": (at > 0).then(|| json!({ "added": arguments, "removed": [], "updated": {} })),
        "transition": null,
        "turn_id": at + 1,
        "utterance": (at > 0).then_some(&turn.agent),
        "variant_id_change": null,
    })]
}

fn metrics(call: &Call, strict: bool) -> Value {
    let end = call.at(call.duration_ms);
    let mut written = vec![
        ("CALL_DURATION", vec![(end, call.duration_ms.div_ceil(1000).to_string())]),
        ("TOTAL_AGENT_TURNS", vec![(end, call.turns.len().to_string())]),
        (
            "CALL_TURN",
            call.turns.iter().map(|turn| (call.at(turn.agent_from), call.intent.to_owned())).collect(),
        ),
    ];
    if let Some((_, reason)) = call.handoff {
        written.push(("HANDOFF_REASON", vec![(end, reason.to_owned())]));
    }
    let metrics: Map<_, _> = written
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

fn state(call: &Call) -> Value {
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

fn latency(turn: &Turn) -> Value {
    json!({ "label": null, "perceived_latency": turn.latency(), "perceived_latency_percentile_1d": null })
}

/// A list of what was found; where nothing was, recorded answers have `null`.
fn list(found: Option<Value>, strict: bool) -> Value {
    match found {
        Some(found) => json!([found]),
        None if strict => json!([]),
        None => Value::Null,
    }
}

fn flag(set: bool, strict: bool) -> Value {
    if set || strict { json!(set) } else { Value::Null }
}

fn turn_id(call: &Call, at: usize) -> u64 {
    743_000_000 + (call.profile.index * 61 + at as u64) % 1_000_000
}

/// Microseconds and `+00:00`, as recorded answers have it.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conversation::Profile, scenario::CallMix};

    fn calls() -> impl Iterator<Item = Call> {
        (0..100).map(|index| {
            let mut call = Call::draw(1, &Profile::draw(1, index, &CallMix::default()), 0);
            call.started_at = "2026-11-03T09:08:07.5Z".parse().unwrap();
            call
        })
    }

    #[test]
    fn strict_v3_has_no_nulls_and_no_objects_where_numbers_belong() {
        for call in calls() {
            let shape = v3(&call, V3 { strict: true, latency: true, state: false, turns: true });
            assert!(!shape.to_string().contains("null"), "{shape}");
            assert!(shape["turns"][0]["latency"].is_f64());
            assert!(shape["metrics"]["CALL_DURATION"].is_string());
            assert_eq!(shape["num_turns"], shape["turns"].as_array().unwrap().len());
        }
    }

    #[test]
    fn the_default_has_the_recorded_oddities() {
        let call = calls().next().unwrap();
        let shape = v3(&call, V3 { strict: false, latency: true, state: true, turns: false });
        assert_eq!(shape["turns"], json!([]));
        assert!(shape["num_turns"].as_u64().unwrap() > 0);
        assert!(shape["metrics"]["CALL_DURATION"][0]["value"].is_string());
        assert_eq!(shape["started_at"], "2026-11-03T09:08:07.500000+00:00");
        let shape = data(&call, true);
        assert!(shape["turns"][0]["latency"]["perceived_latency"].is_f64());
        assert!(shape["turns"][0]["intents"].is_null());
        assert!(shape["functionEvents"]["1"][0]["start_time"].as_str().unwrap().ends_with(" GMT"));
    }

    #[test]
    fn both_shapes_tell_of_the_same_call() {
        for call in calls() {
            let (v3, data) = (
                v3(&call, V3 { strict: false, latency: false, state: false, turns: true }),
                data(&call, true),
            );
            for (snake, camel) in [
                ("id", "conversationId"),
                ("started_at", "startedAt"),
                ("total_duration", "totalDuration"),
                ("handoff", "handoff"),
                ("environment", "clientEnv"),
            ] {
                assert_eq!(v3[snake], data[camel], "{snake}");
            }
            for (a, b) in v3["turns"].as_array().unwrap().iter().zip(data["turns"].as_array().unwrap()) {
                assert_eq!(
                    (&a["user_input"], &a["agent_response"]),
                    (&b["user_input"], &b["agent_response"])
                );
            }
        }
    }
}
