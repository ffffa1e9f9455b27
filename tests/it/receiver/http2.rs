//! An HTTP/2 client that works with frames, so that a test can leave out what a real client always does.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::harness::PATH;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// The error code of a stream that is no longer needed.
const CANCEL: u32 = 8;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

/// Time after which a missing frame fails the test.
const FRAME_TIMEOUT: Duration = Duration::from_secs(20);

/// Encodes a header whose name is in no table.
pub(super) fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, length(name)][..], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// A frame from the server.
#[derive(Debug)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn is_headers(&self) -> bool {
        self.kind == HEADERS
    }

    pub(super) fn is_data(&self) -> bool {
        self.kind == DATA
    }

    pub(super) fn is_reset(&self) -> bool {
        self.kind == RST_STREAM
    }

    fn is_ping(&self) -> bool {
        self.kind == PING && self.flags & ACK == 0
    }

    /// Returns the value of a setting, if the frame has it.
    fn setting(&self, id: u16) -> Option<u32> {
        let mut settings = self.payload.chunks_exact(6).filter(|_| self.kind == SETTINGS);
        let found = settings.find(|setting| setting[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(found[2..].try_into().unwrap()))
    }
}

/// The client's side of one connection.
#[derive(Debug)]
pub(super) struct Http2 {
    stream: TcpStream,
}

impl Http2 {
    /// Opens a connection on which each response may have `window` bytes of body until the client allows more.
    pub(super) async fn open(address: SocketAddr, window: u32) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut client = Self { stream };
        let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat();
        client.send(SETTINGS, 0, 0, &setting).await;
        client
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes).await.expect("sent");
    }

    /// Sends the header of a POST. `more` are additional encoded headers.
    pub(super) async fn post(&mut self, stream: u32, more: &[u8], has_body: bool) {
        // `:method: POST` and `:scheme: http` are in the static table; `:path` and `:authority` have their names there.
        let mut block = vec![0x83, 0x86, 0x04, u8::try_from(PATH.len()).unwrap()];
        block.extend(PATH.as_bytes());
        block.extend([0x01, 1, b'a']);
        block.extend(more);
        let flags = if has_body { END_HEADERS } else { END_HEADERS | END_STREAM };
        self.send(HEADERS, flags, stream, &block).await;
    }

    /// Sends a whole body.
    pub(super) async fn data(&mut self, stream: u32, body: &[u8]) {
        self.send(DATA, END_STREAM, stream, body).await;
    }

    /// Gives up a stream, as a client that no longer waits does.
    pub(super) async fn reset(&mut self, stream: u32) {
        self.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).await;
    }

    /// Sends a `WINDOW_UPDATE` for a stream.
    pub(super) async fn allow(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await;
    }

    /// Sends a PING.
    pub(super) async fn try_ping(&mut self) -> io::Result<()> {
        self.stream.write_all(b"\0\0\x08\x06\0\0\0\0\0polyhook").await
    }

    /// Waits until the server closes the connection.
    pub(super) async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Returns the next frame, or `None` if the connection ended.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        timeout(FRAME_TIMEOUT, self.read_frame()).await.expect("a frame, or the end, in time")
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Returns the next frame for which `wanted` holds.
    pub(super) async fn next_such(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame before the end of the connection");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Reads the whole body of an answer. Other streams' frames are skipped.
    pub(super) async fn body(&mut self, stream: u32) -> String {
        let mut body = Vec::new();
        loop {
            let frame = self.next_such(|frame| frame.stream == stream && frame.is_data()).await;
            body.extend(frame.payload);
            if frame.flags & END_STREAM != 0 {
                return String::from_utf8(body).expect("UTF-8");
            }
        }
    }

    /// Returns the value of one of the server's settings.
    pub(super) async fn server_setting(&mut self, id: u16) -> Option<u32> {
        self.next_such(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0).await.setting(id)
    }

    /// Answers PINGs until the server closes the connection, and nothing else.
    pub(super) async fn answer_pings_until_closed(&mut self) {
        while let Some(frame) = self.next().await {
            if frame.is_ping() {
                self.send(PING, ACK, 0, &frame.payload).await;
            }
        }
    }
}
