//! Memory does not depend on the size of a recording, nor on the number of keys of a conversation.
//!
//! `POLYHOOK_TEST_LONG=1` streams 2 GiB, once alone and eight at a time, and archives eight conversations of 31 MiB with
//! 3.6 million keys each.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{read_json, verified_archive};
use crate::support::{
    process::{Installation, SimulatedPolyAi, TEST_TIMEOUT, deliver, eventually, eventually_within},
    scripted_api::ScriptedApi,
};

/// Returns the peak memory of the worker in KiB while it archives recordings of a size.
fn peak_kib(recordings: usize, each: &str, bytes: u64) -> u64 {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, recordings);
    let ids = polyai.ids();
    for id in &ids {
        polyai.control("PUT", &format!("calls/{id}/script"), &json!({ "audio_size": each }));
    }
    let site = Installation::new(&polyai.access, &format!("worker.concurrency = {}", recordings.max(2)));
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    for id in &ids {
        assert_eq!(
            deliver(receive.receiver_address(), &site.secret, &format!("evt-{id}"), &polyai.event(id)),
            Some(204)
        );
    }
    receive.stop();
    let start = Instant::now();
    let mut work = site.polyhook(["work"]).start();
    work.wait_until_ready();
    let idle = work.peak_allocated_kib();
    let timeout = if bytes > 1 << 30 { Duration::from_mins(30) } else { TEST_TIMEOUT };
    eventually_within(timeout, "archived", || site.manifests().len() == recordings);
    let peak = work.peak_allocated_kib();
    let elapsed = start.elapsed();
    work.stop();
    for manifest in site.manifests() {
        let manifest = read_json(&manifest);
        let audio = manifest["objects"].as_array().unwrap().iter().find(|object| object["kind"] == "audio");
        assert_eq!(audio.unwrap()["size_bytes"], bytes, "{manifest}");
    }
    eprintln!("{recordings} x {each}: peak {peak} KiB (idle {idle}), {elapsed:.1?}");
    peak
}

#[test]
fn memory_does_not_grow_with_the_size_of_a_recording() {
    assert!(peak_kib(1, "256 MiB", 256 << 20) < 32 << 10);
    if std::env::var_os("POLYHOOK_TEST_LONG").is_some() {
        assert!(peak_kib(1, "2 GiB", 2 << 30) < 32 << 10);
        assert!(peak_kib(8, "2 GiB", 2 << 30) < 64 << 10);
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_calls() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 40);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    for id in polyai.ids() {
        assert_eq!(
            deliver(run.receiver_address(), &site.secret, &format!("evt-{id}"), &polyai.event(&id)),
            Some(204)
        );
    }
    eventually("archived", || site.manifests().len() == 40);
    let peak = run.peak_allocated_kib();
    eprintln!("run, 40 calls: peak {peak} KiB");
    assert!(peak < 32 << 10, "{peak} KiB");
    run.stop();
    assert_eq!(verified_archive(&site.archive()).len(), 40);
}

/// Four of these are a key, so that all keys differ.
const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Returns the peak memory of the worker in KiB while it archives chats of this size with so many keys.
fn peak_kib_with_keys(chats: usize, bytes: usize, keys: usize) -> u64 {
    let api = ScriptedApi::start(move |request| {
        let id = request.path.rsplit('/').next().unwrap();
        let mut body = format!(
            r#"{{"id":"{id}","channel":"CHAT","environment":"live","started_at":"2026-11-02T10:00:00Z","#
        );
        for number in 0..keys {
            let digit = |place: u32| DIGITS[number / DIGITS.len().pow(place) % DIGITS.len()];
            let key: String = (0..4).map(digit).map(char::from).collect();
            write!(body, "\"{key}\":1,").unwrap();
        }
        body.push_str("\"note\":\"");
        body.extend(std::iter::repeat_n('x', bytes - body.len() - 2));
        (200, (body + "\"}").into_bytes())
    });
    let site = Installation::new(&api.access, &format!("worker.concurrency = {chats}"));
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    for number in 0..chats {
        let event = json!({ "type": "conversation.completed", "data": { "conversation_id": format!("C{number}"), "environment": "live" } });
        let (to, id) = (run.receiver_address(), format!("evt-{number}"));
        assert_eq!(deliver(to, &site.secret, &id, event.to_string().as_bytes()), Some(204));
    }
    eventually("archived", || site.manifests().len() == chats);
    let peak = run.peak_allocated_kib();
    run.stop();
    eprintln!("{chats} chats of {bytes} bytes with {keys} keys: peak {peak} KiB");
    peak
}

#[test]
fn memory_does_not_grow_with_the_number_of_keys() {
    let few = peak_kib_with_keys(2, 4 << 20, 0);
    let many = peak_kib_with_keys(2, 4 << 20, 450_000);
    assert!(many < few + (12 << 10), "{many} KiB, {few} KiB without keys: the answers themselves have 8 MiB");
    if std::env::var_os("POLYHOOK_TEST_LONG").is_some() {
        assert!(peak_kib_with_keys(8, 31 << 20, 3_600_000) < 352 << 10);
    }
}
