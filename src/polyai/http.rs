//! The HTTP client of polyhook: timeouts, redirects, user agent, and bounded reading of answers.

use std::{error::Error, io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use jiff::Timestamp;
use reqwest::{Client, ClientBuilder, Response, redirect::Policy, tls::TlsInfo};

use super::error::{ApiError, ErrorKind};

/// The longest time to establish a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time without a byte from the peer. A recording may take long, but must keep arriving.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 3;

/// The `User-Agent` of every request.
pub const USER_AGENT: &str = concat!("polyhook/", env!("CARGO_PKG_VERSION"));

/// Causes of a failed client setup, for messages.
pub const CLIENT_SETUP_HINT: &str = "this system has no CA certificates (install ca-certificates), or a proxy variable such as HTTPS_PROXY holds no URL";

/// Builds a pooled client that follows redirects on the same host only: the API key is a header, and a header is sent
/// to every host that a redirect names.
pub fn client() -> Result<Client, reqwest::Error> {
    builder().build()
}

/// Builds a client like [`client`] whose answers contain the host's certificate ([`certificate_expiry`]).
pub fn certificate_info_client() -> Result<Client, reqwest::Error> {
    builder().tls_info(true).build()
}

/// Builds a client like [`certificate_info_client`] that follows no redirect, as PolyAI follows none.
pub fn no_redirect_client() -> Result<Client, reqwest::Error> {
    builder().tls_info(true).redirect(Policy::none()).build()
}

#[expect(clippy::disallowed_methods, reason = "every other client is built by this function")]
fn builder() -> ClientBuilder {
    // An embedding program may have installed a provider already; any provider works.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(Duration::from_mins(1))
        .redirect(Policy::custom(|attempt| {
            let next = attempt.url();
            let same_host = attempt.previous().last().is_some_and(|previous| {
                previous.scheme() == next.scheme()
                    && previous.host() == next.host()
                    && previous.port_or_known_default() == next.port_or_known_default()
            });
            let follow = same_host && attempt.previous().len() <= MAX_REDIRECTS;
            if follow { attempt.follow() } else { attempt.stop() }
        }))
}

/// Returns the end of validity of the host's certificate, if the answer came from a client that keeps it.
pub fn certificate_expiry(response: &Response) -> Option<Timestamp> {
    let der = response.extensions().get::<TlsInfo>()?.peer_certificate()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Reads a whole body.
///
/// # Errors
///
/// The body is longer than `max` bytes, or the connection breaks.
pub(super) async fn read_whole(response: Response, max: usize, host: &str) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::transport(&error, host))?;
        if body.len() + part.len() > max {
            return Err(ApiError::new(ErrorKind::TooLarge, host));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
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

/// Describes for a person why a request had no answer. Does not contain the URL, which may have ids.
pub fn describe_error(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut inner: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = inner {
        let text = error.to_string();
        if text.contains("dns error") {
            return "its name cannot be resolved".to_owned();
        }
        if let Some(mut io) = error.downcast_ref::<io::Error>() {
            // An I/O error may wrap another one, and errors of rustls are wrapped in I/O errors.
            while let Some(wrapped) = io.get_ref().and_then(|wrapped| wrapped.downcast_ref::<io::Error>()) {
                io = wrapped;
            }
            return if io.kind() == io::ErrorKind::InvalidData {
                format!("no trusted TLS connection: {io}")
            } else {
                io.to_string()
            };
        }
        inner = error.source();
    }
    "no connection".to_owned()
}
