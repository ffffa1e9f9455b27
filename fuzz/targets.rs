//! What is fuzzed, and what must hold of it. Shared by libFuzzer's targets and a test that runs the seeds and some
//! mutations of them on every run.

use std::time::Duration;

use jiff::Timestamp;
use polyhook::{
    config::{Config, Roles, Sources},
    event::{self, Event},
    secret::Secret,
    signature::{Scheme, Verifier, sign},
    wav::WavValidator,
};

const SECRET: &str = "whsec_fuzzing_0123456789";
const NOW: i64 = 1_795_000_000;

/// Two lines, the headers' values, and a body: nothing is genuine but what we sign ourselves.
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
            assert!(ours.iter().any(|ours| text.contains(ours.as_str())), "accepted what nobody signed");
        }
        let _ = verifier.verify(None, timestamp, body, now);
        let form = if scheme == Scheme::Body { None } else { Some(NOW) };
        let own = sign(&secret, form, body);
        let stamp = form.map(|seconds| seconds.to_string());
        let genuine = verifier.verify(Some(own.as_bytes()), stamp.as_deref().map(str::as_bytes), body, now);
        assert!(genuine.is_ok(), "a genuine delivery was refused: {genuine:?}");
    }
}

/// Any body makes an event with a routing key that a broker takes.
pub fn event(data: &[u8]) {
    let read = Event::read(data);
    let key = read.routing_key();
    assert!(key.len() <= 255, "a routing key of {} bytes", key.len());
    assert!(!key.is_empty() && !key.chars().any(char::is_control), "{key:?}");
    assert_eq!(read, Event::read(data));
    let id = event::message_id(Some(data), data);
    assert!(!id.is_empty() && id.len() <= 255, "a message id of {} bytes", id.len());
}

/// It does not matter in which pieces a recording comes. The first byte says how it is cut.
pub fn wav(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let check = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut check = WavValidator::new();
        for piece in pieces {
            check.push(piece)?;
        }
        check.finish(None)
    };
    let whole = check(&mut std::iter::once(data));
    let cut = check(&mut data.chunks(usize::from(cut) + 1));
    assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
    if let Ok(info) = whole {
        assert!(info.data_bytes > 0 && info.data_bytes <= data.len() as u64, "{info:?}");
        assert!(info.seconds.is_finite() && info.seconds > 0.0, "{info:?}");
    }
}

/// Any text is a configuration or an error that says something.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // What a file names would be read: a device, a terminal.
    if text.contains("_file") {
        return;
    }
    let name = format!("polyhook-fuzz-{}-{:?}.toml", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).expect("a temporary file");
    let loaded = Config::load(&Sources { file: Some(path.clone()), ..Sources::default() });
    std::fs::remove_file(&path).expect("a temporary file");
    let said = match loaded {
        Ok(config) => match config.check(Roles::ALL) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    assert!(!said.trim().is_empty());
}
