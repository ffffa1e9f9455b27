//! What most likely went wrong, found by undoing it: every usual mistake is tried, alone and in pairs, until the
//! signature matches.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use super::rewritten;
use crate::{secret::Secret, signature::SignedForm};

/// Of larger bodies only single mistakes are tried.
const LARGE: usize = 256 * 1024;
/// How far from now a timestamp is looked for that was not given.
const SEARCHED_S: i64 = 24 * 3600;

/// What was given, and has no signature that matches.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) signature: &'a str,
    pub(super) timestamp: Option<&'a str>,
    pub(super) body: &'a [u8],
    pub(super) secrets: &'a [Secret],
    pub(super) now: Timestamp,
}

/// What went wrong.
#[derive(Debug)]
pub(super) struct Mistake {
    /// A constant word.
    pub(super) name: &'static str,
    /// What it is and what to do.
    pub(super) hint: String,
    pub(super) form: SignedForm,
    /// Counted from 0.
    pub(super) secret: usize,
}

/// One way of reading one of the things given. The first of each kind is as it was given.
struct Reading<T> {
    value: T,
    wrong: Option<(&'static str, String)>,
}

impl<T> Reading<T> {
    fn plain(value: T) -> Self {
        Self { value, wrong: None }
    }

    fn wrong(value: T, name: &'static str, hint: impl Into<String>) -> Self {
        Self { value, wrong: Some((name, hint.into())) }
    }
}

type Key = (usize, Vec<u8>);
/// The form, and what is signed before the body.
type Prefix = (SignedForm, Vec<u8>);

/// The mistake, or the two, that explain the signature.
pub(super) fn find(given: &Given<'_>) -> Option<Mistake> {
    let signatures = signatures(given.signature);
    let (keys, prefixes, bodies) = (keys(given.secrets), prefixes(given.timestamp), bodies(given.body));
    let most = if given.body.len() > LARGE { 1 } else { 2 };
    for mistakes in 0..=most {
        for key in &keys {
            let mac = mac(&key.value.1);
            for prefix in &prefixes {
                for body in &bodies {
                    let made = [&key.wrong, &prefix.wrong, &body.wrong];
                    let made: Vec<_> = made.into_iter().flatten().collect();
                    if made.len() > mistakes || made.len() + 1 < mistakes {
                        continue;
                    }
                    let expected = sign(&mac, &[&prefix.value.1, &body.value]);
                    for signature in signatures.iter().filter(|signature| signature.value == expected) {
                        let made: Vec<_> = made.iter().copied().chain(&signature.wrong).collect();
                        if made.len() == mistakes {
                            return Some(mistake(&made, prefix.value.0, key.value.0));
                        }
                    }
                }
            }
        }
    }
    other_timestamp(given, &signatures)
}

fn mistake(made: &[&(&'static str, String)], form: SignedForm, secret: usize) -> Mistake {
    let hints: Vec<_> = made.iter().map(|(_, hint)| hint.as_str()).collect();
    let hint = if hints.is_empty() { other_form(form).to_owned() } else { hints.join("; and ") };
    Mistake { name: made.first().map_or("other_scheme", |(name, _)| name), hint, form, secret }
}

/// Nothing was wrong but what the configuration accepts.
fn other_form(form: SignedForm) -> &'static str {
    match form {
        SignedForm::Timestamped => {
            "it signs `{timestamp}.{body}`, which signature.scheme does not accept: set it to \"auto\" or \"timestamped\""
        }
        SignedForm::Body => {
            "it signs the body alone, the other form, which signature.scheme does not accept: set it to \"auto\" or \"body\""
        }
    }
}

fn signatures(text: &str) -> Vec<Reading<[u8; 32]>> {
    let text = text.trim();
    let from_hex = |digits: &str| {
        let mut signature = [0; 32];
        hex::decode_to_slice(digits, &mut signature).ok().map(|()| signature)
    };
    let unprefixed = text.rsplit_once(['=', ',']).filter(|(_, digits)| digits.len() == 64);
    let lower = text.to_ascii_lowercase();
    if let Some(signature) = from_hex(lower.strip_prefix("sha256=").unwrap_or(&lower)) {
        return vec![Reading::plain(signature)];
    }
    if let Some((prefix, digits)) = unprefixed
        && let Some(signature) = from_hex(digits)
    {
        return vec![Reading::wrong(
            signature,
            "signature_prefix",
            format!(
                "the signature begins with {prefix:?}: PolyAI sends 64 hex digits, with nothing or sha256= before them"
            ),
        )];
    }
    let decoded = base64(text.strip_prefix("sha256=").unwrap_or(text)).unwrap_or_default();
    let hint = "the signature is written in base64: PolyAI writes it in hex; use hexdigest(), not digest(), where it is made";
    <[u8; 32]>::try_from(decoded.as_slice())
        .ok()
        .or_else(|| from_hex(std::str::from_utf8(&decoded).ok()?))
        .map(|signature| Reading::wrong(signature, "signature_base64", hint))
        .into_iter()
        .collect()
}

fn keys(secrets: &[Secret]) -> Vec<Reading<Key>> {
    let mut keys: Vec<_> = secrets
        .iter()
        .enumerate()
        .map(|(number, secret)| Reading::plain((number, secret.expose().as_bytes().to_vec())))
        .collect();
    for (number, secret) in secrets.iter().enumerate() {
        let text = secret.expose();
        let mut add = |key: Vec<u8>, name, what: &str| {
            let hint = format!("it was made with secret number {} {what}", number + 1);
            keys.push(Reading::wrong((number, key), name, hint));
        };
        let trim = "where the signature is made: strip it there";
        add(format!("{text}\n").into(), "secret_white_space", &format!("and a line end after it {trim}"));
        add(format!("{text}\r\n").into(), "secret_white_space", &format!("and a line end after it {trim}"));
        add(format!("{text} ").into(), "secret_white_space", &format!("and a space after it {trim}"));
        add(format!(" {text}").into(), "secret_white_space", &format!("and a space before it {trim}"));
        if text.trim() != text {
            add(text.trim().into(), "secret_white_space", "without the white space around it: strip it here");
        }
        add(
            format!("\"{text}\"").into(),
            "secret_quotes",
            "in quotes: they are no part of it, remove them there",
        );
        if let Some(inner) = text.strip_prefix(['"', '\'']).and_then(|text| text.strip_suffix(['"', '\''])) {
            add(inner.into(), "secret_quotes", "without its quotes: remove them from the configuration");
        }
        let as_it_is = "the text itself is the key, decode nothing";
        if let Ok(key) = hex::decode(text) {
            add(key, "secret_hex", &format!("decoded from hex: {as_it_is}"));
        }
        if let Some(key) = base64(text) {
            add(key, "secret_base64", &format!("decoded from base64: {as_it_is}"));
        }
        if let Some((_, rest)) = text.split_once('_') {
            add(
                rest.into(),
                "secret_prefix",
                "without what stands before its underscore: that is part of it",
            );
            if let Some(key) = base64(rest) {
                add(key, "secret_base64", &format!("decoded from base64 behind its underscore: {as_it_is}"));
            }
        }
    }
    keys
}

fn prefixes(timestamp: Option<&str>) -> Vec<Reading<Prefix>> {
    let mut prefixes = vec![Reading::plain((SignedForm::Body, Vec::new()))];
    let Some(timestamp) = timestamp else { return prefixes };
    let signed =
        |text: &str, separator: &str| (SignedForm::Timestamped, format!("{text}{separator}").into_bytes());
    prefixes.push(Reading::plain(signed(timestamp, ".")));
    for separator in ["", ":", ",", "\n"] {
        prefixes.push(Reading::wrong(
            signed(timestamp, separator),
            "separator",
            format!("timestamp and body were joined by {separator:?}: PolyAI joins them by a dot"),
        ));
    }
    let trimmed = timestamp.trim();
    if trimmed != timestamp {
        let hint = "the timestamp was given with white space around it: that is not signed";
        prefixes.push(Reading::wrong(signed(trimmed, "."), "timestamp_white_space", hint));
    }
    if let Some(seconds) = trimmed.strip_suffix("000").filter(|_| trimmed.len() == 13) {
        let hint = "the timestamp given is in milliseconds: the one that was signed is in seconds";
        prefixes.push(Reading::wrong(signed(seconds, "."), "timestamp_milliseconds", hint));
    }
    prefixes
}

fn bodies(body: &[u8]) -> Vec<Reading<Vec<u8>>> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    const RAW: &str = "use the raw bytes of the request";
    let mut bodies = vec![Reading::plain(body.to_vec())];
    let mut add = |changed: Vec<u8>, name, hint: String| {
        if changed != body {
            bodies.push(Reading::wrong(changed, name, hint));
        }
    };
    let line_end = |what: &str| {
        format!("the body given has a line end too {what}: an editor, `echo` or a shell does that; {RAW}")
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
        format!("the body given has white space around it that was not signed; {RAW}"),
    );
    let text = String::from_utf8_lossy(body);
    let unix = text.replace("\r\n", "\n");
    let hint = |have, signed| {
        format!(
            "the lines of the body given end in {have}, those that were signed in {signed}: a checkout or an editor changed them; {RAW}"
        )
    };
    add(unix.replace('\n', "\r\n").into_bytes(), "line_ends", hint("LF", "CRLF"));
    add(unix.into_bytes(), "line_ends", hint("CRLF", "LF"));
    let mark = |what: &str| format!("the body given {what} a byte order mark: an editor does that; {RAW}");
    match body.strip_prefix(BOM) {
        Some(rest) => add(rest.to_vec(), "byte_order_mark", mark("begins with")),
        None => add([BOM, body].concat(), "byte_order_mark", mark("has lost")),
    }
    for (way, text) in rewritten::all(body.strip_prefix(BOM).unwrap_or(body)) {
        add(
            text,
            "rewritten_json",
            format!(
                "the body was parsed and written again before it came here; what was signed is {way}. Verify the raw bytes, before any JSON parser or framework has them"
            ),
        );
    }
    bodies
}

/// Whether it was signed with a timestamp of the last day that is not the one given.
fn other_timestamp(given: &Given<'_>, signatures: &[Reading<[u8; 32]>]) -> Option<Mistake> {
    if given.body.len() > LARGE / 4 {
        return None;
    }
    let now = given.now.as_second();
    for (secret, key) in given.secrets.iter().enumerate() {
        let mac = mac(key.expose().as_bytes());
        for seconds in now - SEARCHED_S..=now + SEARCHED_S / 24 {
            let expected = sign(&mac, &[format!("{seconds}.").as_bytes(), given.body]);
            if signatures.iter().any(|signature| signature.value == expected) {
                let said = if given.timestamp.is_some() {
                    "another timestamp than the one given"
                } else {
                    "a timestamp, and none was given"
                };
                let hint = format!(
                    "it was signed with {said}: pass on X-PolyAI-Timestamp as it came, here {seconds} ({} s ago)",
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
