//! Times as people write them: a date, a time, or how long ago.

use std::time::Duration;

use jiff::{Timestamp, civil, tz::TimeZone};

/// A moment that a person named, with the precision they gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// A whole day of UTC.
    Day(civil::Date),
    /// A moment.
    At(Timestamp),
}

impl When {
    /// Where a range begins that begins with it.
    pub(super) fn start(self) -> Timestamp {
        match self {
            Self::Day(date) => midnight(date),
            Self::At(at) => at,
        }
    }

    /// Where a range ends that ends with it: a day belongs to it to its end.
    pub(super) fn end(self) -> Timestamp {
        match self {
            Self::Day(date) => date.tomorrow().map_or(Timestamp::MAX, midnight),
            Self::At(at) => at,
        }
    }
}

fn midnight(date: civil::Date) -> Timestamp {
    date.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

/// `2026-11-02`, `2026-11-02T10:00:00+01:00`, or without a zone, which is UTC.
pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(When::At(at));
    }
    // A date parses as a time of that day, too.
    if !text.contains([':', 'T', 't'])
        && let Ok(date) = text.parse::<civil::Date>()
    {
        return Ok(When::Day(date));
    }
    let local = text.parse::<civil::DateTime>().ok().and_then(|local| local.to_zoned(TimeZone::UTC).ok());
    local
        .map(|zoned| When::At(zoned.timestamp()))
        .ok_or_else(|| "write a date (2026-11-02) or a time (2026-11-02T10:00:00Z)".to_owned())
}

/// A day of UTC: `2026-11-02`, `today`, `yesterday`.
pub(super) fn day(text: &str, now: Timestamp) -> Result<civil::Date, String> {
    let today = now.to_zoned(TimeZone::UTC).date();
    match text {
        "today" => Ok(today),
        "yesterday" => today.yesterday().map_err(|error| error.to_string()),
        _ => text.parse().map_err(|_| "write a date (2026-11-02), `today` or `yesterday`".to_owned()),
    }
}

/// Any span of time that is longer than nothing.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(span) if !span.is_zero() => Ok(span),
        Ok(_) => Err("more than nothing is needed".to_owned()),
        Err(error) => Err(format!("{error}; write it as 30d or 12h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_day_and_a_moment_a_moment() {
        let when = |text| when(text).unwrap();
        assert_eq!(when("2026-10-31").start().to_string(), "2026-10-31T00:00:00Z");
        assert_eq!(when("2026-10-31").end().to_string(), "2026-11-01T00:00:00Z");
        assert_eq!(when("2026-10-31T10:00:00+01:00").end().to_string(), "2026-10-31T09:00:00Z");
        assert_eq!(when("2026-10-31T10:00").start(), when("2026-10-31 10:00:00").end());
        for wrong in ["", "yesterday", "2026-13-01", "10:00", "30d"] {
            assert!(super::when(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn yesterday_is_of_utc() {
        let now = "2026-11-02T00:30:00+01:00".parse().unwrap();
        assert_eq!(day("today", now).unwrap().to_string(), "2026-11-01");
        assert_eq!(day("yesterday", now).unwrap().to_string(), "2026-10-31");
        assert!(day("tomorrow", now).is_err());
    }
}
