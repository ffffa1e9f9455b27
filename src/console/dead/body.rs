//! The body of an event as a page shows it.

use crate::{
    json::{JsonFilter, Scalar, copy_json},
    terminal,
};

/// The fewest digits of a phone number.
const MIN_DIGITS: usize = 7;
/// Digits at the end of a number that stay, so that two numbers can be told apart.
const SHOWN_DIGITS: usize = 2;
/// Bytes of a body that a page shows.
const MAX_SHOWN_BYTES: usize = 64 << 10;

/// A body for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShownBody {
    pub(super) text: String,
    /// True if the page shows only the first part.
    pub(super) is_cut: bool,
}

impl ShownBody {
    /// Returns the text of a body. Without `show_numbers`, everything that may be a phone number is masked.
    pub(super) fn new(body: &[u8], show_numbers: bool) -> Self {
        if show_numbers {
            return Self::cut(String::from_utf8_lossy(body).into_owned());
        }
        // In JSON a number may be written with escapes, which the copy has not.
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
        let copy = if is_json { copy_json(body, body.len() * 2, &Mask, false) } else { None };
        Self::cut(copy.unwrap_or_else(|| mask_numbers(&String::from_utf8_lossy(body))))
    }

    fn cut(mut text: String) -> Self {
        let is_cut = text.len() > MAX_SHOWN_BYTES;
        if is_cut {
            text.truncate(text.floor_char_boundary(MAX_SHOWN_BYTES));
        }
        Self { text, is_cut }
    }
}

struct Mask;

impl JsonFilter for Mask {
    fn name(&self, name: String) -> String {
        mask_numbers(&name)
    }

    fn marks(&self, _: &str) -> bool {
        false
    }

    fn scalar(&self, value: Scalar, _: bool) -> Scalar {
        match value {
            Scalar::Text(text) => Scalar::Text(mask_numbers(&text)),
            Scalar::DamagedText(text) => Scalar::DamagedText(mask_numbers(&text)),
            Scalar::Number(number) => match mask_numbers(&number) {
                masked if masked == number => Scalar::Number(number),
                masked => Scalar::Text(masked),
            },
            other => other,
        }
    }
}

/// Masks everything in a text that may be a phone number: at least seven digits, also with separators between them. Digits
/// behind a letter belong to an id, and a date is not a number.
fn mask_numbers(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let run = run_at(&characters[at..]);
        if run.is_empty() {
            masked.push(characters[at]);
            at += 1;
            continue;
        }
        let digits = run.iter().filter(|c| c.is_numeric()).count();
        let next = characters.get(at + run.len());
        if digits >= MIN_DIGITS && !is_in_id(&characters, at) && !is_date(run, next) {
            let mut seen = 0;
            masked.extend(run.iter().map(|c| {
                seen += usize::from(c.is_numeric());
                if c.is_numeric() && seen + SHOWN_DIGITS <= digits { '•' } else { *c }
            }));
        } else {
            masked.extend(run);
        }
        at += run.len();
    }
    masked
}

/// Returns the digits and separators at the beginning, without separators at the end. If there are separators alone, returns
/// them.
fn run_at(characters: &[char]) -> &[char] {
    if !characters.first().is_some_and(|c| matches!(c, '+' | '(') || c.is_numeric()) {
        return &[];
    }
    let is_part = |c: &&char| {
        c.is_numeric()
            || c.is_whitespace()
            || terminal::is_invisible(**c)
            || matches!(
                c,
                '+' | '-' | '.' | '(' | ')' | '/' | '*' | '#' | '\u{2010}'..='\u{2015}' | '\u{2212}'
            )
    };
    let run = &characters[..characters.iter().take_while(is_part).count()];
    let last = run.iter().rposition(|c| c.is_numeric());
    last.map_or(run, |last| &run[..=last])
}

/// Returns true if the digits at `start` continue a word, such as an id.
fn is_in_id(characters: &[char], start: usize) -> bool {
    characters[start].is_numeric()
        && start
            .checked_sub(1)
            .is_some_and(|before| characters[before].is_alphabetic() || characters[before] == '_')
}

/// Returns true for `2026-11-22`, alone or before a `T`.
fn is_date(run: &[char], next: Option<&char>) -> bool {
    run.len() == 10
        && run
            .iter()
            .enumerate()
            .all(|(at, c)| if matches!(at, 4 | 7) { *c == '-' } else { c.is_ascii_digit() })
        && matches!(run[0], '1' | '2')
        && next.is_none_or(|c| !c.is_alphanumeric() || *c == 'T')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_what_may_be_a_phone_number() {
        for (text, masked) in [
            ("+15550100123", "+•••••••••23"),
            ("call +1 (555) 010-0123 now", "call +• (•••) •••-••23 now"),
            ("tel:5550100", "tel:•••••00"),
            ("5550100123x12", "••••••••23x12"),
            ("00 49 30/1234567", "•• •• ••/•••••67"),
            ("555\u{a0}010\u{2011}0123", "•••\u{a0}•••\u{2011}••23"),
            ("a+15550100", "a+••••••00"),
            ("2026-11-22T10:20:30.123Z", "2026-11-22T10:20:30.123Z"),
            ("2026-11-22", "2026-11-22"),
            ("CA0123456789abcdef", "CA0123456789abcdef"),
            ("019e8d9e-8e30-7899-9e61-3d950c4101b2", "019e8d9e-8e30-7899-9e61-3d950c4101b2"),
            ("room 12, 34567", "room 12, 34567"),
            ("(", "("),
            ("", ""),
        ] {
            assert_eq!(mask_numbers(text), masked, "{text:?}");
        }
    }

    #[test]
    fn masks_escaped_numbers_of_json_and_keeps_its_order() {
        let body = br#"{"type":"x","from":"\u002b\u0031555\u00a0010\u00a00123","n":15550100123,"+15550100123":1,"a":[1,"5550100"]}"#;
        let shown = ShownBody::new(body, false);
        assert!(!shown.text.contains("5550") && !shown.text.contains("555"), "{}", shown.text);
        assert!(shown.text.starts_with(r#"{"type":"x","from":"#), "{}", shown.text);
        assert_eq!(ShownBody::new(body, true).text.as_bytes(), body, "as it is, if numbers may be shown");
        let damaged = ShownBody::new(b"{\"from\": \"+15550100123", false);
        assert_eq!(damaged.text, "{\"from\": \"+•••••••••23");
    }

    #[test]
    fn shows_the_first_part_of_a_long_body() {
        let shown = ShownBody::new("é".repeat(40_000).as_bytes(), false);
        assert!(shown.is_cut && shown.text.len() == MAX_SHOWN_BYTES, "{}", shown.text.len());
        assert!(!ShownBody::new(b"{}", false).is_cut);
        assert_eq!(ShownBody::new(b"\xff+15550100123", false).text, "\u{fffd}+•••••••••23");
    }
}
