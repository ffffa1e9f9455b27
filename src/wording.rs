//! Numbers, nouns and times as people read them, for the terminal and for the console.

use std::time::Duration;

/// Returns a number with its noun, such as `1 job`, `2 jobs` or `2 deliveries`.
pub fn counted(number: u64, noun: &str) -> String {
    let has_vowel = ["ay", "ey", "oy"].iter().any(|end| noun.ends_with(end));
    match noun.strip_suffix('y').filter(|_| !has_vowel) {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None if noun.ends_with("sh") => format!("{number} {noun}es"),
        None => format!("{number} {noun}s"),
    }
}

/// Returns `one` for the number 1, and otherwise `many` with the number instead of `{}`: for texts with a verb.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    if number == 1 { one.to_owned() } else { many.replace("{}", &number.to_string()) }
}

/// Returns an age in one unit without a space, such as `59s`, `12m`, `47h` or `2d`: for columns.
pub fn short_age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Returns a duration with one unit, such as `340 ms`, `10 s`, `1.2 s`, `30 min` or `6 h`.
pub fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ ..1000 => format!("{ms} ms"),
        ms @ ..120_000 if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms @ ..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms @ ..120_000 => format!("{} s", ms / 1000),
        ms @ ..7_200_000 => format!("{} min", ms.div_ceil(60_000)),
        ms => format!("{} h", ms.div_ceil(3_600_000)),
    }
}

/// Returns the length of a call, such as `4:05`.
pub fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Reads the length of a call in whole seconds: `4:05`, `245` or `245s`.
pub fn parse_length(text: &str) -> Option<u32> {
    if let Some((minutes, seconds)) = text.split_once(':') {
        let (minutes, seconds) = (minutes.parse::<u32>().ok()?, seconds.parse::<u32>().ok()?);
        return if seconds < 60 { minutes.checked_mul(60)?.checked_add(seconds) } else { None };
    }
    let parsed = humantime::parse_duration(text).ok().and_then(|length| u32::try_from(length.as_secs()).ok());
    text.parse().ok().or(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lengths_that_it_writes() {
        for (text, seconds) in [("0:00", 0), ("4:05", 245), ("120:59", 7259)] {
            assert_eq!(length(Duration::from_secs(seconds)), text);
            assert_eq!(parse_length(text).map(u64::from), Some(seconds));
        }
        assert_eq!(["245", "245s", "4m 5s"].map(parse_length), [Some(245); 3]);
        assert_eq!(["", "-1", "1:60", "1:", ":5", "x", "99999999:00"].map(parse_length), [None; 7]);
    }

    #[test]
    fn nouns_and_verbs_agree_with_their_number() {
        let nouns = ["job", "delivery", "day", "refresh"];
        assert_eq!(nouns.map(|noun| counted(1, noun)), ["1 job", "1 delivery", "1 day", "1 refresh"]);
        assert_eq!(nouns.map(|noun| counted(0, noun)), ["0 jobs", "0 deliveries", "0 days", "0 refreshes"]);
        let wait = |number| plural(number, "1 delivery waits", "{} deliveries wait");
        assert_eq!([1, 2].map(wait), ["1 delivery waits", "2 deliveries wait"]);
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(|s| short_age(Duration::from_secs(s)));
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "47h", "2d"]);
    }

    #[test]
    fn durations_have_one_unit() {
        let texts = [0, 999, 1000, 1250, 59_999, 60_000, 120_000, 300_000, 21_600_000];
        let texts = texts.map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(texts, ["0 ms", "999 ms", "1 s", "1.2 s", "59 s", "60 s", "2 min", "5 min", "6 h"]);
    }
}
