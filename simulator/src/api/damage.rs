//! Bodies that end early or arrive slowly, as a fault demands.

use std::{io, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};

use crate::{
    fault::{FaultAction, FaultPlan},
    server::ConnectionResetter,
};

/// The wait before a body breaks off, so that everything before it is on the wire.
const FLUSH_DELAY: Duration = Duration::from_millis(20);

/// The end of a body.
#[derive(Debug)]
enum BodyEnd {
    /// The body ends as its header announced.
    Complete,
    /// The connection is closed before all announced bytes are sent.
    Truncated,
    /// The connection is reset.
    Reset(Option<ConnectionResetter>),
}

/// A body that is cut off or slowed down while it is sent.
struct DamagedBody {
    body: BodyDataStream,
    /// Received from the handler and not yet sent.
    piece: Bytes,
    /// Bytes that may still be sent.
    remaining: u64,
    end: BodyEnd,
    drip: Option<(usize, Duration)>,
    failed: bool,
}

/// Damages the body as the plan says, and leaves it alone if the plan says nothing about bodies.
pub(super) fn damage_body(
    mut response: Response,
    plan: &FaultPlan,
    resetter: Option<ConnectionResetter>,
) -> Response {
    let (remaining, end) = match plan.answer {
        Some(FaultAction::Truncate(bytes)) => (bytes, BodyEnd::Truncated),
        Some(FaultAction::Cut(bytes)) => (bytes, BodyEnd::Complete),
        Some(FaultAction::Reset(bytes)) => (bytes, BodyEnd::Reset(resetter)),
        _ if plan.drip.is_some() => (u64::MAX, BodyEnd::Complete),
        _ => return response,
    };
    if let (Some(FaultAction::Cut(bytes)), Some(length)) = (&plan.answer, content_length(response.headers()))
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length.min(*bytes)));
    }
    let (parts, body) = response.into_parts();
    let damaged = DamagedBody {
        body: body.into_data_stream(),
        piece: Bytes::new(),
        remaining,
        end,
        drip: plan.drip,
        failed: false,
    };
    Response::from_parts(parts, Body::from_stream(stream::unfold(damaged, DamagedBody::next)))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl DamagedBody {
    async fn next(mut self) -> Option<(Result<Bytes, io::Error>, Self)> {
        if self.failed {
            return None;
        }
        while self.piece.is_empty() && self.remaining > 0 {
            match self.body.next().await {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => {
                    return Some((Err(io::Error::other(error)), Self { failed: true, ..self }));
                }
                None => return None,
            }
        }
        if self.remaining == 0 {
            return self.finish().await;
        }
        let mut size = self.piece.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if let Some((bytes, pause)) = self.drip {
            size = size.min(bytes);
            tokio::time::sleep(pause).await;
        }
        let piece = self.piece.split_to(size);
        self.remaining -= size as u64;
        Some((Ok(piece), self))
    }

    async fn finish(self) -> Option<(Result<Bytes, io::Error>, Self)> {
        match &self.end {
            BodyEnd::Complete => return None,
            BodyEnd::Truncated => tokio::time::sleep(FLUSH_DELAY).await,
            BodyEnd::Reset(resetter) => {
                tokio::time::sleep(FLUSH_DELAY).await;
                if let Some(resetter) = resetter {
                    resetter.reset();
                }
            }
        }
        Some((Err(io::Error::other("the fault ends the body here")), Self { failed: true, ..self }))
    }
}
