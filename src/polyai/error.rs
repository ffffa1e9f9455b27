//! Errors of PolyAI's APIs, classified by what a caller should do.

use std::{fmt, time::Duration};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

/// PolyAI's id of a request. Every answer has one, and PolyAI's support asks for it.
pub(super) const CORRELATION_HEADER: &str = "x-polyai-correlation-id";

/// The action that a caller should take after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again; if PolyAI named a time, not before it.
    Retry(Option<Duration>),
    /// Do not try again until a person has changed something.
    GiveUp,
}

/// The kind of an error.
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
    /// A redirect to another host. It is not followed.
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
    /// PolyAI's machine-readable code (`UPPER_SNAKE_CASE`).
    pub code: Option<String>,
    /// PolyAI's `X-PolyAI-Correlation-Id`.
    pub correlation_id: Option<String>,
    /// The wait that `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// The host of the request.
    pub host: String,
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
                "the API key is wrong, expired or of another region: put the right one into projects.api_key_file (data_api_key_file for the Data API), then replay"
            }
            Self::KeyLacksScope => {
                "the API key is valid but not for this project: ask PolyAI to provision it for the project, then replay"
            }
            Self::UnknownConversation => {
                "PolyAI does not know this conversation under this account and project: check projects.account_id and project_id and polyai.region, then replay"
            }
            Self::RecordingNotFound => "there is no recording (yet)",
            Self::UnknownProject => {
                "PolyAI does not know this account or project: check projects.account_id, projects.project_id and polyai.region, then replay"
            }
            Self::NotServed => {
                "this host does not serve the path: check polyai.base_url and polyai.platform_url (or polyai.region and polyai.api), then replay"
            }
            Self::RateLimited => {
                "too many requests: the project is paused; lower polyai.max_requests_per_second if it persists"
            }
            Self::Paused => "not sent, because a 429 paused the project; it is sent after the pause",
            Self::Unavailable => "PolyAI's API is failing at the moment",
            Self::Network => "the host cannot be reached: check DNS, proxy and firewall if it persists",
            Self::Timeout => "the host did not answer in time",
            Self::Redirected => {
                "the host redirects to another host, to which the key is not sent: check polyai.base_url"
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
        write!(f, ": {}", self.kind.hint())
    }
}

impl ApiError {
    /// Returns what the caller should do.
    pub fn advice(&self) -> Advice {
        match self.kind {
            ErrorKind::KeyRejected
            | ErrorKind::KeyLacksScope
            | ErrorKind::UnknownConversation
            | ErrorKind::UnknownProject
            | ErrorKind::NotServed
            | ErrorKind::TooLarge
            | ErrorKind::Refused => Advice::GiveUp,
            ErrorKind::RecordingNotFound
            | ErrorKind::RateLimited
            | ErrorKind::Paused
            | ErrorKind::Unavailable
            | ErrorKind::Network
            | ErrorKind::Timeout
            | ErrorKind::Redirected
            | ErrorKind::BadAnswer => Advice::Retry(self.retry_after),
        }
    }

    /// Creates an error that has no answer, or whose answer polyhook rejected.
    pub(super) fn new(kind: ErrorKind, host: &str) -> Self {
        Self {
            kind,
            status: None,
            code: None,
            correlation_id: None,
            retry_after: None,
            host: host.to_owned(),
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
        let code = error_code(body);
        let kind = match (status.as_u16(), code.as_deref()) {
            (401, _) => ErrorKind::KeyRejected,
            (403, _) => ErrorKind::KeyLacksScope,
            (404 | 410, Some("CONVERSATIONS_NOT_FOUND")) => ErrorKind::UnknownConversation,
            (404 | 410, Some("CONVERSATIONS_RECORDING_NOT_FOUND")) => ErrorKind::RecordingNotFound,
            (404 | 410, Some("PROJECT_NOT_FOUND" | "ACCOUNT_NOT_FOUND")) => ErrorKind::UnknownProject,
            (404 | 405 | 410, _) => ErrorKind::NotServed,
            (429, _) => ErrorKind::RateLimited,
            (408 | 425 | 500..=599, _) => ErrorKind::Unavailable,
            (300..=399, _) => ErrorKind::Redirected,
            (400..=499, _) => ErrorKind::Refused,
            _ => ErrorKind::BadAnswer,
        };
        Self {
            kind,
            status: Some(status.as_u16()),
            code,
            correlation_id: correlation_id(headers),
            retry_after: retry_after(headers, now),
            host: host.to_owned(),
        }
    }
}

/// Returns the correlation id, if it is safe to log.
pub(super) fn correlation_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(CORRELATION_HEADER)?.to_str().ok()?;
    (id.len() <= 128 && !id.is_empty()).then(|| id.to_owned())
}

/// Returns `error_code` of PolyAI's envelope. Anything that does not look like a code is dropped, because it would be
/// logged.
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        error_code: Option<String>,
    }
    let code = serde_json::from_slice::<Envelope>(body).ok()?.error_code?;
    let is_code = (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    is_code.then_some(code)
}

/// Reads `Retry-After`: seconds, or an HTTP date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = Timestamp::try_from(httpdate::parse_http_date(value).ok()?).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
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

    #[test]
    fn distinguishes_404s_by_their_code() {
        let code = |code: &str| answer(404, &format!(r#"{{"success":false,"error_code":"{code}"}}"#)).kind;
        assert_eq!(code("CONVERSATIONS_NOT_FOUND"), ErrorKind::UnknownConversation);
        assert_eq!(code("CONVERSATIONS_RECORDING_NOT_FOUND"), ErrorKind::RecordingNotFound);
        assert_eq!(code("PROJECT_NOT_FOUND"), ErrorKind::UnknownProject);
        assert_eq!(code("ROUTE_NOT_FOUND"), ErrorKind::NotServed);
        assert_eq!(answer(404, "<html>").kind, ErrorKind::NotServed);
        assert_eq!(answer(410, r#"{"message":"gone"}"#).kind, ErrorKind::NotServed);
    }

    #[test]
    fn advises_retry_only_for_transient_errors() {
        for (status, advice) in [
            (401, Advice::GiveUp),
            (403, Advice::GiveUp),
            (422, Advice::GiveUp),
            (408, Advice::Retry(None)),
            (429, Advice::Retry(None)),
            (500, Advice::Retry(None)),
            (503, Advice::Retry(None)),
            (302, Advice::Retry(None)),
        ] {
            assert_eq!(answer(status, "").advice(), advice, "{status}");
        }
    }

    #[test]
    fn reads_retry_after_in_both_forms() {
        let now = Timestamp::from_second(784_111_700).unwrap();
        let read =
            |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        assert_eq!(read("120"), Some(Duration::from_mins(2)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(read("Tue, 06 Nov 1990 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn drops_an_error_code_that_is_not_a_code() {
        assert_eq!(answer(404, r#"{"error_code":"call +15550100 was not found"}"#).code, None);
    }
}
