//! The shape of the Data API.

use serde_json::{Map, Value, json};

use super::fields::{latency, metrics};
use crate::{
    calls::{Conversation, Turn, format_time},
    random::{self, Purpose},
};

/// Returns the shape of a list entry, which has no turns, metrics and functions.
pub(crate) fn data_list_entry(call: &Conversation) -> Map<String, Value> {
    let id = &call.profile.id;
    let summary = call.summary.map(|(heading, content)| json!({ "heading": heading, "content": content }));
    let shape = json!({
        "accountId": call.account_id,
        "audioUrl": call.has_audio.then(|| format!("conversations/{id}/audio")),
        "channel": call.profile.channel.as_str(),
        "clientEnv": call.profile.environment.as_str(),
        "conversationId": id,
        "createdAt": format_time(call.started_at),
        "deploymentId": call.deployment,
        "direction": if call.outbound { "outbound" } else { "inbound" },
        "duration": call.duration_ms.div_ceil(1000),
        "finishedAt": (!call.in_progress).then(|| format_time(call.at(call.duration_ms))),
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
        "startedAt": format_time(call.started_at),
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

/// Returns the full shape.
pub(crate) fn data_conversation(call: &Conversation, turns: bool) -> Value {
    let mut shape = data_list_entry(call);
    let mut functions = Map::new();
    let mut list = Vec::new();
    for (at, turn) in call.turns.iter().enumerate() {
        let events = function_events(call, at, turn);
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

fn data_turn(call: &Conversation, at: usize, turn: &Turn, functions: &[Value]) -> Value {
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
    let input_url = if turn.user.is_empty() || !call.has_audio {
        String::new()
    } else {
        format!("conversations/{}/turns/{at}/audio", call.profile.id)
    };
    json!({
        "agent_response": turn.agent,
        "agent_response_datetime": format_time(call.at(turn.agent_from)),
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
        "user_input_datetime": format_time(call.at(turn.user_to)),
        "user_input_dtmf": turn.dtmf,
        "user_input_dtmf_finish_key": if turn.dtmf.is_empty() { "" } else { "#" },
    })
}

/// Returns the functions that the agent ran in a turn: one at the start, one for each detail it saved, one for a handoff.
fn function_events(call: &Conversation, at: usize, turn: &Turn) -> Vec<Value> {
    let hands_off = (turn.intent == Some("handoff")).then_some(call.handoff).flatten();
    let (name, arguments) = match (&turn.entity, at, hands_off) {
        (_, 0, _) => ("start_function", json!({})),
        (Some((entity, value)), ..) => ("save_detail", json!({ *entity: value })),
        (None, _, Some(_)) => ("hand_off", json!({})),
        _ => return Vec::new(),
    };
    let mut rng = random::rng(call.profile.index, at as u64, Purpose::Functions);
    let started = call.at(turn.user_to).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    vec![json!({
        "arguments": arguments,
        "content": null,
        "conversation_id": call.profile.id,
        "duration": rng.u32(20..4_200),
        "error": null,
        "function_id": format!("FUNCTION-{}", name.replace('_', "-")),
        "function_version": null,
        "handoff": hands_off.map(|(destination, reason)| json!({ "reason": reason, "type": destination })),
        "hangup": null,
        "id": random::uuid(&mut rng),
        "llm_request_id": (at > 0).then(|| random::uuid(&mut rng)),
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

/// Returns an id in the range of recorded answers.
fn turn_id(call: &Conversation, at: usize) -> u64 {
    743_000_000 + (call.profile.index * 61 + at as u64) % 1_000_000
}
