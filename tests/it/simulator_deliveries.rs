//! polyhook and the simulator read PolyAI's contract independently; here they must agree on deliveries.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use polyhook::{
    event::Event,
    secret::Secret,
    signature::{
        EVENT_ID_HEADER, SIGNATURE_HEADER, Scheme, SignatureError, SignedForm, TIMESTAMP_HEADER, Verifier,
    },
};
use polyhook_simulator::{
    BodyForm, CallInfo, Channel, Clock, Delivery, Environment, EventOptions, Sender, SenderOptions,
    SignatureForm, Tampering,
};

const SECRET: &str = "whsec_00000000000000000000000000000001";

type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn receive(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    received.lock().unwrap().push((headers, body));
    StatusCode::NO_CONTENT
}

/// Sends one delivery and returns what arrived.
async fn deliver(form: SignatureForm, tampering: Option<Tampering>) -> (HeaderMap, Bytes) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let received = Received::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let router = Router::new().route("/", post(receive)).with_state(Arc::clone(&received));
    let options = SenderOptions { form, tampering, ..SenderOptions::default() };
    let sender = Sender::new(target, SECRET, options, Clock::from_fn(now)).unwrap();
    tokio::select! {
        served = async { axum::serve(listener, router).await } => panic!("{served:?}"),
        report = sender.deliver(Delivery::new("evt_1", "test", "{ \"n\": 1 }")) => assert!(report.outcome.accepted()),
    }
    received.lock().unwrap().remove(0)
}

fn now() -> jiff::Timestamp {
    "2026-11-03T12:00:00Z".parse().unwrap()
}

fn verify(scheme: Scheme, (headers, body): &(HeaderMap, Bytes)) -> Result<SignedForm, SignatureError> {
    let header = |name| headers.get(name).map(HeaderValue::as_bytes);
    Verifier::new(&[Secret::new(SECRET)], scheme, Duration::from_mins(5))
        .verify(header(SIGNATURE_HEADER), header(TIMESTAMP_HEADER), body, now())
        .map(|genuine| genuine.form)
}

#[tokio::test]
async fn polyhook_accepts_both_forms_that_the_simulator_signs() {
    let timestamped = deliver(SignatureForm::Timestamped, None).await;
    assert_eq!(timestamped.0[EVENT_ID_HEADER], "evt_1");
    for scheme in [Scheme::Auto, Scheme::Timestamped] {
        assert_eq!(verify(scheme, &timestamped), Ok(SignedForm::Timestamped));
    }
    let body = deliver(SignatureForm::Body, None).await;
    for scheme in [Scheme::Auto, Scheme::Body] {
        assert_eq!(verify(scheme, &body), Ok(SignedForm::Body));
    }
}

#[tokio::test]
async fn polyhook_rejects_every_tampering() {
    for (tampering, rejection) in [
        (Tampering::WrongSecret, SignatureError::Mismatch),
        (Tampering::MalformedSignature, SignatureError::SignatureMalformed),
        (Tampering::MissingSignature, SignatureError::SignatureMissing),
        (Tampering::StaleTimestamp, SignatureError::Stale { skew_s: 3600 }),
        (Tampering::MissingTimestamp, SignatureError::Mismatch),
        (Tampering::ModifiedBody, SignatureError::Mismatch),
    ] {
        let delivery = deliver(SignatureForm::Timestamped, Some(tampering)).await;
        assert_eq!(verify(Scheme::Auto, &delivery), Err(rejection), "{tampering:?}");
    }
}

#[test]
fn polyhook_reads_both_forms_of_a_body() {
    let call = CallInfo {
        id: "CA1".to_owned(),
        account_id: "ws-1".to_owned(),
        project_id: "PROJECT-1".to_owned(),
        environment: Environment::PreRelease,
        channel: Channel::Voice,
        started_at: now(),
        duration_ms: 1,
        turns: 1,
        handoff: true,
        in_progress: false,
        has_audio: true,
        will_have_audio: true,
    };
    for form in [BodyForm::Quickstart, BodyForm::Reference] {
        let options = EventOptions { form, ..EventOptions::default() };
        let event = Event::read(&Delivery::completed(&call, &options).body);
        assert_eq!(event.kind, "conversation.completed");
        assert_eq!(event.environment, "pre-release");
        assert_eq!(event.conversation_id.as_deref(), Some("CA1"));
        assert_eq!(event.project_id.as_deref(), Some("PROJECT-1"));
        let options = EventOptions { identifiers: false, ..options };
        assert_eq!(Event::read(&Delivery::completed(&call, &options).body).account_id, None);
        assert_eq!(Event::read(&Delivery::handoff(&call, &options).body).kind, "handoff.created");
    }
    let alert = Delivery::alert("PROJECT-1", 4, now(), &EventOptions::default());
    assert_eq!(Event::read(&alert.body).kind, "alerts.triggered");
}
