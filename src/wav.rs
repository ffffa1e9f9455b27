//! Validates a WAV file while it is streamed.
//!
//! [`WavValidator`] holds at most one header of 40 bytes. It accepts a RIFF/WAVE (or RF64) stream with a plausible format
//! and at least one byte of audio, none of which is missing according to the header and the announced length. Everything
//! else (an error page, JSON, a header without audio, an incomplete download) is a [`WavError`], so that the caller can
//! request the recording again.
//!
//! Chunk layout: Microsoft "Multimedia Programming Interface" 1991, `mmreg.h` for `WAVE_FORMAT_EXTENSIBLE`,
//! EBU Tech 3306 for RF64 and its `ds64` chunk.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Sizes that streaming writers leave in the header because they cannot go back: 0 (`GStreamer`), all ones (`FFmpeg`),
/// the largest positive number and a page less (`SoX`).
const PLACEHOLDER_SIZES: [u32; 4] = [0, u32::MAX, 0x7FFF_FFFF, 0x7FFF_F000];
/// The longest chunk body that is read: `WAVEFORMATEXTENSIBLE`.
const MAX_HEADER_BYTES: usize = 40;
/// The first bytes of a file: RIFF, then the variants with 64-bit sizes.
const MAGIC: [&[u8]; 3] = [b"RIFF", b"RF64", b"BW64"];
const MAX_CHANNELS: u16 = 256;
const MAX_SAMPLE_RATE: u32 = 768_000;

/// The format and length of a recording, from its header and the bytes that followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WavInfo {
    /// `pcm`, `ieee_float`, `a-law`, `mu-law`, or the format tag in hexadecimal (`0x0031`).
    pub format: String,
    /// Number of channels; 1 is mono.
    pub channels: u16,
    /// Samples per second of one channel.
    pub sample_rate_hz: u32,
    /// Bits of one sample; 0 for a compressed format without such a number.
    pub bits_per_sample: u16,
    /// Bytes of audio, without headers.
    pub data_bytes: u64,
    /// Duration, computed from the bytes that were received.
    pub seconds: f64,
    /// True if the header does not contain the length of the audio (a streaming writer), so that the bytes were counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_ended: bool,
}

/// The reason why a stream is not a whole recording.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WavError {
    /// The stream has no bytes.
    #[error("the recording is empty")]
    Empty,
    /// The stream begins like another kind of file.
    #[error("not a WAV file but {0}")]
    NotWav(&'static str),
    /// The header contains impossible values.
    #[error("the WAV header is invalid: {0}")]
    Header(&'static str),
    /// The stream has headers but no audio.
    #[error("a WAV header without sound")]
    NoSound,
    /// The stream has fewer bytes of audio than its header states.
    #[error("the recording is cut off: {got} of {expected} bytes of audio")]
    Truncated {
        /// Bytes of audio according to the header.
        expected: u64,
        /// Bytes of audio that were received.
        got: u64,
    },
    /// The stream has another number of bytes than `Content-Length` announced.
    #[error("the recording has {got} bytes but {expected} were announced")]
    Length {
        /// Bytes that were announced.
        expected: u64,
        /// Bytes that were received.
        got: u64,
    },
}

impl WavError {
    /// Returns a short constant word for metric labels and reasons.
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

/// The meaning of the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// `RIFF`, size, `WAVE`.
    Riff,
    /// Name and size of a chunk.
    ChunkHeader,
    /// This many bytes of the body of `fmt `.
    Format(usize),
    /// This many bytes of the body of `ds64`.
    LongSizes(usize),
    /// This many bytes that are not read: another chunk, or the rest of one.
    Skip(u64),
    /// Audio: this many more bytes, or all that follow.
    Data(Option<u64>),
    /// Anything after the audio; it is not read.
    AfterData,
}

#[derive(Clone, Copy, Debug)]
struct Format {
    tag: u16,
    channels: u16,
    sample_rate: u32,
    bytes_per_second: u64,
    bits: u16,
}

/// Validates a WAV stream; see the [module](self).
#[derive(Clone, Debug)]
pub struct WavValidator {
    state: ParserState,
    header: [u8; MAX_HEADER_BYTES],
    header_len: usize,
    /// Bytes to skip after the current header: the rest of its chunk, with padding.
    unread_chunk_bytes: u64,
    total_bytes: u64,
    riff_size: u32,
    is_rf64: bool,
    long_data_size: Option<u64>,
    format: Option<Format>,
    declared_data_bytes: Option<u64>,
    data_size_is_zero: bool,
    data_bytes: u64,
    error: Option<WavError>,
}

impl Default for WavValidator {
    fn default() -> Self {
        Self::new()
    }
}

impl WavValidator {
    /// Creates a validator at the start of a stream.
    pub fn new() -> Self {
        Self {
            state: ParserState::Riff,
            header: [0; MAX_HEADER_BYTES],
            header_len: 0,
            unread_chunk_bytes: 0,
            total_bytes: 0,
            riff_size: 0,
            is_rf64: false,
            long_data_size: None,
            format: None,
            declared_data_bytes: None,
            data_size_is_zero: false,
            data_bytes: 0,
            error: None,
        }
    }

    /// Takes the next bytes; the boundaries between calls do not matter. An error is final.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), WavError> {
        self.total_bytes += bytes.len() as u64;
        while self.error.is_none() && !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = &bytes[taken..];
        }
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Ends the stream and returns its format, or the reason why it is not a whole recording. `announced` is its
    /// `Content-Length`, if there was one.
    pub fn finish(self, announced: Option<u64>) -> Result<WavInfo, WavError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.total_bytes == 0 {
            return Err(WavError::Empty);
        }
        if self.state == ParserState::Riff {
            let start = &self.header[..self.header_len];
            if !MAGIC.iter().any(|magic| magic.starts_with(&start[..start.len().min(4)])) {
                return Err(WavError::NotWav(looks_like(start)));
            }
        }
        if let Some(expected) = announced.filter(|expected| *expected != self.total_bytes) {
            return Err(WavError::Length { expected, got: self.total_bytes });
        }
        // A data size of zero is not a placeholder if the size of the whole file is right.
        let is_empty = self.data_size_is_zero && u64::from(self.riff_size) + 8 == self.total_bytes;
        let Some(format) = self.format.filter(|_| self.data_bytes > 0 && !is_empty) else {
            return Err(WavError::NoSound);
        };
        if let Some(expected) = self.declared_data_bytes.filter(|expected| *expected > self.data_bytes) {
            return Err(WavError::Truncated { expected, got: self.data_bytes });
        }
        Ok(WavInfo {
            format: format_name(format.tag),
            channels: format.channels,
            sample_rate_hz: format.sample_rate,
            bits_per_sample: format.bits,
            data_bytes: self.data_bytes,
            seconds: seconds(self.data_bytes, format.bytes_per_second),
            open_ended: self.declared_data_bytes.is_none(),
        })
    }

    /// Consumes some of `bytes`, at least one, and returns their number.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let available = bytes.len() as u64;
        match self.state {
            ParserState::Riff => self.collect_header(12, bytes, Self::parse_riff),
            ParserState::ChunkHeader => self.collect_header(8, bytes, Self::parse_chunk_header),
            ParserState::Format(size) => self.collect_header(size, bytes, Self::parse_format),
            ParserState::LongSizes(size) => {
                self.collect_header(size, bytes, |validator| Ok(validator.parse_long_sizes()))
            }
            ParserState::Skip(left) => {
                let taken = left.min(available);
                self.state =
                    if taken == left { ParserState::ChunkHeader } else { ParserState::Skip(left - taken) };
                saturating_usize(taken)
            }
            ParserState::Data(None) => {
                self.data_bytes += available;
                bytes.len()
            }
            ParserState::Data(Some(left)) => {
                let taken = left.min(available);
                self.data_bytes += taken;
                self.state = if taken == left {
                    ParserState::AfterData
                } else {
                    ParserState::Data(Some(left - taken))
                };
                saturating_usize(taken)
            }
            ParserState::AfterData => bytes.len(),
        }
    }

    /// Collects a header of `size` bytes and then parses it with `parse`. Returns the number of bytes consumed.
    fn collect_header(
        &mut self,
        size: usize,
        bytes: &[u8],
        parse: fn(&mut Self) -> Result<ParserState, WavError>,
    ) -> usize {
        let taken = (size - self.header_len).min(bytes.len());
        self.header[self.header_len..self.header_len + taken].copy_from_slice(&bytes[..taken]);
        self.header_len += taken;
        if self.header_len == size {
            match parse(self) {
                Ok(state) => self.state = state,
                Err(error) => self.error = Some(error),
            }
            self.header_len = 0;
        }
        taken
    }

    fn parse_riff(&mut self) -> Result<ParserState, WavError> {
        self.is_rf64 = &self.header[..4] != MAGIC[0];
        if !MAGIC.iter().any(|magic| *magic == &self.header[..4]) || &self.header[8..12] != b"WAVE" {
            return Err(WavError::NotWav(looks_like(&self.header[..12])));
        }
        self.riff_size = self.u32_at(4);
        Ok(ParserState::ChunkHeader)
    }

    fn parse_chunk_header(&mut self) -> Result<ParserState, WavError> {
        let size = self.u32_at(4);
        // A chunk of odd size is followed by a padding byte that its size does not include.
        let padded = u64::from(size) + u64::from(size & 1);
        match &self.header[..4] {
            b"fmt " if size < 16 => Err(WavError::Header("its format chunk is too short")),
            b"fmt " => Ok(self.read_chunk(padded, ParserState::Format)),
            b"ds64" if self.is_rf64 && size >= 16 => Ok(self.read_chunk(padded, ParserState::LongSizes)),
            b"data" if self.format.is_none() => Err(WavError::Header("its data comes before its format")),
            b"data" => {
                let placeholder = PLACEHOLDER_SIZES.contains(&size);
                self.data_size_is_zero = size == 0;
                self.declared_data_bytes = match self.long_data_size {
                    Some(long) if size == u32::MAX => Some(long),
                    _ if placeholder => None,
                    _ => Some(u64::from(size)),
                };
                Ok(ParserState::Data(self.declared_data_bytes))
            }
            _ if padded == 0 => Ok(ParserState::ChunkHeader),
            _ => Ok(ParserState::Skip(padded)),
        }
    }

    /// Reads as much of the body of a chunk as the header has room for, and skips the rest.
    fn read_chunk(&mut self, padded: u64, state: fn(usize) -> ParserState) -> ParserState {
        let read = padded.min(MAX_HEADER_BYTES as u64);
        self.unread_chunk_bytes = padded - read;
        self.header = [0; MAX_HEADER_BYTES];
        state(saturating_usize(read))
    }

    fn skip_rest_of_chunk(&mut self) -> ParserState {
        match std::mem::take(&mut self.unread_chunk_bytes) {
            0 => ParserState::ChunkHeader,
            rest => ParserState::Skip(rest),
        }
    }

    fn parse_long_sizes(&mut self) -> ParserState {
        let data = u64::from(self.u32_at(8)) | u64::from(self.u32_at(12)) << 32;
        self.long_data_size = Some(data).filter(|data| *data != 0 && *data != u64::MAX);
        self.skip_rest_of_chunk()
    }

    fn parse_format(&mut self) -> Result<ParserState, WavError> {
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
        let bytes_per_second = if is_uncompressed(tag) {
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
        Ok(self.skip_rest_of_chunk())
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.header[at], self.header[at + 1]])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }
}

/// Returns whether every sample has the same whole number of bytes: PCM, IEEE float, A-law and mu-law.
fn is_uncompressed(tag: u16) -> bool {
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

/// Converts a number that is at most the length of a slice.
fn saturating_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the likely kind of a file that is not a recording, without repeating any of its bytes.
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

    fn hound_file(spec: hound::WavSpec, samples: usize) -> Vec<u8> {
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

    fn telephone_file(samples: usize) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        hound_file(spec, samples)
    }

    fn chunk(name: &[u8], size: u32, body: &[u8]) -> Vec<u8> {
        [name, &size.to_le_bytes()[..], body].concat()
    }

    fn format_chunk(tag: u16, channels: u16, rate: u32, byte_rate: u32, bits: u16) -> Vec<u8> {
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
    fn accepts_files_of_an_independent_writer() {
        for (channels, bits, sample_format, name) in [
            (1, 16, hound::SampleFormat::Int, "pcm"),
            (2, 8, hound::SampleFormat::Int, "pcm"),
            (2, 24, hound::SampleFormat::Int, "pcm"),
            (6, 32, hound::SampleFormat::Float, "ieee_float"),
        ] {
            let spec = hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format };
            let bytes = hound_file(spec, 16_000 * usize::from(channels));
            let info = check(&bytes, Some(bytes.len() as u64)).unwrap();
            assert_eq!((info.format.as_str(), info.channels, info.sample_rate_hz), (name, channels, 16_000));
            assert_eq!(info.bits_per_sample, bits);
            assert!((info.seconds - 1.0).abs() < 1e-9, "{info:?}");
            assert!(!info.open_ended);
        }
    }

    #[test]
    fn rejects_other_files() {
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
    fn rejects_a_header_without_audio() {
        let bytes = telephone_file(0);
        assert_eq!(bytes.len(), 44);
        assert_eq!(check(&bytes, Some(44)), Err(WavError::NoSound));
        for length in 4..44 {
            assert_eq!(check(&telephone_file(800)[..length], None), Err(WavError::NoSound), "{length}");
        }
        // A data chunk that is really empty, with a comment after it.
        let list = chunk(b"LIST", 4, b"INFO");
        let bytes =
            riff(4 + 24 + 8 + 12, &[format_chunk(1, 1, 8000, 16_000, 16), chunk(b"data", 0, b""), list]);
        assert_eq!(check(&bytes, None), Err(WavError::NoSound));
    }

    #[test]
    fn rejects_an_incomplete_download() {
        let bytes = telephone_file(800);
        assert_eq!(check(&bytes[..1000], None), Err(WavError::Truncated { expected: 1600, got: 956 }));
        let announced = bytes.len() as u64;
        assert_eq!(
            check(&bytes[..1000], Some(announced)),
            Err(WavError::Length { expected: announced, got: 1000 })
        );
        assert_eq!(check(&bytes, Some(10)), Err(WavError::Length { expected: 10, got: announced }));
    }

    #[test]
    fn rejects_impossible_formats() {
        for (tag, channels, rate, byte_rate, bits) in [
            (1, 0, 8000, 16_000, 16),
            (1, 1, 0, 16_000, 16),
            (1, 1, 8000, 16_000, 0),
            (1, 1, u32::MAX, 16_000, 16),
            (1, 60_000, 8000, 16_000, 16),
            (0x31, 1, 8000, 0, 0),
        ] {
            let data = chunk(b"data", 4, &[1; 4]);
            let bytes = riff(40, &[format_chunk(tag, channels, rate, byte_rate, bits), data]);
            assert!(matches!(check(&bytes, None), Err(WavError::Header(_))), "{tag} {channels} {rate}");
        }
        let bytes = riff(40, &[chunk(b"data", 4, &[1; 4]), format_chunk(1, 1, 8000, 16_000, 16)]);
        assert!(matches!(check(&bytes, None), Err(WavError::Header(_))));
        let bytes = riff(40, &[chunk(b"fmt ", 4, &[1; 4])]);
        assert!(matches!(check(&bytes, None), Err(WavError::Header(_))));
    }

    #[test]
    fn counts_the_bytes_of_streaming_writers() {
        for size in PLACEHOLDER_SIZES {
            let data = chunk(b"data", size, &[1; 16_000]);
            let bytes = riff(size, &[format_chunk(7, 1, 8000, 8000, 8), data]);
            let info = check(&bytes, None).unwrap();
            assert_eq!((info.format.as_str(), info.data_bytes, info.open_ended), ("mu-law", 16_000, true));
            assert!((info.seconds - 2.0).abs() < 1e-9);
            assert!(check(&bytes, Some(bytes.len() as u64 + 1)).is_err());
        }
    }

    #[test]
    fn skips_other_chunks_and_their_padding() {
        let bytes = riff(
            1000,
            &[
                chunk(b"JUNK", 0, b""),
                chunk(b"LIST", 5, b"INFO!\0"),
                // GSM 6.10: the byte rate is all there is, and an extension of odd size follows.
                [
                    chunk(b"fmt ", 21, &format_chunk(0x31, 1, 8000, 1625, 0)[8..]),
                    b"\x02\0\x40\x01\0\0".to_vec(),
                ]
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
        let mut extensible = format_chunk(0xFFFE, 2, 48_000, 288_000, 24)[8..].to_vec();
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
    fn reads_more_than_four_gibibytes() {
        let mut sizes = [0; 28];
        let long = 5u64 << 30;
        sizes[8..16].copy_from_slice(&long.to_le_bytes());
        let mut header =
            riff(u32::MAX, &[chunk(b"ds64", 28, &sizes), format_chunk(1, 2, 48_000, 192_000, 16)]);
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
        fn never_panics_on_chunks_and_ignores_boundaries(
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
        fn boundaries_between_pushes_do_not_matter(samples in 0usize..400, cut_off in 0usize..100, size in 1usize..64) {
            let bytes = telephone_file(samples);
            let bytes = &bytes[..bytes.len() - cut_off.min(bytes.len())];
            let mut pieces = WavValidator::new();
            for piece in bytes.chunks(size) {
                let _ = pieces.push(piece);
            }
            prop_assert_eq!(pieces.finish(None), check(bytes, None));
        }
    }
}
