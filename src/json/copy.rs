//! Copies of values as JSON that every reader accepts.

use std::{
    collections::HashSet,
    io::{self, BufRead},
    ops::Range,
};

use super::{JsonReader, Scalar};

/// The deepest nesting of a copy. What is deeper becomes `null`.
const MAX_DEPTH: usize = 64;

/// Changes the names and scalars of a copy.
pub(crate) trait JsonFilter {
    /// Returns the name to write for `name`.
    fn name(&self, name: String) -> String;

    /// Returns whether the scalars below this name are marked.
    fn marks(&self, name: &str) -> bool;

    /// Returns the scalar to write.
    fn scalar(&self, value: Scalar, is_marked: bool) -> Scalar;
}

/// Returns a copy of a value that is nearly JSON: valid UTF-8, numbers as they are written, and of two members of the same name the
/// later one. Returns `None` if the copy has more than `max_bytes`. `is_marked` is the mark of the value itself.
pub(crate) fn copy_json(
    json: &[u8],
    max_bytes: usize,
    filter: &dyn JsonFilter,
    is_marked: bool,
) -> Option<String> {
    let mut reader = JsonReader::with_limits(json, max_bytes, max_bytes);
    let mut copy = Copy { text: String::new(), max_bytes, filter };
    copy.value(&mut reader, is_marked, 0).ok()?;
    (!copy.is_full()).then_some(copy.text)
}

struct Copy<'a> {
    text: String,
    max_bytes: usize,
    filter: &'a dyn JsonFilter,
}

impl Copy<'_> {
    /// Returns true if the copy is too long, so that it is given up.
    fn is_full(&self) -> bool {
        self.text.len() > self.max_bytes
    }

    fn value<R: BufRead>(
        &mut self,
        reader: &mut JsonReader<R>,
        is_marked: bool,
        depth: usize,
    ) -> io::Result<()> {
        match reader.peek()? {
            Some(b'{' | b'[') if self.is_full() || depth >= MAX_DEPTH => {
                self.text.push_str("null");
                reader.skip_value()
            }
            Some(b'{') => self.object(reader, is_marked, depth),
            Some(b'[') => self.array(reader, is_marked, depth),
            _ => {
                let scalar = self.filter.scalar(reader.scalar()?, is_marked);
                if !self.is_full() {
                    self.scalar(&scalar);
                }
                Ok(())
            }
        }
    }

    fn array<R: BufRead>(
        &mut self,
        reader: &mut JsonReader<R>,
        is_marked: bool,
        depth: usize,
    ) -> io::Result<()> {
        self.text.push('[');
        let mut is_first = true;
        reader.array(|reader| {
            if self.is_full() {
                return reader.skip_value();
            }
            if !std::mem::take(&mut is_first) {
                self.text.push(',');
            }
            self.value(reader, is_marked, depth + 1)
        })?;
        self.text.push(']');
        Ok(())
    }

    fn object<R: BufRead>(
        &mut self,
        reader: &mut JsonReader<R>,
        is_marked: bool,
        depth: usize,
    ) -> io::Result<()> {
        self.text.push('{');
        let mut members = Vec::new();
        reader.object(
            |name| Some(name.to_owned()),
            |reader, name| {
                if self.is_full() {
                    return reader.skip_value();
                }
                if !members.is_empty() {
                    self.text.push(',');
                }
                let start = self.text.len();
                let is_marked = is_marked || self.filter.marks(&name);
                self.text_value(&self.filter.name(name));
                let name = start..self.text.len();
                self.text.push(':');
                self.value(reader, is_marked, depth + 1)?;
                members.push(Member { name, end: self.text.len() });
                Ok(())
            },
        )?;
        if !self.is_full() {
            self.remove_repeated(&members);
        }
        self.text.push('}');
        Ok(())
    }

    /// Leaves of several members with the same name the last one. `members` end the text.
    fn remove_repeated(&mut self, members: &[Member]) {
        let mut names = HashSet::with_capacity(members.len());
        let mut kept: Vec<&Member> =
            members.iter().rev().filter(|member| names.insert(&self.text[member.name.clone()])).collect();
        if let (Some(first), true) = (members.first(), kept.len() < members.len()) {
            kept.reverse();
            let texts: Vec<&str> =
                kept.iter().map(|member| &self.text[member.name.start..member.end]).collect();
            let members = texts.join(",");
            self.text.truncate(first.name.start);
            self.text.push_str(&members);
        }
    }

    fn scalar(&mut self, scalar: &Scalar) {
        match scalar {
            Scalar::Null | Scalar::Unusable => self.text.push_str("null"),
            Scalar::Bool(flag) => self.text.push_str(if *flag { "true" } else { "false" }),
            // JSON has neither `007` nor `+1`, and readers refuse `1e999`.
            Scalar::Number(number) if serde_json::from_str::<serde_json::Number>(number).is_ok() => {
                self.text.push_str(number);
            }
            Scalar::Number(text) | Scalar::Text(text) | Scalar::DamagedText(text) => self.text_value(text),
        }
    }

    fn text_value(&mut self, text: &str) {
        self.text.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// A member in the text of a copy.
struct Member {
    name: Range<usize>,
    end: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct NoFilter;

    impl JsonFilter for NoFilter {
        fn name(&self, name: String) -> String {
            name
        }

        fn marks(&self, _: &str) -> bool {
            false
        }

        fn scalar(&self, value: Scalar, _: bool) -> Scalar {
            value
        }
    }

    fn copy(json: impl AsRef<[u8]>) -> String {
        copy_json(json.as_ref(), 1 << 20, &NoFilter, false).unwrap()
    }

    #[test]
    fn makes_valid_json_of_what_is_nearly_json() {
        for (json, expected) in [
            ("", "null"),
            ("{}", "{}"),
            (" [ 1 , ,2,] x", "[1,2]"),
            ("{\"a\":NaN,'b':None,c:undefined,\"d\":}", r#"{"a":null,"b":null,"c":null,"d":null}"#),
            (r#"{"a":1e999,"b":007,"c":-0.50,"d":+1}"#, r#"{"a":"1e999","b":"007","c":-0.50,"d":"+1"}"#),
            ("[123456789012345678901234567890]", "[123456789012345678901234567890]"),
            (r#"{"a":1,"b":{"x":1,"x":2},"a":[3],"c":4}"#, r#"{"b":{"x":2},"a":[3],"c":4}"#),
            (r#"{"\ud83d\ude00\n":"\u0000\"\\"}"#, "{\"\u{1f600}\\n\":\"\\u0000\\\"\\\\\"}"),
            (r#"{"a":[1,{"b":"x"#, r#"{"a":[1,{"b":"x"}]}"#),
        ] {
            assert_eq!(copy(json), expected, "{json}");
        }
        assert_eq!(copy(b"{\"\xff\":\"\xc3\"}"), "{\"\u{fffd}\":\"\u{fffd}\"}");
    }

    #[test]
    fn cuts_deep_values_and_gives_up_large_ones() {
        let deep = copy("[{\"a\":".repeat(300_000));
        assert!(deep.len() < 1000 && serde_json::from_str::<serde_json::Value>(&deep).is_ok(), "{deep}");
        let fits = |json: &str, max| copy_json(json.as_bytes(), max, &NoFilter, false).is_some();
        for json in [r#"["abcdef",{"b":12345}]"#, r#"{"a":1,"b":[1,2,{"c":3}]}"#, "\"abcdefghij\""] {
            assert!(fits(json, json.len()) && !fits(json, json.len() - 1), "{json}");
        }
    }

    proptest! {
        #[test]
        fn copies_valid_json_as_it_is(
            text in ".{0,20}", other in "[a-z]{1,5}", number in any::<f64>(), integer in any::<u64>(),
        ) {
            let json = serde_json::json!({ "k": { text.clone(): [text, number, { "x": null }], other: integer }, "e": [true, {}] });
            prop_assert_eq!(copy(json.to_string()), json.to_string());
        }

        #[test]
        fn a_copy_is_always_valid_json(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"", "'", "\\", "\\u", "d83d", "\\ude00", " ", "\n", "\u{feff}", "id", "\"id\":",
                    "\"x\":[", "\"y\":{", "NaN", "-1.5", "1e9999", "00", "null", "\u{fc}",
                ]),
                0..60,
            ),
            max in 0_usize..200,
        ) {
            let json = pieces.concat();
            if let Some(copied) = copy_json(json.as_bytes(), max, &NoFilter, false) {
                prop_assert!(copied.len() <= max, "{}", json);
                prop_assert!(serde_json::from_str::<serde_json::Value>(&copied).is_ok(), "{} -> {}", json, copied);
            }
        }
    }
}
