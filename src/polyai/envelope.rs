//! PolyAI's own word: its error envelope, and the codes in it that polyhook knows.
//!
//! A gateway, a proxy or a login page answers with the same statuses as PolyAI. So a status alone decides nothing: an
//! answer is PolyAI's only in one of its two envelopes ([`Envelope::read`]), and it is final only with a code that
//! [`KNOWN_CODES`] marks as final. Everything else is tried again.

use serde_json::Value;

use super::error::ErrorKind;

/// The longest error code. A longer one is not a code.
const MAX_CODE_BYTES: usize = 64;

/// PolyAI's error envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    /// The machine-readable code (`UPPER_SNAKE_CASE`). Anything else is dropped, because it would be logged.
    pub(super) code: Option<String>,
}

/// A code that polyhook knows.
#[derive(Debug)]
pub(super) struct KnownCode {
    /// The code. A `*` at one end stands for any characters.
    pattern: &'static str,
    /// The statuses with which the code has this meaning.
    statuses: &'static [u16],
    /// The meaning.
    pub(super) kind: ErrorKind,
    /// True if no further attempt can succeed before a person has changed something.
    pub(super) is_final: bool,
}

/// All codes that polyhook knows. "OpenAPI" is PolyAI's file for the Conversations API of August 2026, "reference" the page
/// "Error codes" of its API reference.
const KNOWN_CODES: &[KnownCode] = &[
    // OpenAPI: 404 of one conversation. Not final, because a webhook may be faster than the database that is read.
    waiting("CONVERSATIONS_NOT_FOUND", &[404, 410], ErrorKind::UnknownConversation),
    // Reference: 404 of a recording. It may appear later; the worker decides for how long it waits.
    waiting("CONVERSATIONS_RECORDING_NOT_FOUND", &[404, 410], ErrorKind::RecordingNotFound),
    // OpenAPI: 404 of the list of conversations.
    final_code("PROJECT_NOT_FOUND", &[404, 410], ErrorKind::UnknownProject),
    // Reference.
    final_code("ACCOUNT_NOT_FOUND", &[404, 410], ErrorKind::UnknownProject),
    // Reference: the key is wrong, expired or of another region (401), or not for this project (403).
    final_code("AUTH_USER_*", &[401], ErrorKind::KeyRejected),
    final_code("AUTH_USER_*", &[403], ErrorKind::KeyLacksScope),
    // Reference: the key is valid and lacks the project or the scope.
    final_code("USER_ACCESS_FORBIDDEN", &[403], ErrorKind::KeyLacksScope),
    final_code("EXTERNAL_USER_FORBIDDEN", &[403], ErrorKind::KeyLacksScope),
    final_code("ACCOUNT_INSUFFICIENT_PERMISSIONS", &[403], ErrorKind::KeyLacksScope),
    // Reference: a parameter of the request is invalid, and the next request has the same ones.
    final_code("CONVERSATIONS_VALIDATION_FAILED", &[400, 422], ErrorKind::Refused),
    // OpenAPI: 400 of the list of conversations.
    final_code("GET_CONVERSATIONS_FILTER_PARSE_ERROR", &[400], ErrorKind::Refused),
    // Reference: 400 of the list of conversations.
    final_code("*_INVALID_SORT_PARAMETER", &[400], ErrorKind::Refused),
];

const fn waiting(pattern: &'static str, statuses: &'static [u16], kind: ErrorKind) -> KnownCode {
    KnownCode { pattern, statuses, kind, is_final: false }
}

const fn final_code(pattern: &'static str, statuses: &'static [u16], kind: ErrorKind) -> KnownCode {
    KnownCode { pattern, statuses, kind, is_final: true }
}

impl KnownCode {
    /// Returns the entry for a code in an answer with this status.
    pub(super) fn find(status: u16, code: &str) -> Option<&'static Self> {
        KNOWN_CODES.iter().find(|known| known.statuses.contains(&status) && known.matches(code))
    }

    fn matches(&self, code: &str) -> bool {
        match (self.pattern.strip_suffix('*'), self.pattern.strip_prefix('*')) {
            (Some(prefix), _) => code.starts_with(prefix),
            (_, Some(suffix)) => code.ends_with(suffix),
            _ => code == self.pattern,
        }
    }
}

impl Envelope {
    /// Reads the envelope of an error's body: `{success: false, error, error_id, error_code, error_message}` or
    /// `{message, errors: [{field, message}]}`. Returns `None` if the body is anything else.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return None };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let is_standard = fields.get("success") == Some(&Value::Bool(false))
            && ["error_code", "error_id", "error_message"].iter().any(|name| text(name).is_some());
        let errors = fields.get("errors").and_then(Value::as_array);
        let has_fields = text("message").is_some()
            && errors.is_some_and(|errors| errors.iter().all(|error| error.get("message").is_some()));
        let code = text("error_code").filter(|code| is_code(code)).map(str::to_owned);
        (is_standard || has_fields).then_some(Self { code })
    }
}

fn is_code(code: &str) -> bool {
    (1..=MAX_CODE_BYTES).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHOUT_CODE: Option<Envelope> = Some(Envelope { code: None });

    fn read(body: &str) -> Option<Envelope> {
        Envelope::read(body.as_bytes())
    }

    #[test]
    fn recognises_both_envelopes() {
        let standard = r#"{"success":false,"error":"No.","error_id":"1","error_code":"A_1","error_message":"No.","data":null}"#;
        assert_eq!(read(standard), Some(Envelope { code: Some("A_1".to_owned()) }));
        assert_eq!(read(r#"{"message":"m","errors":[{"field":"f","message":"m"}]}"#), WITHOUT_CODE);
        assert_eq!(read(r#"{"message":"Not Found","errors":[]}"#), WITHOUT_CODE);
    }

    #[test]
    fn recognises_nothing_else() {
        for body in [
            "",
            "default backend - 404",
            "<html>403</html>",
            "null",
            "[]",
            r#""PROJECT_NOT_FOUND""#,
            r#"{"message":"Forbidden"}"#,
            r#"{"detail":"Not Found"}"#,
            r#"{"error_code":"PROJECT_NOT_FOUND"}"#,
            r#"{"success":true,"error_code":"PROJECT_NOT_FOUND"}"#,
            r#"{"success":"false","error_code":"PROJECT_NOT_FOUND"}"#,
            r#"[{"success":false,"error_code":"PROJECT_NOT_FOUND"}]"#,
            r#"{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"messages":[],"result":null}"#,
            r#"{"success":false,"error":"No.","error_id":"1","error_code":"PROJECT_NOT_FOU"#,
            r#"{"success":false,"error_code":"PROJECT_NOT_FOUND"}<!-- proxy -->"#,
            r#"{"message":"m","errors":["f"]}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }

    #[test]
    fn drops_an_error_code_that_is_not_a_code() {
        for bad in ["call +15550100 was not found", "", "not_found", &"A".repeat(MAX_CODE_BYTES + 1)] {
            let body = format!(r#"{{"success":false,"error_code":"{bad}"}}"#);
            assert_eq!(read(&body), WITHOUT_CODE, "{bad}");
        }
    }

    #[test]
    fn knows_a_code_only_with_its_status() {
        let find = |status, code| KnownCode::find(status, code).map(|known| (known.kind, known.is_final));
        assert_eq!(find(401, "AUTH_USER_UNAUTHORIZED"), Some((ErrorKind::KeyRejected, true)));
        assert_eq!(find(403, "AUTH_USER_FORBIDDEN"), Some((ErrorKind::KeyLacksScope, true)));
        assert_eq!(find(400, "GET_CONVERSATIONS_INVALID_SORT_PARAMETER"), Some((ErrorKind::Refused, true)));
        assert_eq!(find(404, "CONVERSATIONS_NOT_FOUND"), Some((ErrorKind::UnknownConversation, false)));
        for (status, code) in [
            (503, "AUTH_USER_UNAUTHORIZED"),
            (429, "USER_ACCESS_FORBIDDEN"),
            (502, "PROJECT_NOT_FOUND"),
            (404, "AUTH_USER_UNAUTHORIZED"),
            (401, "UNAUTHORIZED"),
            (404, "NOT_FOUND"),
            (404, "MY_PROJECT_NOT_FOUND"),
        ] {
            assert_eq!(find(status, code), None, "{status} {code}");
        }
    }
}
