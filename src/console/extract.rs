//! The extractors of axum for the parts of an address. They answer a damaged address with a page.

use axum::extract::{self, FromRequestParts};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::PageError;

/// The parts of the path that vary.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

/// The parameters.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let path = extract::Path::from_request_parts(parts, state).await;
        path.map(|extract::Path(path)| Self(path)).map_err(|_| damaged())
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, PageError> {
        let query = extract::Query::try_from_uri(&parts.uri);
        query.map(|extract::Query(query)| Self(query)).map_err(|_| damaged())
    }
}

fn damaged() -> PageError {
    PageError::bad_request(
        "The address of this page is damaged: a part of it is not valid, or is there twice.",
        "Start from the overview, and follow the links.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::{config::ConsoleConfig, fixture::TestConsole};

    #[tokio::test]
    async fn a_damaged_address_gets_a_page_on_every_route() {
        let console = TestConsole::open(ConsoleConfig::default());
        let twice = "?account=a&account=b&text=a&text=b&kind=a&kind=b&reason=a&reason=b&after=1&after=2";
        // The stream of the live view is endless.
        let is_page = |path: &String| !path.starts_with("/assets/") && path != "/live/events";
        for part in ["%FF", "CA1"] {
            for path in console.paths(part).into_iter().filter(is_page) {
                let answer = console.get(&format!("{path}{twice}")).await;
                let is_page = answer.header("content-type") == "text/html; charset=utf-8";
                assert!(is_page || [200, 303].contains(&answer.status), "{path}: {answer:?}");
                assert!(!answer.body.contains("deserialize") && answer.status < 500, "{path}: {answer:?}");
            }
        }
    }
}
