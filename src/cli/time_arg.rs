//! Parses the times and durations of the command line: `--from`, `--to`, `--date`, `--last`, `--since` and others.
//!
//! Every function is a `value_parser` of clap: an error says what to write instead, and clap adds the name of the
//! argument and exits with code 2.

use std::time::Duration;

use jiff::{Timestamp, civil, tz::TimeZone};

/// A time with the precision that the user gave: a whole day or an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeArg {
    /// A day in UTC.
    Day(DateArg),
    /// An instant.
    Instant(Timestamp),
}

impl TimeArg {
    /// Returns the start of a range that begins with this time (inclusive), as seen at `now`.
    pub(super) fn range_start(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Day(date) => midnight(date.resolve(now)),
            Self::Instant(at) => at,
        }
    }

    /// Returns the end of a range that ends with this time (exclusive), as seen at `now`. A day is part of the range.
    pub(super) fn range_end(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Day(date) => date.resolve(now).tomorrow().map_or(Timestamp::MAX, midnight),
            Self::Instant(at) => at,
        }
    }
}

/// A day in UTC, which may be relative to today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DateArg {
    Today,
    Yesterday,
    Date(civil::Date),
}

impl DateArg {
    /// Returns the date, as seen at `now`.
    pub(super) fn resolve(self, now: Timestamp) -> civil::Date {
        let today = now.to_zoned(TimeZone::UTC).date();
        match self {
            Self::Today => today,
            Self::Yesterday => today.yesterday().unwrap_or(today),
            Self::Date(date) => date,
        }
    }
}

fn midnight(date: civil::Date) -> Timestamp {
    date.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

/// Parses `2026-11-02`, `today`, `yesterday`, `2026-11-02T10:00:00+01:00`, or a time without a zone, which is in UTC.
pub(super) fn parse_time(text: &str) -> Result<TimeArg, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(TimeArg::Instant(at));
    }
    // A date also parses as midnight of that day, so it is tried before a time without a zone.
    let is_day = matches!(text, "today" | "yesterday") || !text.contains([':', 'T', 't']);
    if is_day && let Ok(date) = parse_date(text) {
        return Ok(TimeArg::Day(date));
    }
    let local = text.parse::<civil::DateTime>().ok().and_then(|local| local.to_zoned(TimeZone::UTC).ok());
    local.map(|zoned| TimeArg::Instant(zoned.timestamp())).ok_or_else(|| {
        "write a date (2026-11-02, `today`, `yesterday`) or a time (2026-11-02T10:00:00Z)".to_owned()
    })
}

/// Parses `2026-11-02`, `today` or `yesterday`.
pub(super) fn parse_date(text: &str) -> Result<DateArg, String> {
    match text {
        "today" => Ok(DateArg::Today),
        "yesterday" => Ok(DateArg::Yesterday),
        _ => text
            .parse()
            .map(DateArg::Date)
            .map_err(|_| "write a date (2026-11-02), `today` or `yesterday`".to_owned()),
    }
}

/// Parses a duration such as `90s`, `12h` or `30d`; zero is allowed.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    // The parser's own errors name a position in the text, not what to write.
    humantime::parse_duration(text).map_err(|_| "write a duration, such as 10m, 12h or 30d".to_owned())
}

/// Parses a duration longer than zero.
pub(super) fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("the duration is zero; write a longer one, such as 10m, 12h or 30d".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_whole_days_and_exact_instants() {
        let now = "2026-11-01T09:00:00Z".parse().unwrap();
        let start = |text| parse_time(text).unwrap().range_start(now);
        let end = |text| parse_time(text).unwrap().range_end(now);
        for day in ["2026-10-31", "yesterday"] {
            assert_eq!(start(day).to_string(), "2026-10-31T00:00:00Z");
            assert_eq!(end(day).to_string(), "2026-11-01T00:00:00Z");
        }
        assert_eq!(start("today").to_string(), "2026-11-01T00:00:00Z");
        assert_eq!(end("2026-10-31T10:00:00+01:00").to_string(), "2026-10-31T09:00:00Z");
        assert_eq!(start("2026-10-31T10:00"), end("2026-10-31 10:00:00"));
        for wrong in ["", "tomorrow", "2026-13-01", "10:00", "30d"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn today_and_yesterday_are_days_in_utc() {
        let now = "2026-11-02T00:30:00+01:00".parse().unwrap();
        let date = |text| parse_date(text).unwrap().resolve(now).to_string();
        assert_eq!(date("today"), "2026-11-01");
        assert_eq!(date("yesterday"), "2026-10-31");
        assert_eq!(date("2026-10-05"), "2026-10-05");
        assert!(parse_date("tomorrow").is_err());
    }

    #[test]
    fn parses_durations_with_units() {
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_positive_duration("30d"), Ok(Duration::from_hours(30 * 24)));
        assert!(parse_positive_duration("0s").is_err());
        for wrong in ["yesterday", "5", "10 parsecs", "", "-1h"] {
            assert_eq!(
                parse_duration(wrong).unwrap_err(),
                "write a duration, such as 10m, 12h or 30d",
                "{wrong}"
            );
        }
    }
}
