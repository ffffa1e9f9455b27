//! The body of an event as a page shows it.

use crate::{
    console::mask::mask_numbers,
    json::{JsonFilter, Scalar, copy_json},
};

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

#[cfg(test)]
mod tests {
    use super::*;

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
