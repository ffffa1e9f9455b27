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
}

/// Returns the windows of a query: all days (UTC), newest first, each once for every environment.
pub(super) fn windows(query: &ListQuery) -> VecDeque<ListWindow> {
    let Range { start, end } = query.started;
    let mut windows = VecDeque::new();
    let mut until = end;
    while until > start {
        // The day of the last moment before `until`.
        let last = until.checked_sub(1.nanosecond()).unwrap_or(until).to_zoned(TimeZone::UTC);
        let from = last.start_of_day().map_or(start, |day| day.timestamp()).max(start);
        let window =
            |environment: &String| ListWindow { started: from..until, environment: environment.clone() };
        windows.extend(query.environments.iter().map(window));
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

    fn query(started: Range<&str>, environments: &[&str]) -> ListQuery {
        ListQuery {
            started: at(started.start)..at(started.end),
            environments: environments.iter().map(|&name| name.to_owned()).collect(),
            failed_before: false,
        }
    }

    fn shown(query: &ListQuery) -> Vec<String> {
        let show = |w: ListWindow| format!("{}..{} {}", w.started.start, w.started.end, w.environment);
        windows(query).into_iter().map(show).collect()
    }

    #[test]
    fn splits_a_range_into_days_newest_first() {
        let query = query("2026-11-01T22:00:00Z".."2026-11-03T06:00:00Z", &["live", "sandbox"]);
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
    fn asks_with_milliseconds() {
        let window = ListWindow {
            started: at("2026-11-02T10:00:00.123456789Z")..at("2026-11-02T11:00:00.987654321Z"),
            environment: "live".to_owned(),
        };
        let [start, end] = window.time_parameters().map(|at| at.to_string());
        assert_eq!((&*start, &*end), ("2026-11-02T10:00:00.123Z", "2026-11-02T11:00:00.988Z"));
        let day = ListWindow { started: at("2026-11-02T00:00:00Z")..at("2026-11-03T00:00:00Z"), ..window };
        let [start, end] = day.time_parameters().map(|at| at.to_string());
        assert_eq!((&*start, &*end), ("2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"));
    }
}
