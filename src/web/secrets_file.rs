//! The file of signing secrets: one per line, newest first, with comments that steer a rotation.
//!
//! Empty lines and lines that start with `#` are not secrets. White space and quotes around a secret do not belong to it. Three comments have a meaning, so that a rotation reaches
//! every receiver through the one file that all of them read:
//!
//! ```text
//! # polyhook:window=2026-11-24T21:05:00Z
//! # polyhook:endpoint=whe_5Fh2
//! whsec_the-new-one
//! # polyhook:endpoint=whe_5Fh2
//! # polyhook:expires=2026-11-25T03:00:00Z
//! whsec_the-one-before
//! ```
//!
//! * `window`: until this time, a well-formed signature that matches no secret is answered 503 instead of 401, so that
//!   PolyAI sends the delivery again. The window ends at the latest [`MAX_RETRY_WINDOW`] after it was first read.
//! * `expires`: the next secret is ignored from this time on.
//! * `endpoint`: the next secret belongs to this endpoint, so a rotation of another endpoint does not change it.
//!
//! Times are RFC 3339. A time that cannot be parsed makes the whole file unusable: if it were ignored, the secret would
//! never expire. All other comments are kept unchanged, including unknown `polyhook:` comments.

use std::{
    fmt::{self, Write},
    io,
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    bounded_file,
    secret::{Secret, trimmed, unwrapped},
    signature::MIN_SECRET_LENGTH,
};

/// Maximum length of the retry window. A window without an end would hide a wrong secret behind retries.
pub const MAX_RETRY_WINDOW: Duration = Duration::from_hours(24);

/// Prefix of the comments that have a meaning.
const COMMENT_PREFIX: &str = "polyhook:";

/// The parsed content of a file of signing secrets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretsFile {
    lines: Vec<Line>,
    retry_window: Option<Timestamp>,
}

#[derive(Clone, PartialEq)]
enum Line {
    /// A comment or an empty line, unchanged.
    Text(String),
    Secret(SecretEntry),
}

/// A secret and the comments that belong to it.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretEntry {
    /// The secret.
    pub secret: Secret,
    /// The secret is ignored from this time on.
    pub expires: Option<Timestamp>,
    /// The endpoint that signs with this secret, if known.
    pub endpoint: Option<String>,
}

/// A `polyhook:` comment whose time cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: polyhook:{what} needs a time such as 2026-11-24T21:05:00Z")]
pub struct SecretsFileError {
    line: usize,
    what: &'static str,
}

/// The effect of a rotation on the secrets that were in the file before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotationSummary {
    /// Number of secrets that expire.
    pub expiring: usize,
    /// Number of secrets that stay valid, because they name no endpoint.
    pub unmarked: usize,
}

/// Does not show comments: a person may have written a secret into one.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Secret(entry) => entry.fmt(f),
        }
    }
}

impl SecretsFile {
    /// Reads a file. Returns an error of kind `InvalidData` if it cannot be parsed.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::parse_text(&bounded_file::read_text(path)?)
    }

    /// Like [`SecretsFile::read`], from the text of the file.
    pub(super) fn parse_text(text: &str) -> io::Result<Self> {
        Self::parse(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Parses a file's text.
    pub fn parse(text: &str) -> Result<Self, SecretsFileError> {
        let mut file = Self::default();
        let (mut expires, mut endpoint) = (None, None);
        for (index, line) in text.lines().map(trimmed).enumerate() {
            let time = |value: &str, what| {
                value.parse::<Timestamp>().map(Some).map_err(|_| SecretsFileError { line: index + 1, what })
            };
            let comment =
                line.strip_prefix('#').and_then(|comment| comment.trim_start().strip_prefix(COMMENT_PREFIX));
            match comment
                .and_then(|comment| comment.split_once('='))
                .map(|(name, value)| (name.trim(), value.trim()))
            {
                Some(("window", value)) => file.retry_window = time(value, "window")?,
                Some(("expires", value)) => expires = time(value, "expires")?,
                Some(("endpoint", value)) => endpoint = Some(value.to_owned()),
                _ if line.starts_with('#') || unwrapped(line).is_empty() => {
                    file.lines.push(Line::Text(line.to_owned()));
                }
                _ => file.lines.push(Line::Secret(SecretEntry {
                    secret: in_line(line),
                    expires: expires.take(),
                    endpoint: endpoint.take(),
                })),
            }
        }
        Ok(file)
    }

    /// Returns the text to write to the file.
    pub fn render(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        let write_comment = |text: &mut String, name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "# {COMMENT_PREFIX}{name}={value}");
        };
        if let Some(window) = self.retry_window {
            write_comment(&mut text, "window", &window);
        }
        for line in &self.lines {
            match line {
                Line::Text(line) => *text += line,
                Line::Secret(SecretEntry { secret, expires, endpoint }) => {
                    if let Some(endpoint) = endpoint {
                        write_comment(&mut text, "endpoint", endpoint);
                    }
                    if let Some(expires) = expires {
                        write_comment(&mut text, "expires", expires);
                    }
                    *text += secret.expose();
                }
            }
            text.push('\n');
        }
        text
    }

    /// Returns all secrets, including expired ones, newest first.
    pub fn entries(&self) -> impl Iterator<Item = &SecretEntry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Secret(entry) => Some(entry),
            Line::Text(_) => None,
        })
    }

    /// Returns the secrets that are valid at `now`.
    pub fn valid(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        self.entries().filter(move |entry| entry.is_valid(now)).map(|entry| &entry.secret)
    }

    /// Returns true if the file format can store `secret`: one line, long enough, and not a comment.
    pub fn can_store(secret: &Secret) -> bool {
        let text = secret.expose();
        let one_line = text.lines().count() == 1 && unwrapped(text) == text && !text.starts_with('#');
        one_line && text.chars().count() >= MIN_SECRET_LENGTH
    }

    /// Returns the end of the retry window.
    pub fn retry_window(&self) -> Option<Timestamp> {
        self.retry_window
    }

    /// Sets the end of the retry window, or removes the window.
    pub fn set_retry_window(&mut self, until: Option<Timestamp>) {
        self.retry_window = until;
    }

    /// Adds the secret of a new endpoint as the first one. All others stay unchanged.
    pub fn add(&mut self, endpoint: &str, secret: Secret) {
        let entry = SecretEntry { secret, expires: None, endpoint: Some(endpoint.to_owned()) };
        self.lines.insert(0, Line::Secret(entry));
    }

    /// Adds `endpoint`'s new secret as the first one. Its old secrets expire at `old_until`, or earlier if the file
    /// already says so. A secret that names no endpoint counts as this endpoint's only if it is the `only` endpoint.
    /// Secrets that have expired at `now` are removed.
    pub fn rotate(
        &mut self,
        endpoint: &str,
        secret: Secret,
        only: bool,
        old_until: Timestamp,
        now: Timestamp,
    ) -> RotationSummary {
        let mut summary = RotationSummary::default();
        self.lines.retain_mut(|line| {
            let Line::Secret(old) = line else { return true };
            if !old.is_valid(now) || old.secret == secret {
                return false;
            }
            match &old.endpoint {
                Some(other) if other != endpoint => {}
                None if !only => summary.unmarked += usize::from(old.expires.is_none()),
                _ => {
                    old.expires = Some(old.expires.map_or(old_until, |before| before.min(old_until)));
                    summary.expiring += 1;
                }
            }
            true
        });
        self.add(endpoint, secret);
        summary
    }
}

/// Returns the secret in a line: without its quotes, unless the rest would be a comment.
fn in_line(line: &str) -> Secret {
    let secret = unwrapped(line);
    Secret::new(if secret.starts_with('#') { line } else { secret })
}

impl SecretEntry {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn valid(file: &SecretsFile, now: &str) -> Vec<String> {
        file.valid(at(now)).map(|secret| secret.expose().to_owned()).collect()
    }

    const TEXT: &str =
        "# by hand\r\n  \"one\"  \n\n#polyhook:expires = 2026-11-25T03:00:00Z\n# why\ntwo\nthree\n";

    #[test]
    fn an_expires_comment_applies_to_the_next_secret_only() {
        let file = SecretsFile::parse(TEXT).unwrap();
        assert_eq!(valid(&file, "2026-11-25T02:59:59Z"), ["one", "two", "three"]);
        assert_eq!(valid(&file, "2026-11-25T03:00:00Z"), ["one", "three"]);
        assert_eq!(file.retry_window(), None);
    }

    #[test]
    fn render_and_parse_round_trip() {
        let mut file = SecretsFile::parse(TEXT).unwrap();
        file.set_retry_window(Some(at("2026-11-24T21:05:00Z")));
        let text = file.render();
        assert_eq!(SecretsFile::parse(&text).unwrap(), file);
        assert!(text.starts_with("# polyhook:window=2026-11-24T21:05:00Z\n# by hand\none\n\n"), "{}", *text);
        assert!(text.contains("# why\n# polyhook:expires=2026-11-25T03:00:00Z\ntwo\n"), "{}", *text);
    }

    #[test]
    fn rejects_an_invalid_time_and_keeps_unknown_comments() {
        let error = SecretsFile::parse("one\n# polyhook:expires=tomorrow\ntwo").unwrap_err();
        assert!(error.to_string().contains("line 2") && !error.to_string().contains("tomorrow"), "{error}");
        assert!(SecretsFile::parse("# polyhook:window=").is_err());
        let file = SecretsFile::parse("# polyhook:colour=red\n# polyhook\none").unwrap();
        assert_eq!(*file.render(), "# polyhook:colour=red\n# polyhook\none\n");
    }

    #[test]
    fn rotation_expires_the_secrets_of_its_endpoint_only() {
        let (now, until) = (at("2026-11-24T21:00:00Z"), at("2026-11-25T03:00:00Z"));
        let text = "\
            # polyhook:endpoint=whe_a\nof-a\n# polyhook:endpoint=whe_b\nof-b\nunmarked\n\
            # polyhook:endpoint=whe_a\n# polyhook:expires=2026-11-24T22:00:00Z\nolder\n\
            # polyhook:expires=2026-11-24T20:00:00Z\nexpired\n";
        let mut file = SecretsFile::parse(text).unwrap();
        let summary = file.rotate("whe_a", Secret::new("new"), false, until, now);
        assert_eq!(summary, RotationSummary { expiring: 2, unmarked: 1 });
        assert_eq!(valid(&file, "2026-11-24T21:00:00Z"), ["new", "of-a", "of-b", "unmarked", "older"]);
        assert_eq!(valid(&file, "2026-11-24T22:00:00Z"), ["new", "of-a", "of-b", "unmarked"]);
        assert_eq!(valid(&file, "2026-11-25T03:00:00Z"), ["new", "of-b", "unmarked"]);
        let summary = file.rotate("whe_a", Secret::new("newer"), true, until, now);
        assert_eq!(summary, RotationSummary { expiring: 4, unmarked: 0 });
        assert_eq!(valid(&file, "2026-11-25T03:00:00Z"), ["newer", "of-b"]);
    }

    #[test]
    fn quotes_and_invisible_characters_do_not_belong_to_a_secret() {
        let text = "\u{feff}# polyhook:endpoint=whe_1\n'one'\n\u{feff}\"two\"\u{200b}\n\"\"\n\"#three\"\n";
        let file = SecretsFile::parse(text).unwrap();
        assert_eq!(valid(&file, "2026-11-25T02:59:59Z"), ["one", "two", "\"#three\""]);
        assert_eq!(file.entries().next().unwrap().endpoint.as_deref(), Some("whe_1"));
        assert_eq!(SecretsFile::parse(&file.render()).unwrap(), file);
    }

    #[test]
    fn adding_an_endpoint_keeps_the_other_secrets() {
        let mut file = SecretsFile::parse(TEXT).unwrap();
        file.add("whe_new", Secret::new("new"));
        assert!(file.render().starts_with("# polyhook:endpoint=whe_new\nnew\n# by hand\none\n"));
        assert_eq!(valid(&file, "2026-11-25T02:59:59Z"), ["new", "one", "two", "three"]);
    }

    #[test]
    fn can_store_accepts_only_secrets_that_parse_back() {
        let can_store = |text: &str| SecretsFile::can_store(&Secret::new(text));
        assert!(can_store("whsec_0123456789"));
        for bad in
            ["", "short", "# 0123456789abcdef", " 0123456789abcdef", "0123456789abcdef\n0123456789abcdef"]
        {
            assert!(!can_store(bad), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_hides_secrets_and_comments() {
        let shown = format!("{:?}", SecretsFile::parse("# was hunter1\nhunter2").unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_parsed_text_renders_and_parses_back(text in "(?s)(.|\n|#|\"|'|\u{feff}|# ?polyhook:|window=|expires=|endpoint=|2026-11-24T21:05:00Z){0,60}") {
            if let Ok(file) = SecretsFile::parse(&text) {
                prop_assert_eq!(SecretsFile::parse(&file.render()).unwrap(), file);
            }
        }
    }
}
