//! A receiver of deliveries with scripted answers. It keeps everything it receives.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

use super::Fixture;
use crate::signing::{EVENT_ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign};

/// A received delivery.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn event_id(&self) -> Option<&str> {
        self.header(EVENT_ID_HEADER)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The event's type, in either form of the body.
    pub(crate) fn kind(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body.get("type").or(body.get("event_type")).unwrap().as_str().unwrap().to_owned()
    }

    /// Checks that `secret` signed this delivery, at `now` (Unix seconds) if it says when.
    pub(crate) fn assert_signed_by(&self, secret: &str, now: i64) {
        let timestamp = self.header(TIMESTAMP_HEADER).map(|seconds| seconds.parse().unwrap());
        assert!(timestamp.is_none_or(|seconds: i64| seconds == now), "{timestamp:?}");
        assert_eq!(self.header(SIGNATURE_HEADER), Some(&*sign(secret, timestamp, &self.body)));
    }
}

/// A receiver. It answers with the scripted statuses, then with 204. The status 0 means no answer.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    answers: Arc<Mutex<VecDeque<u16>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub(crate) async fn start(fixture: &Fixture, answers: &[u16]) -> (Self, Url) {
        let receiver =
            Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), ..Self::default() };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = Url::parse(&format!("http://{}/hook", listener.local_addr().unwrap())).unwrap();
        let router = Router::new().route("/hook", post(receive)).with_state(receiver.clone());
        let shutdown = fixture.shutdown.clone();
        fixture.tasks.spawn(async move {
            shutdown.run_until_cancelled(async { axum::serve(listener, router).await.unwrap() }).await;
        });
        (receiver, url)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    receiver.received.lock().unwrap().push(Received { headers, body });
    let answer = receiver.answers.lock().unwrap().pop_front().unwrap_or(204);
    if answer == 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::from_u16(answer).unwrap()
}
