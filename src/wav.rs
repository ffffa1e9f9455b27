//! Reads the header of a WAV stream as it passes, and says at the end whether it was a whole recording.
//!
//! [`WavValidator`] never holds more than one header: 40 bytes. It promises that what it accepts is a RIFF/WAVE
//! (or RF64) stream with a believable format and at least one byte of sound, none of which is missing as far
//! as the header and the announced length tell. What it refuses (an error page, JSON, a header without
//! sound, a broken off download) is named in [`WavError`], so that the job can be tried again.
//!
//! Chunk layout: Microsoft "Multimedia Programming Interface" 1991, `mmreg.h` for `WAVE_FORMAT_EXTENSIBLE`,
//! EBU Tech 3306 for RF64 and its `ds64` chunk.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Sizes that streaming writers leave behind because they cannot go back: 0 (`GStreamer`), all ones
/// (`FFmpeg`), the largest positive number and a page below it (`SoX`).
const PLACEHOLDERS: [u32; 4] = [0, u32::MAX, 0x7FFF_FFFF, 0x7FFF_F000];
/// `WAVEFORMATEXTENSIBLE`, the longest header that is looked into.
const LONGEST: usize = 40;
/// How a file begins: the plain one first, then those with 64-bit sizes.
const MAGIC: [&[u8]; 3] = [b"RIFF", b"RF64", b"BW64"];
const MAX_CHANNELS: u16 = 256;
const MAX_SAMPLE_RATE: u32 = 768_000;

/// What a recording sounds like, from its header and the bytes that followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WavInfo {
    /// `pcm`, `ieee_float`, `a-law`, `mu-law`, or the format tag in hexadecimal (`0x0031`).
    pub format: String,
    /// 1 is mono.
    pub channels: u16,
    /// Samples a second of one channel.
    pub sample_rate_hz: u32,
    /// Bits of one sample; 0 where a compressed format has no such number.
    pub bits_per_sample: u16,
    /// Bytes of sound, without headers.
    pub data_bytes: u64,
    /// Duration, computed from the bytes that were there.
    pub seconds: f64,
    /// The header does not say how long the sound is (a streaming writer); the bytes were counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_ended: bool,
}

/// Why a stream is no whole recording.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WavError {
    /// Not a single byte.
    #[error("the recording is empty")]
    Empty,
    /// It begins like something else.
    #[error("not a WAV file but {0}")]
    NotWav(&'static str),
    /// The header contradicts itself or reality.
    #[error("the WAV header makes no sense: {0}")]
    Header(&'static str),
    /// Headers only.
    #[error("a WAV header without sound")]
    NoSound,
    /// Fewer bytes than the header says.
    #[error("the recording is cut off: {got} of {expected} bytes of sound")]
    Truncated {
        /// Bytes of sound by the header.
        expected: u64,
        /// Bytes of sound that came.
        got: u64,
    },
    /// Another number of bytes than was announced (`Content-Length`).
    #[error("the recording has {got} bytes but {expected} were announced")]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
}

impl WavError {
    /// A short constant word for metric labels and reasons.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotWav(_) => "not_wav",
            Self::Header(_) => "bad_header",
            Self::NoSound => "no_sound",
            Self::Truncated { .. } => "truncated",
            Self::Length { .. } => "wrong_length",
        }
    }
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `RIFF`, size, `WAVE`.
    Riff,
    /// Name and size of a chunk.
    Chunk,
    /// The body of `fmt `; this many bytes of it.
    Format(usize),
    /// The body of `ds64`; this many bytes of it.
    Sizes(usize),
    /// A chunk, or the rest of one, that is not looked into.
    Skip(u64),
    /// Sound; this many bytes to go, or all that comes.
    Data(Option<u64>),
    /// Whatever follows the sound.
    Tail,
}

#[derive(Clone, Copy, Debug)]
struct Format {
    tag: u16,
    channels: u16,
    sample_rate: u32,
    bytes_per_second: u64,
    bits: u16,
}

/// Checks a WAV stream in passing; see the module's documentation.
#[derive(Clone, Debug)]
pub struct WavValidator {
    state: State,
    held: [u8; LONGEST],
    filled: usize,
    /// What is left to skip after the current header: the rest of its chunk, with padding.
    rest: u64,
    total: u64,
    riff_size: u32,
    rf64: bool,
    long_data: Option<u64>,
    format: Option<Format>,
    declared: Option<u64>,
    zero_sized: bool,
    data: u64,
    bad: Option<WavError>,
}

impl Default for WavValidator {
    fn default() -> Self {
        Self::new()
    }
}

impl WavValidator {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            state: State::Riff,
            held: [0; LONGEST],
            filled: 0,
            rest: 0,
            total: 0,
            riff_size: 0,
            rf64: false,
            long_data: None,
            format: None,
            declared: None,
            zero_sized: false,
            data: 0,
            bad: None,
        }
    }

    /// Takes the next bytes, however they were cut. An error is final: nothing that follows can mend it.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), WavError> {
        self.total += bytes.len() as u64;
        while self.bad.is_none() && !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = &bytes[taken..];
        }
        self.bad.clone().map_or(Ok(()), Err)
    }

    /// The verdict on the whole stream. `announced` is its length by `Content-Length`, if there was one.
    pub fn finish(self, announced: Option<u64>) -> Result<WavInfo, WavError> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        if self.total == 0 {
            return Err(WavError::Empty);
        }
        if self.state == State::Riff {
            let start = &self.held[..self.filled];
            if !MAGIC.iter().any(|magic| magic.starts_with(&start[..start.len().min(4)])) {
                return Err(WavError::NotWav(looks_like(start)));
            }
        }
        if let Some(expected) = announced.filter(|expected| *expected != self.total) {
            return Err(WavError::Length { expected, got: self.total });
        }
        // A size of zero is the truth, and not a placeholder, where the whole file's size is right too.
        let truly_empty = self.zero_sized && u64::from(self.riff_size) + 8 == self.total;
        let Some(format) = self.format.filter(|_| self.data > 0 && !truly_empty) else {
            return Err(WavError::NoSound);
        };
        if let Some(expected) = self.declared.filter(|expected| *expected > self.data) {
            return Err(WavError::Truncated { expected, got: self.data });
        }
        Ok(WavInfo {
            format: format_name(format.tag),
            channels: format.channels,
            sample_rate_hz: format.sample_rate,
            bits_per_sample: format.bits,
            data_bytes: self.data,
            seconds: seconds(self.data, format.bytes_per_second),
            open_ended: self.declared.is_none(),
        })
    }

    /// Consumes some of `bytes` and returns how many; at least one.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let available = bytes.len() as u64;
        match self.state {
            State::Riff => self.gather(12, bytes, Self::riff),
            State::Chunk => self.gather(8, bytes, Self::chunk),
            State::Format(size) => self.gather(size, bytes, Self::format),
            State::Sizes(size) => self.gather(size, bytes, |check| Ok(check.sizes())),
            State::Skip(left) => {
                let taken = left.min(available);
                self.state = if taken == left { State::Chunk } else { State::Skip(left - taken) };
                small(taken)
            }
            State::Data(None) => {
                self.data += available;
                bytes.len()
            }
            State::Data(Some(left)) => {
                let taken = left.min(available);
                self.data += taken;
                self.state = if taken == left { State::Tail } else { State::Data(Some(left - taken)) };
                small(taken)
            }
            State::Tail => bytes.len(),
        }
    }

    fn gather(&mut self, size: usize, bytes: &[u8], then: fn(&mut Self) -> Result<State, WavError>) -> usize {
        let taken = (size - self.filled).min(bytes.len());
        self.held[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        if self.filled == size {
            match then(self) {
                Ok(state) => self.state = state,
                Err(bad) => self.bad = Some(bad),
            }
            self.filled = 0;
        }
        taken
    }

    fn riff(&mut self) -> Result<State, WavError> {
        self.rf64 = &self.held[..4] != MAGIC[0];
        if !MAGIC.iter().any(|magic| *magic == &self.held[..4]) || &self.held[8..12] != b"WAVE" {
            return Err(WavError::NotWav(looks_like(&self.held[..12])));
        }
        self.riff_size = self.u32_at(4);
        Ok(State::Chunk)
    }

    fn chunk(&mut self) -> Result<State, WavError> {
        let size = self.u32_at(4);
        // A chunk of odd size is followed by a byte that its size does not count.
        let padded = u64::from(size) + u64::from(size & 1);
        match &self.held[..4] {
            b"fmt " if size < 16 => Err(WavError::Header("its format chunk is too short")),
            b"fmt " => Ok(self.look_into(padded, State::Format)),
            b"ds64" if self.rf64 && size >= 16 => Ok(self.look_into(padded, State::Sizes)),
            b"data" if self.format.is_none() => Err(WavError::Header("sound comes before its format")),
            b"data" => {
                let placeholder = PLACEHOLDERS.contains(&size);
                self.zero_sized = size == 0;
                self.declared = match self.long_data {
                    Some(long) if size == u32::MAX => Some(long),
                    _ if placeholder => None,
                    _ => Some(u64::from(size)),
                };
                Ok(State::Data(self.declared))
            }
            _ if padded == 0 => Ok(State::Chunk),
            _ => Ok(State::Skip(padded)),
        }
    }

    /// Reads as much of a chunk's body as there is a place for, and skips the rest.
    fn look_into(&mut self, padded: u64, state: fn(usize) -> State) -> State {
        let read = padded.min(LONGEST as u64);
        self.rest = padded - read;
        self.held = [0; LONGEST];
        state(small(read))
    }

    fn after_body(&mut self) -> State {
        match std::mem::take(&mut self.rest) {
            0 => State::Chunk,
            rest => State::Skip(rest),
        }
    }

    fn sizes(&mut self) -> State {
        let data = u64::from(self.u32_at(8)) | u64::from(self.u32_at(12)) << 32;
        self.long_data = Some(data).filter(|data| *data != 0 && *data != u64::MAX);
        self.after_body()
    }

    fn format(&mut self) -> Result<State, WavError> {
        const EXTENSIBLE: u16 = 0xFFFE;
        let tag = match self.u16_at(0) {
            EXTENSIBLE => self.u16_at(24),
            tag => tag,
        };
        let (channels, sample_rate, bits) = (self.u16_at(2), self.u32_at(4), self.u16_at(14));
        if channels == 0 || channels > MAX_CHANNELS {
            return Err(WavError::Header("its number of channels is impossible"));
        }
        if sample_rate == 0 || sample_rate > MAX_SAMPLE_RATE {
            return Err(WavError::Header("its sample rate is impossible"));
        }
        let bytes_per_second = if uncompressed(tag) {
            if bits == 0 || bits > 64 {
                return Err(WavError::Header("its sample size is impossible"));
            }
            u64::from(sample_rate) * u64::from(channels) * u64::from(bits.div_ceil(8))
        } else {
            u64::from(self.u32_at(8))
        };
        if bytes_per_second == 0 {
            return Err(WavError::Header("its byte rate is zero"));
        }
        self.format = Some(Format { tag, channels, sample_rate, bytes_per_second, bits });
        Ok(self.after_body())
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.held[at], self.held[at + 1]])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }
}

/// PCM, IEEE float, A-law and mu-law: every sample takes the same whole number of bytes.
fn uncompressed(tag: u16) -> bool {
    matches!(tag, 1 | 3 | 6 | 7)
}

fn format_name(tag: u16) -> String {
    match tag {
        1 => "pcm".to_owned(),
        3 => "ieee_float".to_owned(),
        6 => "a-law".to_owned(),
        7 => "mu-law".to_owned(),
        other => format!("0x{other:04x}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a duration that is off by 2^-52 of itself is right")]
fn seconds(bytes: u64, per_second: u64) -> f64 {
    bytes as f64 / per_second as f64
}

/// Of a number that is at most a slice's length.
fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Names the likely kind of what should have been a recording, without repeating any of it.
fn looks_like(start: &[u8]) -> &'static str {
    let text = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start).trim_ascii_start();
    match text {
        [] => "white space",
        [b'<', ..] => "HTML or XML",
        [b'{' | b'[', ..] => "JSON",
        [b'I', b'D', b'3', ..] | [0xFF, 0xE0..=0xFF, ..] => "MP3",
        [b'O', b'g', b'g', b'S', ..] => "Ogg",
        [b'R', b'I', b'F', b'F' | b'X', ..] => "another RIFF file",
        _ if text.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => "text",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: &[u8], announced: Option<u64>) -> Result<WavInfo, WavError> {
        let mut check = WavValidator::new();
        check.push(bytes)?;
        check.finish(announced)
    }

    fn hound(spec: hound::WavSpec, samples: usize) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for _ in 0..samples {
            match spec.sample_format {
                hound::SampleFormat::Float => writer.write_sample(0.25f32).unwrap(),
                hound::SampleFormat::Int => writer.write_sample(7i32).unwrap(),
            }
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    fn telephone(samples: usize) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        hound(spec, samples)
    }

    fn chunk(name: &[u8], size: u32, body: &[u8]) -> Vec<u8> {
        [name, &size.to_le_bytes()[..], body].concat()
    }

    fn fmt(tag: u16, channels: u16, rate: u32, byte_rate: u32, bits: u16) -> Vec<u8> {
        let body = [
            &tag.to_le_bytes()[..],
            &channels.to_le_bytes(),
            &rate.to_le_bytes(),
            &byte_rate.to_le_bytes(),
            &1u16.to_le_bytes(),
            &bits.to_le_bytes(),
        ]
        .concat();
        chunk(b"fmt ", 16, &body)
    }

    fn riff(size: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        [b"RIFF", &size.to_le_bytes()[..], b"WAVE", &chunks.concat()].concat()
    }

    #[test]
    fn accepts_what_an_independent_writer_makes() {
        for (channels, bits, sample_format, name) in [
            (1, 16, hound::SampleFormat::Int, "pcm"),
            (2, 8, hound::SampleFormat::Int, "pcm"),
            (2, 24, hound::SampleFormat::Int, "pcm"),
            (6, 32, hound::SampleFormat::Float, "ieee_float"),
        ] {
            let spec = hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format };
            let bytes = hound(spec, 16_000 * usize::from(channels));
            let info = check(&bytes, Some(bytes.len() as u64)).unwrap();
            assert_eq!((info.format.as_str(), info.channels, info.sample_rate_hz), (name, channels, 16_000));
            assert_eq!(info.bits_per_sample, bits);
            assert!((info.seconds - 1.0).abs() < 1e-9, "{info:?}");
            assert!(!info.open_ended);
        }
    }

    #[test]
    fn refuses_what_is_no_recording() {
        for (bytes, what) in [
            (&b"<!DOCTYPE html><html>"[..], "HTML or XML"),
            (b"\xEF\xBB\xBF <?xml version=\"1.0\"?>", "HTML or XML"),
            (b"{\"error\": \"not found\"}", "JSON"),
            (b"{}", "JSON"),
            (b"<", "HTML or XML"),
            (b"ID3\x04\0\0\0\0\0\0\0\0\0", "MP3"),
            (b"OggS\0\0\0\0\0\0\0\0\0\0", "Ogg"),
            (b"RIFF\x10\0\0\0AVI LIST", "another RIFF file"),
            (b"Internal Server Error", "text"),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0\0", "something unknown"),
        ] {
            assert_eq!(check(bytes, Some(bytes.len() as u64)), Err(WavError::NotWav(what)), "{bytes:?}");
        }
        assert_eq!(check(b"", None), Err(WavError::Empty));
        assert_eq!(check(b"", Some(10)), Err(WavError::Empty));
    }

    #[test]
    fn refuses_a_header_without_sound() {
        let bytes = telephone(0);
        assert_eq!(bytes.len(), 44);
        assert_eq!(check(&bytes, Some(44)), Err(WavError::NoSound));
        for length in 4..44 {
            assert_eq!(check(&telephone(800)[..length], None), Err(WavError::NoSound), "{length}");
        }
        // Empty sound, truthfully, with a comment behind it.
        let list = chunk(b"LIST", 4, b"INFO");
        let bytes = riff(4 + 24 + 8 + 12, &[fmt(1, 1, 8000, 16_000, 16), chunk(b"data", 0, b""), list]);
        assert_eq!(check(&bytes, None), Err(WavError::NoSound));
    }

    #[test]
    fn refuses_what_is_cut_off() {
        let bytes = telephone(800);
        assert_eq!(check(&bytes[..1000], None), Err(WavError::Truncated { expected: 1600, got: 956 }));
        let announced = bytes.len() as u64;
        assert_eq!(
            check(&bytes[..1000], Some(announced)),
            Err(WavError::Length { expected: announced, got: 1000 })
        );
        assert_eq!(check(&bytes, Some(10)), Err(WavError::Length { expected: 10, got: announced }));
    }

    #[test]
    fn refuses_absurd_formats() {
        for (tag, channels, rate, byte_rate, bits) in [
            (1, 0, 8000, 16_000, 16),
            (1, 1, 0, 16_000, 16),
            (1, 1, 8000, 16_000, 0),
            (1, 1, u32::MAX, 16_000, 16),
            (1, 60_000, 8000, 16_000, 16),
            (0x31, 1, 8000, 0, 0),
        ] {
            let data = chunk(b"data", 4, &[1; 4]);
            let bytes = riff(40, &[fmt(tag, channels, rate, byte_rate, bits), data]);
            assert!(matches!(check(&bytes, None), Err(WavError::Header(_))), "{tag} {channels} {rate}");
        }
        let bytes = riff(40, &[chunk(b"data", 4, &[1; 4]), fmt(1, 1, 8000, 16_000, 16)]);
        assert!(matches!(check(&bytes, None), Err(WavError::Header(_))));
        let bytes = riff(40, &[chunk(b"fmt ", 4, &[1; 4])]);
        assert!(matches!(check(&bytes, None), Err(WavError::Header(_))));
    }

    #[test]
    fn counts_what_streaming_writers_do_not_declare() {
        for size in PLACEHOLDERS {
            let data = chunk(b"data", size, &[1; 16_000]);
            let bytes = riff(size, &[fmt(7, 1, 8000, 8000, 8), data]);
            let info = check(&bytes, None).unwrap();
            assert_eq!((info.format.as_str(), info.data_bytes, info.open_ended), ("mu-law", 16_000, true));
            assert!((info.seconds - 2.0).abs() < 1e-9);
            assert!(check(&bytes, Some(bytes.len() as u64 + 1)).is_err());
        }
    }

    #[test]
    fn reads_past_other_chunks_and_their_padding() {
        let bytes = riff(
            1000,
            &[
                chunk(b"JUNK", 0, b""),
                chunk(b"LIST", 5, b"INFO!\0"),
                // GSM 6.10: the byte rate is all there is, and an extension of odd size follows.
                [chunk(b"fmt ", 21, &fmt(0x31, 1, 8000, 1625, 0)[8..]), b"\x02\0\x40\x01\0\0".to_vec()]
                    .concat(),
                chunk(b"fact", 4, &[0; 4]),
                chunk(b"data", 3251, &[1; 3252]),
                chunk(b"id3 ", 9, b"whatever follows, cut"),
            ],
        );
        let info = check(&bytes, None).unwrap();
        assert_eq!((info.format.as_str(), info.data_bytes), ("0x0031", 3251));
    }

    #[test]
    fn reads_extensible_and_rf64() {
        let mut extensible = fmt(0xFFFE, 2, 48_000, 288_000, 24)[8..].to_vec();
        extensible.extend_from_slice(&[22, 0, 24, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0]);
        extensible.extend_from_slice(&[0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71]);
        let mut sizes = [0; 28];
        sizes[8..16].copy_from_slice(&288_000u64.to_le_bytes());
        for (got, verdict) in [(288_000usize, true), (287_994, false)] {
            let mut bytes = riff(
                u32::MAX,
                &[
                    chunk(b"ds64", 28, &sizes),
                    chunk(b"fmt ", 40, &extensible),
                    chunk(b"data", u32::MAX, &vec![1; got]),
                ],
            );
            bytes[..4].copy_from_slice(b"RF64");
            let info = check(&bytes, None);
            assert_eq!(info.is_ok(), verdict, "{info:?}");
            if let Ok(info) = info {
                assert_eq!((info.format.as_str(), info.bits_per_sample, info.channels), ("pcm", 24, 2));
                assert!((info.seconds - 1.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn reads_sound_of_more_than_four_gibibytes() {
        let mut sizes = [0; 28];
        let long = 5u64 << 30;
        sizes[8..16].copy_from_slice(&long.to_le_bytes());
        let mut header = riff(u32::MAX, &[chunk(b"ds64", 28, &sizes), fmt(1, 2, 48_000, 192_000, 16)]);
        header[..4].copy_from_slice(b"RF64");
        header.extend(chunk(b"data", u32::MAX, b""));
        let mut check = WavValidator::new();
        check.push(&header).unwrap();
        let block = vec![0; 64 << 20];
        for _ in 0..long / (64 << 20) {
            check.push(&block).unwrap();
        }
        assert_eq!(check.finish(None).unwrap().data_bytes, long);
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, announced: Option<u64>) {
            let _ = check(&bytes, announced);
        }

        #[test]
        fn never_panics_past_the_magic(
            rf64: bool,
            chunks in prop::collection::vec((
                prop::sample::select(vec![*b"fmt ", *b"ds64", *b"data", *b"LIST"]),
                prop::sample::select(vec![0u32, 1, 4, 15, 16, 17, 18, 28, 40, 41, 100, 0x7FFF_F000, u32::MAX]),
                prop::collection::vec(any::<u8>(), 0..60),
            ), 0..6),
            cuts: Vec<u8>,
        ) {
            let chunks: Vec<_> = chunks.iter().map(|(name, size, body)| chunk(name, *size, body)).collect();
            let mut bytes = riff(1, &chunks);
            if rf64 {
                bytes[..4].copy_from_slice(b"RF64");
            }
            let whole = check(&bytes, None);
            let mut pieces = WavValidator::new();
            let (mut rest, mut outcome) = (&bytes[..], Ok(()));
            for cut in cuts {
                let (piece, tail) = rest.split_at(rest.len().min(usize::from(cut) % 24));
                outcome = pieces.push(piece);
                rest = tail;
            }
            let outcome = outcome.and_then(|()| pieces.push(rest)).and_then(|()| pieces.finish(None));
            prop_assert_eq!(outcome, whole);
        }

        #[test]
        fn chunking_changes_nothing(samples in 0usize..400, cut_off in 0usize..100, size in 1usize..64) {
            let bytes = telephone(samples);
            let bytes = &bytes[..bytes.len() - cut_off.min(bytes.len())];
            let mut pieces = WavValidator::new();
            for piece in bytes.chunks(size) {
                let _ = pieces.push(piece);
            }
            prop_assert_eq!(pieces.finish(None), check(bytes, None));
        }
    }
}
