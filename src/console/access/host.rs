//! The host that a request names, for a console on a loopback address.
//!
//! A site can give its own name the address 127.0.0.1, and then a browser lets the site's scripts read what the console
//! answers there (DNS rebinding). Such a request names the site as its host. So a console on a loopback address answers only
//! requests for a loopback name, also with a token: the site could try tokens. An address in the `Host` header is safe,
//! because it needs no DNS.

use std::net::IpAddr;

use axum::extract::Request;
use http::{header::HOST, uri::Authority};

/// Returns whether the request names no other host than this machine itself. No browser leaves the host out.
pub(super) fn is_loopback(request: &Request) -> bool {
    let named =
        request.headers().get_all(HOST).into_iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let target = request.uri().authority().cloned().map(Some);
    named.chain(target).all(|authority| authority.is_some_and(|authority| is_loopback_name(authority.host())))
}

fn is_loopback_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:8090", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8090", true),
            ("127.1.2.3:1", true),
            ("[::1]:8090", true),
            ("[::ffff:127.0.0.1]", true),
            ("evil.example", false),
            ("evil.example:8090", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost@evil.example", false),
            ("evil.example@localhost", true),
            ("10.0.0.1", false),
            ("0.0.0.0:8090", false),
            ("[::]:8090", false),
            ("", false),
            ("a b", false),
        ] {
            let request = Request::get("/").header(HOST, host).body(Body::empty()).unwrap();
            assert_eq!(is_loopback(&request), expected, "{host}");
        }
        let h2 = |uri: &str| is_loopback(&Request::get(uri).body(Body::empty()).unwrap());
        assert!(h2("/") && h2("http://localhost:8090/") && !h2("http://evil.example/"));
    }
}
