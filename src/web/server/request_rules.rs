//! Rules for requests that the HTTP library does not check.
//!
//! A proxy and polyhook must not understand the length or the host of a request in different ways, or a client could hide
//! a request in the body of another one.

use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::Authority,
};

/// Returns the status with which a request must be rejected, if it breaks a rule. Its body cannot be read.
pub(super) fn violation<B>(request: &Request<B>) -> Option<StatusCode> {
    if !has_valid_host(request) {
        return Some(StatusCode::BAD_REQUEST);
    }
    transfer_encoding_violation(request.headers())
}

/// RFC 9112, 3.2: HTTP/1.1 needs exactly one valid `Host`. RFC 9113, 8.3.1: it must not contradict `:authority`.
fn has_valid_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let Some(host) = hosts.next() else { return request.version() != Version::HTTP_11 };
    if hosts.next().is_some() || !is_valid_host(host) {
        return false;
    }
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    authority.is_none_or(|authority| authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()))
}

/// Returns true for a host with or without a port, and for an empty value (RFC 9110, 7.2).
fn is_valid_host(host: &HeaderValue) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    // What stands before the host are the name and the password of a user.
    let Some(port) = authority.as_str().strip_prefix(authority.host()) else { return false };
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    port.is_empty() || port.strip_prefix(':').is_some_and(is_number)
}

/// RFC 9112, 6.1: an unknown transfer coding is 501. `chunked` must be the only one, and applied once.
fn transfer_encoding_violation(headers: &HeaderMap) -> Option<StatusCode> {
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    let values = headers.get_all(TRANSFER_ENCODING);
    let mut rest = values.iter();
    let first = rest.next()?;
    if rest.next().is_none() && is_chunked(first.as_bytes()) {
        return None;
    }
    let mut codings = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_known = codings.all(|coding| coding.trim_ascii().is_empty() || is_chunked(coding));
    Some(if is_known { StatusCode::BAD_REQUEST } else { StatusCode::NOT_IMPLEMENTED })
}
