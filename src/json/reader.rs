//! A reader for what is nearly JSON. It streams, and builds no tree.
//!
//! PolyAI's answers come from several services and through gateways, and polyhook only needs a few names of them. A
//! number that JSON does not have must not make a whole conversation unreadable. So this reader never rejects its input:
//! it finds the members of objects and the elements of arrays, and skips everything else.
//!
//! * It accepts JSON, and: `NaN` and other words, bytes that are not UTF-8, half surrogate pairs, control characters,
//!   surplus and missing commas, single quotes, keys without quotes, quotes in the middle of a string, byte order marks.
//! * Wrong closing brackets end the innermost value that they can end. [`JsonReader::is_well_formed`] then returns false,
//!   because members or elements may be lost.
//! * Time is linear in the input. Memory is constant: it depends neither on the number of keys, nor on the depth, nor on
//!   the length of a string beyond the limit of the reader.

use std::io::{self, BufRead};

use super::{Scalar, nesting::Nesting, text::TextBuffer};

/// The longest key that can have a meaning. Of a longer one the beginning is kept.
const MAX_KEY_BYTES: usize = 64;
/// The longest text that is kept of a value, unless the caller sets another limit.
pub(super) const MAX_TEXT_BYTES: usize = 64 << 10;

/// Reads one JSON value from its beginning to its end. The methods for values expect to stand before a value.
#[derive(Debug)]
pub(crate) struct JsonReader<R> {
    input: R,
    nesting: Nesting,
    text: TextBuffer,
    well_formed: bool,
    max_key_bytes: usize,
    max_text_bytes: usize,
}

impl<R: BufRead> JsonReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self::with_limits(input, MAX_KEY_BYTES, MAX_TEXT_BYTES)
    }

    /// Keeps at most so many bytes of a key and of a text.
    pub(crate) fn with_limits(input: R, max_key_bytes: usize, max_text_bytes: usize) -> Self {
        Self {
            input,
            nesting: Nesting::default(),
            text: TextBuffer::default(),
            well_formed: true,
            max_key_bytes,
            max_text_bytes,
        }
    }

    /// Returns the input, for example to [record](super::Recorder) what is read from it.
    pub(crate) fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Returns the next byte that is not white space, without reading it; `None` at the end of the input.
    pub(crate) fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.input.fill_buf()?.first() {
                Some(&space) if is_space(space) => self.input.consume(1),
                Some(&byte) => return Ok(Some(byte)),
                None => return Ok(None),
            }
        }
    }

    /// Returns whether all brackets that were read are closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.nesting.depth == 0
    }

    /// Returns the number of brackets that are open.
    pub(crate) fn depth(&self) -> u64 {
        self.nesting.depth
    }

    /// Returns false if brackets or colons were missing or wrong, so that something may be lost.
    pub(crate) fn is_well_formed(&self) -> bool {
        self.well_formed
    }

    /// Sets what [`is_well_formed`](Self::is_well_formed) returns, and returns what it returned so far.
    pub(crate) fn set_well_formed(&mut self, well_formed: bool) -> bool {
        std::mem::replace(&mut self.well_formed, well_formed)
    }

    /// Reads an object, which [`peek`](Self::peek) must have found. Calls `on_member` before the value of each key to which `name` gives a
    /// meaning; it must read the value. A key that is not UTF-8 has replacement characters.
    pub(crate) fn object<K>(
        &mut self,
        name: impl Fn(&str) -> Option<K>,
        mut on_member: impl FnMut(&mut Self, K) -> io::Result<()>,
    ) -> io::Result<()> {
        self.open(true)?;
        let level = self.nesting.depth;
        while self.nesting.depth >= level {
            match self.peek()? {
                None => break,
                Some(b',') => self.input.consume(1),
                Some(byte @ (b'}' | b']')) => self.close(byte == b'}'),
                Some(b'{') if self.nesting.is_array_around(level) => {
                    // The closing bracket is missing, and the array continues with its next element.
                    self.well_formed = false;
                    self.nesting.depth = level - 1;
                }
                Some(b':' | b'{' | b'[') => self.skip_stray()?,
                Some(first) => {
                    self.text.start(self.max_key_bytes);
                    self.string_or_word(first)?;
                    if self.peek()? == Some(b':') {
                        self.input.consume(1);
                        let key = match self.text.as_str() {
                            Some(key) => name(key),
                            None => name(&self.text.to_str_lossy()),
                        };
                        match key {
                            Some(key) => on_member(self, key)?,
                            None => self.skip_value()?,
                        }
                    } else {
                        self.well_formed = false;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads an array, which [`peek`](Self::peek) must have found. Calls `on_element` before each element; it must read the element.
    pub(crate) fn array(
        &mut self,
        mut on_element: impl FnMut(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        self.open(false)?;
        let level = self.nesting.depth;
        while self.nesting.depth >= level {
            match self.peek()? {
                None => break,
                Some(b',') => self.input.consume(1),
                Some(b':') => self.skip_stray()?,
                Some(b']') => self.close(false),
                Some(b'}') => {
                    self.input.consume(1);
                    self.well_formed = false;
                    // If the array goes on, the bracket was one too many. Otherwise the array's own is missing.
                    if !matches!(self.peek()?, Some(b',' | b']')) {
                        self.nesting.close(true);
                    }
                }
                Some(_) => on_element(self)?,
            }
        }
        Ok(())
    }

    /// Reads a value of which only a scalar is of interest.
    pub(crate) fn scalar(&mut self) -> io::Result<Scalar> {
        match self.peek()? {
            Some(quote @ (b'"' | b'\'')) => {
                self.text.start(self.max_text_bytes);
                self.string(quote)?;
                Ok(self.text.to_scalar())
            }
            None | Some(b'{' | b'[' | b'}' | b']' | b',' | b':') => {
                self.skip_value()?;
                Ok(Scalar::Unusable)
            }
            Some(_) => {
                self.text.start(self.max_text_bytes);
                self.word()?;
                Ok(self.text.as_str().map_or(Scalar::Unusable, Scalar::from_word))
            }
        }
    }

    /// Reads a value and returns whether it contains anything: `null`, `""`, `[]` and `{}` do not.
    pub(crate) fn has_content(&mut self) -> io::Result<bool> {
        match self.peek()? {
            Some(open @ (b'{' | b'[')) => {
                let level = self.nesting.depth;
                self.open(open == b'{')?;
                let has_content = !matches!(self.peek()?, None | Some(b'}' | b']'));
                self.skip_to(level)?;
                Ok(has_content)
            }
            _ => Ok(match self.scalar()? {
                Scalar::Null | Scalar::Unusable => false,
                Scalar::Text(text) => !text.is_empty(),
                Scalar::Bool(_) | Scalar::Number(_) | Scalar::DamagedText(_) => true,
            }),
        }
    }

    /// Reads a value and forgets it. Where a value is missing, reads nothing.
    pub(crate) fn skip_value(&mut self) -> io::Result<()> {
        self.text.start(0);
        match self.peek()? {
            None | Some(b'}' | b']' | b',' | b':') => Ok(()),
            Some(open @ (b'{' | b'[')) => {
                let level = self.nesting.depth;
                self.open(open == b'{')?;
                self.skip_to(level)
            }
            Some(first) => self.string_or_word(first),
        }
    }

    /// Skips until at most `level` brackets are open.
    fn skip_to(&mut self, level: u64) -> io::Result<()> {
        self.text.start(0);
        while self.nesting.depth > level {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let mut skipped = 0;
            while skipped < buffer.len() && !is_bracket_or_quote(buffer[skipped]) {
                skipped += 1;
            }
            let byte = buffer.get(skipped).copied();
            self.input.consume(skipped);
            match byte {
                None => {}
                Some(quote @ (b'"' | b'\'')) => self.string(quote)?,
                Some(open @ (b'{' | b'[')) => self.open(open == b'{')?,
                Some(close) => self.close(close == b'}'),
            }
        }
        Ok(())
    }

    /// Skips a colon, or a value without a key, in a place where neither belongs.
    fn skip_stray(&mut self) -> io::Result<()> {
        self.well_formed = false;
        if self.peek()? == Some(b':') {
            self.input.consume(1);
            return Ok(());
        }
        self.skip_value()
    }

    /// Reads the opening bracket, which must be next after white space.
    fn open(&mut self, object: bool) -> io::Result<()> {
        self.peek()?;
        self.input.consume(1);
        self.nesting.open(object);
        Ok(())
    }

    fn close(&mut self, object: bool) {
        self.input.consume(1);
        self.well_formed &= self.nesting.close(object);
    }

    fn string_or_word(&mut self, first: u8) -> io::Result<()> {
        match first {
            b'"' | b'\'' => self.string(first),
            _ => self.word(),
        }
    }

    /// Reads a word without quotes, at least one byte of it.
    fn word(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let end = buffer.iter().position(|byte| ends_word(*byte));
            let length = end.unwrap_or(buffer.len());
            self.text.push(&buffer[..length]);
            self.input.consume(length);
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
    }

    /// Reads a string, whose quote is next.
    fn string(&mut self, quote: u8) -> io::Result<()> {
        self.input.consume(1);
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                self.well_formed = false;
                self.text.is_damaged = true;
                return Ok(());
            }
            let length = memchr::memchr2(quote, b'\\', buffer).unwrap_or(buffer.len());
            let byte = buffer.get(length).copied();
            self.text.push(&buffer[..length]);
            self.input.consume(length + usize::from(byte.is_some()));
            match byte {
                Some(b'\\') => self.escape()?,
                Some(_) if self.is_end_of_string(quote)? => return Ok(()),
                Some(_) | None => {}
            }
        }
    }

    /// Returns whether the quote that was just read ends the string. After the end of a string come a comma, a colon, a
    /// closing bracket or, if a comma is missing, another string; so any other quote is a part of the text.
    fn is_end_of_string(&mut self, quote: u8) -> io::Result<bool> {
        let (length, is_damaged) = (self.text.bytes.len(), self.text.is_damaged);
        let mut last = quote;
        loop {
            match self.input.fill_buf()?.first() {
                None | Some(b',' | b':' | b'}' | b']' | b'"' | b'\'') => {
                    self.text.bytes.truncate(length);
                    self.text.is_damaged = is_damaged;
                    return Ok(true);
                }
                Some(&space) if is_space(space) => {
                    self.text.push(&[last]);
                    self.input.consume(1);
                    last = space;
                }
                Some(_) => {
                    self.text.push(&[last]);
                    return Ok(false);
                }
            }
        }
    }

    /// Reads the rest of an escape sequence. JSON does not have `\x`; it stands for `x`.
    fn escape(&mut self) -> io::Result<()> {
        let Some(byte) = self.input.fill_buf()?.first().copied() else { return Ok(()) };
        self.input.consume(1);
        let plain = match byte {
            b'u' => return self.unicode_escape(),
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            other => other,
        };
        self.text.push(&[plain]);
        Ok(())
    }

    fn unicode_escape(&mut self) -> io::Result<()> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.input.fill_buf()?.first().and_then(|byte| char::from(*byte).to_digit(16));
            let Some(digit) = digit else {
                self.text.push_replacement();
                return Ok(());
            };
            self.input.consume(1);
            unit = unit << 4 | digit;
        }
        self.text.push_unit(unit);
        Ok(())
    }
}

/// White space, and the bytes of a byte order mark.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0xEF | 0xBB | 0xBF)
}

fn is_bracket_or_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b'\'')
}

fn ends_word(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b',' | b':' | b'"' | b'{' | b'}' | b'[' | b']')
}

#[cfg(test)]
mod tests;
