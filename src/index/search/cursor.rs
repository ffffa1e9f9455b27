//! The place at which a search continues.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use sha2::{Digest as _, Sha256};

use super::{SearchError, SearchProject, rows::RowKey};

/// The longest text of a cursor. Ids are far shorter.
const MAX_LENGTH: usize = 8 << 10;

/// A place in a day. Within a day, parts of the files are searched one after the other, and what is found in them is sorted. One
/// request usually searches the whole day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The day. Later days are done.
    pub(super) date: Date,
    /// The parts of the day before this one are done.
    #[serde(default, rename = "p", skip_serializing_if = "is_zero")]
    pub(super) first: usize,
    /// The end of the parts whose calls were sorted together. Absent: not known yet.
    #[serde(default, rename = "e", skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<usize>,
    /// The call in these parts up to which all were listed.
    #[serde(default, rename = "a", skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<RowKey>,
    /// Calls in parts that are done whose turns may continue in other parts; see [`short_hash`].
    #[serde(default, rename = "s", skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) seen: BTreeSet<String>,
    /// Changes with the files of the day, so that the numbers of their parts are not used for others.
    #[serde(default, rename = "v", skip_serializing_if = "String::is_empty")]
    pub(super) version: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Returns a short text for a call that is the same in all processes.
pub(super) fn short_hash(project: &SearchProject, id: &str) -> String {
    let SearchProject { account_id, project_id } = project;
    hex::encode(&Sha256::digest(format!("{account_id}\0{project_id}\0{id}"))[..6])
}

impl Cursor {
    /// Returns the start of a day.
    pub(super) fn start(date: Date) -> Self {
        Self { date, first: 0, end: None, after: None, seen: BTreeSet::new(), version: String::new() }
    }

    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn decode(text: &str) -> Result<Self, SearchError> {
        let bytes = (text.len() <= MAX_LENGTH).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or(SearchError::Cursor)
    }
}
