use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_780_000_000;
const TOLERANCE: Duration = Duration::from_mins(5);

fn secret(n: u8) -> Secret {
    Secret::new(format!("whsec_{n:032}"))
}

fn verifier(scheme: Scheme) -> Verifier {
    Verifier::new(&[secret(1), secret(2)], scheme, TOLERANCE)
}

fn check(
    scheme: Scheme,
    signature: &str,
    timestamp: Option<&str>,
    body: &[u8],
) -> Result<VerifiedSignature, SignatureError> {
    verifier(scheme).verify(
        Some(signature.as_bytes()),
        timestamp.map(str::as_bytes),
        body,
        Timestamp::from_second(NOW).unwrap(),
    )
}

/// RFC 4231, test case 2: a reference that is independent of this code.
#[test]
fn matches_the_rfc_4231_test_vector() {
    assert_eq!(
        sign(&Secret::new("Jefe"), None, b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[test]
fn accepts_only_the_forms_of_the_scheme() {
    let stamp = NOW.to_string();
    let timestamped = sign(&secret(2), Some(NOW), b"{}");
    let body = sign(&secret(1), None, b"{}");
    let timestamped_ok = Ok(VerifiedSignature { form: SignedForm::Timestamped, secret: 1 });
    let body_ok = Ok(VerifiedSignature { form: SignedForm::Body, secret: 0 });

    assert_eq!(check(Scheme::Auto, &timestamped, Some(&stamp), b"{}"), timestamped_ok);
    assert_eq!(check(Scheme::Auto, &body, Some(&stamp), b"{}"), body_ok);
    assert_eq!(check(Scheme::Auto, &body, None, b"{}"), body_ok);
    assert_eq!(check(Scheme::Auto, &timestamped, None, b"{}"), Err(SignatureError::Mismatch));
    assert_eq!(check(Scheme::Timestamped, &timestamped, Some(&stamp), b"{}"), timestamped_ok);
    assert_eq!(check(Scheme::Timestamped, &body, Some(&stamp), b"{}"), Err(SignatureError::Mismatch));
    assert_eq!(check(Scheme::Timestamped, &timestamped, None, b"{}"), Err(SignatureError::TimestampMissing));
    assert_eq!(
        check(Scheme::Timestamped, &timestamped, Some("now"), b"{}"),
        Err(SignatureError::TimestampMalformed)
    );
    assert_eq!(check(Scheme::Body, &body, Some(&stamp), b"{}"), body_ok);
    assert_eq!(check(Scheme::Body, &timestamped, Some(&stamp), b"{}"), Err(SignatureError::Mismatch));
    // The body form does not sign the timestamp, so a proxy's garbage there must not lose the event.
    assert_eq!(check(Scheme::Auto, &body, Some("garbage"), b"{}"), body_ok);
    assert_eq!(check(Scheme::Auto, &body, Some(&format!("{stamp}000")), b"{}"), body_ok);
}

#[test]
fn rejects_a_timestamped_delivery_that_is_sent_as_a_body() {
    for old in [0, 7, NOW - 30 * 86_400, NOW, NOW * 1000] {
        for rest in [&b"{}"[..], b"", b"1.5", b"\xff"] {
            let signature = sign(&secret(1), Some(old), rest);
            let body = [format!("{old}.").as_bytes(), rest].concat();
            for scheme in [Scheme::Auto, Scheme::Body] {
                let rejected = Err(SignatureError::TimestampInBody);
                assert_eq!(check(scheme, &signature, None, &body), rejected, "{old}");
                assert_eq!(check(scheme, &signature, Some("now"), &body), rejected, "{old}");
            }
            // Neither does a new timestamp help.
            let stamp = NOW.to_string();
            assert_eq!(check(Scheme::Auto, &signature, Some(&stamp), &body), Err(SignatureError::Mismatch));
        }
    }
    // With a timestamp that is signed, any body is accepted.
    let stamp = NOW.to_string();
    assert!(check(Scheme::Auto, &sign(&secret(1), Some(NOW), b"1.5"), Some(&stamp), b"1.5").is_ok());
    for near in ["{}", "[1.5]", "1,5", "15", ".5", " 1.5", "-1.5", "1", "", "a1.5"] {
        let signature = sign(&secret(1), None, near.as_bytes());
        assert!(check(Scheme::Auto, &signature, None, near.as_bytes()).is_ok(), "{near:?}");
    }
}

#[test]
fn names_a_timestamp_that_is_not_in_seconds() {
    let named = Err(SignatureError::TimestampMalformed);
    let milliseconds = NOW * 1000;
    let signature = sign(&secret(1), Some(milliseconds), b"{}");
    for bad in [&milliseconds.to_string(), "", "1.5", "+17", "-17", "now", "2026-11-30T02:34:26Z", "17 17"] {
        assert_eq!(check(Scheme::Auto, &signature, Some(bad), b"{}"), named, "{bad}");
        assert_eq!(check(Scheme::Timestamped, &signature, Some(bad), b"{}"), named, "{bad}");
        assert_eq!(check(Scheme::Body, &signature, Some(bad), b"{}"), Err(SignatureError::Mismatch));
    }
    let usable = (NOW - 1).to_string();
    assert_eq!(check(Scheme::Auto, &signature, Some(&usable), b"{}"), Err(SignatureError::Mismatch));
}

#[test]
fn repeated_headers_count_once_if_they_say_the_same() {
    let good = sign(&secret(1), Some(NOW), b"x");
    let upper = format!("sha256={}", good.to_uppercase());
    let other = "0".repeat(64);
    let (now, later) = (NOW.to_string(), (NOW + 1).to_string());
    let parse = |scheme, signatures: &[&str], timestamps: &[&str]| {
        let bytes =
            |values: &[&str]| values.iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
        let (signatures, timestamps) = (bytes(signatures), bytes(timestamps));
        SignatureHeaders::parse(
            scheme,
            signatures.iter().map(Vec::as_slice),
            timestamps.iter().map(Vec::as_slice),
        )
    };
    let once = parse(Scheme::Auto, &[&good], &[&now]).unwrap();
    assert_eq!(parse(Scheme::Auto, &[&good, &good, &good], &[&now, &now]), Ok(once));
    assert_eq!(parse(Scheme::Timestamped, &[&good, &upper], &[&now, &now]), Ok(once));
    let malformed = Err(SignatureError::SignatureMalformed);
    for different in [[&*good, &*other], [&*good, ""], ["", &*good], ["x", "y"], ["x", "x"]] {
        assert_eq!(parse(Scheme::Auto, &different, &[&now]), malformed, "{different:?}");
    }
    assert_eq!(parse(Scheme::Auto, &["", " "], &[]), Err(SignatureError::SignatureMissing));
    assert_eq!(parse(Scheme::Auto, &[&good, &good, &other], &[]), malformed);
    assert_eq!(
        parse(Scheme::Timestamped, &[&good], &[&now, &later]),
        Err(SignatureError::TimestampMalformed)
    );
    assert_eq!(parse(Scheme::Timestamped, &[&good], &[]), Err(SignatureError::TimestampMissing));
    // The body form does not need the timestamps.
    let headers = parse(Scheme::Auto, &[&sign(&secret(1), None, b"x")], &[&now, &later]).unwrap();
    let now = Timestamp::from_second(NOW).unwrap();
    assert!(verifier(Scheme::Auto).verify_parsed(&headers, b"x", now).is_ok());
}

#[test]
fn accepts_upper_case_prefix_and_white_space() {
    let signature = sign(&secret(1), None, b"x");
    for form in [
        signature.to_uppercase(),
        format!("sha256={signature}"),
        format!("SHA256={}", signature.to_uppercase()),
        format!("  {signature}\t"),
    ] {
        assert!(check(Scheme::Auto, &form, None, b"x").is_ok(), "{form}");
    }
}

#[test]
fn returns_the_reason_of_a_malformed_signature() {
    let now = Timestamp::from_second(NOW).unwrap();
    let verify = |signature: Option<&[u8]>| verifier(Scheme::Auto).verify(signature, None, b"x", now);
    assert_eq!(verify(None), Err(SignatureError::SignatureMissing));
    assert_eq!(verify(Some(b" ")), Err(SignatureError::SignatureMissing));
    assert_eq!(verify(Some(b"sha256=")), Err(SignatureError::SignatureMalformed));
    assert_eq!(verify(Some("é".repeat(32).as_bytes())), Err(SignatureError::SignatureMalformed));
    assert_eq!(verify(Some(&[b'0'; 63])), Err(SignatureError::SignatureMalformed));
    assert_eq!(verify(Some(&[b'0'; 64])), Err(SignatureError::Mismatch));
}

#[test]
fn rejects_a_stale_or_future_timestamp() {
    for (offset, accepted) in [(-301, false), (-300, true), (300, true), (301, false)] {
        let stamp = NOW + offset;
        let result =
            check(Scheme::Auto, &sign(&secret(1), Some(stamp), b"x"), Some(&stamp.to_string()), b"x");
        assert_eq!(result.is_ok(), accepted, "{offset}");
        if !accepted {
            assert_eq!(result, Err(SignatureError::Stale { skew_s: -offset }));
        }
    }
}

proptest! {
    #[test]
    fn never_panics_and_never_accepts_noise(
        signature in proptest::collection::vec(any::<u8>(), 0..80),
        timestamp in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..30)),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        for scheme in [Scheme::Auto, Scheme::Timestamped, Scheme::Body] {
            let now = Timestamp::from_second(NOW).unwrap();
            prop_assert!(verifier(scheme).verify(Some(&signature), timestamp.as_deref(), &body, now).is_err());
        }
    }

    #[test]
    fn rejects_a_changed_byte(
        body in proptest::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let signature = sign(&secret(1), Some(NOW), &body);
        let stamp = NOW.to_string();
        prop_assert!(check(Scheme::Auto, &signature, Some(&stamp), &body).is_ok());
        let mut changed = body.clone();
        changed[at.index(body.len())] ^= flip;
        prop_assert_eq!(check(Scheme::Auto, &signature, Some(&stamp), &changed), Err(SignatureError::Mismatch));
        // Shifting a byte between the timestamp and the body is another message too.
        let mut moved = stamp.clone().into_bytes();
        moved.push(b'.');
        moved.extend(&body);
        for scheme in [Scheme::Auto, Scheme::Body] {
            prop_assert_eq!(check(scheme, &signature, None, &moved), Err(SignatureError::TimestampInBody));
        }
        prop_assert!(check(Scheme::Timestamped, &signature, Some("17"), &moved).is_err());
    }
}
