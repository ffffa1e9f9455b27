//! The one HTTP client policy: timeouts, redirects, user agent.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect::Policy};

/// To establish a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte from the peer; a recording may take long, but not be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 3;

/// What polyhook calls itself.
pub const USER_AGENT: &str = concat!("polyhook/", env!("CARGO_PKG_VERSION"));

/// A pooled client that follows redirects on the same host only: the API key is a header, and a header
/// follows a redirect wherever it leads.
pub fn client() -> Result<Client, reqwest::Error> {
    builder()
        .redirect(Policy::custom(|attempt| {
            let here = attempt.url();
            let same = attempt.previous().last().is_some_and(|before| {
                before.scheme() == here.scheme()
                    && before.host() == here.host()
                    && before.port_or_known_default() == here.port_or_known_default()
            });
            if same && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
        }))
        .build()
}

/// A client to which a redirect is an answer like any other: whoever posts a delivery does not follow it.
pub fn unredirected() -> Result<Client, reqwest::Error> {
    builder().redirect(Policy::none()).build()
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
}
