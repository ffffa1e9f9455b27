//! Randomness that follows from the scenario's seed.
//!
//! The same seed gives the same calls, words, samples, faults and event ids. Each purpose has its own random
//! stream, so that one more draw for one purpose does not change the others.

use sha2::{Digest, Sha256};

/// The purpose of a random stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Profile,
    Words,
    More,
    Extras,
    Functions,
    Recordings,
    UserVoice,
    Faults,
    Events,
    Duplicates,
    Order,
}

/// Returns the random stream of one purpose and one index.
pub(crate) fn rng(seed: u64, index: u64, purpose: Purpose) -> fastrand::Rng {
    fastrand::Rng::with_seed(hash(seed, &format!("{purpose:?} {index}")))
}

/// Returns a number that follows from the seed and `text`.
pub(crate) fn hash(seed: u64, text: &str) -> u64 {
    let digest = digest(seed, text);
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

/// Returns up to 64 hex digits that follow from the seed and `text`.
pub(crate) fn token(seed: u64, text: &str, length: usize) -> String {
    hex::encode(digest(seed, text)).chars().take(length).collect()
}

/// Returns a version 4 UUID.
pub(crate) fn uuid(rng: &mut fastrand::Rng) -> String {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid().to_string()
}

/// Returns one of `choices`, which must not be empty.
pub(crate) fn pick<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// Returns a number up to `max`: the smallest of three draws, so that small numbers are frequent.
pub(crate) fn skewed(rng: &mut fastrand::Rng, max: u32) -> u32 {
    let first = rng.u32(0..=max);
    (0..2).fold(first, |smallest, _| smallest.min(rng.u32(0..=max)))
}

fn digest(seed: u64, text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(text);
    hash.finalize().into()
}
