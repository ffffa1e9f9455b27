//! Errors as pages: what failed, and what to do.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::{format, layout};

/// An error that a person reads.
#[derive(Clone, Debug)]
pub(super) struct PageError {
    status: StatusCode,
    /// What failed.
    what: String,
    /// What to do.
    next: String,
    /// A part of the page below that.
    more: Option<Markup>,
}

impl PageError {
    pub(super) fn new(status: StatusCode, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { status, what: what.into(), next: next.into(), more: None }
    }

    /// Adds a part below the words.
    pub(super) fn with(self, more: Markup) -> Self {
        Self { more: Some(more), ..self }
    }

    /// There is no such thing.
    pub(super) fn not_found(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, what, next)
    }

    /// The request is wrong.
    pub(super) fn bad_request(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, what, next)
    }

    /// The person may not do that.
    pub(super) fn forbidden(what: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, what, "Open the page again, and try again.")
    }

    /// A part that the page needs is away.
    pub(super) fn unavailable(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, what, next)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let Self { status, what, next, more } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let body = html! {
            h1 { (title) }
            p { (format::own_text(&what)) }
            p { (format::own_text_with_copy(&next)) }
            p { a href="/" { "Overview" } }
            @if let Some(more) = more { (more) }
        };
        (status, layout::document(title, None, &body)).into_response()
    }
}
