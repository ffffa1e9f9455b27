//! Runs each fuzzing target on its seeds and on mutations of them for two seconds. `fuzz/run` fuzzes for longer.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

#[expect(
    unreachable_pub,
    reason = "shared with the fuzzing crate, where each function belongs to one program"
)]
#[path = "../../fuzz/targets.rs"]
mod targets;

/// Time for each target.
const TIME_PER_TARGET: Duration = Duration::from_secs(2);

fn fuzz_briefly(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let seeds: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() > 2, "{name} needs more than two seeds");
    for seed in &seeds {
        target(seed);
    }
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < TIME_PER_TARGET {
        let input = mutate(&seeds);
        let survived = std::panic::catch_unwind(|| target(&input)).is_ok();
        assert!(survived, "{name} fails with {}", hex::encode(input));
        rounds += 1;
    }
    eprintln!("{name}: {rounds} mutations of {} seeds", seeds.len());
}

/// Returns a seed with a few changes, or the start of one seed with the end of another.
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
fn signature_target_survives_mutations() {
    fuzz_briefly("signature", targets::signature);
}

#[test]
fn event_target_survives_mutations() {
    fuzz_briefly("event", targets::event);
}

#[test]
fn conversation_target_survives_mutations() {
    fuzz_briefly("conversation", targets::conversation);
}

#[test]
fn wav_target_survives_mutations() {
    fuzz_briefly("wav", targets::wav);
}

#[test]
fn config_target_survives_mutations() {
    fuzz_briefly("config", targets::config);
}
