//! The page, and what it says about conversations that are odd, hostile or gone.

use serde_json::{Value, json};

use super::fixture::{TestConsole, wav};
use crate::console::ConsoleConfig;

/// Returns a conversation as the Data API serves it.
fn data_api() -> Value {
    json!({
        "conversationId": "CA1", "fromNumber": "+15550100123", "toNumber": "+15550100456", "variantId": "Evening",
        "polyScore": 4, "tags": ["billing"], "shortSummary": { "heading": "Late parcel", "content": "Call +1 555-010-0123." },
        "metrics": { "CSAT": [{ "timestamp": "2026-11-30T10:00:00", "value": "5" }] },
        "functionEvents": { "2": [{ "name": "find_parcel", "duration": 1500, "error": "no <parcel>" }] },
        "turns": [
            { "user_input": "", "agent_response": "Hello.", "agent_response_datetime": "2026-11-30T00:53:21Z" },
            {
                "user_input": "Wo ist mein Paket?", "translated_user_input": "Where is my parcel? I am 555 010 0999.",
                "user_input_datetime": "2026-11-30T00:53:30Z", "agent_response": "Let me see.",
                "agent_response_datetime": "2026-11-30T00:53:33Z", "barge_in": true, "is_ood": true,
                "latency": { "perceived_latency": 3.04 },
            },
            { "user_input": "", "is_silence": true, "user_input_datetime": "2026-11-30T00:53:40Z" },
        ],
    })
}

/// Returns the same conversation as v3 serves it.
fn v3() -> Value {
    let mut conversation = data_api();
    conversation["turns"][1]["latency"] = 3.04.into();
    for (old, new) in
        [("fromNumber", "from_number"), ("variantId", "variant_name"), ("polyScore", "poly_score")]
    {
        let value = conversation.as_object_mut().unwrap().remove(old).unwrap();
        conversation[new] = value;
    }
    conversation
}

#[tokio::test]
async fn shows_what_is_known_of_a_conversation_in_both_shapes() {
    let console = TestConsole::open(ConsoleConfig::default());
    for conversation in [data_api(), v3()] {
        console.archive("CA1", &conversation, &[("user", wav(&[1])), ("agent", wav(&[2]))]);
        let page = console.get("/conversations/CA1").await;
        assert_eq!(page.status, 200);
        page.assert_has(&[
            "VOICE-SIP",
            "live",
            "inbound",
            "Billing team",
            "Evening",
            "Late parcel",
            "billing",
            "CSAT",
            ">Hello.<",
            "Where is my parcel? I am ",
            "interrupted the agent",
            ">silence<",
            "out of domain",
            "latency 3.0 s",
            "data-at=\"13.000\"",
            "find_parcel",
            "1.5 s",
            "no &lt;parcel&gt;",
            "/conversations/CA1/audio/user?account=acme&amp;project=desk&amp;date=2026-11-30",
            "/conversations/CA1/waveform/agent?",
            "conversation.ready.live",
            "polyhook show CA1",
            "not verified",
        ]);
        let page = page.text();
        for number in ["5550100123", "5550100456", "555-010-0123", "555 010 0999"] {
            assert!(!page.contains(number), "{number} in {page}");
        }
        assert!(!page.contains("style=") && !page.contains("<script>") && !page.contains("onclick"));
    }
    let console = TestConsole::open(ConsoleConfig { show_numbers: true, ..ConsoleConfig::default() });
    console.archive("CA1", &data_api(), &[]);
    console.get("/conversations/CA1").await.assert_has(&["+15550100123", "+15550100456"]);
}

#[tokio::test]
async fn a_hostile_transcript_is_harmless() {
    let console = TestConsole::open(ConsoleConfig::default());
    let long = format!("{}END", "<i>ä</i> ".repeat(100_000));
    let turns = json!([
        { "user_input": "<script>alert(1)</script>", "agent_response": "\u{202e}gpj.exe\u{0}\u{1b}[31m</li></ol>" },
        { "user_input": long, "translated_user_input": "\"><img src=x onerror=alert(1)>" },
    ]);
    let id = "<b>\u{202e}'\"&";
    console.archive(
        id,
        &json!({ "turns": turns, "tags": ["<script>"], "variant_name": "</dd><script>" }),
        &[],
    );
    let url = "/conversations/%3Cb%3E%E2%80%AE%27%22%26";
    let page = console.get(url).await;
    assert_eq!(page.status, 200);
    page.assert_has(&["&lt;script&gt;alert(1)", "polyhook fetch ", "All of it ("]);
    let text = page.text();
    assert!(text.len() < 100_000, "{}", text.len());
    for hostile in ["<script>", "<img", "<b>", "<i>", "\u{202e}", "\0", "\u{1b}", "END"] {
        assert!(!text.contains(hostile), "{hostile:?}");
    }
    let whole = console.get(&format!("{url}/turns/2")).await;
    assert_eq!(whole.header("content-type"), "text/plain; charset=utf-8");
    assert!(whole.text().contains(&long));
    assert_eq!(console.get(&format!("{url}/turns/3")).await.status, 404);
}

#[tokio::test]
async fn a_long_conversation_is_shown_in_pages() {
    let console = TestConsole::open(ConsoleConfig::default());
    let turns: Vec<Value> =
        (1..=50_000).map(|turn| json!({ "user_input": format!("word {turn}.") })).collect();
    console.archive("CA1", &json!({ "turns": turns }), &[]);
    let first = console.get("/conversations/CA1").await;
    first.assert_has(&["word 1.", "word 500.", "Turns 1 to 500 of 50000", "Later turns"]);
    assert!(!first.text().contains("word 501.") && first.body.len() < 1 << 20);
    let last = console.get("/conversations/CA1?turn=49990").await;
    last.assert_has(&["word 49990.", "word 50000.", "Earlier turns"]);
    assert!(!last.text().contains("Later turns"));
}

#[tokio::test]
async fn an_erased_conversation_vanishes() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &data_api(), &[("user", wav(&[1]))]);
    let csrf = console.get("/conversations/CA1").await.csrf();
    assert_eq!(console.get("/conversations/CA1/waveform/user").await.status, 200);
    // The record comes first; the objects are still there.
    let started = console.archive.begin_erasure("acme", "desk", "CA1", None).await.unwrap();
    let paths = ["", "/audio/user", "/waveform/user", "/conversation.json", "/manifest.json", "/turns/1"];
    for is_finished in [false, true] {
        for path in paths {
            let gone = console.get(&format!("/conversations/CA1{path}?account=acme&project=desk")).await;
            assert_eq!(gone.status, 404, "{path} {is_finished}");
            let text = gone.text();
            assert!(!text.contains("parcel") && !text.contains("acme"), "{text}");
        }
        assert_eq!(console.post("/conversations/CA1/verify", &csrf).await.status, 404);
        if !is_finished {
            assert!(console.folder_of("CA1").exists());
        }
        if is_finished {
            break;
        }
    }
    console.archive.finish_erasure(started).await.unwrap();
    for path in paths {
        assert_eq!(console.get(&format!("/conversations/CA1{path}")).await.status, 404, "{path}");
    }
    let never = console.get("/conversations/CA7").await;
    assert_eq!(never.status, 404);
    never.assert_has(&[
        "<code>polyhook fetch CA7</code>",
        "<code>polyhook show CA7</code>",
        "In the queue",
        "data-part-src=\"/conversations/CA7/messages?fragment\"",
    ]);
    for id in ["CA1", "CA7"] {
        let messages = console.get(&format!("/conversations/{id}/messages?fragment")).await;
        assert_eq!(messages.text(), "<p>No message of this conversation is in the queue.</p>");
    }
}

#[tokio::test]
async fn finds_a_conversation_whose_address_is_out_of_date() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &data_api(), &[]);
    for query in [
        "",
        "?account=acme",
        "?project=desk&date=2026-11-30",
        "?date=1999-01-01",
        "?date=x",
        "?account=&turn=7",
    ] {
        assert_eq!(console.get(&format!("/conversations/CA1{query}")).await.status, 200, "{query}");
    }
}

#[tokio::test]
async fn says_in_words_why_there_is_no_sound() {
    let console = TestConsole::open(ConsoleConfig::default());
    for (status, words) in [
        ("absent", "PolyAI had no recording within the permitted time"),
        ("failed", "A recording could not be archived"),
        ("not_applicable", "this channel has no sound"),
        ("disabled", "worker.audio"),
        ("ready", "The manifest names no recording"),
    ] {
        console.archive_with("CA1", b"{}", &[], status, &["audio_failed: <b>why</b>"]);
        let page = console.get("/conversations/CA1").await;
        page.assert_has(&[words, "audio_failed: &lt;b&gt;why"]);
        assert!(!page.text().contains("<audio"), "{status}");
    }
    console.archive("CA1", &json!({}), &[("user", wav(&[1])), ("agent", wav(&[2]))]);
    std::fs::remove_file(console.folder_of("CA1").join("audio.user.wav")).unwrap();
    std::fs::write(console.folder_of("CA1").join("audio.agent.wav"), "").unwrap();
    console.get("/conversations/CA1").await.assert_has(&[
        "audio.user.wav is missing in the archive",
        "audio.agent.wav is not what the manifest names",
    ]);
}

#[tokio::test]
async fn a_damaged_archive_leaves_the_rest_of_the_page() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &data_api(), &[("user", wav(&[1]))]);
    let folder = console.folder_of("CA1");
    std::fs::write(folder.join("conversation.json"), b"\xff{\"turns\":[{\"user_input\":\"cut o").unwrap();
    console.get("/conversations/CA1").await.assert_has(&["VOICE-SIP", "<audio"]);
    std::fs::remove_file(folder.join("conversation.json")).unwrap();
    console.get("/conversations/CA1").await.assert_has(&[
        "the archive has no conversation.json",
        "VOICE-SIP",
        "<audio",
    ]);
    std::fs::write(folder.join("manifest.json"), "{").unwrap();
    let unreadable = console.get("/conversations/CA1").await;
    assert_eq!(unreadable.status, 500);
    unreadable.assert_has(&["cannot be read as a manifest"]);
}

#[tokio::test]
async fn a_huge_conversation_is_not_read() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &data_api(), &[]);
    let file = console.folder_of("CA1").join("conversation.json");
    // The file has a hole, so it takes no space.
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len((32 << 20) + 1).unwrap();
    console.get("/conversations/CA1").await.assert_has(&["The transcript is not shown", "Download it below"]);
}

/// The text would stay in memory for each client that takes it slowly.
#[tokio::test]
async fn the_answer_with_a_huge_turn_is_limited() {
    let console = TestConsole::open(ConsoleConfig::default());
    let text = "ä".repeat(2 << 20);
    console.archive("CA1", &json!({ "turns": [{ "user_input": text, "agent_response": "" }] }), &[]);
    let turn = console.get("/conversations/CA1/turns/1").await;
    assert_eq!(turn.status, 200);
    assert!(turn.body.len() < (1 << 20) + 200, "{}", turn.body.len());
    turn.assert_has(&["Caller:\nää", "Download conversation.json to read the rest."]);
}
