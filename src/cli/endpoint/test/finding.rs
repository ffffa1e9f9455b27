//! The meaning of one answer and the next step.

use serde::Serialize;

use crate::signature::SignedForm;

/// The kind of a test delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TestDelivery {
    Signed(SignedForm),
    Unsigned,
}

impl TestDelivery {
    /// Returns the HTTP status of a receiver that works.
    pub(super) fn expected(self) -> u16 {
        match self {
            Self::Signed(_) => 204,
            Self::Unsigned => 401,
        }
    }
}

/// The explanation of one answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) ok: bool,
    /// A constant word; none if the answer is the expected one.
    #[serde(rename = "reason")]
    pub(super) problem: Option<&'static str>,
    #[serde(rename = "message")]
    pub(super) meaning: String,
    pub(super) next: Option<String>,
}

impl Finding {
    pub(super) fn expected(meaning: &str) -> Self {
        Self { ok: true, problem: None, meaning: meaning.to_owned(), next: None }
    }

    pub(super) fn problem(
        problem: &'static str,
        meaning: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { ok: false, problem: Some(problem), meaning: meaning.into(), next: Some(next.into()) }
    }
}
