//! The waveform of a recording, computed while the file is streamed.
//!
//! [`PeakReader`] reads the file as [`WavValidator`] does, so it finds the sound behind a header that states wrong sizes. It
//! does not need the length in advance: a bucket covers one frame at first, and twice as many each time the buckets run
//! out. Memory depends on [`MAX_BUCKETS`] alone.
//!
//! Encodings: PCM of 8 to 32 bits, IEEE float of 32 and 64 bits, A-law and mu-law (ITU-T G.711).

use std::sync::LazyLock;

use serde::Serialize;
use thiserror::Error;

use super::{WavError, WavValidator, chunk::Format};

/// The maximum number of buckets of a channel. A recording with more frames has at least half as many.
const MAX_BUCKETS: usize = 1600;
/// The maximum number of channels that are drawn. Others are ignored.
const MAX_CHANNELS: usize = 2;

/// The waveform of a recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// Seconds of sound.
    pub seconds: f64,
    /// Seconds of one bucket. The last one may be shorter.
    pub bucket_seconds: f64,
    /// The first channels of the recording.
    pub channels: Vec<ChannelPeaks>,
}

/// The lowest and the highest sample of each bucket of a channel, as 16-bit numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChannelPeaks {
    /// The lowest samples.
    pub min: Vec<i16>,
    /// The highest samples.
    pub max: Vec<i16>,
}

/// The reason why a recording has no waveform.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeaksError {
    /// It is not a WAV file, or it has no sound.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// Its samples are encoded in another way.
    #[error("its encoding ({format}, {bits} bits) cannot be drawn")]
    Encoding {
        /// The name of the format, as in [`WavInfo`](super::WavInfo).
        format: String,
        /// Bits of one sample.
        bits: u16,
    },
}

/// The bytes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Unsigned8,
    Signed16,
    Signed24,
    Signed32,
    Float32,
    Float64,
    ALaw,
    MuLaw,
}

/// Computes the waveform of a WAV stream.
#[derive(Debug, Default)]
pub struct PeakReader {
    parser: WavValidator,
    buckets: Option<Result<Buckets, PeaksError>>,
}

impl PeakReader {
    /// Creates a reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; the boundaries between calls do not matter. An error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PeaksError> {
        let Self { parser, buckets } = self;
        parser.push_with(bytes, |format, sound| {
            if let Ok(buckets) = buckets.get_or_insert_with(|| Buckets::new(format)) {
                buckets.push(format, sound);
            }
        })?;
        match buckets {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Ends the stream and returns the waveform.
    pub fn finish(self) -> Result<Peaks, PeaksError> {
        self.buckets.unwrap_or(Err(WavError::NoSound.into()))?.finish()
    }
}

/// The buckets of the frames so far.
#[derive(Debug)]
struct Buckets {
    format: Format,
    encoding: Encoding,
    frame_bytes: usize,
    /// The start of a frame whose end has not come yet.
    partial_frame: Vec<u8>,
    frames: u64,
    frames_per_bucket: u64,
    /// The frames in the last bucket.
    last_frames: u64,
    channels: Vec<ChannelPeaks>,
}

impl Buckets {
    fn new(format: Format) -> Result<Self, PeaksError> {
        let encoding = Encoding::of(format)
            .ok_or_else(|| PeaksError::Encoding { format: format.name(), bits: format.bits })?;
        let channels = usize::from(format.channels);
        Ok(Self {
            format,
            encoding,
            frame_bytes: encoding.bytes() * channels,
            partial_frame: Vec::new(),
            frames: 0,
            frames_per_bucket: 1,
            last_frames: 1,
            channels: vec![ChannelPeaks::default(); channels.min(MAX_CHANNELS)],
        })
    }

    /// Adds sound. Sound of another format follows only in a file that consists of several, of which a player plays the
    /// first.
    fn push(&mut self, format: Format, mut sound: &[u8]) {
        if format != self.format {
            return;
        }
        if !self.partial_frame.is_empty() {
            let missing = (self.frame_bytes - self.partial_frame.len()).min(sound.len());
            self.partial_frame.extend_from_slice(&sound[..missing]);
            sound = &sound[missing..];
            if self.partial_frame.len() < self.frame_bytes {
                return;
            }
            let frame = std::mem::take(&mut self.partial_frame);
            self.push_frames(&frame);
        }
        let whole = sound.len() - sound.len() % self.frame_bytes;
        self.push_frames(&sound[..whole]);
        self.partial_frame.extend_from_slice(&sound[whole..]);
    }

    fn push_frames(&mut self, mut sound: &[u8]) {
        while !sound.is_empty() {
            if self.last_frames == self.frames_per_bucket || self.frames == 0 {
                self.begin_bucket();
            }
            let room = usize::try_from(self.frames_per_bucket - self.last_frames).unwrap_or(usize::MAX);
            let taken = room.min(sound.len() / self.frame_bytes);
            let (run, rest) = sound.split_at(taken * self.frame_bytes);
            self.scan(run);
            self.frames += taken as u64;
            self.last_frames += taken as u64;
            sound = rest;
        }
    }

    fn begin_bucket(&mut self) {
        if self.channels[0].min.len() == MAX_BUCKETS {
            self.channels.iter_mut().for_each(ChannelPeaks::halve);
            self.frames_per_bucket *= 2;
        }
        self.last_frames = 0;
        for channel in &mut self.channels {
            channel.min.push(i16::MAX);
            channel.max.push(i16::MIN);
        }
    }

    /// Adds whole frames to the last bucket.
    fn scan(&mut self, frames: &[u8]) {
        match self.encoding {
            Encoding::Unsigned8 => self.scan_samples(frames, |[byte]| (i16::from(byte) - 128) << 8),
            Encoding::Signed16 => self.scan_samples(frames, i16::from_le_bytes),
            // The upper 16 bits are enough to draw.
            Encoding::Signed24 => self.scan_samples(frames, |[_, low, high]| i16::from_le_bytes([low, high])),
            Encoding::Signed32 => {
                self.scan_samples(frames, |[_, _, low, high]| i16::from_le_bytes([low, high]));
            }
            Encoding::Float32 => self.scan_samples(frames, |bytes| from_float(f32::from_le_bytes(bytes))),
            #[expect(clippy::cast_possible_truncation, reason = "24 bits are enough to draw")]
            Encoding::Float64 => {
                self.scan_samples(frames, |bytes| from_float(f64::from_le_bytes(bytes) as f32));
            }
            Encoding::ALaw => self.scan_codes(frames, &A_LAW),
            Encoding::MuLaw => self.scan_codes(frames, &MU_LAW),
        }
    }

    fn scan_codes(&mut self, frames: &[u8], table: &[i16; 256]) {
        self.scan_samples(frames, |[code]| table[usize::from(code)]);
    }

    fn scan_samples<const BYTES: usize>(&mut self, frames: &[u8], decode: impl Fn([u8; BYTES]) -> i16) {
        let (samples, _) = frames.as_chunks::<BYTES>();
        let channels = usize::from(self.format.channels);
        for (position, peaks) in self.channels.iter_mut().enumerate() {
            let (Some(min), Some(max)) = (peaks.min.last_mut(), peaks.max.last_mut()) else { continue };
            let (mut lowest, mut highest) = (*min, *max);
            for sample in samples.iter().skip(position).step_by(channels) {
                let sample = decode(*sample);
                lowest = lowest.min(sample);
                highest = highest.max(sample);
            }
            (*min, *max) = (lowest, highest);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a duration that is off by 2^-52 of itself is right")]
    fn finish(self) -> Result<Peaks, PeaksError> {
        if self.frames == 0 {
            return Err(WavError::NoSound.into());
        }
        let rate = f64::from(self.format.sample_rate);
        Ok(Peaks {
            seconds: self.frames as f64 / rate,
            bucket_seconds: self.frames_per_bucket as f64 / rate,
            channels: self.channels,
        })
    }
}

impl ChannelPeaks {
    /// Joins each bucket with the next one.
    fn halve(&mut self) {
        let lower = |pair: &[i16]| pair.iter().copied().min().unwrap_or_default();
        let higher = |pair: &[i16]| pair.iter().copied().max().unwrap_or_default();
        self.min = self.min.chunks(2).map(lower).collect();
        self.max = self.max.chunks(2).map(higher).collect();
    }
}

impl Encoding {
    /// Returns the encoding of a format, or `None` if it cannot be drawn. Some writers leave the bits of G.711 out.
    fn of(format: Format) -> Option<Self> {
        match (format.name().as_str(), format.bits) {
            ("pcm", 1..=8) => Some(Self::Unsigned8),
            ("pcm", 9..=16) => Some(Self::Signed16),
            ("pcm", 17..=24) => Some(Self::Signed24),
            ("pcm", 25..=32) => Some(Self::Signed32),
            ("ieee_float", 32) => Some(Self::Float32),
            ("ieee_float", 64) => Some(Self::Float64),
            ("a-law", 0..=8) => Some(Self::ALaw),
            ("mu-law", 0..=8) => Some(Self::MuLaw),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Unsigned8 | Self::ALaw | Self::MuLaw => 1,
            Self::Signed16 => 2,
            Self::Signed24 => 3,
            Self::Signed32 | Self::Float32 => 4,
            Self::Float64 => 8,
        }
    }
}

/// Converts a sample between -1 and 1. One that is not a number is silence.
#[expect(clippy::cast_possible_truncation, reason = "the value is clamped to the range")]
fn from_float(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16
}

/// The sample of each code.
type Table = LazyLock<[i16; 256]>;

static A_LAW: Table = LazyLock::new(|| table(a_law));
static MU_LAW: Table = LazyLock::new(|| table(mu_law));

fn table(decode: fn(i16) -> i16) -> [i16; 256] {
    std::array::from_fn(|code| i16::try_from(code).map(decode).unwrap_or_default())
}

/// Decodes a sample as ITU-T G.711 defines A-law.
fn a_law(code: i16) -> i16 {
    let code = code ^ 0x55;
    let (segment, step) = ((code >> 4) & 7, (code & 15) << 4);
    let amplitude = if segment == 0 { step + 8 } else { (step + 0x108) << (segment - 1) };
    if code & 0x80 == 0 { -amplitude } else { amplitude }
}

/// Decodes a sample as ITU-T G.711 defines mu-law.
fn mu_law(code: i16) -> i16 {
    const BIAS: i16 = 0x84;
    let code = !code & 0xFF;
    let amplitude = ((((code & 15) << 3) + BIAS) << ((code >> 4) & 7)) - BIAS;
    if code & 0x80 == 0 { amplitude } else { -amplitude }
}

#[cfg(test)]
mod tests;
