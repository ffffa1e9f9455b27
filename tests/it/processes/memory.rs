//! Memory does not depend on the size of a recording.
//!
//! `POLYHOOK_TEST_LONG=1` streams 2 GiB, once alone and eight at a time.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{read_json, verified_archive};
use crate::support::process::{
    Installation, SimulatedPolyAi, TEST_TIMEOUT, deliver, eventually, eventually_within,
};

/// Returns the peak resident memory of the worker in KiB while it archives recordings of a size.
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
    let idle = work.status_kib("VmHWM");
    let timeout = if bytes > 1 << 30 { Duration::from_mins(30) } else { TEST_TIMEOUT };
    eventually_within(timeout, "archived", || site.manifests().len() == recordings);
    let peak = work.status_kib("VmHWM");
    let elapsed = start.elapsed();
    work.stop();
    for manifest in site.manifests() {
        let manifest = read_json(&manifest);
        let audio = manifest["objects"].as_array().unwrap().iter().find(|object| object["kind"] == "audio");
        assert_eq!(audio.unwrap()["size_bytes"], bytes, "{manifest}");
    }
    eprintln!("{recordings} x {each}: peak {peak} KiB resident (idle {idle}), {elapsed:.1?}");
    peak
}

#[test]
fn memory_does_not_grow_with_the_size_of_a_recording() {
    assert!(peak_kib(1, "256 MiB", 256 << 20) < 64 << 10);
    if std::env::var_os("POLYHOOK_TEST_LONG").is_some() {
        assert!(peak_kib(1, "2 GiB", 2 << 30) < 64 << 10);
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
    let peak = run.status_kib("VmHWM");
    eprintln!("run, 40 calls: peak {peak} KiB resident");
    assert!(peak < 64 << 10, "{peak} KiB");
    run.stop();
    assert_eq!(verified_archive(&site.archive()).len(), 40);
}
