//! A phrase in texts, without regard to case.
//!
//! A phrase of ASCII letters is compared byte by byte, so that texts need not be copied. Others are compared letter by letter in
//! lower case.

use memchr::{memchr_iter, memchr2_iter};

/// The letters of English from the most frequent one. Rare letters are looked for first.
const FREQUENT: &[u8] = b" etaoinshrdlcumwfgypbvk";
/// The characters around a hit in an excerpt.
const CONTEXT_CHARS: usize = 70;
/// The longest phrase in characters.
const MAX_CHARS: usize = 200;

/// A phrase that is searched for in texts.
#[derive(Clone, Debug)]
pub struct Phrase {
    /// In lower case.
    text: String,
    /// The place of the byte that is looked for first, if the phrase is ASCII.
    rare: Option<usize>,
    /// Hides parts of the texts from the viewer.
    mask: Option<fn(&str) -> String>,
}

/// A part of a text with a hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The text before the hit.
    pub before: String,
    /// The hit.
    pub hit: String,
    /// The text after it.
    pub after: String,
}

impl Phrase {
    /// The longest phrase in characters.
    pub const MAX_CHARS: usize = MAX_CHARS;

    /// Returns `None` for a text that is empty or too long. Spaces at both ends do not count.
    pub fn new(text: &str) -> Option<Self> {
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.chars().count() > MAX_CHARS {
            return None;
        }
        let text: String = trimmed.chars().flat_map(char::to_lowercase).collect();
        let rare = text.is_ascii().then(|| {
            let frequency = |byte: &u8| FREQUENT.iter().rev().position(|frequent| frequent == byte);
            let places = text.bytes().enumerate();
            places
                .min_by_key(|(_, byte)| frequency(byte).map_or(0, |rank| rank + 1))
                .map_or(0, |(place, _)| place)
        });
        Some(Self { text, rare, mask: None })
    }

    /// Searches in texts as the viewer may see them. `mask` gets whole texts, and replaces digits alone.
    #[must_use]
    pub fn in_masked(self, mask: fn(&str) -> String) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// Returns the phrase in lower case.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true if the phrase is in `text`.
    pub fn is_in(&self, text: &str) -> bool {
        self.is_in_bytes(text.as_bytes())
    }

    /// Returns true if the phrase is in the text with these bytes.
    pub(super) fn is_in_bytes(&self, text: &[u8]) -> bool {
        let is_in = match self.rare {
            Some(rare) => self.find_ascii(text, rare).is_some(),
            None => std::str::from_utf8(text).is_ok_and(|text| !text.is_ascii() && self.find(text).is_some()),
        };
        // Only digits are masked, so other phrases need no second look.
        let mask = self.mask.filter(|_| is_in && self.text.contains(char::is_numeric));
        mask.map_or(is_in, |mask| {
            std::str::from_utf8(text).is_ok_and(|text| self.find(&mask(text)).is_some())
        })
    }

    /// Returns the first hit in `text` with what is around it. The text is masked before it is cut: a part of a number looks
    /// like a short one.
    pub(super) fn excerpt(&self, text: &str) -> Option<Excerpt> {
        let masked = self.mask.map(|mask| mask(text));
        let text = masked.as_deref().unwrap_or(text);
        let (start, end) = self.find(text)?;
        let first =
            text[..start].char_indices().rev().take(CONTEXT_CHARS).last().map_or(start, |(place, _)| place);
        let last = text[end..].char_indices().nth(CONTEXT_CHARS).map_or(text.len(), |(place, _)| end + place);
        let mark = |is_cut: bool| if is_cut { "…" } else { "" };
        Some(Excerpt {
            before: format!("{}{}", mark(first > 0), &text[first..start]),
            hit: text[start..end].to_owned(),
            after: format!("{}{}", &text[end..last], mark(last < text.len())),
        })
    }

    /// Returns the start and the end of the first hit.
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        let Some(rare) = self.rare else { return self.find_letters(text) };
        self.find_ascii(text.as_bytes(), rare).map(|start| (start, start + self.text.len()))
    }

    /// Returns the place of the first hit. ASCII bytes are no parts of other characters.
    fn find_ascii(&self, text: &[u8], rare: usize) -> Option<usize> {
        let phrase = self.text.as_bytes();
        let last = text.len().checked_sub(phrase.len())?;
        // The rare byte of a hit is in this part.
        let searched = &text[rare..=last + rare];
        let byte = phrase[rare];
        let is_hit = |place: &usize| text[*place..*place + phrase.len()].eq_ignore_ascii_case(phrase);
        if byte.is_ascii_alphabetic() {
            memchr2_iter(byte, byte.to_ascii_uppercase(), searched).find(is_hit)
        } else {
            memchr_iter(byte, searched).find(is_hit)
        }
    }

    /// Returns the start and the end of the first hit.
    fn find_letters(&self, text: &str) -> Option<(usize, usize)> {
        let mut lower = String::with_capacity(text.len());
        lower.extend(text.chars().flat_map(char::to_lowercase));
        let found = memchr::memmem::find(lower.as_bytes(), self.text.as_bytes())?;
        let (mut place, mut start) = (0, None);
        for (at, letter) in text.char_indices() {
            let next = place + letter.to_lowercase().map(char::len_utf8).sum::<usize>();
            if start.is_none() && next > found {
                start = Some(at);
            }
            if next >= found + self.text.len() {
                return Some((start?, at + letter.len_utf8()));
            }
            place = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn excerpt(phrase: &str, text: &str) -> Option<Excerpt> {
        Phrase::new(phrase).unwrap().excerpt(text)
    }

    #[test]
    fn ignores_case_in_any_script() {
        for (phrase, text, hit) in [
            ("Refund", "a REFUND, please", "REFUND"),
            (" two words ", "in Two Words", "Two Words"),
            ("24", "room 245", "24"),
            ("ÄRGER", "Viel ärger!", "ärger"),
            ("straße", "die STRASSE, die Straße", "Straße"),
            ("возврат", "Мне нужен ВОЗВРАТ", "ВОЗВРАТ"),
            ("返金", "返金をお願いします", "返金"),
            ("i", "İ i", "i"),
            ("é", "CAFÉ", "É"),
            ("\u{202e}", "a\u{202e}b", "\u{202e}"),
        ] {
            assert_eq!(excerpt(phrase, text).unwrap().hit, hit, "{phrase} in {text}");
            assert!(Phrase::new(phrase).unwrap().is_in(text));
        }
        for (phrase, text) in [("refund", "refun"), ("ä", "a"), ("aa", ""), ("straße", "STRASSE")] {
            assert_eq!(excerpt(phrase, text), None, "{phrase} in {text}");
            assert!(!Phrase::new(phrase).unwrap().is_in(text));
        }
    }

    #[test]
    fn an_excerpt_is_short_and_keeps_whole_characters() {
        let text = format!("{}refund{}", "ü".repeat(500_000), "💶".repeat(500_000));
        let Excerpt { before, hit, after } = excerpt("refund", &text).unwrap();
        assert_eq!((before.chars().count(), hit.as_str(), after.chars().count()), (71, "refund", 71));
        assert!(before.starts_with("…ü") && after.ends_with("💶…"));
        let short = Excerpt { before: "a ".to_owned(), hit: "b".to_owned(), after: " c".to_owned() };
        assert_eq!(excerpt("b", "a b c"), Some(short));
    }

    #[test]
    fn masked_digits_are_neither_shown_nor_found() {
        let mask = |text: &str| text.replace(|c: char| c.is_numeric(), "•");
        let masked = |phrase: &str, text: &str| {
            let phrase = Phrase::new(phrase).unwrap().in_masked(mask);
            assert_eq!(phrase.is_in(text), phrase.excerpt(text).is_some(), "{phrase:?}");
            phrase.excerpt(text)
        };
        let text = format!("{}my number is 5550100199, Ärger", "word ".repeat(14));
        for (phrase, is_found) in
            [("5550100199", false), ("55", false), ("my", true), ("is 5", false), ("ärger", true)]
        {
            let found = masked(phrase, &text);
            assert_eq!(found.is_some(), is_found, "{phrase}");
            assert!(!format!("{found:?}").contains(char::is_numeric), "{found:?}");
        }
    }

    #[test]
    fn has_a_limit() {
        assert!(Phrase::new("  ").is_none() && Phrase::new(&"a".repeat(MAX_CHARS + 1)).is_none());
        assert!(Phrase::new(&"ü".repeat(MAX_CHARS)).is_some());
    }

    proptest! {
        #[test]
        fn finds_what_lower_case_finds(phrase in "[a-cA-C ÄäéΣσς]{1,3}", text in "[a-cA-C ÄäéΣσς]{0,12}") {
            prop_assume!(!phrase.trim().is_empty());
            let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<String>();
            let expected = lower(&text).contains(&lower(phrase.trim()));
            let phrase = Phrase::new(&phrase).unwrap();
            prop_assert_eq!(phrase.is_in(&text), expected);
            let found = phrase.excerpt(&text);
            prop_assert_eq!(found.is_some(), expected);
            if let Some(Excerpt { before, hit, after }) = found {
                prop_assert_eq!(format!("{before}{hit}{after}"), text);
                prop_assert_eq!(lower(&hit), phrase.text);
            }
        }
    }
}
