//! Reproduces the ways in which programs serialize the same JSON document. Keys stay in their order or are sorted.

use std::fmt::{self, Write as _};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Documents with deeper nesting are not rewritten.
const MAX_DEPTH: usize = 128;

/// Returns each known serialization of `body` with a description; empty if `body` is not JSON.
pub(super) fn rewrites(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let Some(json) = serde_json::from_slice(body).ok().and_then(|raw| Json::read(raw, 0)) else {
        return Vec::new();
    };
    let mut rewrites = Vec::new();
    for (layout, layout_name) in [
        (Layout::Compact, "compact JSON, as JavaScript's JSON.stringify writes it"),
        (Layout::Spaced, "JSON with a space after commas and colons, as Python's json.dumps writes it"),
        (Layout::Indented(2), "JSON indented by two"),
        (Layout::Indented(4), "JSON indented by four"),
    ] {
        for (escapes, escapes_name) in [
            (Escapes::Required, ""),
            (Escapes::Ascii, ", non-ASCII characters escaped"),
            (Escapes::Slashes, ", slashes and non-ASCII characters escaped (PHP)"),
            (Escapes::Html, ", <, > and & escaped (Go)"),
        ] {
            for (sorted, sorted_name) in [(false, ""), (true, ", keys sorted")] {
                let mut text = String::new();
                Writer { layout, escapes, sorted }.write(&mut text, &json, 0);
                rewrites.push((format!("{layout_name}{escapes_name}{sorted_name}"), text.into_bytes()));
            }
        }
    }
    rewrites
}

enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    Text(String),
    /// A number, `true`, `false` or `null`, as written.
    Literal(String),
}

impl Json {
    fn read(raw: &RawValue, depth: usize) -> Option<Self> {
        if depth > MAX_DEPTH {
            return None;
        }
        let text = raw.get();
        Some(match text.as_bytes().first()? {
            b'{' => Self::Object(
                serde_json::from_str::<Fields<'_>>(text)
                    .ok()?
                    .0
                    .into_iter()
                    .map(|(key, value)| Some((key, Self::read(value, depth + 1)?)))
                    .collect::<Option<_>>()?,
            ),
            b'[' => Self::Array(
                serde_json::from_str::<Vec<&RawValue>>(text)
                    .ok()?
                    .into_iter()
                    .map(|value| Self::read(value, depth + 1))
                    .collect::<Option<_>>()?,
            ),
            b'"' => Self::Text(serde_json::from_str(text).ok()?),
            _ => Self::Literal(text.to_owned()),
        })
    }
}

/// The fields of an object in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(Clone, Copy)]
enum Layout {
    Compact,
    Spaced,
    Indented(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// Only what JSON requires.
    Required,
    Ascii,
    Slashes,
    Html,
}

struct Writer {
    layout: Layout,
    escapes: Escapes,
    sorted: bool,
}

impl Writer {
    fn write(&self, out: &mut String, json: &Json, depth: usize) {
        match json {
            Json::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by(|a, b| a.0.cmp(&b.0));
                }
                let colon = if matches!(self.layout, Layout::Compact) { ":" } else { ": " };
                self.write_list(out, ['{', '}'], &fields, depth, |out, (key, value)| {
                    self.write_text(out, key);
                    out.push_str(colon);
                    self.write(out, value, depth + 1);
                });
            }
            Json::Array(items) => {
                let items: Vec<_> = items.iter().collect();
                self.write_list(out, ['[', ']'], &items, depth, |out, item| self.write(out, item, depth + 1));
            }
            Json::Text(text) => self.write_text(out, text),
            Json::Literal(text) => out.push_str(text),
        }
    }

    fn write_list<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[&T],
        depth: usize,
        write: impl Fn(&mut String, &T),
    ) {
        let new_line = |out: &mut String, depth: usize| {
            if let Layout::Indented(width) = self.layout {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        out.push(open);
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                out.push_str(if matches!(self.layout, Layout::Spaced) { ", " } else { "," });
            }
            new_line(out, depth + 1);
            write(out, item);
        }
        if !items.is_empty() {
            new_line(out, depth);
        }
        out.push(close);
    }

    fn write_text(&self, out: &mut String, text: &str) {
        let quoted = serde_json::to_string(text).unwrap_or_default();
        for c in quoted.chars() {
            match c {
                '/' if self.escapes == Escapes::Slashes => out.push_str("\\/"),
                '<' | '>' | '&' if self.escapes == Escapes::Html => escape(out, c),
                c if !c.is_ascii() && matches!(self.escapes, Escapes::Ascii | Escapes::Slashes) => {
                    escape(out, c);
                }
                c => out.push(c),
            }
        }
    }
}

fn escape(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reproduces_common_serializers() {
        let body = r#"{"b":1.0,"a":["ü/<",{}],"c":{"d":null}}"#;
        let all: Vec<_> =
            rewrites(body.as_bytes()).into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect();
        for expected in [
            body,
            // python3 -c 'json.dumps(…)', with sort_keys, with indent=2; node -e 'JSON.stringify(…, null, 2)'
            r#"{"b": 1.0, "a": ["\u00fc/<", {}], "c": {"d": null}}"#,
            r#"{"a": ["\u00fc/<", {}], "b": 1.0, "c": {"d": null}}"#,
            "{\n  \"b\": 1.0,\n  \"a\": [\n    \"\u{fc}/<\",\n    {}\n  ],\n  \"c\": {\n    \"d\": null\n  }\n}",
            r#"{"b":1.0,"a":["\u00fc\/<",{}],"c":{"d":null}}"#,
            r#"{"a":["ü/\u003c",{}],"b":1.0,"c":{"d":null}}"#,
        ] {
            assert!(all.iter().any(|text| text == expected), "{expected}\n{all:#?}");
        }
    }

    #[test]
    fn does_not_rewrite_other_text_or_deep_nesting() {
        assert!(rewrites(b"<html>").is_empty());
        assert!(rewrites(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes()).is_empty());
    }
}
