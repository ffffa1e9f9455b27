//! Deliveries that are wrong on purpose, each in one way, to see what a receiver makes of them.

use bytes::Bytes;

use crate::{
    secret::Secret,
    signature::{self, Form},
};

/// Older than any receiver should tolerate.
const STALE_S: i64 = 3600;

/// What is wrong with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Signed with another secret.
    Signature,
    /// The signature is no hex.
    Malformed,
    /// Not signed at all.
    Missing,
    /// Signed an hour ago.
    Timestamp,
    /// Signed with a timestamp that is not sent along.
    NoTimestamp,
    /// A byte was added to the body after it was signed.
    Body,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) signature: Option<String>,
    pub(super) timestamp: Option<i64>,
    pub(super) body: Bytes,
}

/// Signs as PolyAI does at the time `now`, but for the flaw.
pub(super) fn sign(secret: &Secret, form: Form, now: i64, body: Bytes, flaw: Option<Flaw>) -> Signed {
    let now = if flaw == Some(Flaw::Timestamp) { now - STALE_S } else { now };
    let timestamp = (form == Form::Timestamped).then_some(now);
    let stranger = Secret::new("not-the-secret-of-any-receiver");
    let secret = if flaw == Some(Flaw::Signature) { &stranger } else { secret };
    let signature = signature::sign(secret, timestamp, &body);
    let good = Signed { signature: Some(signature), timestamp, body };
    match flaw {
        None | Some(Flaw::Signature | Flaw::Timestamp) => good,
        Some(Flaw::Malformed) => Signed { signature: Some("not-a-signature".to_owned()), ..good },
        Some(Flaw::Missing) => Signed { signature: None, ..good },
        Some(Flaw::NoTimestamp) => Signed { timestamp: None, ..good },
        Some(Flaw::Body) => Signed { body: [&good.body[..], b" "].concat().into(), ..good },
    }
}
