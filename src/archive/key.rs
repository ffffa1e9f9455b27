//! The keys of conversations: pure functions of their ids and start.
//!
//! An identifier is percent-encoded (RFC 3986: everything except letters, digits, `-`, `.`, `_` and `~`). A dot at
//! either end is encoded, too, because `.` and `..` are not valid names, and Azure and Windows drop trailing dots. An
//! empty identifier, and one whose encoding is longer than [`MAX_SEGMENT_BYTES`], becomes a prefix of its encoding,
//! `!` and the SHA-256 of the identifier. No encoding contains a `!`. So a segment never contains a separator, its
//! length is bounded (S3, Google and Azure permit 1024 bytes for a key), and two identifiers never have the same
//! segment.

use std::fmt;

use jiff::{Timestamp, civil::Date, tz::Offset};
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// The name of the manifest, whose existence means that the conversation is committed.
pub const MANIFEST: &str = "manifest.json";
/// The name of the file with PolyAI's bytes.
pub const CONVERSATION: &str = "conversation.json";

/// Returns the name of the file with PolyAI's bytes of an earlier revision.
pub(super) fn revision_name(revision: u64) -> String {
    format!("conversation.{revision}.json")
}

pub(super) const ACCOUNT_PREFIX: &str = "account_id=";
pub(super) const PROJECT_PREFIX: &str = "project_id=";
pub(super) const DATE_PREFIX: &str = "date=";

/// The maximum length of the segment of an identifier.
const MAX_SEGMENT_BYTES: usize = 192;
/// The length of `!` and a hexadecimal SHA-256.
const HASH_BYTES: usize = 1 + 64;
const ENCODED_CHARS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The place of one conversation in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    account_id: String,
    project_id: String,
    conversation_id: String,
    date: Date,
    folder: String,
}

/// A day of a project, with its account and project as segments of a key: a long id cannot be read from its segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectDay {
    account: String,
    project: String,
    date: Date,
}

impl ProjectDay {
    /// Returns the day `date` (UTC) of a project.
    pub fn new(account_id: &str, project_id: &str, date: Date) -> Self {
        Self { account: encode_path_segment(account_id), project: encode_path_segment(project_id), date }
    }

    /// Reads the segments of [`ProjectDay::folder`]. Returns `None` for others.
    pub(super) fn from_segments(account: &str, project: &str, date: &str) -> Option<Self> {
        let account = account.strip_prefix(ACCOUNT_PREFIX)?.to_owned();
        let project = project.strip_prefix(PROJECT_PREFIX)?.to_owned();
        Some(Self { account, project, date: date_of_segment(date)? })
    }

    /// Returns the date.
    pub fn date(&self) -> Date {
        self.date
    }

    /// Returns its folder below the archive's root, and below each table of the index, without a slash at either end.
    pub fn folder(&self) -> String {
        let Self { account, project, date } = self;
        format!("{ACCOUNT_PREFIX}{account}/{PROJECT_PREFIX}{project}/{DATE_PREFIX}{date}")
    }

    /// Returns the prefix of its conversations.
    pub(super) fn prefix(&self, root: &Path) -> Result<Path, object_store::path::Error> {
        Path::parse(format!("{root}/{}", self.folder()))
    }
}

/// Reads the last segment of the folder of a day.
pub(super) fn date_of_segment(segment: &str) -> Option<Date> {
    segment.strip_prefix(DATE_PREFIX)?.parse().ok()
}

impl Location {
    /// Returns the place of a conversation that started at `started_at`. The date is in UTC.
    pub fn new(account_id: &str, project_id: &str, conversation_id: &str, started_at: Timestamp) -> Self {
        Self::on_date(account_id, project_id, conversation_id, Offset::UTC.to_datetime(started_at).date())
    }

    /// Returns the place of a conversation that started on `date` (UTC).
    pub fn on_date(account_id: &str, project_id: &str, conversation_id: &str, date: Date) -> Self {
        let folder = format!(
            "{}/{DATE_PREFIX}{date}/{}",
            project_folder(account_id, project_id),
            encode_path_segment(conversation_id)
        );
        Self {
            account_id: account_id.to_owned(),
            project_id: project_id.to_owned(),
            conversation_id: conversation_id.to_owned(),
            date,
            folder,
        }
    }

    /// Returns the unencoded account id (workspace).
    pub fn account_id(&self) -> &str {
        &self.account_id
    }

    /// Returns the unencoded project id (agent).
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// Returns the unencoded conversation id.
    pub fn conversation_id(&self) -> &str {
        &self.conversation_id
    }

    /// Returns the day of its start.
    pub fn day(&self) -> ProjectDay {
        ProjectDay::new(&self.account_id, &self.project_id, self.date)
    }

    /// Returns the folder of its objects below the archive's root, without a slash at either end.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Returns the last segment of the folder: the encoded conversation id.
    pub fn name(&self) -> &str {
        self.folder.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the key of one of its objects. [`Path::parse`] neither encodes nor decodes it.
    pub(super) fn key(&self, prefix: &Path, name: &str) -> Result<Path, object_store::path::Error> {
        Path::parse(format!("{prefix}/{}/{name}", self.folder))
    }
}

/// Returns the folder of a project below the archive's root.
pub(super) fn project_folder(account_id: &str, project_id: &str) -> String {
    // The prefixes are written out, because constants are arguments at run time, and every job makes this text.
    format!("account_id={}/project_id={}", encode_path_segment(account_id), encode_path_segment(project_id))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.folder)
    }
}

/// Reads the segments of [`project_folder`]. Returns `None` for others, and for an id that its segment does not contain.
pub(super) fn ids_of_segments(account: &str, project: &str) -> Option<(String, String)> {
    let decode = |segment: &str| {
        let id = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
        (encode_path_segment(&id) == segment).then_some(id)
    };
    Some((decode(account.strip_prefix(ACCOUNT_PREFIX)?)?, decode(project.strip_prefix(PROJECT_PREFIX)?)?))
}

/// Returns the prefix of all conversations of a project.
pub(super) fn project_prefix(
    prefix: &Path,
    account_id: &str,
    project_id: &str,
) -> Result<Path, object_store::path::Error> {
    Path::parse(format!("{prefix}/{}", project_folder(account_id, project_id)))
}

/// Encodes an identifier as one segment of a key.
pub fn encode_path_segment(id: &str) -> String {
    let mut encoded = utf8_percent_encode(id, ENCODED_CHARS).to_string();
    if encoded.ends_with('.') {
        encoded.truncate(encoded.len() - 1);
        encoded.push_str("%2E");
    }
    if encoded.starts_with('.') {
        encoded.replace_range(..1, "%2E");
    }
    if !encoded.is_empty() && encoded.len() <= MAX_SEGMENT_BYTES {
        return encoded;
    }
    encoded.truncate(MAX_SEGMENT_BYTES - HASH_BYTES);
    // Half an escape would decode to something else.
    if let Some(at) = encoded.rfind('%').filter(|at| at + 3 > encoded.len()) {
        encoded.truncate(at);
    }
    format!("{encoded}!{}", hex::encode(Sha256::digest(id)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes a segment that is not hashed.
    fn decode(segment: &str) -> String {
        percent_encoding::percent_decode_str(segment).decode_utf8().unwrap().into_owned()
    }

    #[test]
    fn key_follows_the_published_format() {
        let start: Timestamp = "2026-11-22T23:59:59.999999-02:00".parse().unwrap();
        let location = Location::new("acme-uk", "PROJECT-1a2b", "KAb_12.3~x", start);
        assert_eq!(
            location.key(&Path::ROOT, MANIFEST).unwrap().as_ref(),
            "account_id=acme-uk/project_id=PROJECT-1a2b/date=2026-11-23/KAb_12.3~x/manifest.json"
        );
        let prefix = Path::parse("calls/eu").unwrap();
        assert!(
            location.key(&prefix, MANIFEST).unwrap().as_ref().starts_with("calls/eu/account_id=acme-uk/")
        );
    }

    #[test]
    fn encodes_hostile_ids() {
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
            assert_eq!(encode_path_segment(id), expected, "{id:?}");
            assert_eq!(decode(expected), id);
        }
        assert_eq!(encode_path_segment("").len(), HASH_BYTES);
        assert_eq!(encode_path_segment(&"a".repeat(4096)).len(), MAX_SEGMENT_BYTES);
        assert_ne!(encode_path_segment(&"a".repeat(4096)), encode_path_segment(&"a".repeat(4097)));
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
        fn segments_are_bounded_and_have_no_separator(id in id()) {
            let segment = encode_path_segment(&id);
            prop_assert!((1..=MAX_SEGMENT_BYTES).contains(&segment.len()));
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!".contains(&byte);
            prop_assert!(segment.bytes().all(legal), "{}", segment);
            prop_assert!(!segment.starts_with('.') && !segment.ends_with('.'));
            let location = Location::new(&id, &id, &id, Timestamp::UNIX_EPOCH);
            let key = location.key(&Path::ROOT, MANIFEST).unwrap();
            prop_assert_eq!(key.parts_count(), 5);
            prop_assert!(key.as_ref().len() <= 700);
        }

        #[test]
        fn segments_can_be_decoded(id in id()) {
            let segment = encode_path_segment(&id);
            match segment.split_once('!') {
                None => prop_assert_eq!(decode(&segment), id),
                Some((start, hash)) => {
                    prop_assert_eq!(hash, hex::encode(Sha256::digest(&id)));
                    prop_assert!(percent_encoding::percent_decode_str(start).all(|byte| id.bytes().any(|b| b == byte)));
                }
            }
        }

        #[test]
        fn short_ids_are_read_from_the_folder_of_a_project(account in id(), project in id()) {
            let folder = project_folder(&account, &project);
            let (account_segment, project_segment) = folder.split_once('/').unwrap();
            let read = ids_of_segments(account_segment, project_segment);
            let is_short = !folder.contains('!');
            prop_assert_eq!(read, is_short.then_some((account, project)));
        }

        #[test]
        fn different_ids_have_different_segments(a in id(), b in id()) {
            prop_assert_eq!(a == b, encode_path_segment(&a) == encode_path_segment(&b));
        }
    }
}
