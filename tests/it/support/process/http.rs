//! HTTP requests without a client library, so that tests see what is on the wire.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Sends a request and returns the status and the body, or `None` if there was no complete response.
pub(crate) fn http_request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Option<(u16, String)> {
    let (head, body) = http_exchange(to, method, path, headers, body)?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// Like [`http_request`], but returns the head instead of the status.
pub(crate) fn http_exchange(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Option<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n{headers}");
    write!(head, "content-length: {}\r\n\r\n", body.len()).ok()?;
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).ok()?;
    let response = String::from_utf8_lossy(&response);
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}

/// Sends a GET request.
pub(crate) fn get(to: SocketAddr, path: &str) -> Option<(u16, String)> {
    http_request(to, "GET", path, "", b"")
}

/// Delivers a signed event and returns the status, or `None` if there was no response.
pub(crate) fn deliver(to: SocketAddr, secret: &str, event_id: &str, body: &[u8]) -> Option<u16> {
    let now = polyhook::clock::Clock::System.now().as_second();
    let signature = polyhook::signature::sign(&polyhook::secret::Secret::new(secret), Some(now), body);
    post(to, event_id, &signature, u64::try_from(now).ok(), body)
}

/// Delivers an event with a signature that the caller made.
pub(crate) fn post(
    to: SocketAddr,
    event_id: &str,
    signature: &str,
    timestamp: Option<u64>,
    body: &[u8],
) -> Option<u16> {
    let mut headers = format!(
        "content-type: application/json\r\nx-polyai-signature: {signature}\r\nx-polyai-event-id: {event_id}\r\n"
    );
    if let Some(timestamp) = timestamp {
        write!(headers, "x-polyai-timestamp: {timestamp}\r\n").unwrap();
    }
    http_request(to, "POST", "/polyai-events", &headers, body).map(|(status, _)| status)
}

/// Returns the value of a counter or gauge, or 0 if it is not exported yet. `name` includes the labels as printed.
pub(crate) fn metric(admin: SocketAddr, name: &str) -> usize {
    let (_, text) = get(admin, "/metrics").expect("metrics");
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or_default()
}
