//! One test delivery and the facts of its outcome.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, DATE, LOCATION, WWW_AUTHENTICATE},
};
use jiff::Timestamp;
use reqwest::{Client, Response};
use serde_json::json;
use url::{Host, Url};

use crate::{
    clock::Clock,
    polyai::http::certificate_info_client,
    secret::Secret,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, SignedForm, TIMESTAMP_HEADER, sign},
};

/// The bytes of an answer that are kept. A refusal by polyhook is shorter, so a longer answer comes from another service.
const MAX_KEPT_BODY_BYTES: usize = 512;

/// The outcome of one test delivery.
#[derive(Debug)]
pub(super) enum AttemptOutcome {
    Response(ResponseFacts),
    NoResponse(ConnectionError),
}

/// The facts of an HTTP answer that the explanation needs.
#[derive(Clone, Debug, Default)]
pub(super) struct ResponseFacts {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// The body is one that polyhook sends.
    pub(super) by_polyhook: bool,
    /// The answer asks for a user and a password.
    pub(super) asks_for_login: bool,
    /// The time of this machine minus the time of the answer, in seconds.
    pub(super) skew_s: Option<i64>,
}

/// The reason why there is no answer.
#[derive(Debug)]
pub(super) enum ConnectionError {
    /// The host name has no address.
    UnknownHost,
    /// No process listens on the port.
    Refused,
    Tls(rustls::Error),
    Timeout,
    /// The connection failed, or it ended before the answer.
    Broken,
}

impl AttemptOutcome {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Response(response) => Some(response.status),
            Self::NoResponse(_) => None,
        }
    }
}

/// Sends test deliveries to one URL.
#[derive(Debug)]
pub(super) struct TestSender {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    clock: Clock,
}

impl TestSender {
    pub(super) fn new(
        url: &Url,
        headers: &BTreeMap<String, Secret>,
        timeout: Duration,
        clock: Clock,
    ) -> Result<Self, reqwest::Error> {
        let headers = headers.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        Ok(Self {
            client: certificate_info_client()?,
            url: url.clone(),
            headers: headers.collect(),
            timeout,
            clock,
        })
    }

    /// Returns the addresses of the URL as this machine resolves them.
    pub(super) async fn addresses(&self) -> Vec<IpAddr> {
        match (self.url.host(), self.url.port_or_known_default()) {
            (Some(Host::Ipv4(ip)), _) => vec![ip.into()],
            (Some(Host::Ipv6(ip)), _) => vec![ip.into()],
            (Some(Host::Domain(name)), Some(port)) => {
                let resolved =
                    tokio::time::timeout(self.timeout, tokio::net::lookup_host((name, port))).await;
                resolved.into_iter().flatten().flatten().map(|address| address.ip()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Sends a test event, signed with a secret or without a signature, and returns its outcome and duration.
    pub(super) async fn send(&self, signed: Option<(&Secret, SignedForm)>) -> (AttemptOutcome, Duration) {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(self.timeout, self.exchange(signed)).await {
            Ok(Ok(response)) => AttemptOutcome::Response(response),
            Ok(Err(error)) => AttemptOutcome::NoResponse(self.connection_error(&error).await),
            Err(_) => AttemptOutcome::NoResponse(ConnectionError::Timeout),
        };
        (outcome, started.elapsed())
    }

    async fn exchange(&self, signed: Option<(&Secret, SignedForm)>) -> Result<ResponseFacts, reqwest::Error> {
        let now = self.clock.now();
        let event_id = format!("evt_{}", uuid::Uuid::now_v7());
        let body = json!({
            "type": "polyhook.test",
            "data": { "environment": "sandbox", "sent_by": "polyhook endpoint test", "test_id": event_id },
        });
        let body = Bytes::from(body.to_string());
        let mut request = self.client.post(self.url.clone()).headers(self.headers.clone());
        request = request.header(CONTENT_TYPE, "application/json").header(EVENT_ID_HEADER, event_id);
        if let Some((secret, form)) = signed {
            let timestamp = (form == SignedForm::Timestamped).then(|| now.as_second());
            request = request.header(SIGNATURE_HEADER, sign(secret, timestamp, &body));
            if let Some(timestamp) = timestamp {
                request = request.header(TIMESTAMP_HEADER, timestamp);
            }
        }
        let response = request.body(body).send().await?;
        response_facts(response, now).await
    }

    async fn connection_error(&self, error: &reqwest::Error) -> ConnectionError {
        if let Some(error) = cause::<rustls::Error>(error) {
            return ConnectionError::Tls(error.clone());
        }
        if cause::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return ConnectionError::Refused;
        }
        if error.is_timeout() {
            return ConnectionError::Timeout;
        }
        if error.is_connect() && self.addresses().await.is_empty() {
            return ConnectionError::UnknownHost;
        }
        ConnectionError::Broken
    }
}

async fn response_facts(mut response: Response, now: Timestamp) -> Result<ResponseFacts, reqwest::Error> {
    let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let date = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let skew_s =
        date.and_then(|date| Timestamp::try_from(date).ok()).map(|date| now.as_second() - date.as_second());
    let location = text(LOCATION).map(str::to_owned);
    let asks_for_login = response.headers().contains_key(WWW_AUTHENTICATE);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // The whole answer is read, because it counts for PolyAI only then. Its beginning shows which service sent it.
    while let Some(part) = response.chunk().await? {
        body.extend_from_slice(&part[..part.len().min(MAX_KEPT_BODY_BYTES - body.len())]);
    }
    let by_polyhook = if status == 204 {
        body.is_empty()
    } else {
        body.starts_with(b"{\"error\":\"") && body.ends_with(b"\"}\n") && body.len() < 64
    };
    Ok(ResponseFacts { status, location, by_polyhook, asks_for_login, skew_s })
}

/// Returns the first error of this type among the causes of `error`. An [`io::Error`] can contain an error that is not its
/// `source`.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            next = Some(inner);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_wrapped_cause() {
        let tls = || rustls::Error::General("x".to_owned());
        let wrapped = io::Error::other(io::Error::other(tls()));
        assert_eq!(cause::<rustls::Error>(&wrapped), Some(&tls()));
        assert!(cause::<rustls::Error>(&io::Error::other("x")).is_none());
    }
}
