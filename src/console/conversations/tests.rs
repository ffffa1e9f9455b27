//! What the page shows.

use jiff::Timestamp;

use super::*;
use crate::console::{config::ConsoleConfig, fixture::TestConsole};
use crate::index::{SearchProject, UnindexedDays, UnreadableDay};

fn call() -> FoundCall {
    let project = SearchProject { account_id: "acme uk".to_owned(), project_id: "desk/1".to_owned() };
    FoundCall {
        project: Arc::new(project),
        conversation_id: "CA/1?\u{202e}".to_owned(),
        date: Date::constant(2026, 11, 22),
        started_at: "2026-11-22T10:00:00Z".parse::<Timestamp>().unwrap(),
        duration_s: Some(245.9),
        environment: Some("live".to_owned()),
        channel: Some("VOICE-SIP".to_owned()),
        direction: None,
        turns: 4,
        handoff: true,
        handoff_reason: Some("<b>refund</b>".to_owned()),
        summary_heading: Some("<script>alert(1)</script>".to_owned()),
        from_number: Some("+15550100123".to_owned()),
        audio: "not_applicable".to_owned(),
        in_progress: false,
        hit: None,
    }
}

fn page(calls: Vec<FoundCall>) -> SearchPage {
    SearchPage {
        calls,
        next: None,
        end: SearchEnd::Complete,
        unreadable: Vec::new(),
        unindexed: UnindexedDays::default(),
        has_index: true,
        projects: Vec::new(),
    }
}

fn render_with(page: &SearchPage, query: &str, show_numbers: bool) -> String {
    let axum::extract::Query(query) =
        axum::extract::Query::try_from_uri(&format!("/?{query}").parse().unwrap()).unwrap();
    let query: ListQuery = query;
    let mask = TextMask { show_numbers };
    let filter = query.filter(Timestamp::UNIX_EPOCH, mask).unwrap();
    let command = command::list(&filter, shown_days(&page.calls), Date::constant(2026, 11, 30));
    let view = View { query: &query, filter: &filter, page, command, is_index_enabled: true, mask };
    view.render().into_string()
}

fn render(page: &SearchPage, query: &str) -> String {
    render_with(page, query, false)
}

#[test]
fn a_row_links_to_the_folder_of_its_conversation() {
    let html = render(&page(vec![call()]), "");
    let folder = "?account=acme%20uk&amp;project=desk%2F1&amp;date=2026-11-22";
    for (below, parameter) in [("", ""), ("/conversation.json", "&amp;download")] {
        let link = format!("href=\"/conversations/CA%2F1%3F%E2%80%AE{below}{folder}{parameter}\"");
        assert!(html.contains(&link), "{link}: {html}");
    }
    assert!(html.contains(">4:05<") && html.contains("not applicable"), "{html}");
    assert!(html.contains("list --date 2026-11-22<"), "{html}");
}

#[test]
fn texts_of_callers_are_harmless() {
    let excerpt = Excerpt {
        before: "<script>".to_owned(),
        hit: "\u{202e}refund".to_owned(),
        after: "</bdi><img src=x>".to_owned(),
    };
    let hit = Some(TextHit { turn: 3, speaker: Speaker::Agent, is_translation: true, excerpt });
    let html = render(&page(vec![FoundCall { hit, ..call() }]), "text=refund&id=%22%3E%3Cscript%3E");
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>"), "{html}");
    // U+202E reorders nothing outside of its element.
    assert!(
        html.contains("<bdi dir=\"auto\">&lt;script&gt;<mark>\u{202e}refund</mark>&lt;/bdi&gt;"),
        "{html}"
    );
    assert!(html.contains("turn 3, agent (translated): "), "{html}");
    assert!(html.contains("<bdi>CA/1?\u{202e}</bdi>"), "{html}");
    assert!(html.contains("date=2026-11-22#turn-3-agent\""), "the hit is shown on the next page: {html}");
    assert!(html.contains("It does not search in transcripts."), "{html}");
    let long = "x".repeat(1 << 20);
    let call = FoundCall {
        conversation_id: long.clone(),
        summary_heading: Some(long.clone()),
        handoff_reason: Some(long.clone()),
        channel: Some(long),
        ..call()
    };
    // The whole id is in its two links alone.
    assert!(render(&page(vec![call]), "").len() < (2 << 20) + 20_000);
}

#[test]
fn numbers_are_masked_unless_they_may_be_shown() {
    let number = || Some("+15550100123".to_owned());
    let (heading, reason) = (format!("{}5550100124", "z".repeat(394)), number());
    let call = FoundCall {
        channel: number(),
        environment: number(),
        direction: number(),
        handoff_reason: reason,
        ..self::call()
    };
    let page = page(vec![FoundCall { summary_heading: Some(heading), ..call }]);
    let html = render(&page, "");
    assert!(!html.contains("55501") && html.contains("••23") && html.contains("z••••••…"), "{html}");
    let html = render_with(&page, "", true);
    assert!(html.contains("+15550100123") && html.contains("z555010…"), "{html}");
    let hash = FoundCall { from_number: Some("ab".repeat(32)), ..self::call() };
    assert!(
        !render_with(&self::page(vec![hash]), "", true).contains("abab"),
        "a hash says nothing to a person"
    );
}

#[test]
fn an_empty_page_says_what_to_do() {
    let empty = || page(Vec::new());
    let day = Some(Date::constant(2026, 11, 1));
    let lacking = UnindexedDays { count: 2, first: day, last: day };
    for (page, query, expected) in [
        (SearchPage { has_index: false, ..empty() }, "", "The archive has no conversations yet."),
        (SearchPage { has_index: false, unindexed: lacking, ..empty() }, "", "polyhook index build"),
        (empty(), "text=refund", "No conversation matches the search."),
        (empty(), "after=x", "There are no more conversations."),
        (
            SearchPage {
                end: SearchEnd::OutOfTime { date: Date::constant(2026, 11, 21), percent: 40 },
                next: Some("abc".to_owned()),
                ..empty()
            },
            "text=refund",
            "Search further back",
        ),
    ] {
        let html = render(&page, query);
        assert!(html.contains(expected), "{expected}: {html}");
    }
    let query = ListQuery::default();
    let view = View {
        query: &query,
        filter: &CallFilter::default(),
        page: &empty(),
        command: None,
        is_index_enabled: false,
        mask: TextMask { show_numbers: false },
    };
    assert!(view.render().into_string().contains("index.enabled = false"));
}

#[test]
fn says_how_far_a_search_came_and_what_could_not_be_read() {
    let unreadable = (1..=8).map(|day| UnreadableDay {
        project: Arc::clone(&call().project),
        date: Date::constant(2026, 11, day),
        reason: "the file is damaged; `polyhook index build` replaces it".to_owned(),
    });
    let page = SearchPage {
        end: SearchEnd::OutOfTime { date: Date::constant(2026, 11, 21), percent: 40 },
        next: Some("abc".to_owned()),
        unreadable: unreadable.collect(),
        unindexed: UnindexedDays { count: 1, first: Some(Date::constant(2026, 11, 2)), last: None },
        ..page(vec![call()])
    };
    let html = render(&page, "text=a+refund&from=2026-11-01");
    assert!(html.contains("it stopped at 2026-11-21, of which 40 % was searched"), "{html}");
    assert!(
        html.contains("href=\"/conversations?text=a+refund&amp;from=2026-11-01&amp;after=abc\""),
        "{html}"
    );
    assert!(
        html.contains("2026-11-05") && !html.contains("2026-11-06") && html.contains("and 3 more"),
        "{html}"
    );
    assert!(html.contains("The index does not have 2026-11-02 yet."), "{html}");
}

#[tokio::test]
async fn the_address_of_a_search_has_no_empty_fields() {
    let console = TestConsole::open(ConsoleConfig::default());
    for (sent, short) in [
        ("/conversations?text=a+booking&from=&to=&project=&after=", "/conversations?text=a+booking"),
        ("/conversations?text=&from=", "/conversations"),
        ("/dead?reason=timeout&project=&older_than=&page=2", "/dead?reason=timeout&page=2"),
        ("/dead?reason=&project=", "/dead"),
    ] {
        let answer = console.get(sent).await;
        assert_eq!((answer.status, answer.header("location")), (303, short), "{sent}");
        assert_eq!(console.get(short).await.status, 200, "{short}");
    }
    let wrong = console.get("/conversations?audio=zzz").await;
    assert!(wrong.body.contains("Recording: choose one of ready, absent"), "{}", wrong.body);
}
