//! The text of a key or a scalar while it is read.

use std::borrow::Cow;

use super::Scalar;

const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// The first bytes of a text, without escape sequences.
#[derive(Debug, Default)]
pub(super) struct TextBuffer {
    pub(super) bytes: Vec<u8>,
    max: usize,
    /// True if a part is missing or replaced.
    pub(super) is_damaged: bool,
}

impl TextBuffer {
    /// Begins a text of which at most `max` bytes are kept.
    pub(super) fn start(&mut self, max: usize) {
        self.bytes.clear();
        self.max = max;
        self.is_damaged = false;
    }

    pub(super) fn push(&mut self, part: &[u8]) {
        if self.max == 0 {
            return;
        }
        let room = self.max - self.bytes.len();
        self.is_damaged |= part.len() > room;
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// Adds a sign for a character that cannot be read.
    pub(super) fn push_replacement(&mut self) {
        self.push(REPLACEMENT);
        self.is_damaged = true;
    }

    /// Adds a UTF-16 code unit. Half of a surrogate pair waits for its other half as three bytes that are not UTF-8.
    pub(super) fn push_unit(&mut self, unit: u32) {
        let high = match self.bytes.last_chunk() {
            Some(&[0xED, b @ 0xA0..=0xAF, c]) => Some(u32::from(b & 0x0F) << 6 | u32::from(c & 0x3F)),
            _ => None,
        };
        let pair = match high {
            Some(high) if (0xDC00..0xE000).contains(&unit) => {
                char::from_u32(0x1_0000 + (high << 10) + (unit - 0xDC00))
            }
            _ => None,
        };
        if pair.is_some() {
            self.bytes.truncate(self.bytes.len() - 3);
        }
        match pair.or_else(|| char::from_u32(unit)) {
            Some(char) => self.push(char.encode_utf8(&mut [0; 4]).as_bytes()),
            None => self.push(&[0xED, 0x80 | low_bits(unit >> 6), 0x80 | low_bits(unit)]),
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if self.is_damaged { None } else { std::str::from_utf8(&self.bytes).ok() }
    }

    pub(super) fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    pub(super) fn to_scalar(&self) -> Scalar {
        self.as_str().map_or_else(
            || Scalar::DamagedText(self.to_str_lossy().into_owned()),
            |text| Scalar::Text(text.to_owned()),
        )
    }
}

/// Returns the lowest six bits.
fn low_bits(unit: u32) -> u8 {
    unit.to_le_bytes()[0] & 0x3F
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{JsonReader, reader::MAX_TEXT_BYTES};

    #[test]
    fn decodes_escapes() {
        for (json, text) in [
            (r#""a\n\r\t\b\f\/\\\"\u00fc""#, "a\n\r\t\u{8}\u{c}/\\\"\u{fc}"),
            (r#""\ud83d\ude00 \uD83D\uDE00""#, "\u{1f600} \u{1f600}"),
            (r#""\u0000\uffff""#, "\0\u{ffff}"),
        ] {
            assert_eq!(
                JsonReader::new(json.as_bytes()).scalar().unwrap(),
                Scalar::Text(text.to_owned()),
                "{json}"
            );
        }
        for json in [r#""\ude00\ud83d""#, r#""\ud83d x""#, r#""\u00""#, r#""abc"#, r#""\"#] {
            let scalar = JsonReader::new(json.as_bytes()).scalar().unwrap();
            assert!(matches!(scalar, Scalar::DamagedText(_)), "{json}: {scalar:?}");
        }
    }

    #[test]
    fn keeps_the_beginning_of_a_long_text() {
        for (length, whole) in [(MAX_TEXT_BYTES, true), (MAX_TEXT_BYTES + 1, false), (3 << 20, false)] {
            let json = format!("\"{}\" ", "x".repeat(length));
            let scalar = JsonReader::new(json.as_bytes()).scalar().unwrap();
            assert_eq!(matches!(&scalar, Scalar::Text(_)), whole);
            assert_eq!(scalar.text().unwrap().len(), length.min(MAX_TEXT_BYTES));
        }
    }
}
