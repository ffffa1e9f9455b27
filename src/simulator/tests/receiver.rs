//! A receiver of deliveries that answers as it is told and remembers what it got.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use tokio::net::TcpListener;
use url::Url;

use crate::{
    lifecycle::Lifecycle,
    secret::Secret,
    signature::{EVENT_ID_HEADER, Rejection, SIGNATURE_HEADER, Scheme, TIMESTAMP_HEADER, Verifier},
};

/// One delivery as it came in.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Received {
    pub(super) fn event_id(&self) -> Option<&str> {
        self.headers.get(EVENT_ID_HEADER)?.to_str().ok()
    }

    pub(super) fn verify(&self, secret: &Secret, now: Timestamp) -> Result<(), Rejection> {
        let header = |name| self.headers.get(name).map(http::HeaderValue::as_bytes);
        Verifier::new(std::slice::from_ref(secret), Scheme::Auto, Duration::from_mins(5))
            .verify(header(SIGNATURE_HEADER), header(TIMESTAMP_HEADER), &self.body, now)
            .map(drop)
    }
}

/// What it does next, and what it got. Answers 204 when it has been told nothing; 0 means no answer.
#[derive(Clone, Default)]
pub(super) struct Receiver {
    answers: Arc<Mutex<VecDeque<u16>>>,
    got: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub(super) async fn start(lifecycle: &Lifecycle, answers: &[u16]) -> (Self, Url) {
        let receiver =
            Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), ..Self::default() };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = Url::parse(&format!("http://{}/hook", listener.local_addr().unwrap())).unwrap();
        let router = Router::new().route("/hook", post(receive)).with_state(receiver.clone());
        let draining = lifecycle.draining();
        lifecycle.spawn_service("receiver", async move {
            tokio::select! {
                served = async { axum::serve(listener, router).await } => served.unwrap(),
                () = draining.cancelled() => {}
            }
        });
        (receiver, url)
    }

    pub(super) fn got(&self) -> Vec<Received> {
        self.got.lock().unwrap().clone()
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    receiver.got.lock().unwrap().push(Received { headers, body });
    let answer = receiver.answers.lock().unwrap().pop_front().unwrap_or(204);
    if answer == 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::from_u16(answer).unwrap()
}
