//! Keeps the bytes of a value while it is read.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

/// An input that can keep a copy of what is read from it. Outside of a recording it costs nothing.
#[derive(Debug)]
pub(crate) struct Recorder<R> {
    input: R,
    max_bytes: usize,
    recording: bool,
    /// At most `max_bytes`, and one more for a value that is longer.
    kept: Vec<u8>,
}

impl<R: BufRead> Recorder<R> {
    /// A recording of more than `max_bytes` is given up.
    pub(crate) fn new(input: R, max_bytes: usize) -> Self {
        Self { input, max_bytes, recording: false, kept: Vec::new() }
    }

    /// Keeps what is read from now on.
    pub(crate) fn start(&mut self) {
        self.kept.clear();
        self.recording = true;
    }

    /// Ends the recording. [`recorded`](Self::recorded) returns it until the next one starts.
    pub(crate) fn stop(&mut self) {
        self.recording = false;
    }

    /// Returns the last recording, or `None` if it was too long.
    pub(crate) fn recorded(&self) -> Option<Bytes> {
        (self.kept.len() <= self.max_bytes).then(|| Bytes::copy_from_slice(&self.kept))
    }
}

impl<R: BufRead> Read for Recorder<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = {
            let buffer = self.fill_buf()?;
            let length = buffer.len().min(target.len());
            target[..length].copy_from_slice(&buffer[..length]);
            length
        };
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Recorder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        // The buffer is not empty, so this reads nothing and does not fail.
        if self.recording
            && length > 0
            && let Ok(buffer) = self.input.fill_buf()
        {
            let space = (self.max_bytes + 1).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(&buffer[..length.min(buffer.len()).min(space)]);
        }
        self.input.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::JsonReader;

    #[test]
    fn keeps_each_element_byte_for_byte() {
        let elements = [
            r#"{ "a":[1, {"b":"}\"]"}] ,"c" : "ä\u00e4" }"#,
            "{}",
            "{\"x\":\n\tNaN,}",
            r#"{"long":"0123456789012345678901234567890123456789012345"}"#,
        ];
        let list = format!(
            "\u{feff} [{}  ,\n{},{} , {}] trailing",
            elements[0], elements[1], elements[2], elements[3]
        );
        // Small buffers split every value.
        for capacity in [1, 2, 7, 1000] {
            let input = io::BufReader::with_capacity(capacity, list.as_bytes());
            let mut reader = JsonReader::new(Recorder::new(input, 45));
            let mut kept = Vec::new();
            assert_eq!(reader.peek().unwrap(), Some(b'['));
            reader
                .array(|reader| {
                    reader.input_mut().start();
                    reader.skip_value()?;
                    reader.input_mut().stop();
                    kept.push(reader.input_mut().recorded());
                    Ok(())
                })
                .unwrap();
            let expected = elements.map(|text| (text.len() <= 45).then(|| Bytes::from(text)));
            assert_eq!(kept, expected, "{capacity}");
            assert_eq!(expected[3], None);
        }
    }
}
