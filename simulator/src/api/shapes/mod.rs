//! Conversations in the two shapes that PolyAI serves.
//!
//! v3 is `snake_case` and has empty strings where the Data API has `null`. The Data API is a camelCase envelope around
//! `snake_case` turns. Both shapes contain what PolyAI's recorded answers have and its published schema does not (June
//! 2026): times with microseconds and `+00:00`, latency as an object, metrics as lists of `{timestamp, value}`, and `null`
//! for empty lists. v3 can keep to its schema instead.

pub(super) mod data;
mod fields;
pub(super) mod v3;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        data::data_conversation,
        v3::{V3Options, v3_conversation},
    };
    use crate::{
        calls::{Conversation, Profile},
        scenario::CallMix,
    };

    fn calls() -> impl Iterator<Item = Conversation> {
        (0..100).map(|index| {
            let mut call = Conversation::generate(1, &Profile::draw(1, index, &CallMix::default()), 0);
            call.started_at = "2026-11-03T09:08:07.5Z".parse().unwrap();
            call
        })
    }

    #[test]
    fn strict_v3_has_no_nulls_and_plain_numbers() {
        for call in calls() {
            let shape =
                v3_conversation(&call, V3Options { strict: true, latency: true, state: false, turns: true });
            assert!(!shape.to_string().contains("null"), "{shape}");
            assert!(shape["turns"][0]["latency"].is_f64());
            assert!(shape["metrics"]["CALL_DURATION"].is_string());
            assert_eq!(shape["num_turns"], shape["turns"].as_array().unwrap().len());
        }
    }

    #[test]
    fn default_shapes_match_recorded_answers() {
        let call = calls().next().unwrap();
        let shape =
            v3_conversation(&call, V3Options { strict: false, latency: true, state: true, turns: false });
        assert_eq!(shape["turns"], json!([]));
        assert!(shape["num_turns"].as_u64().unwrap() > 0);
        assert!(shape["metrics"]["CALL_DURATION"][0]["value"].is_string());
        assert_eq!(shape["started_at"], "2026-11-03T09:08:07.500000+00:00");
        let shape = data_conversation(&call, true);
        assert!(shape["turns"][0]["latency"]["perceived_latency"].is_f64());
        assert!(shape["turns"][0]["intents"].is_null());
        assert!(shape["functionEvents"]["1"][0]["start_time"].as_str().unwrap().ends_with(" GMT"));
    }

    #[test]
    fn both_shapes_describe_the_same_call() {
        for call in calls() {
            let (v3, data) = (
                v3_conversation(
                    &call,
                    V3Options { strict: false, latency: false, state: false, turns: true },
                ),
                data_conversation(&call, true),
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
