//! An HTTP/1.1 client that works with bytes, so that a test can stop, send slowly, disconnect and see the exact answer.

use std::{net::SocketAddr, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use polyhook::{
    secret::Secret,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::harness::{PATH, SECRET};

/// Time after which a missing answer fails the test.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const SMALL_BUFFER_BYTES: u32 = 8 << 10;
const SMALL_SEGMENT_BYTES: u32 = 536;

/// A request to be sent.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// A POST without a signature.
    pub(super) fn unsigned(body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", path: PATH.to_owned(), headers: Vec::new(), body: body.into() }
    }

    /// A POST with a signature over the body, as in the quickstart.
    pub(super) fn signed(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let signature = sign(&Secret::new(SECRET), None, &body);
        Self::unsigned(body).with(SIGNATURE_HEADER, signature)
    }

    /// A POST with a signature over `{timestamp}.{body}`, as in the API reference.
    pub(super) fn stamped(timestamp: i64, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let signature = sign(&Secret::new(SECRET), Some(timestamp), &body);
        Self::unsigned(body).with(SIGNATURE_HEADER, signature).with(TIMESTAMP_HEADER, timestamp.to_string())
    }

    /// A new event in the quickstart's form.
    pub(super) fn event(id: &str) -> Self {
        Self::signed(event_body(id)).with(EVENT_ID_HEADER, id)
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Returns everything before the body.
    pub(super) fn head(&self, framing: &str) -> Vec<u8> {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nhost: polyhook.test\r\n{framing}\r\n", self.method, self.path)
                .into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(name.as_bytes());
            bytes.extend(b": ");
            bytes.extend(value);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// Returns the whole request, with a content length.
    pub(super) fn sized(&self) -> Vec<u8> {
        let mut bytes = self.head(&format!("content-length: {}", self.body.len()));
        bytes.extend(&self.body);
        bytes
    }

    /// Returns the whole request, in chunks of at most `size` bytes.
    pub(super) fn chunked(&self, size: usize) -> Vec<u8> {
        let mut bytes = self.head("transfer-encoding: chunked");
        for chunk in self.body.chunks(size) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }
}

/// A body that names its event.
pub(super) fn event_body(id: &str) -> String {
    format!(r#"{{"type":"conversation.completed","data":{{"conversation_id":"{id}","environment":"live"}}}}"#)
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Headers in the order of their arrival, names in lower case, without `date`.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Checks that this is a 503 with `Retry-After`.
    #[track_caller]
    pub(super) fn assert_unavailable(&self) {
        assert_eq!(self.status, 503, "{self:?}");
        let seconds: u32 = self.header("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert_eq!(self.body, "{\"error\":\"service unavailable\"}\n");
    }

    /// Checks that this is a 204 without a body.
    #[track_caller]
    pub(super) fn assert_taken(&self) {
        assert_eq!((self.status, self.body.as_str()), (204, ""), "{self:?}");
        assert_eq!(self.header("content-type"), None);
    }
}

/// The client's side of one connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl From<std::net::TcpStream> for Wire {
    fn from(stream: std::net::TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream: TcpStream::from_std(stream).unwrap(), unread: Vec::new() }
    }
}

impl Wire {
    pub(super) async fn open(address: SocketAddr) -> Self {
        Self::connect(TcpSocket::new_v4().unwrap(), address).await
    }

    /// Opens a connection that takes in some hundred answers if nobody reads them. Usually it takes tens of thousands.
    pub(super) async fn open_with_small_buffers(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES).unwrap();
        // The buffer of the sender grows with it (tcp_sndbuf_expand in Linux).
        setsockopt(&socket, sockopt::TcpMaxSeg, &SMALL_SEGMENT_BYTES).unwrap();
        Self::connect(socket, address).await
    }

    async fn connect(socket: TcpSocket, address: SocketAddr) -> Self {
        let stream =
            timeout(ANSWER_TIMEOUT, socket.connect(address)).await.expect("in time").expect("connected");
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("sent");
    }

    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(ANSWER_TIMEOUT, self.stream.write_all(bytes)).await.expect("the peer reads")
    }

    pub(super) async fn ask(&mut self, request: &Request) -> Answer {
        self.send(&request.sized()).await;
        self.answer().await
    }

    /// Reads the next answer.
    pub(super) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer before the end of the connection")
    }

    /// Reads the next answer, or returns `None` if the connection ended without one.
    pub(super) async fn try_answer(&mut self) -> Option<Answer> {
        timeout(ANSWER_TIMEOUT, self.read_answer()).await.expect("an answer, or an end, in time")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                assert!(
                    self.unread.is_empty(),
                    "half an answer: {:?}",
                    String::from_utf8_lossy(&self.unread)
                );
                return None;
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head).expect("a header of ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let status: u16 = status.parse().expect("a status");
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").expect("a header line"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .filter(|(name, _)| name != "date")
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, length)| length.parse().expect("a length"));
        while self.unread.len() < length {
            assert!(self.more().await, "the end in the middle of an answer");
        }
        let body = String::from_utf8(self.unread.drain(..length).collect()).expect("a body of UTF-8");
        Some(Answer { status, headers, body })
    }

    /// Reads more bytes. Returns false at the end of the connection.
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..))
    }

    /// Returns true if nothing arrives for `span`.
    pub(super) async fn is_silent_for(&mut self, span: Duration) -> bool {
        self.unread.is_empty() && timeout(span, self.more()).await.is_err()
    }

    /// Waits until the peer closes the connection, and ignores what it sends before.
    pub(super) async fn closed(&mut self) {
        timeout(ANSWER_TIMEOUT, async { while self.more().await {} }).await.expect("closed in time");
    }

    /// Closes the sending side, as `shutdown(SHUT_WR)` does.
    pub(super) async fn finish(&mut self) {
        self.stream.shutdown().await.expect("closed");
    }

    /// Splits the connection, to read and write at the same time.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
