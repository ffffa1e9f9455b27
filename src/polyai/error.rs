//! Errors of PolyAI's APIs, classified by what a caller should do.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use jiff::Timestamp;
use thiserror::Error;

use super::envelope::{Envelope, KnownCode};

/// The id of a request ([`super::correlation`]).
pub(super) const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-polyai-correlation-id");
/// The longest wait that a `Retry-After` can ask for. A wrong header must not stop a job or a project for a week.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// The hint for a rejected key that was accepted before. PolyAI's keys have an expiry date and stop working at once.
const EXPIRED_KEY_HINT: &str = "the API key worked before, so it is expired or revoked: create a new one in Agent Studio and put it into projects.api_key_file (data_api_key_file for the Data API)";

/// The action that a caller should take after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again; if PolyAI named a time, not before it.
    Retry(Option<Duration>),
    /// Do not try again until a person has changed something.
    GiveUp,
}

/// The kind of an error. It gives the reason a name; whether the error is final is another question
/// ([`ApiError::advice`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 401
    KeyRejected,
    /// 403
    KeyLacksScope,
    /// 404 `CONVERSATIONS_NOT_FOUND`
    UnknownConversation,
    /// 404 `CONVERSATIONS_RECORDING_NOT_FOUND`
    RecordingNotFound,
    /// 404 `PROJECT_NOT_FOUND`, `ACCOUNT_NOT_FOUND`
    UnknownProject,
    /// 404, 405 or 410 for the path itself: this host does not serve it.
    NotServed,
    /// 429
    RateLimited,
    /// Not sent, because a 429 paused the project.
    Paused,
    /// 408 or 5xx
    Unavailable,
    /// No connection: a reset, a name that does not resolve, TLS.
    Network,
    /// No answer in time.
    Timeout,
    /// A redirect that polyhook does not follow, or that leads to an error.
    Redirected,
    /// 2xx with an unexpected body.
    BadAnswer,
    /// The answer is larger than polyhook reads.
    TooLarge,
    /// Any other 4xx.
    Refused,
}

/// A request that did not succeed.
#[derive(Clone, Debug, Error)]
pub struct ApiError {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// True if the answer is in PolyAI's error envelope: PolyAI itself sent it. Otherwise a gateway or a proxy may have
    /// sent it, and its status proves nothing.
    pub in_envelope: bool,
    /// PolyAI's machine-readable code (`UPPER_SNAKE_CASE`) in the envelope.
    pub code: Option<String>,
    /// The `X-PolyAI-Correlation-Id` of the answer, or of the request if there was none. `None` if nothing was sent.
    pub correlation_id: Option<String>,
    /// The wait that `Retry-After` asks for, at most [`MAX_RETRY_AFTER`].
    pub retry_after: Option<Duration>,
    /// The host of the request.
    pub host: String,
    /// A remark for a person about this error. Contains no private data.
    pub detail: Option<Box<str>>,
    /// True for a 401 if the same key was accepted before.
    pub key_worked: bool,
}

impl ErrorKind {
    /// Returns a constant word for dead letters, logs and metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::KeyRejected => "key_rejected",
            Self::KeyLacksScope => "key_lacks_scope",
            Self::UnknownConversation => "unknown_conversation",
            Self::RecordingNotFound => "recording_not_found",
            Self::UnknownProject => "unknown_project",
            Self::NotServed => "not_served",
            Self::RateLimited => "rate_limited",
            Self::Paused => "paused",
            Self::Unavailable => "api_unavailable",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Redirected => "redirected",
            Self::BadAnswer => "bad_answer",
            Self::TooLarge => "too_large",
            Self::Refused => "request_refused",
        }
    }

    /// Returns what the error means and what to do next.
    fn hint(self) -> &'static str {
        match self {
            Self::KeyRejected => {
                "the API key is wrong, expired or revoked, or of another region: put the right one into projects.api_key_file (data_api_key_file for the Data API)"
            }
            Self::KeyLacksScope => {
                "the API key is valid but not for this project: ask PolyAI to provision it for the project"
            }
            Self::UnknownConversation => {
                "PolyAI does not know this conversation (yet) under this account and project: check its id, projects.account_id and project_id, and polyai.region"
            }
            Self::RecordingNotFound => "there is no recording (yet)",
            Self::UnknownProject => {
                "PolyAI does not know this account or project: check projects.account_id, projects.project_id and polyai.region"
            }
            Self::NotServed => {
                "this host does not serve the path: check polyai.base_url and polyai.platform_url (or polyai.region and polyai.api)"
            }
            Self::RateLimited => {
                "too many requests: the project is paused and its request rate is halved; ask PolyAI for a higher rate if it persists"
            }
            Self::Paused => "not sent, because a 429 paused the project for a moment",
            Self::Unavailable => "PolyAI's API is failing at the moment",
            Self::Network => "the host cannot be reached: check DNS, proxy and firewall if it persists",
            Self::Timeout => "the host did not answer in time",
            Self::Redirected => {
                "the redirect leads to no answer, and the API key is not sent to other hosts: check polyai.base_url if it persists"
            }
            Self::BadAnswer => {
                "the answer is not what was asked for; check for a proxy or a login page between here and PolyAI"
            }
            Self::TooLarge => "the conversation is larger than polyhook reads into memory",
            Self::Refused => "PolyAI refused the request: quote the correlation id to their support",
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        match self.status {
            Some(status) => write!(f, " answered {status}")?,
            None => write!(f, " gave no answer")?,
        }
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        write!(f, "{}: ", self.origin())?;
        if let Some(detail) = &self.detail {
            write!(f, "{detail}; ")?;
        }
        if !self.origin().is_empty() {
            write!(f, "check what is between here and PolyAI; if PolyAI sent it: ")?;
        }
        f.write_str(if self.key_worked { EXPIRED_KEY_HINT } else { self.kind.hint() })
    }
}

impl ApiError {
    /// Returns what the caller should do. Only PolyAI's own word is final: an answer in its envelope with a code that is
    /// known to be final.
    pub fn advice(&self) -> Advice {
        if self.is_final() { Advice::GiveUp } else { Advice::Retry(self.retry_after) }
    }

    fn is_final(&self) -> bool {
        match (self.status, &self.code) {
            (Some(status), Some(code)) => KnownCode::find(status, code).is_some_and(|known| known.is_final),
            // There can be no request for such an id.
            (None, _) => self.kind == ErrorKind::UnknownConversation,
            _ => false,
        }
    }

    /// Returns whether PolyAI itself says that there is no recording (yet), or that it serves none.
    pub fn is_absent_recording(&self) -> bool {
        self.in_envelope && matches!(self.kind, ErrorKind::RecordingNotFound | ErrorKind::NotServed)
    }

    /// Returns a remark about an answer that may not be PolyAI's, for the end of the sentence about its status.
    pub(super) fn origin(&self) -> &'static str {
        match self.status {
            Some(400..=499) if !self.in_envelope => {
                " without PolyAI's error envelope, so a gateway or a proxy may have sent it"
            }
            _ => "",
        }
    }

    /// Creates an error that has no answer, or whose answer polyhook rejected.
    pub(super) fn new(kind: ErrorKind, host: &str) -> Self {
        Self {
            kind,
            status: None,
            in_envelope: false,
            code: None,
            correlation_id: None,
            retry_after: None,
            host: host.to_owned(),
            detail: None,
            key_worked: false,
        }
    }

    /// Converts an error of reqwest, without its URL (it has ids) and without the texts of its causes.
    pub(super) fn transport(error: &reqwest::Error, host: &str) -> Self {
        let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Network };
        Self::new(kind, host)
    }

    /// Classifies an answer that is not a success by its status, headers and the first part of its body.
    pub(super) fn from_answer(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
        host: &str,
    ) -> Self {
        let envelope = Envelope::read(body);
        let in_envelope = envelope.is_some();
        let code = envelope.and_then(|envelope| envelope.code);
        let known = code.as_deref().and_then(|code| KnownCode::find(status.as_u16(), code));
        let kind = known.map_or_else(|| kind_of_status(status), |known| known.kind);
        Self {
            kind,
            status: Some(status.as_u16()),
            in_envelope,
            code,
            correlation_id: correlation_id(headers),
            retry_after: retry_after(headers, now),
            host: host.to_owned(),
            detail: None,
            key_worked: false,
        }
    }
}

/// Returns the kind of an answer whose code says nothing more.
fn kind_of_status(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::KeyRejected,
        403 => ErrorKind::KeyLacksScope,
        404 | 405 | 410 => ErrorKind::NotServed,
        429 => ErrorKind::RateLimited,
        408 | 425 | 500..=599 => ErrorKind::Unavailable,
        300..=399 => ErrorKind::Redirected,
        400..=499 => ErrorKind::Refused,
        _ => ErrorKind::BadAnswer,
    }
}

/// Returns the correlation id of an answer, if it is safe to log.
pub(super) fn correlation_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(CORRELATION_HEADER)?.to_str().ok()?;
    (id.len() <= 128 && !id.is_empty()).then(|| id.to_owned())
}

/// Reads `Retry-After`: seconds, or an HTTP date (RFC 9110, 10.2.3). A date in the past is no wait, and anything else is
/// ignored.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let at = httpdate::parse_http_date(value).ok()?;
        // The difference to the server's own clock, if it states the time, because ours may be wrong.
        let sent_at = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        at.duration_since(sent_at.unwrap_or(SystemTime::from(now))).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> ApiError {
        ApiError::from_answer(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
            Timestamp::UNIX_EPOCH,
            "api.example",
        )
    }

    fn in_envelope(status: u16, code: &str) -> ApiError {
        let body = format!(
            r#"{{"success":false,"error":"No.","error_id":"1","error_code":"{code}","error_message":"No.","data":null}}"#
        );
        answer(status, &body)
    }

    #[test]
    fn distinguishes_404s_by_their_code() {
        let kind = |code: &str| in_envelope(404, code).kind;
        assert_eq!(kind("CONVERSATIONS_NOT_FOUND"), ErrorKind::UnknownConversation);
        assert_eq!(kind("CONVERSATIONS_RECORDING_NOT_FOUND"), ErrorKind::RecordingNotFound);
        assert_eq!(kind("PROJECT_NOT_FOUND"), ErrorKind::UnknownProject);
        assert_eq!(kind("ROUTE_NOT_FOUND"), ErrorKind::NotServed);
        assert_eq!(answer(404, "<html>").kind, ErrorKind::NotServed);
        assert_eq!(answer(410, r#"{"message":"gone"}"#).kind, ErrorKind::NotServed);
        let gateway = r#"{"error_code":"CONVERSATIONS_RECORDING_NOT_FOUND"}"#;
        assert_eq!(answer(404, gateway).kind, ErrorKind::NotServed, "not PolyAI's word about the recording");
        assert!(!answer(404, gateway).is_absent_recording() && !answer(404, "").is_absent_recording());
        assert!(in_envelope(404, "CONVERSATIONS_RECORDING_NOT_FOUND").is_absent_recording());
        assert!(in_envelope(404, "NOT_FOUND").is_absent_recording());
        assert!(!in_envelope(404, "CONVERSATIONS_NOT_FOUND").is_absent_recording());
    }

    #[test]
    fn only_polyais_final_codes_are_final() {
        for (status, code, reason) in [
            (401, "AUTH_USER_UNAUTHORIZED", "key_rejected"),
            (403, "AUTH_USER_FORBIDDEN", "key_lacks_scope"),
            (403, "USER_ACCESS_FORBIDDEN", "key_lacks_scope"),
            (403, "EXTERNAL_USER_FORBIDDEN", "key_lacks_scope"),
            (403, "ACCOUNT_INSUFFICIENT_PERMISSIONS", "key_lacks_scope"),
            (404, "PROJECT_NOT_FOUND", "unknown_project"),
            (404, "ACCOUNT_NOT_FOUND", "unknown_project"),
            (400, "CONVERSATIONS_VALIDATION_FAILED", "request_refused"),
            (400, "GET_CONVERSATIONS_FILTER_PARSE_ERROR", "request_refused"),
        ] {
            let error = in_envelope(status, code);
            assert_eq!((error.advice(), error.kind.label()), (Advice::GiveUp, reason), "{status} {code}");
        }
        for (status, code) in [
            (404, "CONVERSATIONS_NOT_FOUND"),
            (404, "CONVERSATIONS_RECORDING_NOT_FOUND"),
            (404, "NOT_FOUND"),
            (401, "UNAUTHORIZED"),
            (403, "FORBIDDEN"),
            (422, "UNPROCESSABLE_ENTITY"),
            (500, "PROJECT_NOT_FOUND"),
        ] {
            let error = in_envelope(status, code);
            assert_eq!(error.advice(), Advice::Retry(None), "{status} {code}");
            assert!(!error.to_string().contains("gateway"), "{error}");
        }
    }

    #[test]
    fn a_status_without_the_envelope_is_never_final_and_keeps_its_reason() {
        let pages = [
            "",
            "default backend - 404",
            "<html>403 Forbidden</html>",
            r#"{"message":"Forbidden"}"#,
            r#"{"error_code":"PROJECT_NOT_FOUND"}"#,
            r#"{"success":false,"error_code":"PROJECT_NOT_FOUND""#,
        ];
        for status in (201..=299).chain(300..=599) {
            for page in pages {
                let error = answer(status, page);
                assert_eq!(error.advice(), Advice::Retry(None), "{status} {page}");
                let is_remarked = error.to_string().contains("a gateway or a proxy may have sent it");
                assert_eq!(is_remarked, (400..500).contains(&status), "{error}");
            }
        }
        for (status, reason) in [
            (401, "key_rejected"),
            (403, "key_lacks_scope"),
            (404, "not_served"),
            (407, "request_refused"),
            (421, "request_refused"),
            (429, "rate_limited"),
            (302, "redirected"),
            (511, "api_unavailable"),
        ] {
            assert_eq!(answer(status, "<html>").kind.label(), reason);
        }
    }

    #[test]
    fn reads_retry_after_in_both_forms() {
        let now = Timestamp::from_second(784_111_700).unwrap();
        let read =
            |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        assert_eq!(read("120"), Some(Duration::from_mins(2)));
        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(read("Tue, 06 Nov 1990 08:49:37 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn measures_a_retry_after_date_by_the_clock_of_the_server() {
        let headers = HeaderMap::from_iter([
            (RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap()),
            (DATE, "Sun, 06 Nov 1994 08:49:07 GMT".parse().unwrap()),
        ]);
        for wrong in [0, 784_111_700, 4_000_000_000] {
            let now = Timestamp::from_second(wrong).unwrap();
            assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(30)), "{now}");
        }
    }

    #[test]
    fn ignores_a_nonsensical_retry_after_and_bounds_a_huge_one() {
        let now = Timestamp::from_second(784_111_700).unwrap();
        let read =
            |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        for nonsense in ["soon", "", "-5", "+5", "1.5", "1e9", "0x10", "5 s", "5, 6", "Infinity"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        for huge in ["3601", "999999999999", "99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(read(huge), Some(MAX_RETRY_AFTER), "{huge}");
        }
    }
}
