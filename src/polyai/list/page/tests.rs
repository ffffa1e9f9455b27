use super::*;
use crate::polyai::ConversationInfo;

fn page(json: &str) -> Page<ListedConversation> {
    let (page, result) = parse(json.as_bytes());
    assert!(result.is_ok(), "{json}: {result:?}");
    page
}

#[tokio::test]
async fn a_transfer_that_fails_keeps_its_error_and_what_was_read() {
    let error = ApiError::new(ErrorKind::Timeout, "api.example");
    let parts = [Ok(r#"{"conversations":[{"id":"CA1"},"#.into()), Err(error)];
    let ReadPage { page, error, .. } =
        read(Box::pin(futures_util::stream::iter(parts)), "api.example".to_owned()).await;
    assert_eq!((page.items.len(), error.unwrap().kind), (1, ErrorKind::Timeout));
}

#[test]
fn reads_the_shapes_of_both_apis() {
    let page = page(
        r#"{"conversations":[
                {"id":"CA1","environment":"live","turns":[{"a":[1,{"id":"no"}]}],"in_progress":false,
                 "started_at":"2026-06-03T13:18:06.37Z","total_duration":73,"state":null},
                {"conversationId":"CA2","clientEnv":"sandbox","inProgress":true,"createdAt":"2026-06-03T13:18:06.370000+00:00",
                 "finishedAt":null,"totalDuration":null,"shortSummary":{"id":"no"}},
                {"note":"no id"}],
                "cursor":"c2","next_offset":3,"count":9}"#,
    );
    assert_eq!((page.entries, page.unreadable), (3, 1));
    assert_eq!(
        page.next,
        NextPage { cursor: Next::At("c2".to_owned()), offset: Next::At(3), count: Some(9) }
    );
    let start = "2026-06-03T13:18:06.37Z".parse().unwrap();
    assert_eq!(
        page.items,
        [
            ListedConversation {
                id: "CA1".to_owned(),
                environment: Some("live".to_owned()),
                in_progress: false,
                started_at: Some(start),
                ended_at: Some("2026-06-03T13:19:19.37Z".parse().unwrap()),
            },
            ListedConversation {
                id: "CA2".to_owned(),
                environment: Some("sandbox".to_owned()),
                in_progress: true,
                started_at: Some(start),
                ended_at: None,
            },
        ]
    );
}

/// Otherwise a listed conversation would be looked up under another key than it is archived under.
#[test]
fn agrees_with_the_conversation_itself() {
    for body in [
        r#"{"id":"C","started_at":"2026-06-03T23:59:59","createdAt":"2026-06-04T00:00:01Z"}"#,
        r#"{"conversationId":"C","createdAt":"2026-06-04T00:00:01Z","startedAt":"2026-06-03T23:59:59.123456+00:00"}"#,
        r#"{"id":"C","startedAt":"soon","created_at":"2026-06-04T00:00:01Z","totalDuration":3.5}"#,
        r#"{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3.5,"clientEnv":"live"}"#,
        r#"{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3,"totalDuration":4,"inProgress":"true"}"#,
        r#"{"id":"C","started_at":"2026-06-04T00:00:01Z","total_duration":"NaN","duration":2}"#,
        r#"{"conversationId":"D","id":7,"started_at":7,"total_duration":-1,"environment":1}"#,
    ] {
        let page = page(&format!("{{\"conversations\":[{body}]}}"));
        let info = ConversationInfo::read(body.as_bytes()).unwrap();
        let listed = &page.items[0];
        assert_eq!(
            (Some(&listed.id), &listed.environment, listed.in_progress, listed.started_at),
            (info.id.as_ref(), &info.environment, info.in_progress, info.started_at),
            "{body}"
        );
        assert_eq!(listed.ended_at.or(listed.started_at), info.ended_at(), "{body}");
    }
    let body = r#"{"conversations":[{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3.5}]}"#;
    let ended_at = page(body).items[0].ended_at.unwrap();
    assert_eq!(ended_at.to_string(), "2026-06-04T00:00:04.5Z");
}

#[test]
fn rejects_an_answer_that_is_not_a_list() {
    for body in [
        "",
        "[]",
        "null",
        "<html>{\"conversations\":[]}</html>",
        r#"{"conversations":7}"#,
        r#"{"conversations":"none"}"#,
        r#"{"conversations":{"id":"C"}}"#,
        r#"{"message":"try again"}"#,
        r#"{"success":false,"error_code":"X","data":null}"#,
    ] {
        assert!(matches!(parse(body.as_bytes()).1, Err(PageError::NotAPage)), "{body}");
    }
}

#[test]
fn accepts_an_empty_page_in_every_form() {
    for body in [
        r#"{"conversations":[],"cursor":null}"#,
        r#"{"conversations":null,"cursor":null}"#,
        r#"{"conversations":{}}"#,
        r#"{"cursor":""}"#,
        r#"{"count":0,"limit":200,"offset":0}"#,
        "{}",
        "\u{feff}{ }",
    ] {
        let page = page(body);
        assert_eq!((page.items.len(), page.unreadable, page.is_damaged), (0, 0, false), "{body}");
        assert_eq!(page.next.cursor, Next::None, "{body}");
    }
    assert_eq!(page(r#"{"conversations":null,"cursor":"c"}"#).next.cursor, Next::At("c".to_owned()));
}

#[test]
fn reads_positions_of_any_type() {
    let next = |json: &str| {
        let page = page(&format!("{{\"conversations\":[],{json}}}"));
        (page.next.cursor, page.next.offset)
    };
    assert_eq!(next(r#""next_offset":"200""#).1, Next::At(200));
    assert_eq!(next(r#""next_offset":200.0"#).1, Next::At(200));
    assert_eq!(next(r#""next_offset":null"#).1, Next::None);
    for unreadable in ["-1", "\"soon\"", "{}", "NaN", "1e99"] {
        assert_eq!(next(&format!("\"next_offset\":{unreadable}")).1, Next::Unreadable, "{unreadable}");
    }
    assert_eq!(next(r#""cursor":12345678901234567890123"#).0, Next::At("12345678901234567890123".to_owned()));
    assert_eq!(next(r#""cursor":{"a":1}"#).0, Next::Unreadable);
    assert_eq!(next(&format!("\"cursor\":\"{}\"", "x".repeat(9 << 10))).0, Next::Unreadable);
}

#[test]
fn an_unreadable_entry_does_not_affect_the_others() {
    for (entry, unreadable) in [
        (r#"{"id":"X","metrics":{"m":[{"value":NaN}]},"total_duration":Infinity}"#, 0),
        (r#"{"id":"X",}"#, 0),
        (r#"{"id":12345678901234567890123456789,"note":"\ud800"}"#, 0),
        (r#"{"id":"X","note":"he said "no" twice"}"#, 0),
        ("{}", 1),
        ("null", 1),
        ("7", 1),
        ("\"text\"", 1),
        ("[1,[2]]", 1),
        ("<b>", 1),
        (r#"{"id":null}"#, 1),
        (r#"{"id":{"a":[]}}"#, 1),
        (r#"{"id":"half \ud800"}"#, 1),
        (r#"{"id":"X","turns":[}"#, 1),
        (r#"{"id":"X","turns":{"a":{"b":1}}"#, 1),
        (r#"{"id":"X"}}"#, 0),
        ("{broken}", 1),
    ] {
        let all = page(&format!(r#"{{"conversations":[{{"id":"C1"}},{entry},{{"id":"C3"}}],"cursor":"c"}}"#));
        let ids: Vec<_> = all.items.iter().map(|item| &*item.id).collect();
        assert!(ids.contains(&"C1") && ids.contains(&"C3"), "{entry}: {ids:?}");
        assert_eq!(all.unreadable, unreadable, "{entry}");
        assert!(unreadable == 0 || all.unreadable_positions == [2], "{entry}");
        assert_eq!(all.next.cursor, Next::At("c".to_owned()), "{entry}");
    }
}

#[test]
fn keeps_what_was_read_before_the_page_broke() {
    let (page, result) = parse(&br#"{"cursor":"c","conversations":[{"id":"C1"},{"id":"C2"},{"id":"#[..]);
    assert!(matches!(result, Err(PageError::NotAPage)), "{result:?}");
    assert_eq!(page.items.len(), 2);
    assert_eq!(page.next.cursor, Next::At("c".to_owned()));
}

#[test]
fn says_that_entries_may_be_missing() {
    assert!(page(r#"{"conversations":[{"id":"C1"}]],"cursor":null}"#).is_damaged);
    assert!(page(r#"{"conversations":[{"id":"C1"},"cursor":null}"#).is_damaged);
    assert!(!page(r#"{"conversations":[{"id":"C1",},],} and junk"#).is_damaged);
}

#[test]
fn reads_pages_that_follow_each_other() {
    let both =
        page(r#"{"conversations":[{"id":"C1"}],"cursor":"a"} {"conversations":[{"id":"C2"}],"cursor":"b"}"#);
    assert_eq!((both.items.len(), both.next.cursor), (2, Next::At("b".to_owned())));
}

#[test]
fn skips_deep_and_long_values() {
    let deep = format!("{}{}", "[".repeat(300_000), "]".repeat(300_000));
    let long = "x".repeat(3 << 20);
    let body = format!(r#"{{"conversations":[{{"id":"C","turns":{deep},"note":"{long}"}}]}}"#);
    assert_eq!(page(&body).items.len(), 1);
}

/// Returns the bytes of the entry with the id `CA2`.
async fn found(json: &'static str, max_bytes: usize) -> (Option<Bytes>, Option<ErrorKind>) {
    // Pieces that split every token.
    let parts: Vec<_> = json.as_bytes().chunks(3).map(|part| Ok(Bytes::from_static(part))).collect();
    let body = Box::pin(futures_util::stream::iter(parts));
    let read = find(body, "api.example".to_owned(), "CA2".to_owned(), max_bytes).await;
    (read.found, read.error.map(|error| error.kind))
}

#[tokio::test]
async fn keeps_the_bytes_of_one_entry() {
    let entry = r#"{ "turns":[{"id":"CA1","latency":NaN}], "id" : "CA2","x":"\u00e4\"}]" }"#;
    for page in [
        r#"{"conversations":[{"id":"CA1","x":"CA2"} , { "turns":[{"id":"CA1","latency":NaN}], "id" : "CA2","x":"\u00e4\"}]" },{"id":"CA3"}],"cursor":null}"#,
        r#"{"cursor":"c","conversations":[{ "turns":[{"id":"CA1","latency":NaN}], "id" : "CA2","x":"\u00e4\"}]" }]}"#,
    ] {
        assert_eq!(found(page, 1000).await, (Some(Bytes::from(entry)), None));
        assert_eq!(found(page, entry.len() - 1).await, (None, Some(ErrorKind::TooLarge)));
    }
    let cut_off = r#"{"conversations":[{"id":"CA2"},{"id":"CA"#;
    assert_eq!(
        found(cut_off, 1000).await,
        (Some(Bytes::from(r#"{"id":"CA2"}"#)), Some(ErrorKind::BadAnswer))
    );
    let elsewhere = r#"{"conversations":[{"id":"CA1","turns":[{"id":"CA2"}]},{"conversationId":"CA22"}]}"#;
    assert_eq!(found(elsewhere, 1000).await, (None, None));
}
