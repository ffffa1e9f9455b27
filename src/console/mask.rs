//! Masking of phone numbers in texts.

use crate::terminal;

/// The fewest digits of a phone number.
const MIN_DIGITS: usize = 7;
/// Digits at the end of a number that stay, so that two numbers can be told apart.
const SHOWN_DIGITS: usize = 2;

/// Masks everything in a text that may be a phone number: at least seven digits, also with separators between them. Digits
/// behind a letter belong to an id, and a date is not a number.
pub(super) fn mask_numbers(text: &str) -> String {
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
}
