//! Addresses of the pages of conversations, as links have them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use url::form_urlencoded;

/// The characters that a segment and a parameter of an address cannot contain (RFC 3986, section 2.3).
const ENCODED_CHARS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a text for a segment or a parameter of an address.
pub(super) fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ENCODED_CHARS)
}

/// Returns the path of the page of a conversation. The console searches the archive for it.
pub(super) fn conversation(id: &str) -> String {
    format!("/conversations/{}", encode(id))
}

/// Returns the path of the page of a dead letter, or `None` for an id that no address can hold.
pub(super) fn dead_letter(id: &str) -> Option<String> {
    // Browsers take these for folders, also if they are encoded.
    let is_folder = matches!(id, "" | "." | "..");
    (!is_folder).then(|| format!("/dead/{}", encode(id)))
}

/// Returns true if a query has a parameter without a value. A form sends one for each empty field.
pub(super) fn has_empty_parameter(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(_, value)| value.is_empty())
}

/// Returns the parameters that say in which folder of the archive a conversation is. With them, nothing is searched.
pub(super) fn folder(account_id: &str, project_id: &str, date: jiff::civil::Date) -> String {
    format!("account={}&project={}&date={date}", encode(account_id), encode(project_id))
}
