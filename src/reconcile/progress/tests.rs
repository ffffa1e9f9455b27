use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn at(text: &str) -> Timestamp {
    format!("2026-11-{text}Z").parse().unwrap()
}

fn config() -> ReconcileConfig {
    ReconcileConfig::default()
}

fn live() -> Vec<String> {
    vec!["live".to_owned()]
}

/// Returns the progress of a project of which it is known that calls are listed while they are in progress.
fn progress(filters_by_time: bool) -> ProjectProgress {
    ProjectProgress { reach_s: 0, ..ProjectProgress::new("acme", "desk", filters_by_time) }
}

fn failed(window: &Window, reason: &str, now: Timestamp) -> Window {
    window.failed(window.from..window.to, reason.to_owned(), now)
}

fn shown(progress: &ProjectProgress) -> Vec<String> {
    progress.windows.iter().map(ToString::to_string).collect()
}

/// Reads everything that is due, every minute.
fn read_all(
    progress: &mut ProjectProgress,
    from: Timestamp,
    minutes: i64,
    mut on_read: impl FnMut(Timestamp, &Window),
) {
    for minute in 0..minutes {
        let now = from + MINUTE * u32::try_from(minute).unwrap();
        progress.schedule(now, &config(), &live());
        for window in progress.take_untried() {
            on_read(now, &window);
        }
    }
}

#[test]
fn begins_with_the_lookback_and_continues_with_what_is_new() {
    let mut progress = progress(true);
    progress.schedule(at("02T10:00:00"), &config(), &live());
    assert_eq!(shown(&progress), ["2026-11-01 to 2026-11-02 (live), 10:00:00 to 10:00:00 UTC"]);
    progress.take_untried();
    progress.schedule(at("02T10:01:00"), &config(), &live());
    assert_eq!(shown(&progress), ["2026-11-02 (live), 09:59:30 to 10:01:00 UTC"]);
}

#[test]
fn every_call_is_listed_soon_and_at_growing_ages_but_few_times() {
    let start = at("02T00:00:00");
    let mut progress = progress(true);
    let calls: Vec<_> =
        (0..300).map(|n| start + Duration::from_secs(7) * n + Duration::from_hours(2)).collect();
    let mut ages_of: Vec<Vec<Duration>> = vec![Vec::new(); calls.len()];
    read_all(&mut progress, start, 34 * 60, |now, window| {
        for (call, ages) in calls.iter().zip(&mut ages_of) {
            if window.from <= *call && *call < window.to {
                ages.push(now.duration_since(*call).try_into().unwrap());
            }
        }
    });
    for ages in &ages_of {
        assert!(ages[0] <= MINUTE, "{ages:?}");
        assert!((5..=6).contains(&ages.len()), "{ages:?}");
        for (age, most) in [(10, 15), (60, 75), (6 * 60, 7 * 60 + 5), (24 * 60, 28 * 60 + 5)] {
            let (least, most) = (MINUTE * age, MINUTE * most);
            assert!(ages.iter().any(|found| (least..=most).contains(found)), "none at {least:?}: {ages:?}");
        }
    }
}

#[test]
fn a_list_without_a_filter_is_read_back_rarely() {
    let start = at("02T00:00:00");
    let mut progress = progress(false);
    // Each list begins with the newest call.
    let mut lists: Vec<Timestamp> = Vec::new();
    for minute in 0..5 * 24 * 60 {
        let now = start + MINUTE * minute;
        progress.schedule(now, &config(), &live());
        lists.extend(progress.take_untried().iter().map(|window| window.from).min());
    }
    let calls = 2 * 24 * 60..3 * 24 * 60;
    let listed: usize = calls
        .clone()
        .map(|minute| {
            let call = start + MINUTE * minute;
            lists
                .iter()
                .enumerate()
                .filter(|(n, from)| *n >= usize::try_from(minute).unwrap() && **from <= call)
                .count()
        })
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let average = listed as f64 / calls.len() as f64;
    assert!((4.0..=8.0).contains(&average), "{average}");
}

#[test]
fn an_outage_leaves_one_window() {
    let mut progress = progress(true);
    progress.schedule(at("02T10:00:00"), &config(), &live());
    progress.take_untried();
    for minute in 1..=59 {
        let now = at("02T10:00:00") + MINUTE * minute;
        progress.schedule(now, &config(), &live());
        let tried = progress.take_untried().into_iter().chain(progress.take_retries(now));
        let windows = tried.map(|window| failed(&window, "down", now)).collect();
        progress.add_failed(windows, false, now, MINUTE);
    }
    let left: Vec<_> = progress.failed_windows();
    let newest = left.iter().max_by_key(|window| window.to).unwrap();
    assert_eq!((newest.to, newest.from <= at("02T09:59:30")), (at("02T10:59:00"), true), "{left:?}");
    assert!(left.len() <= 3, "{left:?}");
    let failed = progress.windows.len();
    assert!(failed <= 3, "{:?}", shown(&progress));
    assert_eq!(progress.take_retries(at("02T10:59:00")).len(), failed, "all are tried in the next pass");
}

#[test]
fn a_window_that_keeps_failing_is_split_and_tried_less_often() {
    let mut progress = progress(true);
    let bad = at("02T09:17:20");
    let (mut now, mut tried) = (at("02T10:00:00"), 0);
    let first = Window { from: at("02T09:00:00"), to: now, environment: "live".to_owned(), failure: None };
    progress.add_failed(vec![failed(&first, "500", now)], true, now, MINUTE);
    assert_eq!(progress.take_retries(now).len(), 1, "the next pass tries it again");
    let first = Window { from: at("02T09:00:00"), to: now, environment: "live".to_owned(), failure: None };
    progress.add_failed(vec![failed(&first, "500", now)], true, now, MINUTE);
    for _ in 0..600 {
        now += MINUTE;
        let windows = progress.take_retries(now);
        tried += windows.len();
        let is_bad = |window: &Window| window.from <= bad && bad < window.to;
        let still = windows.into_iter().filter(is_bad).map(|window| failed(&window, "500", now));
        progress.add_failed(still.collect(), true, now, MINUTE);
    }
    let [left] = &progress.failed_windows()[..] else { panic!("{:?}", shown(&progress)) };
    assert!(left.length() <= MINUTE * 2 && left.from <= bad && bad < left.to, "{left}");
    assert!(tried < 40, "{tried}");
}

#[test]
fn starts_again_where_it_does_not_cover_the_configuration() {
    let now = at("02T10:00:00");
    let current = || {
        let mut progress = progress(true);
        progress.schedule(now, &config(), &live());
        progress.take_untried();
        progress
    };
    let oldest = |progress: &ProjectProgress, environment: &str| {
        let windows = progress.windows.iter().filter(|window| window.environment == environment);
        windows.map(|window| window.from).min()
    };
    let both = ["live".to_owned(), "sandbox".to_owned()];
    let mut wider = current();
    wider.schedule(now + MINUTE, &config(), &both);
    assert_eq!(oldest(&wider, "sandbox"), Some(now + MINUTE - Duration::from_hours(24)));
    let mut longer = current();
    longer.schedule(
        now + MINUTE,
        &ReconcileConfig { lookback: Duration::from_hours(48), ..config() },
        &live(),
    );
    assert_eq!(oldest(&longer, "live"), Some(now + MINUTE - Duration::from_hours(48)));
    let mut set_back = current();
    set_back.schedule(now - Duration::from_hours(5), &config(), &live());
    assert_eq!(oldest(&set_back, "live"), Some(now - Duration::from_hours(29)));
    // A pause is made up for, even if it was longer than the lookback.
    let mut paused = current();
    paused.schedule(now + Duration::from_hours(72), &config(), &live());
    assert!(oldest(&paused, "live") < Some(now));
    let mut narrower = current();
    narrower.schedule(now + MINUTE, &config(), &both[1..]);
    assert!(narrower.windows.iter().all(|window| window.environment == "sandbox"));
}

#[test]
fn long_windows_become_shorter_while_they_take_too_long() {
    let mut progress = progress(true);
    progress.adapt_windows(true);
    progress.schedule(at("02T10:00:00"), &config(), &live());
    assert_eq!(progress.windows.len(), 2);
    progress.adapt_windows(false);
    progress.schedule(at("02T10:01:00"), &config(), &live());
    assert_eq!(progress.windows.len(), 2, "24 hours and 1 minute: {:?}", shown(&progress));
    // However often that happens, windows of old calls do not become windows of new ones.
    let mut slow = ProjectProgress::new("acme", "desk", true);
    for _ in 0..20 {
        slow.adapt_windows(true);
    }
    let now = at("02T10:00:00");
    slow.schedule(now, &config(), &live());
    let recent = slow.windows.iter().filter(|window| window.is_recent(now)).count();
    assert_eq!((slow.windows.len(), recent), (24 * 4, 3));
}

#[test]
fn follows_a_bounded_number_of_calls() {
    let mut progress = progress(true);
    let now = at("02T10:00:00");
    let call = |id: usize| ListedConversation {
        id: format!("CA{id}"),
        environment: None,
        in_progress: true,
        started_at: Some(now),
        ended_at: None,
    };
    progress.follow((0..MAX_CALLS + 5).map(call).collect(), now);
    assert_eq!(progress.calls.len(), MAX_CALLS);
}

#[test]
fn reads_further_back_while_calls_are_listed_late() {
    let start = at("02T10:00:00");
    let mut progress = ProjectProgress::new("acme", "desk", true);
    let reach = |progress: &mut ProjectProgress, minute: u32| {
        let now = start + MINUTE * minute;
        progress.schedule(now, &config(), &live());
        let newest = progress.take_untried().into_iter().max_by_key(|window| window.to).unwrap();
        newest.length()
    };
    reach(&mut progress, 0);
    assert_eq!(reach(&mut progress, 1), MINUTE * 16, "it is not known yet");
    let call = |id: u32, minute: u32, in_progress| ListedConversation {
        id: format!("CA{id}"),
        environment: None,
        in_progress,
        started_at: Some(start + MINUTE * minute),
        ended_at: Some(start + MINUTE * minute + Duration::from_secs(20)),
    };
    for id in 0..5 {
        progress.follow(vec![call(id, 1, true)], start + MINUTE);
    }
    assert_eq!(
        reach(&mut progress, 2),
        Duration::from_secs(90),
        "calls are listed while they are in progress"
    );
    // One that started before the last pass, and was not listed then.
    progress.follow(vec![call(9, 0, false)], start + MINUTE * 4);
    assert_eq!(reach(&mut progress, 3), MINUTE * 6, "it was late by four minutes");
    progress.note_if_late(start - Duration::from_hours(1), start + MINUTE * 3);
    assert_eq!(reach(&mut progress, 4), MINUTE * 31, "but not without bounds");
    for id in 10..15 {
        progress.follow(vec![call(id, 4, true)], start + MINUTE * 4);
    }
    assert_eq!(reach(&mut progress, 5), Duration::from_secs(90));
    // What a pass over the whole lookback finds says nothing.
    progress.restart(start + MINUTE * 6, &config(), &live());
    progress.note_if_late(start - Duration::from_hours(1), start + MINUTE * 6);
    progress.take_untried();
    assert_eq!(reach(&mut progress, 7), Duration::from_secs(90));
}

#[test]
fn a_call_is_followed_once_and_keeps_its_end() {
    let mut progress = progress(true);
    let call = |in_progress| ListedConversation {
        id: "CA1".to_owned(),
        environment: Some("live".to_owned()),
        in_progress,
        started_at: Some(at("02T10:00:00")),
        ended_at: Some(at("02T10:00:50")),
    };
    let now = at("02T10:01:00");
    progress.follow(vec![call(true), call(true)], now);
    assert_eq!((progress.calls.len(), progress.calls[0].ended_at), (1, None));
    progress.follow(vec![call(false)], now);
    assert_eq!((progress.calls.len(), progress.calls[0].ended_at), (1, Some(at("02T10:00:50"))));
    // A call that PolyAI never ends is looked at some hundred times a day, and a short one in each pass.
    let stuck = ListedConversation { ended_at: None, ..call(true) };
    let (mut followed, mut looks) =
        (UnsettledCall { ended_at: None, ..progress.calls[0].clone() }, Vec::new());
    for minute in 1..24 * 60 {
        let now = now + MINUTE * minute;
        if now >= followed.look_at {
            looks.push(minute);
            followed = followed.seen(&stuck, now, MINUTE);
        }
    }
    assert!(looks.starts_with(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) && looks.len() < 120, "{looks:?}");
    let stored = Progress::new(vec![progress], PassResults::default()).to_json();
    assert_eq!(Progress::parse(&stored).to_json(), stored);
    assert_eq!(Progress::parse(b"{\"version\": 9}"), Progress::default());
    assert_eq!(Progress::parse(b"cut o"), Progress::default());
}
