//! The worker's own computations, without waiting for PolyAI and the archive.

use divan::{Bencher, black_box, counter::BytesCount};
use polyhook::{
    archive::{Location, Manifest},
    wav::{StreamEnd, WavValidator},
};

use crate::inputs::{conversation_id, now};

/// A manifest of an earlier version, which every later version must read.
const MANIFEST: &str = include_str!("../../src/archive/fixtures/manifest.json");

#[divan::bench]
fn key(bencher: Bencher) {
    let id = conversation_id(0);
    bencher.bench_local(|| Location::new("acme-uk", "PROJECT-1a2b", black_box(&id), now()));
}

/// Every byte is escaped, and the result is too long, so it is hashed.
#[divan::bench]
fn key_hostile(bencher: Bencher) {
    let id = "../ü".repeat(1000);
    bencher.bench_local(|| Location::new(black_box(&id), black_box(&id), black_box(&id), now()));
}

#[divan::bench]
fn manifest_write(bencher: Bencher) {
    let manifest = manifest();
    bencher.bench_local(|| serde_json::to_vec_pretty(black_box(&manifest)));
}

#[divan::bench]
fn manifest_read(bencher: Bencher) {
    manifest();
    bencher.bench_local(|| serde_json::from_str::<Manifest>(black_box(MANIFEST)));
}

fn manifest() -> Manifest {
    serde_json::from_str(MANIFEST).expect("a manifest")
}

/// Validates one MiB of audio, in pieces of the given number of bytes.
#[divan::bench(args = [1, 8 << 10, 64 << 10])]
fn wav_check(bencher: Bencher, piece: usize) {
    let recording = recording(1 << 20);
    let check = || {
        let mut check = WavValidator::new();
        for piece in recording.chunks(piece) {
            check.push(black_box(piece))?;
        }
        check.finish(StreamEnd::Announced(recording.len() as u64))
    };
    check().expect("a whole recording");
    bencher.counter(BytesCount::new(recording.len())).bench_local(check);
}

/// Returns a recording with 16 bits, one channel and 8 kHz.
fn recording(bytes: usize) -> Vec<u8> {
    let mut wav = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut wav, spec).expect("a format that exists");
    for sample in (-500_i16..500).cycle().take(bytes / 2) {
        writer.write_sample(sample).expect("memory");
    }
    writer.finalize().expect("memory");
    wav.into_inner()
}
