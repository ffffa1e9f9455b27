//! Strings that must never be printed: signing secrets, API keys, passwords.
//!
//! A [`Secret`] is formatted and serialized as `[redacted]`, and its memory is wiped when it is dropped. Only
//! [`Secret::expose`] returns the text, so a search for `expose` finds every use.
//!
//! Secrets arrive through editors, shells, `docker --env-file` and web pages. [`unwrapped`] removes what these leave
//! around a secret. [`Secret::token_problem`] names what was copied with it, so that a secret that no signature can match
//! is refused in words.

mod shown_url;

use std::{borrow::Cow, fmt, io, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

pub use self::shown_url::{redact_url, shown_address, url_address};
use crate::{bounded_file, terminal};

/// Opening and closing quotes, also those of word processors.
const QUOTES: [(char, char); 5] = [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’')];

/// The problem of a text with the character that replaces what cannot be decoded.
const NOT_UTF8: &str = "it is not UTF-8 text";

/// A string that is never printed.
#[derive(Clone, Deserialize, PartialEq, Eq, Default)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// Returns the text. Use it only where the secret is needed, never for a log line or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns true if the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wraps `text` without the white space and the quotes around it.
    pub fn unwrapped(text: &str) -> Self {
        Self::new(unwrapped(text))
    }

    /// Reads a file that contains one secret. Empty lines and lines that start with `#` do not count.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&bounded_file::read_text(path)?)
    }

    /// Like [`Secret::read`], from the text of the file. Returns an empty secret if there is none in it.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut secrets = Self::parse_lines(text);
        if secrets.len() > 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has {} lines; leave one with the secret alone", secrets.len()),
            ));
        }
        Ok(secrets.pop().unwrap_or_default())
    }

    /// Reads a file that contains one secret per line. Skips empty lines and lines that start with `#`.
    pub fn read_lines(path: &Path) -> io::Result<Vec<Self>> {
        bounded_file::read_text(path).map(|text| Self::parse_lines(&text))
    }

    /// Like [`Secret::read_lines`], from the text of the file.
    pub fn parse_lines(text: &str) -> Vec<Self> {
        text.lines()
            .map(trimmed)
            .filter(|line| !line.starts_with('#'))
            .map(Self::unwrapped)
            .filter(|secret| !secret.is_empty())
            .collect()
    }

    /// Returns the reason why this is not a signing secret or API key of PolyAI, if it is recognisably not one.
    pub fn token_problem(&self) -> Option<&'static str> {
        let text = self.expose();
        let starts_with =
            |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        Some(match text {
            _ if starts_with("bearer ") => "it starts with \"Bearer \", which is not part of it",
            _ if starts_with("x-api-key") || starts_with("x-polyai-") => {
                "it starts with the name of a header"
            }
            _ if starts_with("whe_") => "it is the id of an endpoint, not a secret",
            _ if starts_with("{") || starts_with("signing_secret") => {
                "it is the whole response of PolyAI, not the secret in it"
            }
            _ if (starts_with("polyai_") || starts_with("export ")) && text.contains('=') => {
                "it is a whole line of a .env file"
            }
            _ if text.ends_with("\\n") => "it ends with a backslash and an n instead of a line end",
            _ if text.starts_with(is_quote) || text.ends_with(is_quote) => {
                "it has a quote at one end only, or quotes inside"
            }
            _ if text.contains(['\n', '\r']) => "it contains a line break",
            _ if text.contains(char::is_whitespace) => "it contains white space",
            _ if text.contains(char::is_control) => "it contains a control character",
            _ if text.contains(char::REPLACEMENT_CHARACTER) => NOT_UTF8,
            _ if text.contains(terminal::is_invisible) => "it contains an invisible character",
            _ => return None,
        })
    }

    /// Returns the reason why no password or key can look like this. Unlike a token of PolyAI, it may contain spaces.
    pub fn password_problem(&self) -> Option<&'static str> {
        let text = self.expose();
        Some(match text {
            _ if text.starts_with(is_quote) || text.ends_with(is_quote) => {
                "it has a quote at one end only, or quotes inside"
            }
            _ if text.contains(char::is_control) => "it contains a line break or another control character",
            _ if text.contains(char::REPLACEMENT_CHARACTER) => NOT_UTF8,
            _ => return None,
        })
    }
}

/// Returns `text` without the white space, invisible characters and quotes around it. Quotes are removed in pairs, and
/// only if there are none of the same kind inside.
pub fn unwrapped(text: &str) -> &str {
    let mut text = trimmed(text);
    while let Some(inner) = without_quotes(text) {
        text = trimmed(inner);
    }
    text
}

fn without_quotes(text: &str) -> Option<&str> {
    QUOTES.into_iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(open)?.strip_suffix(close)?;
        (!inner.contains([open, close])).then_some(inner)
    })
}

/// Returns `text` without the white space and the invisible characters around it.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || terminal::is_invisible(c))
}

/// Returns true for a character that opens or closes a quotation.
pub fn is_quote(c: char) -> bool {
    QUOTES.iter().any(|(open, close)| c == *open || c == *close)
}

/// Shown instead of a secret.
pub const REDACTED: &str = "[redacted]";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_prints_itself() {
        let secret = Secret::new("hunter2hunter2hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""[redacted]""#);
    }

    #[test]
    fn reads_one_secret_per_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "\u{feff}# old\none\r\n\n  two \n\"three\"\r\u{feff}'four' \t\n\"\"\n\u{a0}five\u{200b}";
        std::fs::write(file.path(), text).unwrap();
        let secrets = Secret::read_lines(file.path()).unwrap();
        assert_eq!(secrets, ["one", "two", "three", "four", "five"].map(Secret::new));
    }

    #[test]
    fn reads_the_only_secret_of_a_file() {
        let read = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            Secret::read(file.path())
        };
        for text in ["key", "\u{feff}key\r\n", "# the key of the project\n\n  \"key\"\r", "'key'\u{feff}"] {
            assert_eq!(read(text).unwrap(), Secret::new("key"), "{text:?}");
        }
        assert!(read("# none\n\n").unwrap().is_empty());
        let error = read("hunter2\nhunter3\n").unwrap_err().to_string();
        assert!(error.contains("2 lines") && !error.contains("hunter"), "{error}");
    }

    #[test]
    fn removes_quotes_in_pairs() {
        for (text, inner) in [
            ("\"whsec\"", "whsec"),
            (" 'whsec' \n", "whsec"),
            ("\" whsec\n\"", "whsec"),
            ("'\"whsec\"'", "whsec"),
            ("“whsec”", "whsec"),
            ("wh'sec", "wh'sec"),
            ("\"a\",\"b\"", "\"a\",\"b\""),
            ("\"whsec", "\"whsec"),
            ("\"", "\""),
            ("\"\"", ""),
            ("", ""),
        ] {
            assert_eq!(unwrapped(text), inner, "{text:?}");
        }
    }

    #[test]
    fn detects_copy_mistakes() {
        for wrong in [
            "\"whsec_0123456789abcdef",
            "whsec_0123456789abcdef'",
            "\"whsec_0123456789abcdef\" # the first",
            "Bearer 0123456789abcdef",
            "x-api-key: 0123456789abcdef",
            "whe_0123456789abcdef",
            "{\"signing_secret\":\"0123456789abcdef\"}",
            "signing_secret=0123456789abcdef",
            "POLYAI_WEBHOOK_SECRET=0123456789abcdef",
            "export POLYAI_WEBHOOK_SECRET=0123456789abcdef",
            "0123456789abcdef\\n",
            "01234567\n89abcdef",
            "01234567 89abcdef",
            "01234567\u{a0}89abcdef",
            "01234567\u{1b}89abcdef",
            "01234567\u{200b}89abcdef",
            "01234567\u{fffd}89abcdef",
        ] {
            assert!(Secret::new(wrong).token_problem().is_some(), "{wrong:?}");
        }
        for right in ["whsec_0123456789abcdef", "0123456789abcdef", "a-b_c.d/e+f==", "秘密の鍵—0123456789"]
        {
            assert_eq!(Secret::new(right).token_problem(), None, "{right:?}");
        }
        assert_eq!(Secret::new("a pass phrase").password_problem(), None);
        assert!(Secret::new("\"a pass phrase").password_problem().is_some());
    }
}
