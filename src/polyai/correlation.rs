//! The id of one request, for PolyAI's support.
//!
//! Every request to PolyAI carries an id of its own in `X-PolyAI-Correlation-Id`, and PolyAI puts an id on every answer. The
//! id of the answer is the one to quote. If there was no answer, or a gateway answered without an id, it is the one that was
//! sent.

use http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use super::error::{ApiError, correlation_id};

/// The id of one request: `polyhook-<uuid>`.
#[derive(Clone, Debug)]
pub(super) struct CorrelationId(String);

impl CorrelationId {
    pub(super) fn new() -> Self {
        Self(format!("polyhook-{}", Uuid::new_v4()))
    }

    /// Returns the value of the header.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| unreachable!("it has letters, digits and hyphens"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id to quote for an answer to the request.
    pub(super) fn of_answer(&self, headers: &HeaderMap) -> String {
        correlation_id(headers).unwrap_or_else(|| self.0.clone())
    }

    /// Adds the id to an error that has none.
    pub(super) fn complete(&self, error: ApiError) -> ApiError {
        let correlation_id = error.correlation_id.or_else(|| Some(self.0.clone()));
        ApiError { correlation_id, ..error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polyai::{ErrorKind, error::CORRELATION_HEADER};

    #[test]
    fn the_id_of_the_answer_comes_first() {
        let sent = CorrelationId::new();
        let (prefix, uuid) = sent.as_str().split_once('-').unwrap();
        assert!(prefix == "polyhook" && Uuid::parse_str(uuid).is_ok(), "{sent:?}");
        assert_ne!(sent.as_str(), CorrelationId::new().as_str());
        let with = |id: &str| HeaderMap::from_iter([(CORRELATION_HEADER, id.parse().unwrap())]);
        assert_eq!(sent.of_answer(&with("c-1")), "c-1");
        for unusable in [with(""), with(&"x".repeat(200)), HeaderMap::new()] {
            assert_eq!(sent.of_answer(&unusable), sent.as_str());
        }
        let error = ApiError::new(ErrorKind::Timeout, "h");
        assert_eq!(sent.complete(error.clone()).correlation_id.as_deref(), Some(sent.as_str()));
        let answered = ApiError { correlation_id: Some("c-1".to_owned()), ..error };
        assert_eq!(sent.complete(answered).correlation_id.as_deref(), Some("c-1"));
    }
}
