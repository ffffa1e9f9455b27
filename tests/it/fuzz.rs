//! The fuzzing targets on their seeds and on mutations of them: a glance on every run. `fuzz/run` does it in earnest.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

#[expect(unreachable_pub, reason = "shared with the fuzzing crate, where each is a program's own")]
#[path = "../../fuzz/targets.rs"]
mod targets;

/// For each target.
const TIME: Duration = Duration::from_secs(2);

fn glance(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let seeds: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() > 2, "{name} has seeds");
    for seed in &seeds {
        target(seed);
    }
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        let input = mutate(&seeds);
        let survived = std::panic::catch_unwind(|| target(&input)).is_ok();
        assert!(survived, "{name} fails with {}", hex::encode(input));
        rounds += 1;
    }
    eprintln!("{name}: {rounds} mutations of {} seeds", seeds.len());
}

/// One of them with a few changes, or the beginning of one and the end of another.
fn mutate(seeds: &[Vec<u8>]) -> Vec<u8> {
    let any = || seeds[fastrand::usize(..seeds.len())].clone();
    let mut input = any();
    for _ in 0..fastrand::usize(1..6) {
        let at = fastrand::usize(..=input.len());
        match fastrand::u8(..6) {
            0 => input.truncate(at),
            1 => input.insert(at, fastrand::u8(..)),
            2 if at < input.len() => input[at] ^= 1 << fastrand::u8(..8),
            3 if at < input.len() => drop(input.remove(at)),
            4 => {
                let other = any();
                input.truncate(at);
                input.extend_from_slice(&other[fastrand::usize(..=other.len())..]);
            }
            _ => {
                let piece = input[at..input.len().min(at + fastrand::usize(..16))].to_vec();
                input.splice(at..at, piece);
            }
        }
    }
    input
}

#[test]
fn signatures() {
    glance("signature", targets::signature);
}

#[test]
fn events() {
    glance("event", targets::event);
}

#[test]
fn wav_headers() {
    glance("wav", targets::wav);
}

#[test]
fn configurations() {
    glance("config", targets::config);
}
