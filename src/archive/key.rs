//! Where a conversation lies: a pure function of its ids and its start.
//!
//! An identifier is percent-encoded as RFC 3986 has it (everything but letters, digits, `-`, `.`, `_` and
//! `~`), and so is a dot at either end, because `.` and `..` are not names, and Azure and Windows drop
//! trailing dots. What is empty or gets longer than [`LONGEST`] becomes a prefix of its encoding, `!` and the
//! SHA-256 of the identifier; no encoding yields a `!`. So a segment never holds a separator, has a bounded
//! length (S3, Google and Azure allow 1024 bytes a key), and two identifiers never share one.

use std::fmt;

use jiff::{Timestamp, civil::Date, tz::Offset};
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// The name of the commit mark.
pub const MANIFEST: &str = "manifest.json";
/// The name of PolyAI's bytes.
pub const CONVERSATION: &str = "conversation.json";

/// Before the date in a key.
pub(super) const DATE: &str = "date=";

/// The longest segment an identifier turns into, in bytes.
const LONGEST: usize = 192;
/// `!` and the hexadecimal SHA-256.
const HASH: usize = 1 + 64;
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The place of one conversation in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    account_id: String,
    project_id: String,
    conversation_id: String,
    folder: String,
}

impl Location {
    /// Where a conversation that started at `started_at` lies; the date is that of UTC.
    pub fn new(account_id: &str, project_id: &str, conversation_id: &str, started_at: Timestamp) -> Self {
        Self::on(account_id, project_id, conversation_id, Offset::UTC.to_datetime(started_at).date())
    }

    /// The same, where the date is known.
    pub(super) fn on(account_id: &str, project_id: &str, conversation_id: &str, date: Date) -> Self {
        let folder =
            format!("{}/{DATE}{date}/{}", project_folder(account_id, project_id), segment(conversation_id));
        Self {
            account_id: account_id.to_owned(),
            project_id: project_id.to_owned(),
            conversation_id: conversation_id.to_owned(),
            folder,
        }
    }

    /// The account (workspace), as it was given.
    pub fn account_id(&self) -> &str {
        &self.account_id
    }

    /// The project (agent), as it was given.
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// The conversation, as it was given.
    pub fn conversation_id(&self) -> &str {
        &self.conversation_id
    }

    /// The folder of its objects below the archive's root, without a slash at either end.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The last segment of the folder: the conversation's id as a key has it.
    pub fn name(&self) -> &str {
        self.folder.rsplit('/').next().unwrap_or_default()
    }

    /// The key of one of its objects. Taken literally: [`Path::parse`] neither encodes nor decodes.
    pub(super) fn key(&self, prefix: &Path, name: &str) -> Result<Path, object_store::path::Error> {
        Path::parse(format!("{prefix}/{}/{name}", self.folder))
    }
}

/// The folder of a project's dates, below the archive's root.
pub(super) fn project_folder(account_id: &str, project_id: &str) -> String {
    format!("account_id={}/project_id={}", segment(account_id), segment(project_id))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.folder)
    }
}

/// The folder of all conversations of a day.
pub(super) fn day(
    prefix: &Path,
    account_id: &str,
    project_id: &str,
    date: Date,
) -> Result<Path, object_store::path::Error> {
    Path::parse(format!("{prefix}/{}/{DATE}{date}", project_folder(account_id, project_id)))
}

/// An identifier as one segment of a key.
pub(super) fn segment(id: &str) -> String {
    let mut encoded = utf8_percent_encode(id, ESCAPED).to_string();
    if encoded.ends_with('.') {
        encoded.truncate(encoded.len() - 1);
        encoded.push_str("%2E");
    }
    if encoded.starts_with('.') {
        encoded.replace_range(..1, "%2E");
    }
    if !encoded.is_empty() && encoded.len() <= LONGEST {
        return encoded;
    }
    encoded.truncate(LONGEST - HASH);
    // Not half an escape, which would read as something else.
    if let Some(at) = encoded.rfind('%').filter(|at| at + 3 > encoded.len()) {
        encoded.truncate(at);
    }
    format!("{encoded}!{}", hex::encode(Sha256::digest(id)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Undoes a segment that is not hashed.
    fn original(segment: &str) -> String {
        percent_encoding::percent_decode_str(segment).decode_utf8().unwrap().into_owned()
    }

    #[test]
    fn the_key_is_the_published_contract() {
        let start: Timestamp = "2026-11-22T23:59:59.999999-02:00".parse().unwrap();
        let place = Location::new("acme-uk", "PROJECT-1a2b", "KAb_12.3~x", start);
        assert_eq!(
            place.key(&Path::ROOT, MANIFEST).unwrap().as_ref(),
            "account_id=acme-uk/project_id=PROJECT-1a2b/date=2026-11-23/KAb_12.3~x/manifest.json"
        );
        let prefix = Path::parse("calls/eu").unwrap();
        assert!(place.key(&prefix, MANIFEST).unwrap().as_ref().starts_with("calls/eu/account_id=acme-uk/"));
    }

    #[test]
    fn hostile_ids_become_names() {
        for (id, expected) in [
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "%2E.%2E"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("%2f", "%252f"),
            ("%", "%25"),
            ("a/b", "a%2Fb"),
            ("a\\b", "a%5Cb"),
            ("\0\n", "%00%0A"),
            ("ü", "%C3%BC"),
            ("a#1", "a%231"),
            ("a!b", "a%21b"),
            ("a b+c", "a%20b%2Bc"),
        ] {
            assert_eq!(segment(id), expected, "{id:?}");
            assert_eq!(original(expected), id);
        }
        assert_eq!(segment("").len(), HASH);
        assert_eq!(segment(&"a".repeat(4096)).len(), LONGEST);
        assert_ne!(segment(&"a".repeat(4096)), segment(&"a".repeat(4097)));
    }

    fn id() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[./%!#~A-Fa-f0-9]{0,6}",
            "[a-b%/]{180,200}",
            prop::collection::vec(any::<char>(), 0..400).prop_map(String::from_iter),
        ]
    }

    proptest! {
        #[test]
        fn bounded_and_without_separators(id in id()) {
            let segment = segment(&id);
            prop_assert!((1..=LONGEST).contains(&segment.len()));
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!".contains(&byte);
            prop_assert!(segment.bytes().all(legal), "{}", segment);
            prop_assert!(!segment.starts_with('.') && !segment.ends_with('.'));
            let place = Location::new(&id, &id, &id, Timestamp::UNIX_EPOCH);
            let key = place.key(&Path::ROOT, MANIFEST).unwrap();
            prop_assert_eq!(key.parts_count(), 5);
            prop_assert!(key.as_ref().len() <= 700);
        }

        #[test]
        fn reversible_and_so_injective(id in id()) {
            let segment = segment(&id);
            match segment.split_once('!') {
                None => prop_assert_eq!(original(&segment), id),
                Some((start, hash)) => {
                    prop_assert_eq!(hash, hex::encode(Sha256::digest(&id)));
                    prop_assert!(percent_encoding::percent_decode_str(start).all(|byte| id.bytes().any(|b| b == byte)));
                }
            }
        }

        #[test]
        fn different_ids_lie_apart(a in id(), b in id()) {
            prop_assert_eq!(a == b, segment(&a) == segment(&b));
        }
    }
}
