//! The HTTP client of polyhook.
//!
//! - **Key:** the API key is sent to the configured host only. Redirects of a GET are followed without it to other hosts,
//!   within bounds (`redirect.rs`, `address.rs`). Other requests are not redirected.
//! - **Correlation id:** every request to the configured host carries one. Every error of such a request has that id or the
//!   answer's.
//! - **Codings:** every request asks for `identity`. Encoded answers are decoded all the same (`coding.rs`).
//! - **Bounds:** every transfer ends, however slow the server is (`pace.rs`), and has a largest size (`body.rs`).

mod address;
mod body;
mod coding;
mod exchange;
mod pace;
mod redirect;

use std::{error::Error, io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};
use jiff::Timestamp;
use reqwest::{Client, ClientBuilder, Response, redirect::Policy, tls::TlsInfo};

pub(super) use self::{
    body::{Body, DecodedBody, SizeLimit},
    exchange::{Answer, HttpClient},
};
use super::error::{ApiError, ErrorKind};

/// The longest time to establish a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time without a byte from the peer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The `User-Agent` of every request.
pub const USER_AGENT: &str = concat!("polyhook/", env!("CARGO_PKG_VERSION"));

/// Causes of a failed client setup, for messages.
pub const CLIENT_SETUP_HINT: &str = "this system has no CA certificates (install ca-certificates), or a proxy variable such as HTTPS_PROXY holds no URL";

/// Builds a pooled client that follows no redirect.
pub fn client() -> Result<Client, reqwest::Error> {
    builder().build()
}

/// Builds a client like [`client`] for a process of this machine, which no proxy reaches.
pub fn local_client() -> Result<Client, reqwest::Error> {
    builder().no_proxy().build()
}

/// Builds a client like [`client`] whose answers contain the host's certificate ([`certificate_expiry`]).
pub fn certificate_info_client() -> Result<Client, reqwest::Error> {
    builder().tls_info(true).build()
}

#[expect(clippy::disallowed_methods, reason = "every other client is built by this function")]
fn builder() -> ClientBuilder {
    // An embedding program may have installed a provider already; any provider works.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let identity = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(HeaderMap::from_iter([identity]))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(Duration::from_mins(1))
        .redirect(Policy::none())
}

/// Returns the end of validity of the host's certificate, if the answer came from a client that keeps it.
pub fn certificate_expiry(response: &Response) -> Option<Timestamp> {
    let der = response.extensions().get::<TlsInfo>()?.peer_certificate()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Reads at most `max` bytes of a body. A connection that breaks ends the body.
pub async fn read_prefix(response: Response, max: usize) -> Bytes {
    let mut body = BytesMut::new();
    let mut parts = response.bytes_stream();
    while let Some(Ok(part)) = parts.next().await {
        body.extend_from_slice(&part[..part.len().min(max - body.len())]);
        if body.len() == max {
            break;
        }
    }
    body.freeze()
}

/// Converts an error of reqwest, with a description of its cause.
fn transport_error(error: &reqwest::Error, host: &str) -> ApiError {
    let error_without_cause = ApiError::transport(error, host);
    let detail = (error_without_cause.kind == ErrorKind::Network).then(|| describe_error(error).into());
    ApiError { detail, ..error_without_cause }
}

/// Describes for a person why a request had no answer. Does not contain the URL, which may have ids.
pub fn describe_error(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if error.is_dns() {
        return "its name cannot be resolved".to_owned();
    }
    let Some(mut io) = find_cause::<io::Error>(error) else {
        let what = if error.is_connect() { "no connection" } else { "the connection broke" };
        return what.to_owned();
    };
    // An I/O error may wrap another one, and errors of rustls are wrapped in I/O errors.
    while let Some(wrapped) = io.get_ref().and_then(|wrapped| wrapped.downcast_ref::<io::Error>()) {
        io = wrapped;
    }
    if io.kind() == io::ErrorKind::InvalidData {
        format!("no trusted TLS connection: {io}")
    } else {
        io.to_string()
    }
}

/// Returns the first error of this type among the causes of `error`.
fn find_cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
