//! The fuzzing targets and the properties that they check. libFuzzer's programs use them, and so does a test that runs
//! the seeds and some mutations of them.

use std::time::Duration;

use jiff::Timestamp;
use polyhook::{
    archive::{Manifest, StoredManifest},
    config::{Config, Roles, Sources},
    event::{self, Event},
    index::{ConversationRows, IndexConfig, Numbers, read_rows},
    polyai::ConversationInfo,
    secret::Secret,
    signature::{Scheme, SignatureError, Verifier, sign},
    wav::{StreamEnd, ValidWav, WavValidator},
};

const SECRET: &str = "whsec_fuzzing_0123456789";
const NOW: i64 = 1_795_000_000;

/// Checks that only signatures made with our secret are accepted. The input is two lines, the header values, and a body.
pub fn signature(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (signature, timestamp) = (parts.next().unwrap_or_default(), parts.next());
    let body = parts.next().unwrap_or_default();
    let secret = Secret::new(SECRET);
    let now = Timestamp::from_second(NOW).expect("a time");
    for scheme in [Scheme::Auto, Scheme::Timestamped, Scheme::Body] {
        let verifier = Verifier::new(
            &[Secret::new("another-secret-of-ours"), secret.clone()],
            scheme,
            Duration::from_mins(5),
        );
        let verdict = verifier.verify(Some(signature), timestamp, body, now);
        if verdict.is_ok() {
            let text = String::from_utf8_lossy(signature).to_ascii_lowercase();
            let stamp = timestamp.and_then(|raw| std::str::from_utf8(raw).ok()?.trim().parse().ok());
            let ours = [sign(&secret, None, body), sign(&secret, stamp, body)];
            assert!(
                ours.iter().any(|ours| text.contains(ours.as_str())),
                "accepted a signature that was not made with the secret"
            );
        }
        let _ = verifier.verify(None, timestamp, body, now);
        let form = if scheme == Scheme::Body { None } else { Some(NOW) };
        let own = sign(&secret, form, body);
        let stamp = form.map(|seconds| seconds.to_string());
        let genuine = verifier.verify(Some(own.as_bytes()), stamp.as_deref().map(str::as_bytes), body, now);
        let is_stamped = genuine == Err(SignatureError::TimestampInBody);
        let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let may_be_stamped = form.is_none() && digits > 0 && body.get(digits) == Some(&b'.');
        assert_eq!(genuine.is_ok(), !may_be_stamped, "{genuine:?}");
        assert_eq!(is_stamped, may_be_stamped, "{genuine:?}");
    }
}

/// Checks that any body gives an event whose routing key a broker accepts, and that JSON is recognised as JSON.
pub fn event(data: &[u8]) {
    let read = Event::read(data);
    let key = read.routing_key();
    assert!(key.len() <= 255, "a routing key of {} bytes", key.len());
    assert!(!key.is_empty() && !key.chars().any(char::is_control), "{key:?}");
    assert_eq!(read, Event::read(data));
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    assert!(!is_json || read.kind != event::UNPARSED || data.windows(8).any(|part| part == b"unparsed"));
    let id = event::message_id(Some(data), data);
    assert!(!id.is_empty() && id.len() <= 255, "a message id of {} bytes", id.len());
}

/// Checks that every JSON object is read, with the number of turns that it has, that anything gives rows of the index, and that
/// nothing else is a danger.
pub fn conversation(data: &[u8]) {
    let read = ConversationInfo::read(data);
    let rows = index_rows(data);
    let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(data) else { return };
    let info = read.expect("a JSON object");
    if let Some(serde_json::Value::Array(turns)) = object.get("turns") {
        assert_eq!(info.turns_present, turns.len() as u64);
        assert_eq!(rows.turns.len(), turns.len());
    }
}

fn index_rows(data: &[u8]) -> ConversationRows {
    let manifest = include_str!("../src/archive/fixtures/manifest.json");
    let manifest: Manifest = serde_json::from_str(manifest).expect("a manifest");
    let stored_at = manifest.timings.archived_at;
    let stored =
        StoredManifest { manifest, size_bytes: 0, sha256: String::new(), stored_at, folder: String::new() };
    let numbers = Numbers::new(&IndexConfig::default()).expect("no key is needed");
    let rows = read_rows(&stored, data, &numbers);
    for json in rows.call.rest.iter().chain(rows.turns.iter().filter_map(|turn| turn.entities.as_ref())) {
        serde_json::from_str::<serde::de::IgnoredAny>(json).expect("valid JSON");
    }
    rows
}

/// Checks that the result does not depend on how a recording is split. The first byte is the size of the pieces.
pub fn wav(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let check = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut check = WavValidator::new();
        for piece in pieces {
            check.push(piece)?;
        }
        check.finish(StreamEnd::Marked)
    };
    let whole = check(&mut std::iter::once(data));
    let cut = check(&mut data.chunks(usize::from(cut) + 1));
    assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
    if let Ok(ValidWav { info, .. }) = whole {
        assert!(info.data_bytes > 0 && info.data_bytes <= data.len() as u64, "{info:?}");
        assert!(info.seconds.is_finite() && info.seconds > 0.0, "{info:?}");
    }
}

/// Checks that any text is a configuration or gives an error with a message.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files named in the text would be read, and one may be a device or a terminal.
    if text.contains("_file") {
        return;
    }
    let name = format!("polyhook-fuzz-{}-{:?}.toml", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).expect("a temporary file");
    let loaded = Config::load(&Sources { file: Some(path.clone()), ..Sources::default() });
    std::fs::remove_file(&path).expect("a temporary file");
    let message = match loaded {
        Ok(config) => match config.check(Roles::ALL) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    assert!(!message.trim().is_empty());
}
