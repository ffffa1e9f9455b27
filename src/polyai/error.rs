//! What can go wrong with a request, by what to do about it.

use std::{fmt, time::Duration};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

/// PolyAI's id of a request, on every response; what their support asks for.
pub(super) const CORRELATION_HEADER: &str = "x-polyai-correlation-id";

/// What a caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again, no sooner than this if PolyAI said when.
    Retry(Option<Duration>),
    /// Trying again will not help until a person has changed something.
    GiveUp,
}

/// What happened.
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
    /// 404, 405 or 410 of the path itself: this API does not serve it here.
    NotServed,
    /// 429
    RateLimited,
    /// Not asked: a 429 paused the project and the pause is not over.
    Paused,
    /// 408 or 5xx
    Unavailable,
    /// No connection, a reset, a name that does not resolve, TLS.
    Network,
    /// Silence for too long.
    Timeout,
    /// A redirect to another host, which is not followed.
    Redirected,
    /// 2xx with something that is not what was asked for.
    BadAnswer,
    /// Larger than polyhook reads.
    TooLarge,
    /// Any other 4xx.
    Refused,
}

/// A request that did not succeed.
#[derive(Clone, Debug, Error)]
pub struct ApiError {
    /// What happened.
    pub kind: ErrorKind,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// PolyAI's machine-readable code, if it is one (`UPPER_SNAKE_CASE`).
    pub code: Option<String>,
    /// PolyAI's `X-PolyAI-Correlation-Id`.
    pub correlation_id: Option<String>,
    /// What PolyAI's `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// The host that was asked.
    pub host: String,
}

impl ErrorKind {
    /// A constant word for dead letters, logs and metric labels.
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

    /// What it means and what to do next.
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
            Self::Paused => "not asked, because the project is paused by a 429; it is when the pause is over",
            Self::Unavailable => "PolyAI's API has trouble of its own",
            Self::Network => "the host cannot be reached: check DNS, proxy and firewall if it persists",
            Self::Timeout => "the host did not answer in time",
            Self::Redirected => {
                "the host redirects elsewhere, and a key is not sent elsewhere: check polyai.base_url"
            }
            Self::BadAnswer => {
                "the answer is not what was asked for; a proxy or login page between here and PolyAI does that"
            }
            Self::TooLarge => "the conversation is larger than polyhook reads into memory",
            Self::Refused => "PolyAI refused the request as such: quote the correlation id to their support",
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
    /// What to do about it.
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

    /// An error of our own reading of an answer, or of none.
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

    /// What reqwest says, without the URL (it holds ids) and without its causes' texts.
    pub(super) fn transport(error: &reqwest::Error, host: &str) -> Self {
        let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Network };
        Self::new(kind, host)
    }

    /// An answer that is no success, from its status, headers and the beginning of its body.
    pub(super) fn answer(
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

/// The correlation id, if it is one that a log can carry.
pub(super) fn correlation_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(CORRELATION_HEADER)?.to_str().ok()?;
    (id.len() <= 128 && !id.is_empty()).then(|| id.to_owned())
}

/// `error_code` of PolyAI's envelope; only if it looks like a code, since it goes into logs.
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        error_code: Option<String>,
    }
    let code = serde_json::from_slice::<Envelope>(body).ok()?.error_code?;
    let looks_like_one = (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    looks_like_one.then_some(code)
}

/// `Retry-After` in either form: seconds, or an HTTP date (RFC 9110, 10.2.3).
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
        ApiError::answer(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
            Timestamp::UNIX_EPOCH,
            "api.example",
        )
    }

    #[test]
    fn a_404_is_told_apart_by_its_code() {
        let code = |code: &str| answer(404, &format!(r#"{{"success":false,"error_code":"{code}"}}"#)).kind;
        assert_eq!(code("CONVERSATIONS_NOT_FOUND"), ErrorKind::UnknownConversation);
        assert_eq!(code("CONVERSATIONS_RECORDING_NOT_FOUND"), ErrorKind::RecordingNotFound);
        assert_eq!(code("PROJECT_NOT_FOUND"), ErrorKind::UnknownProject);
        assert_eq!(code("ROUTE_NOT_FOUND"), ErrorKind::NotServed);
        assert_eq!(answer(404, "<html>").kind, ErrorKind::NotServed);
        assert_eq!(answer(410, r#"{"message":"gone"}"#).kind, ErrorKind::NotServed);
    }

    #[test]
    fn says_what_to_do() {
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
    fn retry_after_is_read_in_both_forms() {
        let now = Timestamp::from_second(784_111_700).unwrap();
        let read =
            |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        assert_eq!(read("120"), Some(Duration::from_mins(2)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(read("Sun, 06 Nov 1990 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn a_strange_code_stays_out_of_the_log() {
        assert_eq!(answer(404, r#"{"error_code":"call +15550100 was not found"}"#).code, None);
    }
}
