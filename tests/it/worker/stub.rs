//! A server that is not PolyAI: keys must not reach it, and its answers are unusual.

use std::{
    future::IntoFuture,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::Request,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use polyhook::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use url::Url;

pub(super) struct Stub {
    pub(super) url: Url,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Stub {
    /// Answers each path as `answer` says, until `lifecycle` ends.
    pub(super) async fn start<F>(lifecycle: &Lifecycle, answer: F) -> Self
    where
        F: Fn(&str) -> Response + Clone + Send + Sync + 'static,
    {
        Self::start_with_query(lifecycle, move |path, _| answer(path)).await
    }

    /// Answers each path and query as `answer` says, until `lifecycle` ends.
    pub(super) async fn start_with_query<F>(lifecycle: &Lifecycle, answer: F) -> Self
    where
        F: Fn(&str, &str) -> Response + Clone + Send + Sync + 'static,
    {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let noted = Arc::clone(&seen);
        let router = Router::new().fallback(async move |request: Request| {
            let path = request.uri().path().to_owned();
            noted.lock().unwrap().push((path.clone(), request.headers().clone()));
            answer(&path, request.uri().query().unwrap_or_default()).into_response()
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let serving = axum::serve(listener, router).into_future();
        drop(lifecycle.spawn("stub", async move { serving.await.unwrap() }));
        Self { url, seen }
    }

    /// Paths and headers of all requests.
    pub(super) fn seen(&self) -> Vec<(String, HeaderMap)> {
        self.seen.lock().unwrap().clone()
    }
}
