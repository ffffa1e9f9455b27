//! The one HTTP client policy: timeouts, redirects, user agent.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::{Client, ClientBuilder, Response, redirect::Policy, tls::TlsInfo};

/// To establish a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte from the peer; a recording may take long, but not be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 3;

/// What polyhook calls itself.
pub const USER_AGENT: &str = concat!("polyhook/", env!("CARGO_PKG_VERSION"));

/// What to do where no client can be made.
pub const CLIENT_SETUP_HINT: &str = "this system has no CA certificates (install ca-certificates), or a proxy variable such as HTTPS_PROXY holds no URL";

/// A pooled client that follows redirects on the same host only: the API key is a header, and a header
/// follows a redirect wherever it leads.
pub fn client() -> Result<Client, reqwest::Error> {
    builder().build()
}

/// The same client, whose answers also tell of the certificate they came with ([`certificate_expires`]).
pub fn certificate_info_client() -> Result<Client, reqwest::Error> {
    builder().tls_info(true).build()
}

/// The same, for a host that is asked as PolyAI asks it: no redirect is followed.
pub fn no_redirect_client() -> Result<Client, reqwest::Error> {
    builder().tls_info(true).redirect(Policy::none()).build()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that decides")]
fn builder() -> ClientBuilder {
    // Whoever runs us may have chosen a provider already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(Duration::from_mins(1))
        .redirect(Policy::custom(|attempt| {
            let here = attempt.url();
            let same = attempt.previous().last().is_some_and(|before| {
                before.scheme() == here.scheme()
                    && before.host() == here.host()
                    && before.port_or_known_default() == here.port_or_known_default()
            });
            if same && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
        }))
}

/// Until when the certificate is valid that an answer of a looking or visiting client came with.
pub fn certificate_expires(response: &Response) -> Option<Timestamp> {
    let der = response.extensions().get::<TlsInfo>()?.peer_certificate()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The beginning of a body, as far as it can be had.
pub async fn read_prefix(response: Response, max: usize) -> Bytes {
    super::client::read_some(response, max).await
}

/// What kept a request from its answer, in words for a person; without the URL, which may hold ids.
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
            // One may be wrapped in another, and rustls' errors travel in them.
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
