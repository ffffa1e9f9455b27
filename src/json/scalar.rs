//! The value of a field, as far as polyhook uses it.

use jiff::{Timestamp, civil, tz::TimeZone};

/// The largest number up to which every integer is a `f64`.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// A JSON value of which only scalars are kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    /// `null`
    Null,
    /// An object, an array, no value, or a word that JSON does not have, such as `NaN`.
    Unusable,
    Bool(bool),
    /// A number as it is written. An id with thirty digits keeps all of them.
    Number(String),
    Text(String),
    /// A text of which some part is lost: it is too long, is not UTF-8, or has half a surrogate pair. It is good enough
    /// for a person to read, but is not an id.
    DamagedText(String),
}

impl Scalar {
    /// Interprets a word without quotes, also in Python's and JavaScript's spelling.
    pub(super) fn from_word(word: &str) -> Self {
        match word {
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            "null" | "None" | "NULL" | "undefined" => Self::Null,
            // Rust also parses `NaN` and `inf`.
            number if number.bytes().any(|byte| byte.is_ascii_digit()) && number.parse::<f64>().is_ok() => {
                Self::Number(number.to_owned())
            }
            _ => Self::Unusable,
        }
    }

    /// Returns a string that is not empty.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) | Self::DamagedText(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Returns a string that is whole and not empty, or an integer as text: ids and names are sometimes numbers, and
    /// some services write `7` as `7.0`.
    pub(crate) fn text_or_integer(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            Self::Number(number) if is_integer(&number) => Some(number),
            Self::Number(_) => self.count().map(|count| count.to_string()),
            _ => None,
        }
    }

    /// Returns any scalar as text, if it is whole and not empty.
    pub(crate) fn any_text(self) -> Option<String> {
        match self {
            Self::Bool(flag) => Some(flag.to_string()),
            Self::Number(number) if !is_integer(&number) => Some(number.parse::<f64>().ok()?.to_string()),
            other => other.text_or_integer(),
        }
    }

    /// Returns a boolean, also one in quotes.
    pub(crate) fn flag(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns a count, also one in quotes or with a decimal point.
    pub(crate) fn count(&self) -> Option<u64> {
        let (Self::Number(text) | Self::Text(text)) = self else { return None };
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok()?;
            let is_count = (0.0..=MAX_EXACT_INTEGER).contains(&number) && number.fract() == 0.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
            is_count.then_some(number as u64)
        })
    }

    /// Returns a number of seconds that is finite and not negative, also one in quotes.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let (Self::Number(text) | Self::Text(text)) = self else { return None };
        text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
    }

    /// Returns a time in RFC 3339. A time without a zone is UTC.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        let Self::Text(text) = self else { return None };
        text.parse::<Timestamp>().ok().or_else(|| {
            let local: civil::DateTime = text.parse().ok()?;
            Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
        })
    }
}

fn is_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::JsonReader;

    fn scalar(json: &str) -> Scalar {
        JsonReader::new(json.as_bytes()).scalar().unwrap()
    }

    #[test]
    fn skips_objects_and_arrays() {
        for json in ["", "{}", "[]", r#"{"a":[{"b":1}]}"#, r#"[1,"a",{"b":[]}]"#, "NaN", "-Infinity"] {
            assert_eq!(scalar(json), Scalar::Unusable, "{json}");
        }
        assert_eq!(scalar("null"), Scalar::Null);
    }

    #[test]
    fn reads_values_in_quotes() {
        assert_eq!((scalar("\"true\"").flag(), scalar("true").flag()), (Some(true), Some(true)));
        assert_eq!((scalar("\"4\"").count(), scalar("4").count()), (Some(4), Some(4)));
        assert_eq!((scalar("\"7.5\"").seconds(), scalar("7.5").seconds()), (Some(7.5), Some(7.5)));
        assert_eq!(scalar("7").text_or_integer().as_deref(), Some("7"));
    }

    #[test]
    fn keeps_every_digit_of_a_numeric_id() {
        for id in ["7", "-7", "007", "9007199254740993", "123456789012345678901234567890123456789012345"] {
            assert_eq!(scalar(id).text_or_integer().as_deref(), Some(id));
            assert_eq!(scalar(id).any_text().as_deref(), Some(id));
        }
        for (id, text) in [("7.0", Some("7")), ("7.5", None), ("NaN", None), ("true", None), ("\"\"", None)] {
            assert_eq!(scalar(id).text_or_integer().as_deref(), text, "{id}");
        }
        assert_eq!(scalar("7.0").any_text().as_deref(), Some("7"));
    }

    #[test]
    fn treats_unusable_values_as_unknown() {
        assert_eq!((scalar("1").flag(), scalar("\"yes\"").flag()), (None, None));
        assert_eq!((scalar("-1").count(), scalar("4.5").count(), scalar("1e99").count()), (None, None, None));
        assert_eq!((scalar("200.0").count(), scalar("\"2e2\"").count()), (Some(200), Some(200)));
        for json in ["-1", "\"NaN\"", "NaN", "\"inf\"", "Infinity", "1e999", "\"\"", "true", "null"] {
            assert_eq!(scalar(json).seconds(), None, "{json}");
        }
        assert_eq!(
            (scalar("\"\"").text(), scalar("7").text(), scalar("\"soon\"").time()),
            (None, None, None)
        );
    }

    #[test]
    fn a_damaged_text_is_not_an_id() {
        let damaged = scalar(r#""half \ud800 pair""#);
        assert!(damaged.clone().text().unwrap().starts_with("half "));
        assert_eq!((damaged.clone().text_or_integer(), damaged.any_text()), (None, None));
    }

    #[test]
    fn reads_a_time_without_a_zone_as_utc() {
        assert_eq!(scalar("\"2026-06-03T13:18:06\"").time(), scalar("\"2026-06-03T13:18:06Z\"").time());
    }
}
