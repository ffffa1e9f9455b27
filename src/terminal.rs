//! Finds out whether there is a terminal, and escapes text from outside before a terminal shows it.
//!
//! Ids, reasons and names come from PolyAI, from brokers and from everybody who can write to a queue. Control characters
//! could move the cursor or change colours, marks of the writing direction could reorder a line, and invisible
//! characters could make two ids look the same. All of them are shown as in `\u{202e}`.

use std::{
    borrow::Cow,
    fmt::Write,
    io::{self, IsTerminal},
};

/// The escape sequences that polyhook's own colours consist of.
const STYLES: [&str; 7] =
    ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[39m"];

/// Returns true if a person started the process on a terminal: input, output or errors are connected to one. That is not
/// so for a service, in most containers, and after `nohup`.
pub fn is_attached() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Escapes text that must stay on one line. Tabs stay.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_where(text, |c| c != '\t' && is_unsafe(c))
}

/// Escapes text of several lines that may contain polyhook's own colours if `styled` is true.
pub fn escape_lines(text: &str, styled: bool) -> Cow<'_, str> {
    let is_unsafe_in_lines = |c| c != '\t' && c != '\n' && is_unsafe(c);
    if !styled || !text.contains('\u{1b}') {
        return escape_where(text, is_unsafe_in_lines);
    }
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        escaped += &escape_where(&rest[..at], is_unsafe_in_lines);
        rest = &rest[at..];
        let style = STYLES.into_iter().find(|style| rest.starts_with(style));
        escaped += style.unwrap_or("\\u{1b}");
        rest = &rest[style.map_or(1, str::len)..];
    }
    escaped += &escape_where(rest, is_unsafe_in_lines);
    escaped.into()
}

/// Escapes JSON, in which unsafe characters occur in strings only. The result means the same.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    // Control characters are escaped already. Line feeds and spaces indent.
    let is_unsafe_in_json = |c| c >= '\u{7f}' && is_unsafe(c);
    if !json.contains(is_unsafe_in_json) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe_in_json(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

fn escape_where(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if is_unsafe(c) => escaped.push_str("\\n"),
            '\r' if is_unsafe(c) => escaped.push_str("\\r"),
            c if is_unsafe(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped.into()
}

fn is_unsafe(c: char) -> bool {
    // U+2028 and U+2029 separate lines and paragraphs, U+FFF9 to U+FFFB enclose annotations.
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}') || is_invisible(c)
}

/// Returns true for a character without width or with an effect on its neighbours: Unicode's
/// `Default_Ignorable_Code_Point`, which contains all marks of the writing direction.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One character of each kind.
    const HOSTILE: [char; 20] = [
        '\0',
        '\u{7}',
        '\r',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{ad}',
        '\u{61c}',
        '\u{200b}',
        '\u{200d}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202e}',
        '\u{2067}',
        '\u{feff}',
        '\u{fe0f}',
        '\u{e0041}',
        '\u{e0100}',
    ];

    #[test]
    fn escapes_what_changes_a_terminal() {
        for c in HOSTILE {
            let text = format!("evt{c}1");
            let expected =
                if c == '\r' { "evt\\r1".to_owned() } else { format!("evt{}1", c.escape_unicode()) };
            assert_eq!(escape(&text), expected);
            assert_eq!(escape_lines(&text, false), expected);
            assert_eq!(escape_lines(&text, true), expected);
        }
        assert_eq!(escape("a\nb\tc"), "a\\nb\tc");
        assert_eq!(escape_lines("a\nb\tc", true), "a\nb\tc");
        let harmless = "Zoë — 秘密の鍵 🎧 \u{a0}";
        assert!(matches!(escape(harmless), Cow::Borrowed(text) if text == harmless));
    }

    #[test]
    fn keeps_its_own_colours_only() {
        let text = "\u{1b}[31mdead\u{1b}[39m \u{1b}[8mhidden\u{1b}[2J\u{202e}";
        assert_eq!(escape_lines(text, true), "\u{1b}[31mdead\u{1b}[39m \\u{1b}[8mhidden\\u{1b}[2J\\u{202e}");
        assert!(!escape_lines(text, false).contains('\u{1b}'));
    }

    #[test]
    fn escaped_json_means_the_same() {
        let text: String = HOSTILE.into_iter().chain(['\n', 'é', '"']).collect();
        for json in [serde_json::to_string(&text).unwrap(), serde_json::to_string_pretty(&[&text]).unwrap()] {
            let escaped = escape_json(&json);
            assert!(!escaped.chars().any(|c| c != '\n' && is_unsafe(c)), "{escaped}");
            let (before, after): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&json).unwrap(), serde_json::from_str(&escaped).unwrap());
            assert_eq!(before, after);
        }
    }

    proptest! {
        #[test]
        fn nothing_unsafe_passes(text in any::<String>(), styled in any::<bool>()) {
            prop_assert!(!escape(&text).contains(|c| c != '\t' && is_unsafe(c)));
            let mut lines = escape_lines(&text, styled).into_owned();
            for style in STYLES {
                lines = lines.replace(style, "");
            }
            prop_assert!(!lines.contains(|c| c != '\t' && c != '\n' && is_unsafe(c)));
        }
    }
}
