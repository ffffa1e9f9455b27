//! Signatures as PolyAI's two documents describe them, and deliveries that are wrong on purpose.
//!
//! The quickstart of June 2026 signs the body alone. The API reference of August 2026 signs
//! `{timestamp}.{body}` and sends the timestamp along. Both sign with HMAC-SHA256 and write hex.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Carries the signature in hex.
pub(crate) const SIGNATURE_HEADER: &str = "x-polyai-signature";
/// Carries the Unix time of the attempt in seconds.
pub(crate) const TIMESTAMP_HEADER: &str = "x-polyai-timestamp";
/// Carries the event's id, which stays the same on a retry. The signature does not cover it.
pub(crate) const EVENT_ID_HEADER: &str = "x-polyai-event-id";

/// The age of a stale signature: more than any receiver should tolerate.
const STALE_AGE_S: i64 = 3600;
/// Signs deliveries that must be refused.
const WRONG_SECRET: &str = "not-the-secret-of-any-receiver";

/// The bytes that a signature covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureForm {
    /// `{timestamp}.{body}`, as in the API reference.
    #[default]
    Timestamped,
    /// The body alone, as in the quickstart.
    Body,
}

/// A deliberate defect of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// Signs with another secret.
    WrongSecret,
    /// Sends a signature that is not hex.
    MalformedSignature,
    /// Sends no signature.
    MissingSignature,
    /// Signs with a timestamp of an hour ago.
    StaleTimestamp,
    /// Signs with a timestamp and does not send it.
    MissingTimestamp,
    /// Adds a byte to the body after it was signed.
    ModifiedBody,
}

/// The signature headers and the body of one attempt.
#[derive(Debug)]
pub(crate) struct SignedBody {
    pub(crate) signature: Option<String>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) body: Bytes,
}

/// Signs `body` as PolyAI does at `now` (Unix seconds), except for the tampering.
pub(crate) fn sign_delivery(
    secret: &str,
    form: SignatureForm,
    now: i64,
    body: Bytes,
    tampering: Option<Tampering>,
) -> SignedBody {
    let signed_at = if tampering == Some(Tampering::StaleTimestamp) { now - STALE_AGE_S } else { now };
    let timestamp = (form == SignatureForm::Timestamped).then_some(signed_at);
    let secret = if tampering == Some(Tampering::WrongSecret) { WRONG_SECRET } else { secret };
    let genuine = SignedBody { signature: Some(sign(secret, timestamp, &body)), timestamp, body };
    match tampering {
        None | Some(Tampering::WrongSecret | Tampering::StaleTimestamp) => genuine,
        Some(Tampering::MalformedSignature) => {
            SignedBody { signature: Some("not-a-signature".to_owned()), ..genuine }
        }
        Some(Tampering::MissingSignature) => SignedBody { signature: None, ..genuine },
        Some(Tampering::MissingTimestamp) => SignedBody { timestamp: None, ..genuine },
        Some(Tampering::ModifiedBody) => {
            SignedBody { body: [&genuine.body[..], b" "].concat().into(), ..genuine }
        }
    }
}

/// Returns the signature in hex: over `{timestamp}.{body}` if there is a timestamp, else over the body.
pub(crate) fn sign(secret: &str, timestamp: Option<i64>, body: &[u8]) -> String {
    let mut hmac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
    if let Some(seconds) = timestamp {
        hmac.update(format!("{seconds}.").as_bytes());
    }
    hmac.update(body);
    hex::encode(hmac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_780_000_000;

    fn tampered(tampering: Option<Tampering>) -> SignedBody {
        sign_delivery("secret", SignatureForm::Timestamped, NOW, Bytes::from_static(b"{}"), tampering)
    }

    /// RFC 4231, test case 2.
    #[test]
    fn signs_the_body_as_the_rfc_does() {
        assert_eq!(
            sign("Jefe", None, b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    /// `printf '1780000000.{}' | openssl dgst -sha256 -hmac secret`
    #[test]
    fn signs_timestamp_dot_body() {
        assert_eq!(
            sign("secret", Some(NOW), b"{}"),
            "f2dadf9ad78978e9a3a09f360d82463bb247403b8a15405e9a194ed17a4d5357"
        );
    }

    #[test]
    fn each_tampering_changes_one_thing() {
        let genuine = tampered(None);
        assert_eq!(genuine.signature, Some(sign("secret", Some(NOW), b"{}")));
        assert_eq!((genuine.timestamp, &genuine.body[..]), (Some(NOW), &b"{}"[..]));

        let wrong = tampered(Some(Tampering::WrongSecret));
        assert!(wrong.signature != genuine.signature && wrong.timestamp == genuine.timestamp);
        let stale = tampered(Some(Tampering::StaleTimestamp));
        assert_eq!(stale.timestamp, Some(NOW - 3600));
        assert_eq!(stale.signature, Some(sign("secret", Some(NOW - 3600), b"{}")));
        assert_eq!(tampered(Some(Tampering::MissingSignature)).signature, None);
        assert_eq!(
            tampered(Some(Tampering::MalformedSignature)).signature.as_deref(),
            Some("not-a-signature")
        );
        let undated = tampered(Some(Tampering::MissingTimestamp));
        assert_eq!((undated.timestamp, undated.signature), (None, genuine.signature.clone()));
        let modified = tampered(Some(Tampering::ModifiedBody));
        assert_eq!((&modified.body[..], modified.signature), (&b"{} "[..], genuine.signature));
    }
}
