//! One post, and what came of it in a few words that can be explained.

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
    polyai::http::no_redirect_client,
    secret::Secret,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, SignedForm, TIMESTAMP_HEADER, sign},
};

/// A receiver's refusal is shorter; who says more is another.
const MAX_READ_BYTES: usize = 512;

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    Http(Head),
    None(Trouble),
}

/// As much of an answer as matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// It is what a polyhook says.
    pub(super) ours: bool,
    /// It asks for a user and a password.
    pub(super) asks_for_login: bool,
    /// Our time less the answerer's, in seconds.
    pub(super) skew_s: Option<i64>,
}

/// Why nothing came back.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The name has no address.
    Dns,
    /// Nobody listens there.
    Refused,
    Tls(rustls::Error),
    Timeout,
    /// No connection, or one that broke.
    Broken,
}

impl Answer {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Http(head) => Some(head.status),
            Self::None(_) => None,
        }
    }
}

/// Posts to one URL.
#[derive(Debug)]
pub(super) struct Poster {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    clock: Clock,
}

impl Poster {
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
            client: no_redirect_client()?,
            url: url.clone(),
            headers: headers.collect(),
            timeout,
            clock,
        })
    }

    /// What the name leads to, from here.
    pub(super) async fn addresses(&self) -> Vec<IpAddr> {
        match (self.url.host(), self.url.port_or_known_default()) {
            (Some(Host::Ipv4(ip)), _) => vec![ip.into()],
            (Some(Host::Ipv6(ip)), _) => vec![ip.into()],
            (Some(Host::Domain(name)), Some(port)) => {
                let found = tokio::time::timeout(self.timeout, tokio::net::lookup_host((name, port))).await;
                found.into_iter().flatten().flatten().map(|address| address.ip()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Posts a harmless event, signed with a secret or not at all, and tells how long that took.
    pub(super) async fn post(&self, signed: Option<(&Secret, SignedForm)>) -> (Answer, Duration) {
        let started = Instant::now();
        let answer = match tokio::time::timeout(self.timeout, self.exchange(signed)).await {
            Ok(Ok(head)) => Answer::Http(head),
            Ok(Err(error)) => Answer::None(self.trouble(&error).await),
            Err(_) => Answer::None(Trouble::Timeout),
        };
        (answer, started.elapsed())
    }

    async fn exchange(&self, signed: Option<(&Secret, SignedForm)>) -> Result<Head, reqwest::Error> {
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
        head(response, now).await
    }

    async fn trouble(&self, error: &reqwest::Error) -> Trouble {
        if let Some(error) = cause::<rustls::Error>(error) {
            return Trouble::Tls(error.clone());
        }
        if cause::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return Trouble::Refused;
        }
        if error.is_timeout() {
            return Trouble::Timeout;
        }
        if error.is_connect() && self.addresses().await.is_empty() {
            return Trouble::Dns;
        }
        Trouble::Broken
    }
}

async fn head(mut response: Response, now: Timestamp) -> Result<Head, reqwest::Error> {
    let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let date = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let skew_s =
        date.and_then(|date| Timestamp::try_from(date).ok()).map(|date| now.as_second() - date.as_second());
    let location = text(LOCATION).map(str::to_owned);
    let asks_for_login = response.headers().contains_key(WWW_AUTHENTICATE);
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // An answer is an answer once it has been read, to PolyAI too; of a long one the beginning says whose it is.
    while let Some(part) = response.chunk().await? {
        body.extend_from_slice(&part[..part.len().min(MAX_READ_BYTES - body.len())]);
    }
    let ours = if status == 204 {
        body.is_empty()
    } else {
        body.starts_with(b"{\"error\":\"") && body.ends_with(b"\"}\n") && body.len() < 64
    };
    Ok(Head { status, location, ours, asks_for_login, skew_s })
}

/// The first error of this type among what caused `error`. An [`io::Error`] may carry one without saying so.
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
    fn a_cause_is_found_however_it_is_wrapped() {
        let tls = || rustls::Error::General("x".to_owned());
        let wrapped = io::Error::other(io::Error::other(tls()));
        assert_eq!(cause::<rustls::Error>(&wrapped), Some(&tls()));
        assert!(cause::<rustls::Error>(&io::Error::other("x")).is_none());
    }
}
