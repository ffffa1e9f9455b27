//! The parts of a list: one day of one environment each, because v3 filters by time and by one environment.

use std::{collections::VecDeque, fmt, ops::Range};

use jiff::{RoundMode, Timestamp, TimestampRound, ToSpan, Unit, tz::TimeZone};

use super::ListQuery;

/// One part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListWindow {
    /// The range in which the conversations started.
    pub started: Range<Timestamp>,
    /// Their environment.
    pub environment: String,
    /// True if an earlier list could not read it.
    pub(super) failed_before: bool,
}

impl fmt::Display for ListWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.started.start.to_zoned(TimeZone::UTC).date(), self.environment)
    }
}

impl ListWindow {
    /// Returns the values of `start_time` and `end_time`, in milliseconds: some services read at most six fractional
    /// digits. The range is rounded to its outside, so that no conversation falls between two windows.
    pub(super) fn time_parameters(&self) -> [Timestamp; 2] {
        let Range { start, end } = self.started;
        let round = |at: Timestamp, mode| {
            at.round(TimestampRound::new().smallest(Unit::Millisecond).mode(mode)).unwrap_or(at)
        };
        [round(start, RoundMode::Floor), round(end, RoundMode::Ceil)]
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.environment == other.environment
            && self.started.start < other.started.end
            && other.started.start < self.started.end
    }
}

/// Returns the windows of a query: first those that an earlier list could not read, then all days (UTC), newest first,
/// each once for every environment.
pub(super) fn windows(query: &ListQuery) -> VecDeque<ListWindow> {
    let mut unread: Vec<_> =
        query.unread.iter().map(|window| ListWindow { failed_before: true, ..window.clone() }).collect();
    let mut others = VecDeque::new();
    for window in days(query) {
        // The part of a window that has left the range of the query is not forgotten.
        match unread.iter_mut().find(|failed| failed.overlaps(&window)) {
            Some(failed) => {
                failed.started = failed.started.start.min(window.started.start)
                    ..failed.started.end.max(window.started.end);
            }
            None => others.push_back(window),
        }
    }
    unread.into_iter().chain(others).collect()
}

fn days(query: &ListQuery) -> Vec<ListWindow> {
    let Range { start, end } = query.started;
    let mut windows = Vec::new();
    let mut until = end;
    while until > start {
        // The day of the last moment before `until`.
        let last = until.checked_sub(1.nanosecond()).unwrap_or(until).to_zoned(TimeZone::UTC);
        let from = last.start_of_day().map_or(start, |day| day.timestamp()).max(start);
        for environment in &query.environments {
            let environment = environment.clone();
            windows.push(ListWindow { started: from..until, environment, failed_before: false });
        }
        until = from;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn query(started: Range<&str>, environments: &[&str], unread: Vec<ListWindow>) -> ListQuery {
        ListQuery {
            started: at(started.start)..at(started.end),
            environments: environments.iter().map(|&name| name.to_owned()).collect(),
            unread,
        }
    }

    fn shown(query: &ListQuery) -> Vec<String> {
        let show = |w: ListWindow| format!("{}..{} {}", w.started.start, w.started.end, w.environment);
        windows(query).into_iter().map(show).collect()
    }

    #[test]
    fn splits_a_range_into_days_newest_first() {
        let query = query("2026-11-01T22:00:00Z".."2026-11-03T06:00:00Z", &["live", "sandbox"], Vec::new());
        assert_eq!(
            shown(&query),
            [
                "2026-11-03T00:00:00Z..2026-11-03T06:00:00Z live",
                "2026-11-03T00:00:00Z..2026-11-03T06:00:00Z sandbox",
                "2026-11-02T00:00:00Z..2026-11-03T00:00:00Z live",
                "2026-11-02T00:00:00Z..2026-11-03T00:00:00Z sandbox",
                "2026-11-01T22:00:00Z..2026-11-02T00:00:00Z live",
                "2026-11-01T22:00:00Z..2026-11-02T00:00:00Z sandbox",
            ]
        );
        let none = ListQuery { started: query.started.end..query.started.start, ..query };
        assert!(windows(&none).is_empty());
    }

    #[test]
    fn begins_with_the_windows_that_could_not_be_read() {
        let earlier = query("2026-11-01T22:00:00Z".."2026-11-02T22:00:00Z", &["live"], Vec::new());
        let unread: Vec<_> = windows(&earlier).into();
        // A day later one of them is out of the range, and of the other one only the rest is in it.
        let later = query("2026-11-02T23:00:00Z".."2026-11-03T23:00:00Z", &["live", "sandbox"], unread);
        assert_eq!(
            shown(&later),
            [
                "2026-11-02T00:00:00Z..2026-11-02T22:00:00Z live",
                "2026-11-01T22:00:00Z..2026-11-02T00:00:00Z live",
                "2026-11-03T00:00:00Z..2026-11-03T23:00:00Z live",
                "2026-11-03T00:00:00Z..2026-11-03T23:00:00Z sandbox",
                "2026-11-02T23:00:00Z..2026-11-03T00:00:00Z live",
                "2026-11-02T23:00:00Z..2026-11-03T00:00:00Z sandbox",
            ]
        );
        let soon = query("2026-11-01T22:00:30Z".."2026-11-02T22:00:30Z", &["live"], windows(&earlier).into());
        assert_eq!(
            shown(&soon),
            [
                "2026-11-02T00:00:00Z..2026-11-02T22:00:30Z live",
                "2026-11-01T22:00:00Z..2026-11-02T00:00:00Z live",
            ]
        );
        assert!(windows(&soon).iter().all(|window| window.failed_before));
    }

    #[test]
    fn asks_with_milliseconds() {
        let window = ListWindow {
            started: at("2026-11-02T10:00:00.123456789Z")..at("2026-11-02T11:00:00.987654321Z"),
            environment: "live".to_owned(),
            failed_before: false,
        };
        let [start, end] = window.time_parameters().map(|at| at.to_string());
        assert_eq!((&*start, &*end), ("2026-11-02T10:00:00.123Z", "2026-11-02T11:00:00.988Z"));
        let day = ListWindow { started: at("2026-11-02T00:00:00Z")..at("2026-11-03T00:00:00Z"), ..window };
        let [start, end] = day.time_parameters().map(|at| at.to_string());
        assert_eq!((&*start, &*end), ("2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"));
    }
}
