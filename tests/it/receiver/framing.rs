//! Requests whose length or host two programs could understand in different ways (RFC 9112, 3.2 and 6.1).

use super::{
    harness::{PATH, Server},
    http2::{Http2, literal},
    queues::{Behaviour, FakeQueue},
    wire::Request,
};

/// Sends the whole request with these header lines in front and returns the status, or `None` if the connection was
/// closed without an answer. Checks that the connection is closed.
async fn status_of(server: &Server, version: &str, lines: &str) -> Option<u16> {
    let request = Request::event("evt-1");
    let mut bytes = format!("POST {PATH} HTTP/{version}\r\n{lines}").into_bytes();
    for (name, value) in &request.headers {
        bytes.extend([name.as_bytes(), b": ", &value[..], b"\r\n"].concat());
    }
    bytes.extend(format!("\r\n{:x}\r\n", request.body.len()).into_bytes());
    bytes.extend([&request.body[..], b"\r\n0\r\n\r\n"].concat());
    let mut wire = server.open().await;
    wire.send(&bytes).await;
    let answer = wire.try_answer().await;
    wire.closed().await;
    answer.map(|answer| answer.status)
}

#[tokio::test]
async fn rejects_transfer_codings_other_than_chunked() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for (lines, status) in [
        ("transfer-encoding: gzip, chunked", 501),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", 501),
        ("transfer-encoding: identity, chunked", 501),
        ("transfer-encoding: gzip;q=1,chunked", 501),
        ("transfer-encoding: deflate, gzip, chunked", 501),
        ("transfer-encoding: \"chunked\", chunked", 501),
        ("transfer-encoding: chunked, chunked", 400),
        ("transfer-encoding: Chunked,CHUNKED", 400),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", 400),
        ("transfer-encoding: , chunked", 400),
        ("transfer-encoding: chunked, gzip", 400),
        ("transfer-encoding: gzip", 400),
        ("transfer-encoding: xchunked", 400),
        ("transfer-encoding: chunked;a=b", 400),
        ("transfer-encoding:", 400),
        ("transfer-encoding : chunked", 400),
    ] {
        let found = status_of(&server, "1.1", &format!("host: a\r\n{lines}\r\n")).await;
        assert_eq!(found, Some(status), "{lines}");
    }
    assert_eq!(status_of(&server, "1.0", "transfer-encoding: chunked\r\n").await, Some(400), "HTTP/1.0");
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn accepts_chunked_in_any_case() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for (n, value) in ["chunked", "Chunked", "CHUNKED", "\tchunked "].into_iter().enumerate() {
        let lines = format!("host: a\r\nconnection: close\r\ntransfer-encoding:{value}\r\n");
        assert_eq!(status_of(&server, "1.1", &lines).await, Some(204), "{value}");
        assert_eq!(queue.entered(), n + 1);
    }
}

#[tokio::test]
async fn rejects_a_missing_repeated_or_invalid_host() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for (version, lines) in [
        ("1.1", ""),
        ("1.1", "host: a\r\nhost: b\r\n"),
        ("1.1", "host: a\r\nHost: a\r\n"),
        ("1.0", "host: a\r\nhost: b\r\n"),
        ("1.1", "host: a b\r\n"),
        ("1.1", "host: a/b\r\n"),
        ("1.1", "host: user@a\r\n"),
        ("1.1", "host: a:port\r\n"),
        ("1.1", "host: http://a\r\n"),
        ("1.1", "host: \u{e4}\r\n"),
    ] {
        let chunked = if version == "1.1" { "transfer-encoding: chunked\r\n" } else { "" };
        assert_eq!(status_of(&server, version, &format!("{lines}{chunked}")).await, Some(400), "{lines:?}");
    }
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn accepts_every_valid_host() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for host in
        ["", "a", "hooks.example.com", "a:8080", "a:", "127.0.0.1:80", "[::1]:8080", "xn--4ca.example"]
    {
        let lines = format!("host: {host}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n");
        assert_eq!(status_of(&server, "1.1", &lines).await, Some(204), "{host}");
    }
    let mut old = server.open().await;
    let request = Request::event("evt-old");
    let without_host = String::from_utf8(request.sized()).unwrap().replace("host: polyhook.test\r\n", "");
    old.send(without_host.replace("HTTP/1.1", "HTTP/1.0").as_bytes()).await;
    old.answer().await.assert_taken();
}

#[tokio::test]
async fn rejects_a_second_host_of_an_http2_request() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let mut http2 = Http2::open(server.address, 65_535).await;
    // `:authority` is `a`.
    for (stream, hosts, status) in
        [(1, &["a"][..], "unauthorized"), (3, &["b"], "bad request"), (5, &["a", "a"], "bad request")]
    {
        let headers: Vec<u8> = hosts.iter().flat_map(|host| literal("host", host)).collect();
        http2.post(stream, &headers, false).await;
        assert_eq!(http2.body(stream).await, format!("{{\"error\":\"{status}\"}}\n"), "{hosts:?}");
    }
}
