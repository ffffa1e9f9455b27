//! Verifies that PolyAI sent a delivery: HMAC-SHA256 over the raw bytes, compared in constant time.
//!
//! Two forms are in use. The quickstart of June 2026 signs the body alone (`X-PolyAI-Signature`, hex);
//! the API reference of August 2026 signs `{timestamp}.{body}`, sends the timestamp along in
//! `X-PolyAI-Timestamp` (Unix seconds of this attempt) and asks receivers to refuse more than 300 s of skew.
//! [`Scheme`] selects the accepted forms. The tolerance applies if the timestamped form matched.
//!
//! [`SignatureHeaders::parse`] needs only the head of a request. It rejects what no secret could make valid, so that
//! neither the reading of the body nor a hash is spent on it. [`Verifier::verify`] needs the body as well.
//!
//! Every active secret is tried in every form that the headers allow, and nothing stops at the first match, so the time
//! taken says nothing about which secret, form or byte was right.
//!
//! # Bodies that begin with a timestamp
//!
//! A timestamped delivery signs `{timestamp}.{body}`. Whoever has recorded one can send these bytes as the body of another
//! request, without the timestamp header: the signature of the body form is then correct, and there is no time that could
//! be too old. So the body form is never accepted for a body that begins with digits and a dot, whatever the scheme:
//! PolyAI decides what it signs, and a delivery may have been recorded under another setting. Genuine bodies are not
//! affected, because PolyAI's are JSON objects, which begin with a brace. Of other texts, a JSON number with a fraction
//! (`1.5`) and prose such as `1. one` could be both. They are accepted with a timestamp that is signed.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use thiserror::Error;

use crate::secret::Secret;

/// Header with the signature: hex in either case, with an optional prefix `sha256=`.
pub const SIGNATURE_HEADER: &str = "x-polyai-signature";
/// Header with the time of the attempt in Unix seconds. The timestamped form signs it.
pub const TIMESTAMP_HEADER: &str = "x-polyai-timestamp";
/// Header with the event's id, which is the same on a retry. The signature does not cover it.
pub const EVENT_ID_HEADER: &str = "x-polyai-event-id";

/// Minimum characters of a secret. A shorter one could be guessed, so the receiver does not start with it.
pub const MIN_SECRET_LENGTH: usize = 16;
/// Maximum number of active secrets. Each costs up to two hashes of the body for every well-formed signature, genuine or
/// not.
pub const MAX_ACTIVE_SECRETS: usize = 8;

/// Digits of a timestamp that are accepted: seconds until the year 33658, but no milliseconds.
const MAX_TIMESTAMP_DIGITS: usize = 12;

/// The signed forms that are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Both: the timestamped form if there is a timestamp header, and the body form.
    #[default]
    Auto,
    /// Only `{timestamp}.{body}`.
    Timestamped,
    /// Only the body.
    Body,
}

/// The form that a signature matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignedForm {
    /// `{timestamp}.{body}`
    Timestamped,
    /// The body alone.
    Body,
}

/// The result of a successful verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedSignature {
    /// The form that matched.
    pub form: SignedForm,
    /// The position of the matching secret among the active ones.
    pub secret: usize,
}

/// The reason why a signature is not accepted. It is logged, but never sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// No signature header, or an empty one.
    #[error("the signature header is missing")]
    SignatureMissing,
    /// Not 64 hex digits, or several headers with different signatures.
    #[error("the signature is not 64 hex digits")]
    SignatureMalformed,
    /// The scheme requires a timestamp header, and it is missing.
    #[error("the timestamp header is missing")]
    TimestampMissing,
    /// The timestamp is not a Unix time in seconds, or several headers have different ones. The body form does not match,
    /// or is not accepted.
    #[error("the timestamp is not a Unix time in seconds")]
    TimestampMalformed,
    /// The body begins with digits and a dot, so it may be a timestamped delivery that is sent again.
    #[error("the body begins with a timestamp, so only a signed timestamp header could make it valid")]
    TimestampInBody,
    /// Signed with an active secret, but too old or in the future. Often this machine's clock is wrong.
    #[error("the signature is genuine but {skew_s} s away from our clock")]
    Stale {
        /// Our time minus the sender's, in seconds.
        skew_s: i64,
    },
    /// No active secret matches the signature.
    #[error("no active secret gives this signature")]
    Mismatch,
}

impl SignatureError {
    /// Returns a constant word for logs and metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::SignatureMissing => "signature_missing",
            Self::SignatureMalformed => "signature_malformed",
            Self::TimestampMissing => "timestamp_missing",
            Self::TimestampMalformed => "timestamp_malformed",
            Self::TimestampInBody => "timestamp_in_body",
            Self::Stale { .. } => "stale",
            Self::Mismatch => "mismatch",
        }
    }
}

/// The signature and the timestamp of a request's headers, decoded. It borrows nothing from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureHeaders {
    signature: [u8; 32],
    timestamp: GivenTimestamp,
}

/// The timestamp that a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GivenTimestamp {
    /// No header, or the scheme does not use it.
    None,
    /// Not a Unix time in seconds, or several different ones.
    Malformed,
    /// A Unix time in seconds.
    Seconds(SignedTimestamp),
}

/// A timestamp with the digits that the signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SignedTimestamp {
    digits: [u8; MAX_TIMESTAMP_DIGITS],
    length: usize,
    seconds: i64,
}

impl SignatureHeaders {
    /// Decodes all values of the signature header and of the timestamp header. A header that a proxy has repeated counts
    /// once. Returns an error if no secret and no body could make the request valid under `scheme`.
    pub fn parse<'a>(
        scheme: Scheme,
        signatures: impl IntoIterator<Item = &'a [u8]>,
        timestamps: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, SignatureError> {
        let signature = only(signatures.into_iter().map(parse_signature))
            .map_err(|_| SignatureError::SignatureMalformed)?
            .ok_or(SignatureError::SignatureMissing)??;
        let timestamp = match (scheme, only(timestamps.into_iter().map(parse_timestamp))) {
            (Scheme::Body, _) | (Scheme::Auto, Ok(None)) => GivenTimestamp::None,
            (Scheme::Timestamped, Ok(None)) => return Err(SignatureError::TimestampMissing),
            (_, Ok(Some(Some(timestamp)))) => GivenTimestamp::Seconds(timestamp),
            (Scheme::Timestamped, _) => return Err(SignatureError::TimestampMalformed),
            // The body form does not sign the timestamp, so no timestamp can make such a delivery fail.
            (Scheme::Auto, _) => GivenTimestamp::Malformed,
        };
        Ok(Self { signature, timestamp })
    }

    /// Returns the decoded signature.
    pub fn signature(&self) -> &[u8; 32] {
        &self.signature
    }
}

/// Verifies deliveries with the active secrets.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<Hmac<Sha256>>,
    scheme: Scheme,
    tolerance: Duration,
}

impl Verifier {
    /// Creates a verifier that accepts signatures of any of `secrets` in the forms of `scheme`. A signed timestamp may
    /// differ from our clock by `tolerance`.
    pub fn new(secrets: &[Secret], scheme: Scheme, tolerance: Duration) -> Self {
        Self { keys: secrets.iter().map(key).collect(), scheme, tolerance }
    }

    /// Verifies the raw header values and the raw body of one delivery at the time `now`.
    pub fn verify(
        &self,
        signature: Option<&[u8]>,
        timestamp: Option<&[u8]>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<VerifiedSignature, SignatureError> {
        self.verify_parsed(&SignatureHeaders::parse(self.scheme, signature, timestamp)?, body, now)
    }

    /// Verifies the raw body of one delivery, whose headers were parsed for the same scheme, at the time `now`.
    pub fn verify_parsed(
        &self,
        headers: &SignatureHeaders,
        body: &[u8],
        now: Timestamp,
    ) -> Result<VerifiedSignature, SignatureError> {
        let SignatureHeaders { signature: given, timestamp } = headers;
        let in_body = begins_with_timestamp(body);
        let body_form = self.scheme != Scheme::Timestamped && !in_body;
        let stamp = match timestamp {
            GivenTimestamp::Seconds(stamp) => Some(stamp),
            _ if !body_form => return Err(SignatureError::TimestampInBody),
            _ => None,
        };

        let mut timestamped = Match::none();
        let mut body_only = Match::none();
        for (index, key) in self.keys.iter().enumerate() {
            if let Some(stamp) = stamp {
                timestamped.record(index, given, &sign_timestamped(key.clone(), stamp.as_bytes(), body));
            }
            if body_form {
                body_only.record(index, given, &sign_body(key.clone(), body));
            }
        }

        if let (Some(secret), Some(stamp)) = (timestamped.found(), stamp) {
            let skew_s = now.as_second().saturating_sub(stamp.seconds);
            return if skew_s.unsigned_abs() <= self.tolerance.as_secs() {
                Ok(VerifiedSignature { form: SignedForm::Timestamped, secret })
            } else {
                Err(SignatureError::Stale { skew_s })
            };
        }
        match (body_only.found(), timestamp) {
            (Some(secret), _) => Ok(VerifiedSignature { form: SignedForm::Body, secret }),
            (None, GivenTimestamp::Malformed) => Err(SignatureError::TimestampMalformed),
            (None, _) => Err(SignatureError::Mismatch),
        }
    }
}

/// Returns the hex signature that PolyAI would send for `body`; with `timestamp`, in the timestamped form.
pub fn sign(secret: &Secret, timestamp: Option<i64>, body: &[u8]) -> String {
    let key = key(secret);
    hex::encode(match timestamp {
        Some(seconds) => sign_timestamped(key, seconds.to_string().as_bytes(), body),
        None => sign_body(key, body),
    })
}

/// The first match among several secrets, recorded without a branch on it.
struct Match {
    any: Choice,
    index: u64,
}

impl Match {
    fn none() -> Self {
        Self { any: Choice::from(0), index: 0 }
    }

    fn record(&mut self, index: usize, given: &[u8; 32], expected: &[u8; 32]) {
        let hit = given.ct_eq(expected);
        self.index.conditional_assign(&(index as u64), hit & !self.any);
        self.any |= hit;
    }

    fn found(&self) -> Option<usize> {
        bool::from(self.any).then(|| usize::try_from(self.index).unwrap_or_default())
    }
}

fn key(secret: &Secret) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret.expose().as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"))
}

fn sign_timestamped(mut key: Hmac<Sha256>, timestamp: &[u8], body: &[u8]) -> [u8; 32] {
    key.update(timestamp);
    key.update(b".");
    key.update(body);
    key.finalize().into_bytes().into()
}

fn sign_body(mut key: Hmac<Sha256>, body: &[u8]) -> [u8; 32] {
    key.update(body);
    key.finalize().into_bytes().into()
}

/// Returns the one value of a header, none if there is no header, and an error if there are different values.
pub(crate) fn only<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Result<Option<T>, DifferentValues> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.all(|value| value == first) { Ok(Some(first)) } else { Err(DifferentValues) }
}

/// A header occurs several times, with different values.
pub(crate) struct DifferentValues;

fn parse_signature(raw: &[u8]) -> Result<[u8; 32], SignatureError> {
    let raw = raw.trim_ascii();
    if raw.is_empty() {
        return Err(SignatureError::SignatureMissing);
    }
    let digits = match raw.split_at_checked(7) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(b"sha256=") => rest,
        _ => raw,
    };
    let mut signature = [0; 32];
    hex::decode_to_slice(digits, &mut signature).map_err(|_| SignatureError::SignatureMalformed)?;
    Ok(signature)
}

/// Accepts digits only. PolyAI does not send the other forms that `i64::from_str` accepts (`+1`, `-1`).
fn parse_timestamp(raw: &[u8]) -> Option<SignedTimestamp> {
    let mut digits = [0; MAX_TIMESTAMP_DIGITS];
    digits.get_mut(..raw.len())?.copy_from_slice(raw);
    let is_number = !raw.is_empty() && raw.iter().all(u8::is_ascii_digit);
    is_number.then(|| SignedTimestamp {
        digits,
        length: raw.len(),
        seconds: raw.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')),
    })
}

impl SignedTimestamp {
    fn as_bytes(&self) -> &[u8] {
        &self.digits[..self.length]
    }
}

/// Returns true if `body` may be what a timestamped delivery signs: digits, a dot, and anything.
fn begins_with_timestamp(body: &[u8]) -> bool {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && body.get(digits) == Some(&b'.')
}

#[cfg(test)]
mod tests;
