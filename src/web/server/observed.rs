//! Wrappers around a connection's stream, requests and answers that report to its [`Activity`].

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::activity::Activity;

/// A stream that reports when bytes arrive and when the client takes none.
#[derive(Debug)]
pub(super) struct ObservedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl ObservedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn observe_write(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            self.activity.write_blocked();
        }
        result
    }
}

impl Drop for ObservedStream {
    fn drop(&mut self) {
        if self.activity.is_write_blocked() {
            // The client takes nothing, so the system should not keep the rest for it.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for ObservedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_received();
        }
        result
    }
}

impl AsyncWrite for ObservedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.observe_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.observe_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The HTTP library flushes only after it has written everything that it had.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.write_finished();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A request, from its header until its answer is handed over or given up.
#[derive(Debug)]
pub(super) struct OpenRequest {
    activity: Arc<Activity>,
    is_http2: bool,
    is_answered: bool,
}

impl OpenRequest {
    pub(super) fn new(activity: &Arc<Activity>, is_http2: bool) -> Self {
        activity.request_started(is_http2);
        Self { activity: Arc::clone(activity), is_http2, is_answered: false }
    }

    /// Keeps the request open until the HTTP library has taken the whole body of `response`.
    pub(super) fn answer<B: Body>(mut self, response: Response<B>) -> Response<ObservedBody<B>> {
        if !response.body().is_end_stream() {
            self.activity.answer_ready();
            self.is_answered = true;
        }
        response.map(|body| ObservedBody { body, last_byte: None, request: self })
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if self.is_answered {
            self.activity.answer_taken();
        }
        self.activity.request_ended();
    }
}

/// The body of a request. It reports when it has arrived.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    /// Set until the whole body has arrived.
    arriving: Option<Arc<Activity>>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>) -> Self {
        let arriving = (!body.is_end_stream()).then(|| {
            activity.body_started();
            Arc::clone(activity)
        });
        Self { body, arriving }
    }

    fn end(&mut self) {
        if let Some(activity) = self.arriving.take() {
            activity.body_ended();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.end();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
///
/// HTTP/2 takes a part of a body as soon as the client allows one byte of it, and keeps the rest. So the last byte is a
/// part of its own: it is taken when the client has allowed everything.
#[derive(Debug)]
pub(super) struct ObservedBody<B> {
    body: B,
    last_byte: Option<Bytes>,
    request: OpenRequest,
}

impl<B: Body<Data = Bytes> + Unpin> Body for ObservedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Some(last_byte) = this.last_byte.take() {
            return Poll::Ready(Some(Ok(Frame::data(last_byte))));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let split = |mut data: Bytes| {
            if this.request.is_http2 && data.len() > 1 {
                this.last_byte = Some(data.split_off(data.len() - 1));
            }
            data
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(split))))
    }

    fn is_end_stream(&self) -> bool {
        self.last_byte.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It is asked for before the first part.
        self.body.size_hint()
    }
}
