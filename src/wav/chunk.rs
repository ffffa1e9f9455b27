//! The parts of a WAV file: names of chunks, the format chunk, and the first bytes of other files.

use super::WavError;

/// The first bytes of a file: RIFF, then the variants with 64-bit sizes.
pub(super) const MAGIC: [&[u8]; 3] = [b"RIFF", b"RF64", b"BW64"];
/// Sizes that streaming writers leave in the header because they cannot go back: 0 (`GStreamer`), all ones (`FFmpeg`),
/// the largest positive number and a page less (`SoX`).
pub(super) const PLACEHOLDER_SIZES: [u32; 4] = [0, u32::MAX, 0x7FFF_FFFF, 0x7FFF_F000];
/// The shortest format chunk: `WAVEFORMAT`, which has no sample size.
pub(super) const MIN_FORMAT_BYTES: u32 = 14;
const KNOWN_NAMES: [&[u8]; 16] = [
    b"RIFF", b"RF64", b"BW64", b"fmt ", b"data", b"ds64", b"fact", b"LIST", b"JUNK", b"PAD ", b"bext",
    b"id3 ", b"iXML", b"cue ", b"smpl", b"inst",
];
const MAX_CHANNELS: u16 = 256;
const MAX_SAMPLE_RATE: u32 = 768_000;
const EXTENSIBLE: u16 = 0xFFFE;

/// Returns whether the bytes begin with the name of a chunk that is in use.
pub(super) fn is_known_name(bytes: &[u8]) -> bool {
    KNOWN_NAMES.iter().any(|name| bytes.starts_with(name))
}

/// Returns whether the first four bytes can be the name of a chunk.
pub(super) fn can_be_name(bytes: &[u8]) -> bool {
    let name = &bytes[..4];
    name[0].is_ascii_alphanumeric()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'_' | b'-'))
}

/// Returns whether the name of the next chunk begins at the first of these bytes, where the padding byte of a chunk of
/// odd size belongs, and not at the second.
pub(super) fn lacks_padding(bytes: &[u8; 9]) -> bool {
    bytes[0] != 0 && !is_known_name(&bytes[1..]) && (is_known_name(bytes) || can_be_name(bytes))
}

/// The content of a format chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    tag: u16,
    pub(super) channels: u16,
    pub(super) sample_rate: u32,
    bytes_per_second: u64,
    pub(super) bits: u16,
}

impl Format {
    /// Reads the body of a format chunk; bytes that the chunk does not have are zero.
    pub(super) fn read(body: &[u8; 40]) -> Result<Self, WavError> {
        let tag = match u16_at(body, 0) {
            EXTENSIBLE => u16_at(body, 24),
            tag => tag,
        };
        let (channels, sample_rate, bits) = (u16_at(body, 2), u32_at(body, 4), u16_at(body, 14));
        if channels == 0 || channels > MAX_CHANNELS {
            return Err(WavError::Header("its number of channels is impossible"));
        }
        if sample_rate == 0 || sample_rate > MAX_SAMPLE_RATE {
            return Err(WavError::Header("its sample rate is impossible"));
        }
        let has_fixed_samples = is_uncompressed(tag) && (1..=64).contains(&bits);
        let bytes_per_second = if has_fixed_samples {
            u64::from(sample_rate) * u64::from(channels) * u64::from(bits.div_ceil(8))
        } else {
            u64::from(u32_at(body, 8))
        };
        if bytes_per_second == 0 {
            return Err(WavError::Header("its byte rate is zero"));
        }
        Ok(Self { tag, channels, sample_rate, bytes_per_second, bits })
    }

    /// Returns the name of the encoding.
    pub(super) fn name(self) -> String {
        match self.tag {
            1 => "pcm".to_owned(),
            3 => "ieee_float".to_owned(),
            6 => "a-law".to_owned(),
            7 => "mu-law".to_owned(),
            other => format!("0x{other:04x}"),
        }
    }

    /// Returns the duration of this many bytes.
    #[expect(clippy::cast_precision_loss, reason = "a duration that is off by 2^-52 of itself is right")]
    pub(super) fn seconds(self, bytes: u64) -> f64 {
        bytes as f64 / self.bytes_per_second as f64
    }
}

/// Returns whether every sample has the same whole number of bytes: PCM, IEEE float, A-law and mu-law.
fn is_uncompressed(tag: u16) -> bool {
    matches!(tag, 1 | 3 | 6 | 7)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// Returns the likely kind of a file that is not a recording, without repeating any of its bytes.
pub(super) fn looks_like(start: &[u8]) -> &'static str {
    let text = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start).trim_ascii_start();
    match text {
        [] => "white space",
        [b'<', ..] => "HTML or XML",
        [b'{' | b'[', ..] => "JSON",
        [b'I', b'D', b'3', ..] | [0xFF, 0xE0..=0xFF, ..] => "MP3",
        [b'O', b'g', b'g', b'S', ..] => "Ogg",
        [b'f', b'L', b'a', b'C', ..] => "FLAC",
        [b'r', b'i', b'f', b'f', ..] => "Wave64",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "MP4",
        [0x1F, 0x8B, ..] => "gzip",
        [b'R', b'I', b'F', b'F' | b'X', ..] => "another RIFF file",
        _ if text.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => "text",
        _ => "something unknown",
    }
}
