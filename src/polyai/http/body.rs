//! The body of an answer: decoded, limited in size and in time.

use std::{pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{Version, header::TRANSFER_ENCODING};
use reqwest::Response;

use super::{
    coding,
    pace::{PacedError, TransferLimits, paced},
    transport_error,
};
use crate::{
    polyai::error::{ApiError, ErrorKind},
    wav::StreamEnd,
};

/// The parts of a body. An error ends them.
pub(in crate::polyai) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// The largest body that is read, and what a larger one is.
#[derive(Clone, Copy, Debug)]
pub(in crate::polyai) struct SizeLimit {
    /// The most bytes before, between and after decoding.
    pub(in crate::polyai) bytes: u64,
    /// The kind of the error that ends a larger body.
    pub(in crate::polyai) error: ErrorKind,
}

/// A body that is decoded while it arrives.
pub(in crate::polyai) struct DecodedBody {
    /// The decoded parts.
    pub(in crate::polyai) parts: Body,
    /// The proof that the decoded parts are complete.
    pub(in crate::polyai) end: StreamEnd,
}

/// Decodes a body.
///
/// # Errors
///
/// The body has a coding that polyhook does not support, or it fails at its beginning.
pub(super) async fn decode(
    response: Response,
    host: &Arc<str>,
    limits: TransferLimits,
    max: SizeLimit,
) -> Result<DecodedBody, ApiError> {
    let codings = coding::codings(response.headers()).map_err(|detail| ApiError {
        detail: Some(detail.into()),
        ..ApiError::new(ErrorKind::BadAnswer, host)
    })?;
    let end = stream_end(&response);
    let limit_host = Arc::clone(host);
    let received = paced(response.bytes_stream(), limits).map_err(move |error| match error {
        PacedError::Broken(error) => transport_error(&error, &limit_host),
        PacedError::TooSlow => ApiError {
            detail: Some("its answer arrives too slowly".into()),
            ..ApiError::new(ErrorKind::Timeout, &limit_host)
        },
    });
    let mut parts = limited(received, max, host);
    let mut is_encoded = false;
    // What was applied last is decoded first. A store may serve an encoded object without a label.
    for label in codings.into_iter().rev().map(Some).chain([None]) {
        let (body, decoded) = coding::decode(parts, label, host).await?;
        parts = if decoded { limited(body, max, host) } else { body };
        is_encoded |= decoded;
    }
    // The `Content-Length` of an encoded body counts the encoded bytes; its coding marks the end.
    Ok(DecodedBody { parts, end: if is_encoded { StreamEnd::Marked } else { end } })
}

/// Returns what proves that a body is complete when it ends without an error.
fn stream_end(response: &Response) -> StreamEnd {
    let is_marked =
        response.version() >= Version::HTTP_2 || response.headers().contains_key(TRANSFER_ENCODING);
    match response.content_length() {
        Some(length) => StreamEnd::Announced(length),
        None if is_marked => StreamEnd::Marked,
        None => StreamEnd::Unmarked,
    }
}

/// Ends a body with an error when it is longer than `max`. Other tasks run while a long body is decoded.
fn limited(
    parts: impl Stream<Item = Result<Bytes, ApiError>> + Send + 'static,
    max: SizeLimit,
    host: &Arc<str>,
) -> Body {
    let host = Arc::clone(host);
    Box::pin(stream::try_unfold((Box::pin(parts), 0), move |(mut parts, mut size)| {
        let host = Arc::clone(&host);
        async move {
            tokio::task::consume_budget().await;
            let Some(part) = parts.next().await.transpose()? else { return Ok(None) };
            size += part.len() as u64;
            if size > max.bytes {
                let detail = format!("its body is larger than {}", ByteSize(max.bytes).display().iec());
                return Err(ApiError { detail: Some(detail.into()), ..ApiError::new(max.error, &host) });
            }
            Ok(Some((part, (parts, size))))
        }
    }))
}

/// Reads a whole body into memory.
pub(super) async fn read_whole(mut parts: Body) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(part) = parts.next().await {
        whole.extend_from_slice(&part?);
    }
    Ok(whole.freeze())
}

/// Reads at most `max` bytes of a body. An error ends them.
pub(super) async fn read_start(mut parts: Body, max: usize) -> Bytes {
    let mut start = BytesMut::new();
    while start.len() < max
        && let Some(Ok(part)) = parts.next().await
    {
        start.extend_from_slice(&part[..part.len().min(max - start.len())]);
    }
    start.freeze()
}
