//! The rest of a body whose request is refused.
//!
//! The answer does not wait for it. HTTP/2 resets the stream after the answer. In HTTP/1.1 the body stands before the next
//! request, and if the connection is closed while the client still sends, the client may never see the answer. So a body
//! that a genuine delivery could have is read and thrown away, for as long as a genuine one may take. After a larger one
//! the connection is closed.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use super::Receiver;

/// Throws away the rest of an HTTP/1 body, in a task of its own: at most `server.body_limit` bytes, and until `deadline`.
/// Returns false if the rest is larger, so that the connection cannot be used again.
pub(super) fn discard_body<B>(receiver: &Receiver, body: B, deadline: Instant) -> bool
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let limit = receiver.inner.body_limit;
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().lower() > limit as u64 {
        return false;
    }
    receiver.inner.requests.spawn_tracked(timeout_at(deadline, read_rest(body, limit)));
    true
}

async fn read_rest(mut body: impl Body<Data = Bytes> + Unpin, mut left: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => break,
        }
    }
}
