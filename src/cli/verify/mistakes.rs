//! Finds the most likely mistake behind a signature that does not match: undoes each common mistake, alone and in pairs,
//! until the signature matches.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use super::json_rewrites;
use crate::{secret::Secret, signature::SignedForm};

/// Larger bodies are searched for single mistakes only, because pairs would take too long.
const MAX_PAIR_SEARCH_BYTES: usize = 256 * 1024;
/// Larger bodies are not searched for another timestamp.
const MAX_TIMESTAMP_SEARCH_BYTES: usize = MAX_PAIR_SEARCH_BYTES / 4;
/// Timestamps from this long ago are searched; into the future a 24th of it.
const TIMESTAMP_SEARCH_S: i64 = 24 * 3600;

/// A delivery whose signature does not match.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) signature: &'a str,
    pub(super) timestamp: Option<&'a str>,
    pub(super) body: &'a [u8],
    pub(super) secrets: &'a [Secret],
    pub(super) now: Timestamp,
}

/// The mistake that explains a signature.
#[derive(Debug)]
pub(super) struct Mistake {
    /// A constant name, for JSON output.
    pub(super) name: &'static str,
    /// A description of the mistake and its fix.
    pub(super) hint: String,
    pub(super) form: SignedForm,
    /// Counted from 0.
    pub(super) secret: usize,
}

/// A possible value of one part of the delivery: the value as given, or the value with one mistake undone.
struct Candidate<T> {
    value: T,
    /// Name and hint of the mistake that is undone; none for the value as given.
    mistake: Option<NamedHint>,
}

type NamedHint = (&'static str, String);

impl<T> Candidate<T> {
    fn unchanged(value: T) -> Self {
        Self { value, mistake: None }
    }

    fn fixed(value: T, name: &'static str, hint: impl Into<String>) -> Self {
        Self { value, mistake: Some((name, hint.into())) }
    }
}

/// The number of the secret, counted from 0, and the key.
type Key = (usize, Vec<u8>);
/// The form, and the bytes that are signed before the body.
type Prefix = (SignedForm, Vec<u8>);

/// Returns the mistake, or the pair of mistakes, that explains the signature.
pub(super) fn find(delivery: &Delivery<'_>) -> Option<Mistake> {
    let signatures = signatures(delivery.signature);
    let (keys, prefixes, bodies) =
        (keys(delivery.secrets), prefixes(delivery.timestamp), bodies(delivery.body));
    let max_mistakes = if delivery.body.len() > MAX_PAIR_SEARCH_BYTES { 1 } else { 2 };
    for mistakes in 0..=max_mistakes {
        for key in &keys {
            let mac = mac(&key.value.1);
            for prefix in &prefixes {
                for body in &bodies {
                    let undone = [&key.mistake, &prefix.mistake, &body.mistake];
                    let undone: Vec<_> = undone.into_iter().flatten().collect();
                    // The signature itself may contain one mistake more.
                    if undone.len() > mistakes || undone.len() + 1 < mistakes {
                        continue;
                    }
                    let expected = sign(&mac, &[&prefix.value.1, &body.value]);
                    for signature in signatures.iter().filter(|signature| signature.value == expected) {
                        let undone: Vec<_> = undone.iter().copied().chain(&signature.mistake).collect();
                        if undone.len() == mistakes {
                            return Some(mistake(&undone, prefix.value.0, key.value.0));
                        }
                    }
                }
            }
        }
    }
    find_timestamp(delivery, &signatures)
}

fn mistake(undone: &[&NamedHint], form: SignedForm, secret: usize) -> Mistake {
    let hints: Vec<_> = undone.iter().map(|(_, hint)| hint.as_str()).collect();
    let hint = if hints.is_empty() { unaccepted_form(form).to_owned() } else { hints.join("; and ") };
    Mistake { name: undone.first().map_or("other_scheme", |(name, _)| name), hint, form, secret }
}

/// Explains a correct signature in a form that the configuration does not accept.
fn unaccepted_form(form: SignedForm) -> &'static str {
    match form {
        SignedForm::Timestamped => {
            "the signature is for `{timestamp}.{body}`, which signature.scheme does not accept; set it to \"auto\" or \"timestamped\""
        }
        SignedForm::Body => {
            "the signature is for the body alone, which signature.scheme does not accept; set it to \"auto\" or \"body\""
        }
    }
}

fn signatures(text: &str) -> Vec<Candidate<[u8; 32]>> {
    let text = text.trim();
    let from_hex = |digits: &str| {
        let mut signature = [0; 32];
        hex::decode_to_slice(digits, &mut signature).ok().map(|()| signature)
    };
    let unprefixed = text.rsplit_once(['=', ',']).filter(|(_, digits)| digits.len() == 64);
    let lower = text.to_ascii_lowercase();
    if let Some(signature) = from_hex(lower.strip_prefix("sha256=").unwrap_or(&lower)) {
        return vec![Candidate::unchanged(signature)];
    }
    if let Some((prefix, digits)) = unprefixed
        && let Some(signature) = from_hex(digits)
    {
        return vec![Candidate::fixed(
            signature,
            "signature_prefix",
            format!(
                "the signature starts with {prefix:?}; PolyAI sends 64 hex digits, optionally after sha256="
            ),
        )];
    }
    let decoded = base64(text.strip_prefix("sha256=").unwrap_or(text)).unwrap_or_default();
    let hint =
        "the signature is base64, but PolyAI uses hex; use hexdigest() instead of digest() in the sender";
    <[u8; 32]>::try_from(decoded.as_slice())
        .ok()
        .or_else(|| from_hex(std::str::from_utf8(&decoded).ok()?))
        .map(|signature| Candidate::fixed(signature, "signature_base64", hint))
        .into_iter()
        .collect()
}

fn keys(secrets: &[Secret]) -> Vec<Candidate<Key>> {
    let mut keys: Vec<_> = secrets
        .iter()
        .enumerate()
        .map(|(number, secret)| Candidate::unchanged((number, secret.expose().as_bytes().to_vec())))
        .collect();
    for (number, secret) in secrets.iter().enumerate() {
        let text = secret.expose();
        let mut add = |key: Vec<u8>, name, what: &str| {
            let hint = format!("the sender used secret number {} {what}", number + 1);
            keys.push(Candidate::fixed((number, key), name, hint));
        };
        let trim = "; strip it in the sender";
        add(format!("{text}\n").into(), "secret_white_space", &format!("and a line end after it{trim}"));
        add(format!("{text}\r\n").into(), "secret_white_space", &format!("and a line end after it{trim}"));
        add(format!("{text} ").into(), "secret_white_space", &format!("and a space after it{trim}"));
        add(format!(" {text}").into(), "secret_white_space", &format!("and a space before it{trim}"));
        if text.trim() != text {
            add(
                text.trim().into(),
                "secret_white_space",
                "without the white space around it; strip it in the configuration",
            );
        }
        add(
            format!("\"{text}\"").into(),
            "secret_quotes",
            "in quotes, which are not part of it; remove them in the sender",
        );
        if let Some(inner) = text.strip_prefix(['"', '\'']).and_then(|text| text.strip_suffix(['"', '\''])) {
            add(inner.into(), "secret_quotes", "without its quotes; remove them from the configuration");
        }
        let use_text = "; the text itself is the key, so do not decode it";
        if let Ok(key) = hex::decode(text) {
            add(key, "secret_hex", &format!("decoded from hex{use_text}"));
        }
        if let Some(key) = base64(text) {
            add(key, "secret_base64", &format!("decoded from base64{use_text}"));
        }
        if let Some((_, rest)) = text.split_once('_') {
            add(rest.into(), "secret_prefix", "without the text before its underscore, which is part of it");
            if let Some(key) = base64(rest) {
                add(key, "secret_base64", &format!("decoded from base64 after its underscore{use_text}"));
            }
        }
    }
    keys
}

fn prefixes(timestamp: Option<&str>) -> Vec<Candidate<Prefix>> {
    let mut prefixes = vec![Candidate::unchanged((SignedForm::Body, Vec::new()))];
    let Some(timestamp) = timestamp else { return prefixes };
    let signed =
        |text: &str, separator: &str| (SignedForm::Timestamped, format!("{text}{separator}").into_bytes());
    prefixes.push(Candidate::unchanged(signed(timestamp, ".")));
    for separator in ["", ":", ",", "\n"] {
        prefixes.push(Candidate::fixed(
            signed(timestamp, separator),
            "separator",
            format!("timestamp and body are joined with {separator:?}; PolyAI joins them with a dot"),
        ));
    }
    let trimmed = timestamp.trim();
    if trimmed != timestamp {
        let hint = "the timestamp has white space around it, which is not signed";
        prefixes.push(Candidate::fixed(signed(trimmed, "."), "timestamp_white_space", hint));
    }
    if let Some(seconds) = trimmed.strip_suffix("000").filter(|_| trimmed.len() == 13) {
        let hint = "the timestamp is in milliseconds, but the signed one is in seconds";
        prefixes.push(Candidate::fixed(signed(seconds, "."), "timestamp_milliseconds", hint));
    }
    prefixes
}

fn bodies(body: &[u8]) -> Vec<Candidate<Vec<u8>>> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    const USE_RAW: &str = "use the raw bytes of the request";
    let mut bodies = vec![Candidate::unchanged(body.to_vec())];
    let mut add = |changed: Vec<u8>, name, hint: String| {
        if changed != body {
            bodies.push(Candidate::fixed(changed, name, hint));
        }
    };
    let line_end = |what: &str| {
        format!("the body has one line end too {what}, as an editor, `echo` or a shell causes; {USE_RAW}")
    };
    for end in [&b"\r\n"[..], b"\n"] {
        if let Some(shorter) = body.strip_suffix(end) {
            add(shorter.to_vec(), "trailing_newline", line_end("many"));
        }
        add([body, end].concat(), "trailing_newline", line_end("few"));
    }
    add(
        body.trim_ascii().to_vec(),
        "white_space",
        format!("the body has white space around it that was not signed; {USE_RAW}"),
    );
    let text = String::from_utf8_lossy(body);
    let unix = text.replace("\r\n", "\n");
    let hint = |have, signed| {
        format!(
            "the lines of the body end in {have}, but the signed ones in {signed}, because a checkout or an editor changed them; {USE_RAW}"
        )
    };
    add(unix.replace('\n', "\r\n").into_bytes(), "line_ends", hint("LF", "CRLF"));
    add(unix.into_bytes(), "line_ends", hint("CRLF", "LF"));
    let mark = |what: &str| format!("the body {what} a byte order mark, which an editor causes; {USE_RAW}");
    match body.strip_prefix(BOM) {
        Some(rest) => add(rest.to_vec(), "byte_order_mark", mark("begins with")),
        None => add([BOM, body].concat(), "byte_order_mark", mark("has lost")),
    }
    for (description, text) in json_rewrites::rewrites(body.strip_prefix(BOM).unwrap_or(body)) {
        add(
            text,
            "rewritten_json",
            format!(
                "the body was parsed and serialized again; the signed body is {description}. Verify the raw bytes, before a JSON parser or framework changes them"
            ),
        );
    }
    bodies
}

/// Searches the timestamps of the last day for the one that was signed.
fn find_timestamp(delivery: &Delivery<'_>, signatures: &[Candidate<[u8; 32]>]) -> Option<Mistake> {
    if delivery.body.len() > MAX_TIMESTAMP_SEARCH_BYTES {
        return None;
    }
    let now = delivery.now.as_second();
    for (secret, key) in delivery.secrets.iter().enumerate() {
        let mac = mac(key.expose().as_bytes());
        for seconds in now - TIMESTAMP_SEARCH_S..=now + TIMESTAMP_SEARCH_S / 24 {
            let expected = sign(&mac, &[format!("{seconds}.").as_bytes(), delivery.body]);
            if signatures.iter().any(|signature| signature.value == expected) {
                let signed = if delivery.timestamp.is_some() {
                    "another timestamp than the one given"
                } else {
                    "a timestamp, and none was given"
                };
                let hint = format!(
                    "the sender signed {signed}; forward the X-PolyAI-Timestamp header unchanged, here {seconds} ({} s ago)",
                    now - seconds
                );
                return Some(Mistake { name: "timestamp", hint, form: SignedForm::Timestamped, secret });
            }
        }
    }
    None
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let standard = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    let padding = "=".repeat((4 - standard.len() % 4) % 4);
    STANDARD.decode(standard + &padding).ok().filter(|bytes| !bytes.is_empty())
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"))
}

fn sign(mac: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = mac.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
