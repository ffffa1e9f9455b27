//! Searches in small tables in a folder.

use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::{
    archive::{Archive, ArchiveConfig, ProjectDay},
    clock::Clock,
    index::{
        CallRow, IndexConfig, TurnRow,
        files::{calls_key, turns_key},
        table::{calls_in_groups, turns_in_groups},
    },
};

/// Calls with their turns, by project and date.
type Days = BTreeMap<(usize, i8), Vec<(CallRow, Vec<TurnRow>)>>;

struct Fixture {
    index: Index,
    folder: TempDir,
}

impl Fixture {
    fn new(limits: SearchLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config =
            ArchiveConfig { url: format!("file:{}", folder.path().display()), ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        let mut index = Index::open(&IndexConfig::default(), archive, Clock::System).unwrap();
        index.search.limits = limits;
        Self { index, folder }
    }

    fn path(&self, key: String) -> PathBuf {
        self.folder.path().join(key)
    }

    fn write(&self, key: String, file: &Bytes) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }

    fn write_day(&self, place: (usize, i8), calls: &[(CallRow, Vec<TurnRow>)], group_rows: usize) {
        let (calls, turns): (Vec<_>, Vec<_>) = calls.iter().cloned().unzip();
        self.write(calls_key(&day(place)), &calls_in_groups(&calls, group_rows));
        self.write(turns_key(&day(place)), &turns_in_groups(&turns.concat(), group_rows));
    }

    async fn page(&self, filter: &CallFilter, cursor: Option<&str>) -> SearchPage {
        self.index.search(Arc::new(filter.clone()), cursor).await.unwrap()
    }

    /// Returns all pages.
    async fn pages(&self, filter: &CallFilter) -> Vec<SearchPage> {
        let mut pages = vec![self.page(filter, None).await];
        while let Some(cursor) = pages.last().unwrap().next.clone() {
            assert!(pages.len() < 500, "the search does not end");
            pages.push(self.page(filter, Some(&cursor)).await);
        }
        pages
    }

    async fn ids(&self, filter: &CallFilter) -> Vec<String> {
        let pages = self.pages(filter).await;
        pages.into_iter().flat_map(|page| page.calls).map(|call| call.conversation_id).collect()
    }
}

const ALL: SearchLimits = SearchLimits { calls: 1000, budget: Duration::from_mins(1) };

fn project(number: usize) -> SearchProject {
    SearchProject { account_id: format!("acme/{}", number % 2), project_id: format!("desk {number}") }
}

fn date(day: i8) -> Date {
    Date::constant(2026, 11, day)
}

fn day((number, day): (usize, i8)) -> ProjectDay {
    let SearchProject { account_id, project_id } = project(number);
    ProjectDay::new(&account_id, &project_id, date(day))
}

fn at(day: i8, second: i64) -> Timestamp {
    let midnight = date(day).at(0, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    midnight + jiff::SignedDuration::from_secs(second)
}

fn call(id: &str, started_at: Timestamp) -> CallRow {
    CallRow {
        conversation_id: id.to_owned(),
        started_at,
        audio_status: "ready".to_owned(),
        num_turns: 2,
        ..CallRow::default()
    }
}

fn turn(call: &CallRow, number: i32, user: &str, agent: &str) -> TurnRow {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    TurnRow {
        conversation_id: call.conversation_id.clone(),
        call_started_at: call.started_at,
        number,
        user_input: text(user),
        agent_response: text(agent),
        ..TurnRow::default()
    }
}

/// Returns a call at `second` of a day, with one turn.
fn spoken(id: &str, day: i8, second: i64, text: &str) -> (CallRow, Vec<TurnRow>) {
    let call = call(id, at(day, second));
    let turns = vec![turn(&call, 1, text, "")];
    (call, turns)
}

fn phrase(text: &str) -> CallFilter {
    CallFilter { text: Phrase::new(text), ..CallFilter::default() }
}

/// Returns random calls. Times, ids and words are few, so that many are equal.
fn random_days(random: &mut fastrand::Rng) -> Days {
    let word = |random: &mut fastrand::Rng, words: &[&str]| words[random.usize(..words.len())].to_owned();
    let mut days = Days::new();
    for number in 0..random.usize(0..40) {
        let place = (random.usize(..3), random.i8(1..5));
        let id = format!("{}{number}", word(random, &["CA", "CAb", "D"]));
        let mut call = call(&id, at(place.1, random.i64(0..5)));
        call.environment = random.bool().then(|| word(random, &["live", "LIVE", "sandbox"]));
        call.channel = random.bool().then(|| word(random, &["VOICE-SIP", "WEBCHAT"]));
        call.duration_s = random.bool().then(|| random.f64() * 100.0);
        call.handoff = random.bool();
        call.handoff_reason = random.bool().then(|| word(random, &["Refund wanted", "angry"]));
        call.audio_status = word(random, &["ready", "failed"]);
        let turns = (1..=random.i32(0..5)).map(|number| {
            let words = ["", "a refund", "REFUND", "Äpfel", "nothing"];
            turn(&call, number, &word(random, &words), &word(random, &words))
        });
        let turns = turns.collect();
        days.entry(place).or_default().push((call, turns));
    }
    days
}

fn random_filter(random: &mut fastrand::Rng) -> CallFilter {
    let mut filter = CallFilter::default();
    let mut rarely = || random.u8(..4) == 0;
    let fields: [bool; 10] = std::array::from_fn(|_| rarely());
    filter.first_date = fields[0].then(|| date(2));
    filter.last_date = fields[1].then(|| date(3));
    filter.project_id = fields[2].then(|| project(1).project_id);
    filter.environment = fields[3].then(|| "live".to_owned());
    filter.channel = fields[4].then(|| "webchat".to_owned());
    filter.audio = fields[5].then(|| "failed".to_owned());
    filter.handoff = fields[6].then(|| random.bool());
    filter.handoff_reason = fields[7].then(|| Phrase::new("refund").unwrap());
    filter.min_seconds = fields[8].then_some(20);
    filter.max_seconds = fields[9].then_some(70);
    filter.id_prefix = (random.u8(..4) == 0).then(|| "CA".to_owned());
    let texts = ["refund", "äpfel", "nowhere"];
    filter.text = random.bool().then(|| Phrase::new(texts[random.usize(..3)]).unwrap());
    filter
}

/// Filters all rows one by one.
fn expected(days: &Days, filter: &CallFilter) -> Vec<String> {
    let contains = |text: &Option<String>, phrase: &str| {
        text.as_ref().is_some_and(|text| text.to_lowercase().contains(phrase))
    };
    let mut found = Vec::new();
    for ((number, day), calls) in days {
        for (call, turns) in calls {
            let project = project(*number);
            let is_word = |word: &Option<String>, value: Option<&str>| {
                word.as_ref().is_none_or(|word| value.is_some_and(|value| value.eq_ignore_ascii_case(word)))
            };
            let seconds = call.duration_s.map(f64::floor);
            let matches = filter.first_date.is_none_or(|first| first <= date(*day))
                && filter.last_date.is_none_or(|last| date(*day) <= last)
                && filter.project_id.as_ref().is_none_or(|id| *id == project.project_id)
                && is_word(&filter.environment, call.environment.as_deref())
                && is_word(&filter.channel, call.channel.as_deref())
                && is_word(&filter.audio, Some(&call.audio_status))
                && filter.handoff.is_none_or(|handoff| handoff == call.handoff)
                && filter.handoff_reason.as_ref().is_none_or(|_| contains(&call.handoff_reason, "refund"))
                && filter.min_seconds.is_none_or(|min| seconds.is_some_and(|s| s >= f64::from(min)))
                && filter.max_seconds.is_none_or(|max| seconds.is_some_and(|s| s <= f64::from(max)))
                && filter.id_prefix.as_ref().is_none_or(|prefix| call.conversation_id.starts_with(prefix))
                && filter.text.as_ref().is_none_or(|phrase| {
                    let has = |text| {
                        ["refund", "äpfel"].iter().any(|word| phrase.is_in(word) && contains(text, word))
                    };
                    turns.iter().any(|turn| has(&turn.user_input) || has(&turn.agent_response))
                });
            if matches {
                let order = (std::cmp::Reverse(*day), std::cmp::Reverse(call.started_at));
                found.push((order, call.conversation_id.clone(), project));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, id, _)| id).collect()
}

#[tokio::test]
async fn all_pages_together_have_each_matching_call_once() {
    for seed in 0..5 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut fixture = Fixture::new(ALL);
        let (days, group_rows) = (random_days(&mut random), random.usize(1..6));
        for (place, calls) in &days {
            fixture.write_day(*place, calls, group_rows);
        }
        for _ in 0..3 {
            let filter = random_filter(&mut random);
            let expected = expected(&days, &filter);
            for calls in [1, 3, 1000] {
                fixture.index.search.limits = SearchLimits { calls, ..ALL };
                assert_eq!(fixture.ids(&filter).await, expected, "seed {seed}, {calls} a page, {filter:?}");
                // Without time, each request searches one part, and calls of a day come in the order of the parts.
                fixture.index.search.limits = SearchLimits { calls, budget: Duration::ZERO };
                let mut found = fixture.ids(&filter).await;
                found.sort();
                let mut expected = expected.clone();
                expected.sort();
                assert_eq!(found, expected, "seed {seed}, {calls} a page without time, {filter:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_interrupted_search_returns_what_it_has_found_and_how_far_it_came() {
    let fixture = Fixture::new(SearchLimits { budget: Duration::ZERO, ..ALL });
    let texts = ["a refund", "nothing", "nothing", "Refund!"];
    let calls = texts.iter().zip(0..).map(|(text, n)| spoken(&format!("CA{n}"), 3, n, text));
    let calls: Vec<_> = calls.collect();
    fixture.write_day((0, 3), &calls, 1);
    fixture.write_day((0, 2), &calls, 1);
    let pages = fixture.pages(&phrase("refund")).await;
    let found: Vec<_> = pages.iter().map(|page| (page.calls.len(), page.end)).collect();
    let out = |day, percent| SearchEnd::OutOfTime { date: date(day), percent };
    assert_eq!(
        found[..5],
        [(1, out(3, 25)), (0, out(3, 50)), (0, out(3, 75)), (1, out(2, 0)), (1, out(2, 25))]
    );
    assert_eq!(found.last().unwrap(), &(1, SearchEnd::Complete));
}

#[tokio::test]
async fn a_hit_has_its_turn_its_speaker_and_an_excerpt() {
    let fixture = Fixture::new(ALL);
    let hostile = "<script>\u{202e}refund</script>";
    let call = call("CA<b>\u{202e}", at(3, 1));
    let turns = vec![
        turn(&call, 1, "hello", "hello"),
        turn(&call, 2, "no", hostile),
        turn(&call, 3, "Refund", "refund"),
    ];
    fixture.write_day((0, 3), &[(call, turns)], 8);
    let page = fixture.page(&phrase("REFUND"), None).await;
    let hit = page.calls[0].hit.clone().unwrap();
    assert_eq!((hit.turn, hit.speaker, hit.excerpt.hit.as_str()), (2, Speaker::Agent, "refund"));
    assert_eq!((hit.excerpt.before.as_str(), hit.excerpt.after.as_str()), ("<script>\u{202e}", "</script>"));
    assert_eq!((page.end, page.next), (SearchEnd::Complete, None));
}

#[tokio::test]
async fn a_hit_in_a_translation_is_marked() {
    let fixture = Fixture::new(ALL);
    let call = call("CA1", at(3, 1));
    let translated = |number, text: &str| TurnRow {
        translated_user_input: Some(text.to_owned()),
        ..turn(&call, number, "reserva, please", "")
    };
    let turns = vec![translated(1, "my booking"), translated(2, "please")];
    fixture.write_day((0, 3), &[(call, turns)], 8);
    for (text, expected) in [("booking", (1, true)), ("please", (1, false))] {
        let hit = fixture.page(&phrase(text), None).await.calls[0].hit.clone().unwrap();
        assert_eq!((hit.turn, hit.is_translation), expected, "{text}");
    }
}

#[tokio::test]
async fn a_damaged_or_missing_file_hides_nothing_else() {
    let fixture = Fixture::new(ALL);
    for place in [(0, 3), (1, 3), (0, 2), (0, 1)] {
        let id = format!("CA{}-{}", place.0, place.1);
        fixture.write_day(place, &[spoken(&id, place.1, 1, "a refund")], 8);
    }
    let unreadable = async |filter: &CallFilter| {
        let page = fixture.page(filter, None).await;
        page.unreadable
            .into_iter()
            .map(|day| (day.project.project_id.clone(), day.date, day.reason))
            .collect::<Vec<_>>()
    };
    let calls = fixture.path(calls_key(&day((0, 3))));
    let content = std::fs::read(&calls).unwrap();
    for damage in
        [Vec::new(), b"PAR1".to_vec(), vec![0xff; content.len()], content[..content.len() / 2].to_vec()]
    {
        std::fs::write(&calls, damage).unwrap();
        let found = unreadable(&CallFilter::default()).await;
        assert!(matches!(&found[..], [(id, day, _)] if id == "desk 0" && *day == date(3)), "{found:?}");
        assert!(found[0].2.contains("`polyhook index build`"), "{found:?}");
        for filter in [CallFilter::default(), phrase("refund")] {
            assert_eq!(fixture.ids(&filter).await, ["CA1-3", "CA0-2", "CA0-1"]);
        }
    }
    std::fs::remove_file(&calls).unwrap();
    std::fs::remove_file(fixture.path(turns_key(&day((0, 2))))).unwrap();
    let found = unreadable(&phrase("refund")).await;
    assert_eq!(found.iter().map(|(_, date, _)| *date).collect::<Vec<_>>(), [date(3), date(2)]);
    assert!(
        found.iter().all(|(.., reason)| reason.contains("is missing; `polyhook index build`")),
        "{found:?}"
    );
    assert_eq!(fixture.ids(&phrase("refund")).await, ["CA1-3", "CA0-1"]);
    assert_eq!(
        fixture.ids(&CallFilter::default()).await,
        ["CA1-3", "CA0-2", "CA0-1"],
        "a list needs no turns"
    );
}

#[tokio::test]
async fn a_small_file_that_stands_for_a_huge_one_is_damaged() {
    let fixture = Fixture::new(ALL);
    for (date, heading, id) in [(4, 130 << 20, "CA4"), (3, 1, &*"x".repeat(5000)), (2, 5000, "CA2")] {
        let call = CallRow { summary_heading: Some("a".repeat(heading)), ..call(id, at(date, 1)) };
        fixture.write_day((0, date), &[(call, Vec::new())], 8);
    }
    let page = fixture.page(&CallFilter::default(), None).await;
    let found: Vec<_> = page.calls.iter().map(|call| call.conversation_id.as_str()).collect();
    assert_eq!(found, ["CA2"]);
    assert_eq!(page.calls[0].summary_heading.as_ref().unwrap().len(), rows::MAX_TEXT_BYTES);
    assert_eq!(page.unreadable.len(), 2);
    assert!(page.unreadable.iter().all(|day| day.reason.contains("is damaged")), "{:?}", page.unreadable);
}

/// The checksum of a file is not checked, because it covers all of it.
#[tokio::test]
async fn a_changed_byte_never_stops_a_search() {
    let fixture = Fixture::new(ALL);
    let calls: Vec<_> = (0..6).map(|n| spoken(&format!("CA{n}"), 3, n, "a refund")).collect();
    fixture.write_day((0, 3), &calls, 3);
    fixture.write_day((0, 2), &[spoken("OK", 2, 1, "a refund")], 3);
    for key in [calls_key(&day((0, 3))), turns_key(&day((0, 3)))] {
        let path = fixture.path(key);
        let content = std::fs::read(&path).unwrap();
        for place in (0..content.len()).step_by(211) {
            let mut changed = content.clone();
            changed[place] ^= 1 << (place % 8);
            std::fs::write(&path, changed).unwrap();
            let page = fixture.page(&phrase("refund"), None).await;
            assert!(page.calls.iter().any(|call| call.conversation_id == "OK"), "byte {place}");
        }
        std::fs::write(&path, content).unwrap();
    }
}

#[tokio::test]
async fn erased_conversations_are_left_out_even_if_the_index_has_them() {
    let mut fixture = Fixture::new(ALL);
    fixture.write_day((0, 3), &[spoken("CA1", 3, 1, "a refund"), spoken("CA2", 3, 2, "a refund")], 8);
    let SearchProject { account_id, project_id } = project(0);
    let archive = fixture.index.archive.clone();
    archive.begin_erasure(&account_id, &project_id, "CA2", None).await.unwrap();
    for budget in [ALL.budget, Duration::ZERO] {
        fixture.index.search.limits.budget = budget;
        for filter in [CallFilter::default(), phrase("refund")] {
            assert_eq!(fixture.ids(&filter).await, ["CA1"]);
        }
    }
}

#[tokio::test]
async fn a_day_that_is_replaced_between_two_pages_loses_no_call() {
    let fixture = Fixture::new(SearchLimits { calls: 2, budget: Duration::ZERO });
    let mut calls: Vec<_> = (0..6).map(|n| spoken(&format!("CA{n}"), 3, n, "a refund")).collect();
    fixture.write_day((0, 3), &calls, 2);
    let first = fixture.page(&phrase("refund"), None).await;
    let second = fixture.page(&phrase("refund"), first.next.as_deref()).await;
    calls.reverse();
    calls.push(spoken("NEW", 3, 0, "a refund"));
    fixture.write_day((0, 3), &calls, 3);
    let mut pages = vec![first, second];
    while let Some(cursor) = pages.last().unwrap().next.clone() {
        pages.push(fixture.page(&phrase("refund"), Some(&cursor)).await);
    }
    let found: BTreeSet<_> =
        pages.iter().flat_map(|page| &page.calls).map(|call| call.conversation_id.as_str()).collect();
    assert_eq!(found, BTreeSet::from(["CA0", "CA1", "CA2", "CA3", "CA4", "CA5", "NEW"]));
}

#[tokio::test]
async fn says_if_there_is_no_index_and_which_days_it_lacks() {
    let fixture = Fixture::new(ALL);
    let page = fixture.page(&CallFilter::default(), None).await;
    assert!(!page.has_index && page.calls.is_empty() && page.next.is_none());
    for number in [1, 4] {
        std::fs::create_dir_all(fixture.path(day((0, number)).folder())).unwrap();
    }
    fixture.write_day((0, 4), &[spoken("CA1", 4, 1, "")], 8);
    fixture.write_day((2, 4), &[spoken("CA2", 4, 2, "")], 8);
    let page = fixture.page(&CallFilter::default(), None).await;
    assert!(page.has_index);
    assert_eq!(page.projects, [project(0), project(2)]);
    assert_eq!(page.unindexed, UnindexedDays { count: 1, first: Some(date(1)), last: Some(date(1)) });
    let other = CallFilter { project_id: Some("other".to_owned()), ..CallFilter::default() };
    let page = fixture.page(&other, None).await;
    assert!(page.has_index && page.calls.is_empty() && page.unindexed.count == 0);
}

#[tokio::test(start_paused = true)]
async fn a_search_does_not_wait_for_ever_for_others() {
    let fixture = Fixture::new(ALL);
    let SearchState { list_permits, text_permits, .. } = &fixture.index.search;
    let _lists = list_permits.acquire_many(u32::try_from(CONCURRENT_LISTS).unwrap()).await.unwrap();
    let result = fixture.index.search(Arc::default(), None).await;
    assert!(matches!(result, Err(SearchError::Busy)), "{result:?}");
    let _texts = text_permits.acquire_many(u32::try_from(CONCURRENT_TEXT_SEARCHES).unwrap()).await.unwrap();
    let result = fixture.index.search(Arc::new(phrase("refund")), None).await;
    assert!(matches!(result, Err(SearchError::Busy)), "{result:?}");
}

#[tokio::test]
async fn rejects_a_cursor_that_is_not_its_own() {
    let fixture = Fixture::new(ALL);
    for cursor in ["", "x", "%00", "e30", &"A".repeat(20_000)] {
        let result = fixture.index.search(Arc::default(), Some(cursor)).await;
        assert!(matches!(result, Err(SearchError::Cursor)), "{cursor}");
    }
}

#[tokio::test]
async fn statistics_spare_row_groups_and_days() {
    let fixture = Fixture::new(SearchLimits { calls: 2, ..ALL });
    let calls: Vec<_> = (0..8).map(|n| spoken(&format!("CA{n}"), 3, n, "a refund")).collect();
    fixture.write_day((0, 3), &calls, 2);
    fixture.write_day((0, 2), &calls, 2);
    // The first row group has the oldest calls, which are not on the first page.
    let path = fixture.path(calls_key(&day((0, 3))));
    let mut content = std::fs::read(&path).unwrap();
    content[4..400].fill(0xff);
    std::fs::write(&path, content).unwrap();
    let page = fixture.page(&CallFilter::default(), None).await;
    assert_eq!(
        page.calls.iter().map(|call| call.conversation_id.as_str()).collect::<Vec<_>>(),
        ["CA7", "CA6"]
    );
    assert_eq!(page.unreadable, []);
    let prefix = CallFilter { id_prefix: Some("CA6".to_owned()), ..CallFilter::default() };
    let page = fixture.page(&prefix, None).await;
    assert_eq!((page.calls.len(), page.unreadable.len()), (2, 0));
    assert_eq!(
        fixture
            .page(&CallFilter { id_prefix: Some("CA0".to_owned()), ..prefix }, None)
            .await
            .unreadable
            .len(),
        1
    );
}
