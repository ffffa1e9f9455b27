//! Validates a WAV file while it is streamed.
//!
//! [`WavValidator`] holds at most one header of 40 bytes. It accepts a RIFF/WAVE (or RF64) stream with a plausible format
//! and at least one byte of audio that the transport delivered whole ([`StreamEnd`]). The bytes decide: a header that
//! states wrong sizes is a [`WavDefect`], which the caller reports, and the duration is computed from the bytes that came.
//! Everything else (an error page, JSON, a header without audio, an incomplete download) is a [`WavError`], so that the
//! caller can request the recording again. [`PeakReader`] computes the waveform of a recording in the same way.
//!
//! Chunk layout: Microsoft "Multimedia Programming Interface" 1991, `mmreg.h` for `WAVE_FORMAT_EXTENSIBLE`,
//! EBU Tech 3306 for RF64 and its `ds64` chunk.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod chunk;
mod peaks;
mod validator;

pub use peaks::{ChannelPeaks, PeakReader, Peaks, PeaksError};
pub use validator::WavValidator;

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
    /// True if the header does not contain the true length of the audio (a streaming writer), so that the bytes were
    /// counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_ended: bool,
}

/// A recording that can be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidWav {
    /// Its format and length.
    pub info: WavInfo,
    /// The faults of its header, for the reader of the manifest.
    pub defects: Vec<WavDefect>,
}

/// The evidence for the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// `Content-Length` announced this number of bytes.
    Announced(u64),
    /// The transport marked the end (chunked encoding, HTTP/2), so no byte is missing.
    Marked,
    /// The connection was closed. Only the header of the file tells whether bytes are missing.
    Unmarked,
}

impl StreamEnd {
    /// Returns the length that `Content-Length` announced.
    pub fn announced_bytes(self) -> Option<u64> {
        match self {
            Self::Announced(bytes) => Some(bytes),
            Self::Marked | Self::Unmarked => None,
        }
    }
}

/// A fault in the header of a recording that is whole.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WavDefect {
    /// The header contains a placeholder where the length of the audio belongs.
    #[error("its header does not state the length of the sound")]
    OpenEnded,
    /// The header states more audio than the file has.
    #[error("its header states {declared} bytes of sound and the file has {got}")]
    Overstated {
        /// Bytes of audio according to the header.
        declared: u64,
        /// Bytes of audio in the file.
        got: u64,
        /// The duration according to the header.
        declared_seconds: f64,
    },
    /// The header states less audio than the file has.
    #[error("its header states {declared} bytes of sound and the file has {got}")]
    Understated {
        /// Bytes of audio according to the header.
        declared: u64,
        /// Bytes of audio in the file.
        got: u64,
    },
    /// The audio is divided into several chunks. A player plays the first one.
    #[error("its sound is in {0} chunks, of which a player plays the first")]
    SeveralDataChunks(u32),
    /// Bytes follow the audio that are not a chunk.
    #[error("{0} bytes follow the sound and belong to nothing")]
    TrailingBytes(u64),
    /// The file consists of several WAV files. A player plays the first one.
    #[error("it consists of {0} WAV files in a row, of which a player plays the first")]
    SeveralFiles(u32),
    /// A chunk of odd size has no padding byte.
    #[error("a chunk in it lacks its padding byte, so strict readers do not find the sound")]
    UnpaddedChunk,
    /// The header states another size of the file.
    #[error("its header states a file of {declared} bytes and the file has {got}")]
    FileSize {
        /// Bytes according to the header.
        declared: u64,
        /// Bytes of the file.
        got: u64,
    },
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
    /// The stream has fewer bytes of audio than its header states, and nothing else tells that it is whole.
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

#[cfg(test)]
mod tests;
