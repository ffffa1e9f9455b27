//! Removal of phone numbers from what PolyAI sends beside the numbers of the call.

use std::borrow::Cow;

use super::{Numbers, phone};
use crate::json::{JsonFilter, Scalar};

/// Written for a number where nothing can be left out: in a name, and in the middle of a text.
const PLACEHOLDER: &str = "(number)";
/// Parts of a name below which a JSON number is a phone number. `ani` must be a whole word.
const NUMBER_NAMES: [&str; 4] = ["phone", "number", "caller", "msisdn"];
const ANI: &str = "ani";
/// The shortest number that is searched for inside texts, in digits.
const MIN_SEARCHED_DIGITS: usize = 7;

/// Replaces phone numbers by nothing or their hashes: texts that as a whole are a number, and the numbers of the call anywhere.
/// Does nothing if numbers are plain.
pub(super) struct Scrubber<'a> {
    numbers: &'a Numbers,
    own: Vec<OwnNumber>,
}

/// A number of the call.
struct OwnNumber {
    normalized: String,
    /// The forms in which other texts may contain it.
    searched: Vec<String>,
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
            for number in &own.searched {
                if let Cow::Owned(replaced) = replace_word(&text, number, || {
                    self.numbers.hash(&own.normalized).unwrap_or_else(|| PLACEHOLDER.to_owned())
                }) {
                    text = replaced;
                }
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
        let name = name.to_lowercase();
        let mut words = name.split(|c: char| !c.is_alphanumeric());
        NUMBER_NAMES.iter().any(|part| name.contains(part)) || words.any(|word| word == ANI)
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
        let is_number = digits.len() >= MIN_SEARCHED_DIGITS && digits.bytes().all(|c| c.is_ascii_digit());
        let mut searched = Vec::new();
        if is_number {
            let number = number.trim().trim_start_matches('+');
            searched.extend([number, digits].map(str::to_owned));
            searched.dedup();
        }
        Self { normalized, searched }
    }
}

fn without_plus(number: &str) -> &str {
    number.trim_start_matches('+')
}

/// Replaces a word, and a plus sign before it.
fn replace_word<'t>(text: &'t str, word: &str, replacement: impl Fn() -> String) -> Cow<'t, str> {
    let mut replaced = String::new();
    let mut copied = 0;
    for (start, _) in text.match_indices(word) {
        let end = start + word.len();
        let before = text[..start].chars().next_back();
        let is_word = !before.is_some_and(char::is_alphanumeric)
            && !text[end..].chars().next().is_some_and(char::is_alphanumeric);
        if is_word {
            replaced.push_str(text[copied..start].trim_end_matches('+'));
            replaced.push_str(&replacement());
            copied = end;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    replaced.push_str(&text[copied..]);
    Cow::Owned(replaced)
}
