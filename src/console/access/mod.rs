//! Who may look: loopback needs nothing.

mod csrf;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::request::Parts;

pub(super) use self::csrf::CsrfKey;
use super::{config::ConsoleConfig, error::PageError};

/// The rules of access.
#[derive(Debug)]
pub(super) struct Access {
    csrf: CsrfKey,
}

impl Access {
    pub(super) fn new(_config: &ConsoleConfig) -> Self {
        Self { csrf: CsrfKey::random() }
    }
}

/// A person who may look.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    /// The name for the log.
    pub(super) name: String,
    /// The token that each form must send back.
    pub(super) csrf: String,
}

/// Answers a request only if its sender may look.
pub(super) async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let viewer = Viewer { name: "local".to_owned(), csrf: access.csrf.token("local") };
    if !request.method().is_safe() && !csrf::is_same_site(request.headers()) {
        return PageError::forbidden("The form comes from another site.").into_response();
    }
    tracing::debug!(viewer = viewer.name, path = request.uri().path(), "a page of the console");
    request.extensions_mut().insert(viewer);
    next.run(request).await
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PageError> {
        let viewer = parts.extensions.get::<Self>().cloned();
        viewer.ok_or_else(|| PageError::forbidden("You are not logged in."))
    }
}
