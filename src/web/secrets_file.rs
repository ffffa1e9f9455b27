//! The file of signing secrets: one a line, the newest first, with what a rotation has to say between them.
//!
//! An empty line, or one that starts with `#`, is no secret. Three comments mean something, so that a rotation
//! can be told to every receiver through the one file that all of them read:
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
//! * `window`: until then a well-formed signature that no secret explains is answered 503 and not 401, so that
//!   PolyAI sends the delivery again. However far away it says, [`MAX_RETRY_WINDOW`] after it was read it is over.
//! * `expires`: the next secret is ignored from then on.
//! * `endpoint`: the next secret is this endpoint's, so its rotation leaves the others' alone.
//!
//! Times are RFC 3339. One that cannot be read makes the file unusable: ignored, it would keep a secret alive
//! for ever. Any other comment, `polyhook:` or not, is kept as it stands.

use std::{
    fmt::{self, Write},
    io,
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{secret::Secret, signature::MIN_SECRET_LENGTH};

/// A window that is never closed would hide a wrong secret behind retries.
pub const MAX_RETRY_WINDOW: Duration = Duration::from_hours(24);

const MARK: &str = "polyhook:";

/// What a file of signing secrets says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretsFile {
    lines: Vec<Line>,
    window: Option<Timestamp>,
}

#[derive(Clone, PartialEq)]
enum Line {
    /// A comment or nothing, as it stands.
    Text(String),
    Secret(SecretEntry),
}

/// One secret and what the comments before it say.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretEntry {
    /// The secret.
    pub secret: Secret,
    /// From then on it is ignored.
    pub expires: Option<Timestamp>,
    /// Whose it is.
    pub endpoint: Option<String>,
}

/// A comment of ours that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: polyhook:{what} needs a time such as 2026-11-24T21:05:00Z")]
pub struct SecretsFileError {
    line: usize,
    what: &'static str,
}

/// What a rotation did to the secrets that were there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotationSummary {
    /// They expire.
    pub expiring: usize,
    /// They do not, because nothing says that they are this endpoint's.
    pub unmarked: usize,
}

/// Somebody's comment may hold what he should not have put there.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Secret(entry) => entry.fmt(f),
        }
    }
}

impl SecretsFile {
    /// Reads a file; one that makes no sense is an error of kind `InvalidData`.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        Self::parse(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, SecretsFileError> {
        let mut file = Self::default();
        let (mut expires, mut endpoint) = (None, None);
        for (index, line) in text.lines().map(str::trim).enumerate() {
            let time = |value: &str, what| {
                value.parse::<Timestamp>().map(Some).map_err(|_| SecretsFileError { line: index + 1, what })
            };
            let said = line.strip_prefix('#').and_then(|comment| comment.trim_start().strip_prefix(MARK));
            match said.and_then(|said| said.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
            {
                Some(("window", value)) => file.window = time(value, "window")?,
                Some(("expires", value)) => expires = time(value, "expires")?,
                Some(("endpoint", value)) => endpoint = Some(value.to_owned()),
                _ if line.is_empty() || line.starts_with('#') => file.lines.push(Line::Text(line.to_owned())),
                _ => file.lines.push(Line::Secret(SecretEntry {
                    secret: Secret::new(line),
                    expires: expires.take(),
                    endpoint: endpoint.take(),
                })),
            }
        }
        Ok(file)
    }

    /// As it is to be written.
    pub fn render(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        let mark = |text: &mut String, name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "# {MARK}{name}={value}");
        };
        if let Some(window) = self.window {
            mark(&mut text, "window", &window);
        }
        for line in &self.lines {
            match line {
                Line::Text(line) => *text += line,
                Line::Secret(SecretEntry { secret, expires, endpoint }) => {
                    if let Some(endpoint) = endpoint {
                        mark(&mut text, "endpoint", endpoint);
                    }
                    if let Some(expires) = expires {
                        mark(&mut text, "expires", expires);
                    }
                    *text += secret.expose();
                }
            }
            text.push('\n');
        }
        text
    }

    /// All secrets, expired or not, the newest first.
    pub fn entries(&self) -> impl Iterator<Item = &SecretEntry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Secret(entry) => Some(entry),
            Line::Text(_) => None,
        })
    }

    /// The secrets that are valid at `now`.
    pub fn valid(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        self.entries().filter(move |entry| entry.is_valid(now)).map(|entry| &entry.secret)
    }

    /// Whether `secret` can stand in such a file and be taken for one.
    pub fn can_store(secret: &Secret) -> bool {
        let text = secret.expose();
        let one_line = text.lines().count() == 1 && text.trim() == text && !text.starts_with('#');
        one_line && text.chars().count() >= MIN_SECRET_LENGTH
    }

    /// Until when what no secret explains is to be asked for again.
    pub fn retry_window(&self) -> Option<Timestamp> {
        self.window
    }

    /// Opens the window until `until`, or closes it.
    pub fn set_retry_window(&mut self, until: Option<Timestamp>) {
        self.window = until;
    }

    /// Puts the secret of a new endpoint first and leaves all others as they are.
    pub fn add(&mut self, endpoint: &str, secret: Secret) {
        let entry = SecretEntry { secret, expires: None, endpoint: Some(endpoint.to_owned()) };
        self.lines.insert(0, Line::Secret(entry));
    }

    /// Puts `endpoint`'s new secret first and lets its old ones expire at `old_until`, or earlier where that
    /// was decided before. A secret that names no endpoint is taken for this one's only if it is the `only`
    /// endpoint there is. What has expired at `now` is dropped.
    pub fn rotate(
        &mut self,
        endpoint: &str,
        secret: Secret,
        only: bool,
        old_until: Timestamp,
        now: Timestamp,
    ) -> RotationSummary {
        let mut ending = RotationSummary::default();
        self.lines.retain_mut(|line| {
            let Line::Secret(old) = line else { return true };
            if !old.is_valid(now) || old.secret == secret {
                return false;
            }
            match &old.endpoint {
                Some(other) if other != endpoint => {}
                None if !only => ending.unmarked += usize::from(old.expires.is_none()),
                _ => {
                    old.expires = Some(old.expires.map_or(old_until, |before| before.min(old_until)));
                    ending.expiring += 1;
                }
            }
            true
        });
        self.add(endpoint, secret);
        ending
    }
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
        "# by hand\r\n  one  \n\n#polyhook:expires = 2026-11-25T03:00:00Z\n# why\ntwo\nthree\n";

    #[test]
    fn a_comment_ends_the_next_secret_alone() {
        let file = SecretsFile::parse(TEXT).unwrap();
        assert_eq!(valid(&file, "2026-11-25T02:59:59Z"), ["one", "two", "three"]);
        assert_eq!(valid(&file, "2026-11-25T03:00:00Z"), ["one", "three"]);
        assert_eq!(file.retry_window(), None);
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        let mut file = SecretsFile::parse(TEXT).unwrap();
        file.set_retry_window(Some(at("2026-11-24T21:05:00Z")));
        let text = file.render();
        assert_eq!(SecretsFile::parse(&text).unwrap(), file);
        assert!(text.starts_with("# polyhook:window=2026-11-24T21:05:00Z\n# by hand\none\n\n"), "{}", *text);
        assert!(text.contains("# why\n# polyhook:expires=2026-11-25T03:00:00Z\ntwo\n"), "{}", *text);
    }

    #[test]
    fn a_time_that_cannot_be_read_is_an_error_and_a_stranger_is_none() {
        let error = SecretsFile::parse("one\n# polyhook:expires=tomorrow\ntwo").unwrap_err();
        assert!(error.to_string().contains("line 2") && !error.to_string().contains("tomorrow"), "{error}");
        assert!(SecretsFile::parse("# polyhook:window=").is_err());
        let file = SecretsFile::parse("# polyhook:colour=red\n# polyhook\none").unwrap();
        assert_eq!(*file.render(), "# polyhook:colour=red\n# polyhook\none\n");
    }

    #[test]
    fn a_rotation_ends_what_is_the_endpoints() {
        let (now, until) = (at("2026-11-24T21:00:00Z"), at("2026-11-25T03:00:00Z"));
        let text = "\
            # polyhook:endpoint=whe_a\nof-a\n# polyhook:endpoint=whe_b\nof-b\nof-nobody\n\
            # polyhook:endpoint=whe_a\n# polyhook:expires=2026-11-24T22:00:00Z\nolder\n\
            # polyhook:expires=2026-11-24T20:00:00Z\nexpired\n";
        let mut file = SecretsFile::parse(text).unwrap();
        let ending = file.rotate("whe_a", Secret::new("new"), false, until, now);
        assert_eq!(ending, RotationSummary { expiring: 2, unmarked: 1 });
        assert_eq!(valid(&file, "2026-11-24T21:00:00Z"), ["new", "of-a", "of-b", "of-nobody", "older"]);
        assert_eq!(valid(&file, "2026-11-24T22:00:00Z"), ["new", "of-a", "of-b", "of-nobody"]);
        assert_eq!(valid(&file, "2026-11-25T03:00:00Z"), ["new", "of-b", "of-nobody"]);
        let ending = file.rotate("whe_a", Secret::new("newer"), true, until, now);
        assert_eq!(ending, RotationSummary { expiring: 4, unmarked: 0 });
        assert_eq!(valid(&file, "2026-11-25T03:00:00Z"), ["newer", "of-b"]);
    }

    #[test]
    fn a_new_endpoint_changes_nothing_of_the_others() {
        let mut file = SecretsFile::parse(TEXT).unwrap();
        file.add("whe_new", Secret::new("new"));
        assert!(file.render().starts_with("# polyhook:endpoint=whe_new\nnew\n# by hand\none\n"));
        assert_eq!(valid(&file, "2026-11-25T02:59:59Z"), ["new", "one", "two", "three"]);
    }

    #[test]
    fn only_what_is_read_back_can_be_held() {
        let can_store = |text: &str| SecretsFile::can_store(&Secret::new(text));
        assert!(can_store("whsec_0123456789"));
        for bad in
            ["", "short", "# 0123456789abcdef", " 0123456789abcdef", "0123456789abcdef\n0123456789abcdef"]
        {
            assert!(!can_store(bad), "{bad:?}");
        }
    }

    #[test]
    fn nothing_prints_a_secret_or_a_comment() {
        let shown = format!("{:?}", SecretsFile::parse("# was hunter1\nhunter2").unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s)(.|\n|#|# ?polyhook:|window=|expires=|endpoint=|2026-11-24T21:05:00Z){0,60}") {
            if let Ok(file) = SecretsFile::parse(&text) {
                prop_assert_eq!(SecretsFile::parse(&file.render()).unwrap(), file);
            }
        }
    }
}
