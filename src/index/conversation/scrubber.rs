//! Removal of phone numbers from what PolyAI sends beside the numbers of the call.

use std::borrow::Cow;

use super::{Numbers, phone};
use crate::json::{JsonFilter, Scalar};

/// Written for a number where nothing can be left out: in a name, and in the middle of a text.
const PLACEHOLDER: &str = "(number)";
/// Parts of a name below which a JSON number is a phone number.
const NUMBER_NAMES: [&str; 8] =
    ["phone", "number", "caller", "msisdn", "mobile", "callback", "contact", "whatsapp"];
/// Words of a name below which a JSON number is a phone number. They are parts of other words, such as `client`.
const NUMBER_WORDS: [&str; 6] = ["ani", "cli", "tel", "cell", "fax", "dnis"];
/// The digits of a number that is searched for inside texts.
const SEARCHED_DIGITS: std::ops::RangeInclusive<usize> = 7..=32;
/// A number with as many digits is also found among other digits, such as `00` or `011` before it.
const MIN_EMBEDDED_DIGITS: usize = 10;
/// The maximum separators between two digits of a number.
const MAX_SEPARATORS: usize = 5;

/// Replaces phone numbers by nothing or their hashes: texts that as a whole are a number, and the numbers of the call anywhere.
/// Does nothing if numbers are plain.
pub(super) struct Scrubber<'a> {
    numbers: &'a Numbers,
    own: Vec<OwnNumber>,
}

/// A number of the call.
struct OwnNumber {
    normalized: String,
    /// The digits that other texts may contain.
    searched: Option<String>,
}

impl<'a> Scrubber<'a> {
    /// `own` are the numbers of the call.
    pub(super) fn new(numbers: &'a Numbers, own: &[Option<String>]) -> Self {
        let own = own.iter().flatten().map(|number| OwnNumber::new(number));
        Self { numbers, own: own.filter(|own| !without_plus(&own.normalized).is_empty()).collect() }
    }

    /// Returns a text without numbers, or `None` if nothing is left.
    pub(super) fn text(&self, text: String) -> Option<String> {
        if self.numbers.are_plain() {
            return Some(text);
        }
        match self.own(&text) {
            Some(own) => self.numbers.hash(&own.normalized),
            None if phone::is_phone(&text) => self.numbers.hash(&phone::normalize(&text)),
            None => Some(self.without_own(text)),
        }
    }

    /// Returns the number of the call that a text is as a whole.
    fn own(&self, text: &str) -> Option<&OwnNumber> {
        if text.len() > phone::MAX_ADDRESS_BYTES {
            return None;
        }
        let normalized = phone::normalize(text);
        let digits = without_plus(&normalized);
        self.own.iter().find(|own| without_plus(&own.normalized) == digits)
    }

    /// Replaces the numbers of the call inside a text.
    fn without_own(&self, text: String) -> String {
        self.own.iter().fold(text, |mut text, own| {
            if let Some(digits) = &own.searched
                && let Cow::Owned(replaced) = replace_number(&text, digits, || {
                    self.numbers.hash(&own.normalized).unwrap_or_else(|| PLACEHOLDER.to_owned())
                })
            {
                text = replaced;
            }
            text
        })
    }
}

impl JsonFilter for Scrubber<'_> {
    fn name(&self, name: String) -> String {
        self.text(name).unwrap_or_else(|| PLACEHOLDER.to_owned())
    }

    fn marks(&self, name: &str) -> bool {
        let lower = name.to_lowercase();
        NUMBER_NAMES.iter().any(|part| lower.contains(part))
            || words(name).iter().any(|word| NUMBER_WORDS.contains(&&**word))
    }

    fn scalar(&self, value: Scalar, is_marked: bool) -> Scalar {
        if self.numbers.are_plain() {
            return value;
        }
        let or_null = |text: Option<String>| text.map_or(Scalar::Null, Scalar::Text);
        match value {
            Scalar::Text(text) | Scalar::DamagedText(text) => or_null(self.text(text)),
            Scalar::Number(number) => match Scalar::Number(number.clone()).text_or_integer() {
                Some(integer) if self.own(&integer).is_some() || is_marked && phone::is_phone(&integer) => {
                    or_null(self.text(integer))
                }
                _ => Scalar::Number(number),
            },
            other => other,
        }
    }
}

impl OwnNumber {
    fn new(number: &str) -> Self {
        let normalized = phone::normalize(number);
        let digits = without_plus(&normalized);
        let is_searched =
            SEARCHED_DIGITS.contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
        let searched = is_searched.then(|| digits.to_owned());
        Self { normalized, searched }
    }
}

/// Returns the words of a name such as `customer_tel` or `customerTel2`, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_after_lower = false;
    for c in name.chars() {
        if !c.is_alphabetic() || c.is_uppercase() && is_after_lower {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphabetic()) {
            word.extend(c.to_lowercase());
        }
        is_after_lower = c.is_lowercase();
    }
    words
}

fn without_plus(number: &str) -> &str {
    number.trim_start_matches('+')
}

/// Replaces a number, and a plus sign before it, wherever its digits are in a text, also with separators between them.
fn replace_number<'t>(text: &'t str, digits: &str, replacement: impl Fn() -> String) -> Cow<'t, str> {
    let mut replaced = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        if let Some(end) = end_of_number(text, at, digits) {
            replaced.push_str(without_trailing_plus(&text[copied..at]));
            replaced.push_str(&replacement());
            (copied, at) = (end, end);
        } else {
            // The digits of an encoded character may be the first ones of the number.
            at += c.len_utf8();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    replaced.push_str(&text[copied..]);
    Cow::Owned(replaced)
}

/// Returns the end of a number that begins at `at`, if it is there. Between two digits there may be a few separators, or `(0)`.
fn end_of_number(text: &str, start: usize, digits: &str) -> Option<usize> {
    let mut at = start;
    for (position, digit) in digits.chars().enumerate() {
        let mut separators = 0;
        loop {
            let (c, end) = next_char(text, at)?;
            let is_trunk_zero = c == '0' && text[..at].ends_with('(') && text[end..].starts_with(')');
            if c == digit && !(is_trunk_zero && separators > 0) {
                at = end;
                break;
            }
            if position == 0 || separators == MAX_SEPARATORS || c.is_alphanumeric() && !is_trunk_zero {
                return None;
            }
            separators += 1;
            at = end;
        }
    }
    let neighbors = [char_before(text, start), next_char(text, at).map(|(c, _)| c)];
    let is_embedded = neighbors.iter().flatten().any(char::is_ascii_digit);
    (digits.len() >= MIN_EMBEDDED_DIGITS || !is_embedded).then_some(at)
}

/// Returns the character at a position, and its end. An ASCII character may be percent-encoded.
fn next_char(text: &str, at: usize) -> Option<(char, usize)> {
    let rest = &text[at..];
    let encoded = rest.strip_prefix('%').and_then(|rest| rest.get(..2)).filter(|hex| !hex.contains('+'));
    match encoded.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii) {
        Some(c) => Some((c.into(), at + 3)),
        None => rest.chars().next().map(|c| (c, at + c.len_utf8())),
    }
}

/// Returns the character that ends at a position.
fn char_before(text: &str, at: usize) -> Option<char> {
    let encoded = at.checked_sub(3).filter(|start| text[..at].is_char_boundary(*start));
    let encoded = encoded.and_then(|start| next_char(text, start)).filter(|(_, end)| *end == at);
    encoded.map(|(c, _)| c).or_else(|| text[..at].chars().next_back())
}

fn without_trailing_plus(text: &str) -> &str {
    let text = text.strip_suffix("%2B").or_else(|| text.strip_suffix("%2b")).unwrap_or(text);
    text.trim_end_matches('+')
}
