//! Masking of phone numbers in texts.
//!
//! Seven or more digits of any script are a number, whatever separates them: spaces, invisible characters and up to three
//! different signs, but no letters. Amounts and lists of that many digits are masked, too. Times, dates and hexadecimal ids stay.
//!
//! Not found: numbers in words (`five five five`, `五五五`), and digits with letters between them (`555 and 0100`).

use std::borrow::Cow;

use jiff::civil::{Date, DateTime};

use super::Console;
use crate::terminal;

/// The fewest digits of a phone number.
const MIN_DIGITS: usize = 7;
/// Digits at the end of a number that stay, so that two numbers can be told apart.
const SHOWN_DIGITS: usize = 2;
/// The different signs between two digits of a number.
const MAX_SIGNS: usize = 3;
/// The shortest hexadecimal id, without the two letters with which Twilio's ids begin.
const MIN_ID_CHARS: usize = 14;

/// Turns texts from outside into what a viewer may see. Texts must be masked before they are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextMask {
    /// `console.show_numbers`.
    pub(super) show_numbers: bool,
}

impl Console {
    /// Returns the mask of all texts from outside.
    pub(super) fn text_mask(&self) -> TextMask {
        TextMask { show_numbers: self.config.show_numbers }
    }
}

impl TextMask {
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        if self.show_numbers { text.into() } else { mask_numbers(text).into() }
    }

    /// Returns true if a part of the text is masked.
    pub(super) fn hides(self, text: &str) -> bool {
        self.apply(text) != text
    }
}

/// Masks everything in a text that may be a phone number. The number of characters stays the same.
pub(super) fn mask_numbers(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        if let Some(len) = id_or_time(&characters, at) {
            masked.extend(&characters[at..at + len]);
            at += len;
        } else if characters[at].is_numeric() {
            let end = end_of_number(&characters, at);
            mask_digits(&characters, at..end, &mut masked);
            at = end;
        } else {
            masked.push(characters[at]);
            at += 1;
        }
    }
    masked
}

fn mask_digits(characters: &[char], run: std::ops::Range<usize>, masked: &mut String) {
    let digits = characters[run.clone()].iter().filter(|c| c.is_numeric()).count();
    let shown = if digits < MIN_DIGITS || is_date(characters, &run) { digits } else { SHOWN_DIGITS };
    let mut left = digits;
    for c in &characters[run] {
        masked.push(if c.is_numeric() && left > shown { '•' } else { *c });
        left -= usize::from(c.is_numeric());
    }
}

/// Returns the end of the digits that begin at `start` and of what separates them.
fn end_of_number(characters: &[char], start: usize) -> usize {
    let mut end = start + 1;
    while let Some(len) = separator(&characters[end..]) {
        if len > 0 && id_or_time(characters, end + len).is_some() {
            break;
        }
        end += len + 1;
    }
    end
}

/// Returns the length of what separates a digit from the next one of the same number.
fn separator(characters: &[char]) -> Option<usize> {
    let (mut signs, mut last) = (0, None);
    for (len, c) in characters.iter().enumerate() {
        if c.is_numeric() {
            return Some(len);
        }
        if c.is_whitespace() || terminal::is_invisible(*c) {
            continue;
        }
        signs += usize::from(last.replace(c) != Some(c));
        if c.is_alphabetic() || signs > MAX_SIGNS {
            return None;
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns the length of the id or the time that begins at `start`. An id may have a prefix without digits, such as `evt_`.
fn id_or_time(characters: &[char], start: usize) -> Option<usize> {
    let rest = &characters[start..];
    if !is_word(rest[0]) || start > 0 && is_word(characters[start - 1]) {
        return None;
    }
    let word = &rest[..rest.iter().take_while(|c| is_word(**c)).count()];
    let prefix = word.iter().rposition(|c| *c == '_').map_or(0, |last| last + 1);
    if word[..prefix].iter().any(char::is_ascii_digit) {
        return None;
    }
    if has_form(&rest[prefix..], "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
        let end = prefix + 36;
        let has_letter = rest[prefix..end].iter().any(char::is_ascii_alphabetic);
        return (has_letter && !rest.get(end).is_some_and(|c| is_word(*c))).then_some(end);
    }
    let letters = word[prefix..].iter().take(2).take_while(|c| c.is_ascii_alphabetic()).count();
    let id = &word[prefix + letters..];
    let is_id = id.len() >= MIN_ID_CHARS
        && id.iter().all(char::is_ascii_hexdigit)
        && id.iter().filter(|c| c.is_ascii_alphabetic()).count() >= 2;
    if is_id { Some(word.len()) } else { time(rest) }
}

/// Returns true if a text begins with a form, in which `0` is a digit, `x` a hexadecimal digit and `T` a `T` or a space.
fn has_form(characters: &[char], form: &str) -> bool {
    let is_like = |(form, c): (char, &char)| match form {
        '0' => c.is_ascii_digit(),
        'x' => c.is_ascii_hexdigit(),
        'T' => matches!(c, 'T' | 't' | ' '),
        form => *c == form,
    };
    characters.len() >= form.len() && form.chars().zip(characters).all(is_like)
}

/// Returns the length of the time (RFC 3339) at the beginning, also without an offset.
fn time(characters: &[char]) -> Option<usize> {
    const FORM: &str = "0000-00-00T00:00:00";
    if !has_form(characters, FORM) {
        return None;
    }
    let (time, mut rest) = characters.split_at(FORM.len());
    let time: DateTime = time.iter().collect::<String>().parse().ok()?;
    if let ['.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
        rest = &fraction[digits..];
        if !(1..=9).contains(&digits) {
            return None;
        }
    }
    rest = match rest {
        ['Z' | 'z', after @ ..] => after,
        ['+' | '-', offset @ ..] if has_form(offset, "00:00") => &offset[5..],
        rest => rest,
    };
    let is_over = match rest {
        [c, ..] if c.is_alphanumeric() => false,
        ['.' | ':' | '+' | '-', c, ..] => !c.is_numeric(),
        _ => true,
    };
    (is_over && is_recent(time.date())).then_some(characters.len() - rest.len())
}

/// Returns true for digits that are a date such as `2026-11-22`, alone or before a `T`.
fn is_date(characters: &[char], run: &std::ops::Range<usize>) -> bool {
    let text = &characters[run.clone()];
    let before = run.start.checked_sub(1).map(|before| characters[before]);
    let is_alone = !before.is_some_and(char::is_alphanumeric)
        && characters.get(run.end).is_none_or(|c| !c.is_alphanumeric() || *c == 'T');
    let is_form = text.len() == 10 && has_form(text, "0000-00-00");
    is_alone && is_form && text.iter().collect::<String>().parse().is_ok_and(is_recent)
}

/// Returns false for years that are rather parts of a number.
fn is_recent(date: Date) -> bool {
    (1900..2100).contains(&date.year())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            ("电话13800138000谢谢", "电话•••••••••00谢谢"),
            ("我的号码是13800138000", "我的号码是•••••••••00"),
            ("เบอร์0812345678", "เบอร์••••••••78"),
            ("٠١٢٣٤٥٦٧٨٩", "••••••••٨٩"),
            ("Nr0171-2345678", "Nr••••-•••••78"),
            ("tel5550100199", "tel••••••••99"),
            ("ID_15550100199", "ID_•••••••••99"),
            ("call_5550100199_now", "call_••••••••99_now"),
            ("5 5 5, 0 1 0, 0 1 9 9", "• • •, • • •, • • 9 9"),
            ("555.....010  --  0199", "•••.....•••  --  ••99"),
            ("5\u{fe0f}\u{20e3}5501\u{3164}00199", "•\u{fe0f}\u{20e3}••••\u{3164}•••99"),
            ("2125-55-01", "••••-••-01"),
            ("2026-11-22-5550100", "••••-••-••-•••••00"),
            ("2026-11-22 5550100", "••••-••-•• •••••00"),
            ("2026-11-30T21:18:05.5550100199", "2026-11-30T••:••:••.••••••••99"),
            ("5550100199 CA0123456789abcdef", "••••••••99 CA0123456789abcdef"),
            ("1,234,567.89", "•,•••,•••.89"),
        ] {
            assert_eq!(mask_numbers(text), masked, "{text:?}");
        }
        for separator in [",", ":", "·", "_", "|", "'", ";", "=", "~", ") - (", "\u{200b}", "\n"] {
            let text = ["555", "010", "0199"].join(separator);
            assert_eq!(mask_numbers(&text), ["•••", "•••", "••99"].join(separator));
        }
    }

    #[test]
    fn keeps_times_ids_and_short_numbers() {
        for text in [
            "2026-11-22",
            "on 2026-11-22.",
            "2026-11-22T10:20:30.123Z",
            "at 2026-11-30T21:18:05.123456+00:00, try 3",
            "try 3, 2026-11-30 21:18:05",
            "2026-11-30T21:18",
            "CA0123456789abcdef",
            "019e8d9e-8e30-7899-9e61-3d950c4101b2",
            "evt_01908290-1234-7899-9e61-3d950c4101b2",
            "room 12, 345",
            "(",
            "",
        ] {
            assert_eq!(mask_numbers(text), text);
        }
    }

    proptest! {
        #[test]
        fn no_separator_reveals_a_number(
            digits in proptest::collection::vec("[015٥०]", MIN_DIGITS..16),
            separators in proptest::collection::vec("[\\P{L}&&\\P{N}&&\\P{M}]{0,3}", 16),
            (before, after) in ("[a-zA-Z语: ]{0,9}", "[a-zA-Z语: ]{0,9}"),
        ) {
            let number: Vec<_> = digits.iter().zip(&separators).map(|(digit, separator)| format!("{digit}{separator}")).collect();
            let text = format!("{before}{}{after}", number.concat());
            // Some signs count as letters: the circled ones.
            prop_assume!(!separators.concat().contains(|c: char| c.is_alphanumeric()));
            let masked = mask_numbers(&text);
            prop_assert_eq!(masked.chars().filter(|c| c.is_numeric()).count(), SHOWN_DIGITS, "{} {}", text, masked);
            prop_assert_eq!(masked.chars().count(), text.chars().count());
        }
    }
}
