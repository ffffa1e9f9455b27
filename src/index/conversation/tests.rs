use proptest::prelude::*;
use serde_json::{Value, json};

use super::{document::MAX_JSON_BYTES, *};
use crate::{
    archive::{AudioStatus, AudioSummary, ConversationFacts, Handoff, Provenance, Timings, Trigger},
    index::{IndexConfig, NumberMode, TurnRow},
    polyai::ConversationInfo,
    secret::Secret,
};

fn numbers(mode: NumberMode) -> Numbers {
    let numbers_key = Some(Secret::new("0123456789abcdef"));
    Numbers::new(&IndexConfig { numbers: mode, numbers_key, ..IndexConfig::default() }).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Returns a manifest as the worker would write it for a conversation.
fn stored(conversation: &[u8], served_by: ServedBy) -> StoredManifest {
    let info = ConversationInfo::read(conversation).unwrap_or_default();
    let handoff = Handoff { reason: info.handoff.reason, destination: info.handoff.destination };
    let fetched_at = time("2026-06-03T14:00:00Z");
    let manifest = Manifest {
        schema_version: 1,
        revision: 2,
        conversation_id: "CA1".to_owned(),
        account_id: "acme".to_owned(),
        project_id: "desk".to_owned(),
        facts: ConversationFacts {
            channel: info.channel.unwrap_or_else(|| "unknown".to_owned()),
            environment: info.environment.unwrap_or_else(|| "unknown".to_owned()),
            direction: info.direction,
            started_at: info.started_at.unwrap_or(fetched_at),
            finished_at: info.finished_at,
            total_duration_s: info.total_duration_s,
            polyai_duration_s: info.polyai_duration_s,
            handoff: info.handoff.happened.then_some(handoff),
            turn_count: info.num_turns,
            in_progress: info.in_progress,
            summarised: info.has_summary,
        },
        objects: Vec::new(),
        audio: AudioSummary { status: AudioStatus::Absent, redacted: false },
        warnings: vec!["turns_missing: some".to_owned()],
        provenance: Provenance { served_by, trigger: Trigger::Webhook, event_id: None },
        timings: Timings { received_at: None, fetched_at, archived_at: fetched_at },
        polyhook_version: "0.1.0".to_owned(),
    };
    StoredManifest {
        manifest,
        size_bytes: 2,
        sha256: "ab".to_owned(),
        stored_at: fetched_at,
        folder: "account_id=acme/project_id=desk/date=2026-06-03/CA1".to_owned(),
    }
}

fn rows_of(json: impl AsRef<[u8]>, served_by: ServedBy, mode: NumberMode) -> ConversationRows {
    let json = json.as_ref();
    read_rows(&stored(json, served_by), json, &numbers(mode))
}

fn rows(conversation: &Value) -> ConversationRows {
    rows_of(conversation.to_string(), ServedBy::V3, NumberMode::Omit)
}

fn rest(call: &CallRow) -> Value {
    serde_json::from_str(call.rest.as_deref().unwrap_or("null")).unwrap()
}

/// One call as v3 serves it, with every member of the specification.
fn v3() -> Value {
    json!({
        "id": "CA1", "account_id": "acme", "project_id": "desk", "variant_id": "VARIANT-1", "variant_name": "Main",
        "environment": "live", "started_at": "2026-06-03T13:18:06.370000+00:00", "channel": "VOICE-SIP",
        "from_number": "+15550100123", "to_number": "+15550100999", "in_progress": false, "num_turns": 2, "total_duration": 74,
        "polyai_duration": 70, "handoff": true, "handoff_reason": "billing", "handoff_destination": "Team",
        "num_silences": 1, "num_ood": 0,
        "metrics": { "CALL_DURATION": "74", "TOPIC": ["a", "b"] },
        "state": { "retries": { "asr": 0 } },
        "turns": [
            {
                "user_input": "", "user_input_datetime": "2026-06-03T13:18:05.900000+00:00", "user_input_dtmf": "",
                "agent_response": "Hello", "agent_response_datetime": "2026-06-03T13:18:08+00:00", "latency": 1.5,
                "translated_user_input": "", "english_agent_response": "Hello", "barge_in": false, "intents": [], "entities": [],
                "is_ood": false, "is_silence": true
            },
            {
                "user_input": "Hi", "user_input_datetime": "2026-06-03T13:18:20.250000+00:00", "agent_response": "Bye",
                "agent_response_datetime": "2026-06-03T13:18:19.250000+00:00", "latency": 0.25, "translated_user_input": "Hi!",
                "english_agent_response": "", "barge_in": true, "intents": ["greeting"],
                "entities": [{ "city": ["Bern", "Basel"] }], "is_ood": false, "is_silence": false
            }
        ]
    })
}

/// The same call as the Data API serves it, with the shapes of real answers.
fn data() -> Value {
    let at = |second: u32, value: &str| json!({ "timestamp": format!("2026-06-03T13:19:{second}.757917"), "value": value });
    json!({
        "conversationId": "CA1", "accountId": "acme", "projectId": "desk", "variantId": "Main", "clientEnv": "live",
        "createdAt": "2026-06-03T13:18:06.370000+00:00", "startedAt": "2026-06-03T13:18:06.370000+00:00",
        "finishedAt": "2026-06-03T13:19:20.370000+00:00", "channel": "VOICE-SIP", "direction": "inbound", "language": "en-US",
        "fromNumber": "+15550100123", "toNumber": "+15550100999", "inProgress": false, "duration": 74, "totalDuration": 74,
        "polyaiDuration": 70, "handoff": true, "handoffReason": "billing", "handoffDestination": "Team",
        "tags": ["vip", null, ""], "polyScore": 4.5, "note": null, "deploymentId": "D1", "audioUrl": "conversations/CA1/audio",
        "shortSummary": { "heading": "Billing", "content": "They asked." },
        "metrics": { "CALL_DURATION": [at(19, "74")], "TOPIC": [at(11, "a"), at(12, "b")] },
        "functionEvents": { "1": [{ "name": "start", "arguments": {} }] },
        "turns": data_turns(),
    })
}

fn data_turns() -> Value {
    let latency = |seconds: f64| json!({ "label": null, "perceived_latency": seconds, "perceived_latency_percentile_1d": null });
    json!([
            {
                "user_input": "", "user_input_datetime": "2026-06-03T13:18:05.900000+00:00", "agent_response": "Hello",
                "agent_response_datetime": "2026-06-03T13:18:08.000000+00:00", "latency": latency(1.5), "barge_in": false,
                "translated_user_input": "", "english_agent_response": "Hello", "entities": null, "intents": null, "is_ood": null,
                "is_silence": null, "turn_id": 743_916_318, "metadata": { "entities": [], "current_node": "" }, "reviews": []
            },
            {
                "user_input": "Hi", "user_input_datetime": "2026-06-03T13:18:20.250000+00:00", "agent_response": "Bye",
                "agent_response_datetime": "2026-06-03T13:18:19.250000+00:00", "latency": latency(0.25), "barge_in": true,
                "translated_user_input": "Hi!", "english_agent_response": null, "entities": null, "intents": null,
                "is_ood": null, "is_silence": null
            }
    ])
}

#[test]
fn reads_every_column_of_v3() {
    let ConversationRows { call, turns } = rows(&v3());
    let expected = CallRow {
        conversation_id: "CA1".to_owned(),
        environment: Some("live".to_owned()),
        channel: Some("VOICE-SIP".to_owned()),
        variant: Some("Main".to_owned()),
        variant_id: Some("VARIANT-1".to_owned()),
        started_at: time("2026-06-03T13:18:06.37Z"),
        ended_at: Some(time("2026-06-03T13:19:20.37Z")),
        duration_s: Some(74.0),
        polyai_duration_s: Some(70.0),
        num_turns: 2,
        turn_rows: 2,
        handoff: true,
        handoff_reason: Some("billing".to_owned()),
        handoff_destination: Some("Team".to_owned()),
        num_silences: Some(1),
        num_out_of_domain: Some(0),
        metrics: vec![
            ("CALL_DURATION".to_owned(), Some("74".to_owned())),
            ("TOPIC".to_owned(), Some("b".to_owned())),
        ],
        audio_status: "absent".to_owned(),
        conversation_path: "account_id=acme/project_id=desk/date=2026-06-03/CA1/conversation.json".to_owned(),
        warnings: vec!["turns_missing: some".to_owned()],
        served_by: "v3".to_owned(),
        trigger: "webhook".to_owned(),
        archived_at: time("2026-06-03T14:00:00Z"),
        revision: 2,
        manifest_sha256: "ab".to_owned(),
        stored_at: time("2026-06-03T14:00:00Z"),
        rest: Some(json!({ "metrics": v3()["metrics"], "state": { "retries": { "asr": 0 } } }).to_string()),
        ..CallRow::default()
    };
    assert_eq!(call, expected);
    let expected = TurnRow {
        conversation_id: "CA1".to_owned(),
        call_started_at: call.started_at,
        number: 2,
        user_input: Some("Hi".to_owned()),
        agent_response: Some("Bye".to_owned()),
        translated_user_input: Some("Hi!".to_owned()),
        user_input_at: Some(time("2026-06-03T13:18:20.25Z")),
        agent_response_at: Some(time("2026-06-03T13:18:19.25Z")),
        offset_s: Some(12.88),
        latency_s: Some(0.25),
        interrupted: Some(true),
        silence: Some(false),
        out_of_domain: Some(false),
        intents: vec!["greeting".to_owned()],
        entities: Some(r#"[{"city":["Bern","Basel"]}]"#.to_owned()),
        ..TurnRow::default()
    };
    assert_eq!(turns[1], expected);
    assert_eq!((turns[0].number, turns[0].offset_s, turns[0].silence), (1, Some(0.0), Some(true)));
    assert_eq!((turns[0].user_input.as_deref(), turns[0].entities.as_deref()), (None, None));
}

/// Sets the columns that one of two rows lacks to null in the other, and the columns that name the answer itself.
fn without_lacking(mut rows: ConversationRows) -> ConversationRows {
    let call = &mut rows.call;
    (call.direction, call.variant_id, call.language, call.score, call.score_scale) =
        (None, None, None, None, None);
    (call.summary, call.summary_heading, call.tags) = (None, None, Vec::new());
    (call.num_silences, call.num_out_of_domain, call.rest) = (None, None, None);
    call.served_by.clear();
    for turn in &mut rows.turns {
        (turn.silence, turn.out_of_domain, turn.entities, turn.intents) = (None, None, None, Vec::new());
    }
    rows
}

#[test]
fn both_shapes_of_a_call_give_the_same_rows() {
    let of_v3 = rows(&v3());
    let of_data = rows_of(data().to_string(), ServedBy::Data, NumberMode::Omit);
    assert_eq!(without_lacking(of_v3), without_lacking(of_data.clone()));
    let ConversationRows { call, turns } = of_data;
    assert_eq!((call.direction.as_deref(), call.language.as_deref()), (Some("inbound"), Some("en-US")));
    assert_eq!(
        (call.summary_heading.as_deref(), call.summary.as_deref()),
        (Some("Billing"), Some("They asked."))
    );
    assert_eq!((call.score, call.score_scale.as_deref()), (Some(4.5), Some("0-10")));
    assert_eq!((call.tags, call.variant_id), (vec!["vip".to_owned()], None));
    // No turn states whether it was a silence.
    assert_eq!((call.num_silences, call.num_out_of_domain, turns[0].silence), (None, None, None));
}

#[test]
fn the_rest_has_what_no_column_holds() {
    let ConversationRows { call, .. } = rows_of(data().to_string(), ServedBy::Data, NumberMode::Omit);
    let Value::Object(rest) = rest(&call) else { panic!("{:?}", call.rest) };
    let names: Vec<_> = rest.keys().map(String::as_str).collect();
    assert_eq!(names, ["audioUrl", "deploymentId", "functionEvents", "metrics", "note"]);
    // Other values than those of the columns stay.
    let mut other = data();
    for (name, value) in [
        ("createdAt", json!("2026-06-03T13:17:00Z")),
        ("duration", json!(99)),
        ("accountId", json!("other")),
        ("tags", json!({ "a": 1 })),
        ("shortSummary", json!({ "content": "x", "language": "en" })),
        ("polyScore", json!({ "value": 3 })),
        ("language", json!(["en"])),
        ("handoffReason", json!(["x"])),
        ("variantName", json!(null)),
    ] {
        other[name] = value;
    }
    let call = rows(&other).call;
    let Value::Object(rest) = self::rest(&call) else { panic!("{:?}", call.rest) };
    let names: Vec<_> = rest.keys().map(String::as_str).collect();
    let expected = [
        "accountId",
        "audioUrl",
        "createdAt",
        "deploymentId",
        "duration",
        "functionEvents",
        "handoffReason",
        "language",
        "metrics",
        "note",
        "polyScore",
        "shortSummary",
        "tags",
    ];
    assert_eq!(names, expected);
    assert_eq!((call.summary.as_deref(), call.score), (Some("x"), None));
    assert_eq!(rows(&json!({ "id": "CA1", "turns": [] })).call.rest, None);
}

#[test]
fn metrics_have_the_last_value_and_the_rest_all_of_them() {
    let metrics = |json: Value| {
        let call = rows(&json!({ "metrics": json })).call;
        (call.metrics, call.rest.is_some())
    };
    let value = |name: &str, value: Option<&str>| vec![(name.to_owned(), value.map(str::to_owned))];
    for (json, last, is_in_rest) in [
        (json!("x"), Some("x"), false),
        (json!(7.50), Some("7.5"), false),
        (json!(true), Some("true"), false),
        (json!(null), None, false),
        (json!(""), None, false),
        (json!([]), None, false),
        (json!(["x"]), Some("x"), false),
        (json!(["x", "y"]), Some("y"), true),
        (json!([{ "timestamp": "t", "value": "x" }]), Some("x"), false),
        (json!([{ "timestamp": "t", "value": "x" }, { "timestamp": "u", "value": null }]), None, true),
        (json!({ "timestamp": "t", "value": 3 }), Some("3"), false),
        (json!([{ "value": "x", "unit": "s" }]), Some("x"), true),
        (json!([{ "value": { "a": [1] } }]), Some(r#"{"a":[1]}"#), false),
        (json!({ "a": 1 }), Some(r#"{"a":1}"#), true),
        (json!([[1, 2]]), Some("[1,2]"), false),
    ] {
        assert_eq!(metrics(json!({ "M": json })), (value("M", last), is_in_rest), "{json}");
    }
    assert_eq!(metrics(json!([1])), (Vec::new(), true));
    assert_eq!(metrics(json!({})), (Vec::new(), false));
    let text = r#"{"metrics":{"A":"1","B":"2","A":"3"}}"#;
    let call = rows_of(text, ServedBy::V3, NumberMode::Omit).call;
    let names: Vec<_> = call.metrics.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(names, [("A", Some("3")), ("B", Some("2"))]);
}

#[test]
fn a_score_has_the_scale_of_its_time() {
    let scale = |score: f64, started: &str, fetched: &str| {
        let json = json!({ "polyScore": score, "startedAt": started }).to_string();
        let mut stored = stored(json.as_bytes(), ServedBy::Data);
        stored.manifest.timings.fetched_at = time(fetched);
        read_rows(&stored, json.as_bytes(), &numbers(NumberMode::Omit)).call.score_scale.unwrap()
    };
    for (score, started, fetched, expected) in [
        (4.0, "2026-07-28T00:00:00Z", "2026-08-05T00:00:00Z", "1-5"),
        (5.0, "2026-09-01T00:00:00Z", "2026-09-01T01:00:00Z", "1-5"),
        (5.5, "2026-09-01T00:00:00Z", "2026-09-01T01:00:00Z", "0-10"),
        (4.0, "2026-07-28T00:00:00Z", "2026-08-04T23:59:59Z", "0-10"),
        (4.0, "2026-07-27T23:59:59Z", "2026-08-05T00:00:00Z", "0-10"),
    ] {
        assert_eq!(scale(score, started, fetched), expected, "{score} {started} {fetched}");
    }
    assert_eq!(rows(&json!({ "polyScore": null })).call.score_scale, None);
}

#[test]
fn counts_the_turns_that_state_a_silence_if_polyai_does_not() {
    let silences = |json: Value| rows(&json).call.num_silences;
    let turns = json!([{ "is_silence": true }, { "is_silence": null }, { "is_silence": "true" }, { "is_silence": false }, 3]);
    assert_eq!(silences(json!({ "turns": turns })), Some(2));
    assert_eq!(silences(json!({ "turns": turns, "num_silences": 7 })), Some(7));
    assert_eq!(silences(json!({ "turns": turns, "num_silences": null })), Some(2));
    assert_eq!(silences(json!({ "turns": [{}, { "is_silence": null }] })), None);
}

#[test]
fn offsets_count_from_a_known_start() {
    let start = "2026-06-03T13:00:00Z";
    let offset = |at: &str, warnings: &[&str]| {
        let json = json!({ "started_at": start, "turns": [{ "user_input_datetime": at }] }).to_string();
        let mut stored = stored(json.as_bytes(), ServedBy::V3);
        stored.manifest.warnings = warnings.iter().map(ToString::to_string).collect();
        read_rows(&stored, json.as_bytes(), &numbers(NumberMode::Omit)).turns[0].offset_s
    };
    assert_eq!(offset("2026-06-03T12:59:59.1Z", &[]), Some(0.0));
    assert_eq!(offset("2026-06-03T12:59:50Z", &[]), Some(-10.0));
    assert_eq!(offset("2026-06-03T13:00:01.5", &[]), Some(1.5));
    assert_eq!(offset("soon", &[]), None);
    assert_eq!(offset("2026-06-03T13:00:01Z", &["started_at_unknown: guessed"]), None);
}

#[test]
fn reads_turns_of_unexpected_types() {
    let ConversationRows { turns, .. } = rows(&json!({ "turns": [
        "text", null, [], { "user_input": 5, "agent_response": true, "latency": "0.5", "intents": "a", "entities": { "x": 1 } },
        { "userInput": {}, "latency": {}, "intents": [{ "name": "b", "score": 0.5 }, 7, null, {}], "entities": "x", "barge_in": 1 },
    ] }));
    assert_eq!(turns.iter().map(|turn| turn.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let texts = (turns[3].user_input.as_deref(), turns[3].agent_response.as_deref());
    assert_eq!((texts, turns[3].latency_s), ((Some("5"), Some("true")), Some(0.5)));
    assert_eq!((turns[3].intents.join(","), turns[4].intents.join(",")), ("a".to_owned(), "b,7".to_owned()));
    assert_eq!(
        (turns[3].entities.as_deref(), turns[4].entities.as_deref()),
        (Some(r#"{"x":1}"#), Some("\"x\""))
    );
    assert_eq!((&turns[4].user_input, turns[4].interrupted), (&None, None));
}

#[test]
fn numbers_are_left_out_everywhere_or_hashed() {
    let own = "+1 (555) 010-0123";
    let conversation = json!({
        "id": "CA1", "from_number": own, "to_number": "polyai", "handoff": true, "handoff_destination": "Team",
        "variant_name": "+15550100999", "tags": ["vip", "5550100"],
        "metrics": { "PHONE": [{ "timestamp": "t", "value": "555-010-0777" }], "5550100": "x", "CALL_ID": 5_550_100 },
        "state": {
            "phone_number": "5550100000", "callback": { "number": 5_550_100_000_i64, "numbers": [5_550_100] }, "big": 5_550_100,
            "uri": "sip:someone@example.com", "copy": "15550100123", "plain": 15_550_100_123_i64,
            "log": "dialled +15550100123, then +1 (555) 010-0123.", "+15550100777": 1, "trunk": "polyai",
            "at": "2026-06-03T13:18:06Z", "day": "2026-06-03", "id": "CA15550100123",
            "contact": { "homeTel1": 5_550_100 }, "FAX": 5_550_100, "client": 5_550_100, "hotels": [5_550_100],
        },
        "language": "+1 555 010 0123",
        "turns": [{ "user_input": "My number is +15550100123", "entities": [{ "phone": "+15550100777", "n": "two" }] }],
    });
    for mode in [NumberMode::Omit, NumberMode::Hash] {
        let numbers = numbers(mode);
        let hash = |number: &str| numbers.column(number);
        let or_null = |number: &str| json!(hash(number));
        let ConversationRows { call, turns } = rows_of(conversation.to_string(), ServedBy::V3, mode);
        assert_eq!(
            (call.from_number.clone(), call.to_number.clone()),
            (hash("+15550100123"), hash("polyai"))
        );
        assert_eq!(
            (call.variant.clone(), call.handoff_destination.as_deref()),
            (hash("+15550100999"), Some("Team"))
        );
        let tags: Vec<_> = ["vip".to_owned()].into_iter().chain(hash("5550100")).collect();
        assert_eq!(call.tags, tags);
        let in_text = hash("+15550100123").unwrap_or_else(|| "(number)".to_owned());
        let name = |number| hash(number).unwrap_or_else(|| "(number)".to_owned());
        let metrics = [
            ("5550100", Some("x".to_owned())),
            ("CALL_ID", Some("5550100".to_owned())),
            ("PHONE", hash("5550100777")),
        ];
        for (metric, value) in metrics {
            let metric = if metric == "5550100" { name(metric) } else { metric.to_owned() };
            assert!(call.metrics.contains(&(metric, value)), "{:?}", call.metrics);
        }
        let mut state = json!({
            "phone_number": or_null("5550100000"),
            "callback": { "number": or_null("5550100000"), "numbers": [or_null("5550100")] }, "big": 5_550_100,
            "uri": or_null("sip:someone@example.com"), "copy": or_null("+15550100123"), "plain": or_null("+15550100123"),
            "log": format!("dialled {in_text}, then {in_text}."), "trunk": or_null("polyai"),
            "at": "2026-06-03T13:18:06Z", "day": "2026-06-03", "id": format!("CA{in_text}"),
            "contact": { "homeTel1": or_null("5550100") }, "FAX": or_null("5550100"), "client": 5_550_100, "hotels": [5_550_100],
        });
        assert_eq!(call.language, hash("+15550100123"));
        state[name("+15550100777")] = json!(1);
        assert_eq!(rest(&call)["state"], state);
        assert_eq!(turns[0].user_input.as_deref(), Some("My number is +15550100123"));
        let entities: Value = serde_json::from_str(turns[0].entities.as_deref().unwrap()).unwrap();
        assert_eq!(entities, json!([{ "phone": or_null("+15550100777"), "n": "two" }]));
    }
    let plain = rows_of(conversation.to_string(), ServedBy::V3, NumberMode::Plain).call;
    assert_eq!((plain.from_number.as_deref(), plain.to_number.as_deref()), (Some(own), Some("polyai")));
    assert_eq!(rest(&plain)["state"], conversation["state"]);
}

#[test]
fn the_number_of_a_call_is_found_inside_texts() {
    let scrub = |own: &str, text: &str| {
        let json = json!({ "from_number": own }).to_string();
        let mut stored = stored(json.as_bytes(), ServedBy::V3);
        stored.manifest.warnings = vec![text.to_owned()];
        read_rows(&stored, json.as_bytes(), &numbers(NumberMode::Omit)).call.warnings.concat()
    };
    for (text, expected) in [
        ("at +44 20 7183 8750, twice: 442071838750", "at (number), twice: (number)"),
        ("of +44 (0)20 7183-8750.", "of (number)."),
        ("of 44 (0) 20/7183.8750", "of (number)"),
        ("to=%2B442071838750&x=1", "to=(number)&x=1"),
        ("to=%2b44%2020%207183+8750", "to=(number)"),
        ("x%20442071838750%20", "x%20(number)%20"),
        ("CA442071838750x", "CA(number)x"),
        ("dial 00442071838750!", "dial 00(number)!"),
        ("\u{202a}+44\u{a0}20\u{2011}7183 8750\u{202c} é", "\u{202a}(number)\u{202c} é"),
        ("n444420718387504", "n44(number)4"),
        ("44 207 183 875 and %4 ä%", "44 207 183 875 and %4 ä%"),
        ("44 a 2071838750", "44 a 2071838750"),
        ("100%442071838750, %+442071838750", "100%(number), %(number)"),
    ] {
        assert_eq!(scrub("+44 20 7183 8750", text), expected);
    }
    // A short number may be a part of another one.
    for (text, expected) in [
        ("0.15550100, 55501001", "0.15550100, 55501001"),
        ("x555-0100y", "x(number)y"),
        ("n-5550100-1", "n-(number)-1"),
        ("%205550100%20, ä5550100, 15550100", "%20(number)%20, ä(number), 15550100"),
    ] {
        assert_eq!(scrub("555-0100", text), expected);
    }
}

#[test]
fn names_the_recording_of_the_manifest() {
    let mut stored = stored(b"{}", ServedBy::V3);
    let fixture: Manifest =
        serde_json::from_str(include_str!("../../archive/fixtures/manifest.json")).unwrap();
    stored.manifest.objects = fixture.objects;
    stored.manifest.audio.status = AudioStatus::Ready;
    let call = read_rows(&stored, b"{}", &numbers(NumberMode::Omit)).call;
    assert_eq!((call.audio_status.as_str(), call.audio_seconds), ("ready", Some(90.5)));
    assert_eq!(call.audio_path, Some(format!("{}/audio.wav", stored.folder)));
}

#[test]
fn keeps_long_texts_and_cuts_huge_ones() {
    let texts = ["ä".repeat(1 << 20), "x".repeat(MAX_JSON_BYTES), "x".repeat(MAX_JSON_BYTES + 1)];
    let json = json!({ "turns": texts.each_ref().map(|text| json!({ "user_input": text })), "note": texts[2], "x": 1 });
    let ConversationRows { call, turns } = rows(&json);
    assert!(
        turns[0].user_input.as_ref() == Some(&texts[0]) && turns[1].user_input.as_ref() == Some(&texts[1])
    );
    assert!(turns[2].user_input.as_ref().is_some_and(|text| text.ends_with("xx… (cut)")));
    assert_eq!(rest(&call), json!({ "note": "(too large)", "x": 1 }));
}

#[test]
fn reads_documents_that_are_not_quite_json() {
    for json in [
        &b""[..],
        b"null",
        b"[]",
        b"\"text\"",
        b"<html>",
        b"{",
        b"}}}]]",
        b"\xff\xfe{\0",
        br#"{"turns":{"0":{}},"metrics":[],"polyScore":NaN,"shortSummary":7e999}"#,
        br#"{"turns":null,"turns":[{"user_input":"a"}],"turns":{}}"#,
    ] {
        let call = rows_of(json, ServedBy::V3, NumberMode::Omit).call;
        assert_eq!(
            (call.conversation_id.as_str(), call.score),
            ("CA1", None),
            "{}",
            String::from_utf8_lossy(json)
        );
    }
    let json = br#"{"turns":[{"user_input":"half \ud800 pair"},{"user_input":"a"},],"turns":null,"x":"\ud83d","y":Infinity"#;
    let ConversationRows { call, turns } = rows_of(json, ServedBy::V3, NumberMode::Omit);
    assert_eq!(turns.len(), 2);
    assert!(
        turns[0]
            .user_input
            .as_deref()
            .is_some_and(|text| text.starts_with("half ") && text.ends_with(" pair"))
    );
    assert_eq!(rest(&call)["y"], Value::Null);
    let deep = format!(
        r#"{{"x":{0}{1},"turns":[{0}{1},{{"user_input":"a"}}]}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let ConversationRows { call, turns } = rows_of(deep, ServedBy::V3, NumberMode::Omit);
    assert_eq!(turns[1].user_input.as_deref(), Some("a"));
    assert!(call.rest.is_some_and(|rest| rest.len() < 1000));
}

#[test]
fn memory_of_a_hostile_document_is_bounded() {
    for unit in ["{},", "1,"] {
        let json = format!(r#"{{"turns":[{}]}}"#, unit.repeat(60_000));
        assert_eq!(rows_of(json, ServedBy::V3, NumberMode::Omit).turns.len(), 50_000);
    }
    let members = (0..11_000).map(|i| format!("\"k{i}\":[[],[]],")).collect::<Vec<_>>().concat();
    let json = format!(
        r#"{{{members}"metrics":{{{members}}},"tags":[{}],"turns":[{{"intents":[1]}}]}}"#,
        "1,".repeat(11_000)
    );
    let ConversationRows { call, turns } = rows_of(json, ServedBy::V3, NumberMode::Omit);
    assert_eq!((call.metrics.len(), call.tags.len(), turns.len()), (10_000, 10_000, 1));
    let Value::Object(rest) = rest(&call) else { panic!("{:?}", call.rest) };
    assert_eq!(rest.len(), 10_000 + 2);
}

proptest! {
    #[test]
    fn reading_never_fails(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "'", "\\", "\\ud83d", "\\ude00", " ", "\u{feff}", "NaN", "-1.5", "1e999", "null",
                "true", "\"id\":", "\"turns\":[", "\"metrics\":{", "\"value\":", "\"timestamp\":", "\"user_input\":\"",
                "\"latency\":{\"perceived_latency\":", "\"entities\":[", "\"intents\":", "\"tags\":", "\"shortSummary\":{\"content\":",
                "\"from_number\":\"+15550100\"", "\"polyScore\":9", "\"user_input_datetime\":\"2026-06-03T13:18:06Z\"", "+15550100", "\u{fc}",
            ]),
            0..60,
        ),
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        mode in proptest::sample::select(vec![NumberMode::Omit, NumberMode::Hash, NumberMode::Plain]),
    ) {
        let mut json = format!("{{{}", pieces.concat()).into_bytes();
        json.extend(bytes);
        for part in [&json[..], &json[1..]] {
            let ConversationRows { call, turns } = rows_of(part, ServedBy::Data, mode);
            for json in call.rest.iter().chain(turns.iter().filter_map(|turn| turn.entities.as_ref())) {
                prop_assert!(serde_json::from_str::<Value>(json).is_ok(), "{}", json);
            }
            prop_assert!(turns.iter().zip(1..).all(|(turn, number)| turn.number == number));
            let texts = turns.iter().flat_map(|turn| [&turn.user_input, &turn.agent_response]);
            prop_assert!(texts.flatten().all(|text| !text.is_empty()));
        }
    }
}
