//! The state machine that reads a WAV stream piece by piece.

use super::{
    StreamEnd, ValidWav, WavDefect, WavError, WavInfo,
    chunk::{
        Format, MAGIC, MIN_FORMAT_BYTES, PLACEHOLDER_SIZES, can_be_name, is_known_name, lacks_padding,
        looks_like, u32_at,
    },
};

/// The longest chunk body that is read: `WAVEFORMATEXTENSIBLE`.
const MAX_HEADER_BYTES: usize = 40;
/// Unexplained bytes at the end that are not worth a warning: writers disagree about the last padding byte.
const TOLERATED_TRAILING_BYTES: u64 = 1;

/// The longest recording, one day. A header that states more is wrong and does not tell that bytes are missing.
const MAX_BELIEVABLE_SECONDS: f64 = 86_400.0;

/// The meaning of the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// `RIFF`, size, `WAVE`.
    Riff,
    /// `WAVE` of a further file in a row.
    NextWave,
    /// Name and size of a chunk, and before it the padding of one of odd size.
    ChunkHeader,
    /// This many bytes of the body of `fmt `.
    Format(usize),
    /// This many bytes of the body of `ds64`.
    LongSizes(usize),
    /// This many bytes that are not read: another chunk, or the rest of one.
    Skip(u64),
    /// Audio: this many more bytes, or all that follow.
    Data(Option<u64>),
    /// Bytes after the audio that belong to nothing.
    Trailing,
}

/// The `data` chunk of the current file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataChunk {
    /// It has not begun.
    Missing,
    /// Its size is zero. What follows decides whether that is a placeholder.
    ZeroSize,
    /// It has begun.
    Found,
}

/// Validates a WAV stream; see the [module](super).
#[derive(Clone, Debug)]
pub struct WavValidator {
    state: ParserState,
    header: [u8; MAX_HEADER_BYTES],
    header_len: usize,
    /// Bytes to skip after the current header: the rest of its chunk.
    unread_chunk_bytes: u64,
    /// The current chunk has an odd size, so that a padding byte should follow it.
    is_odd_chunk: bool,
    total_bytes: u64,
    riff_size: u32,
    is_rf64: bool,
    long_data_size: Option<u64>,
    first_format: Option<Format>,
    format: Option<Format>,
    data_chunk: DataChunk,
    declared_data_bytes: Option<u64>,
    data_bytes: u64,
    trailing_bytes: u64,
    /// The size of a chunk after the audio whose name is unknown. If the stream ends within it, it was not a chunk.
    doubtful_chunk_bytes: Option<u64>,
    /// The number of `data` chunks after the first one.
    extra_data_chunks: u32,
    /// The number of chunks of odd size that were not padded.
    unpadded_chunks: u32,
    /// The number of bytes at the end of the header that belong to what follows it.
    reread_bytes: usize,
    previous: PreviousFiles,
    error: Option<WavError>,
}

/// The files that precede the current one, if the stream consists of several in a row.
#[derive(Clone, Copy, Debug, Default)]
struct PreviousFiles {
    count: u32,
    data_bytes: u64,
    seconds: f64,
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
            is_odd_chunk: false,
            total_bytes: 0,
            riff_size: 0,
            is_rf64: false,
            long_data_size: None,
            first_format: None,
            format: None,
            data_chunk: DataChunk::Missing,
            declared_data_bytes: None,
            data_bytes: 0,
            trailing_bytes: 0,
            doubtful_chunk_bytes: None,
            extra_data_chunks: 0,
            unpadded_chunks: 0,
            reread_bytes: 0,
            previous: PreviousFiles::default(),
            error: None,
        }
    }

    /// Takes the next bytes; the boundaries between calls do not matter. An error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WavError> {
        self.push_with(bytes, |_, _| {})
    }

    /// Like [`push`](Self::push). Also passes on the sound, with its format.
    pub(super) fn push_with(
        &mut self,
        mut bytes: &[u8],
        mut add_sound: impl FnMut(Format, &[u8]),
    ) -> Result<(), WavError> {
        self.total_bytes += bytes.len() as u64;
        while self.error.is_none() && !bytes.is_empty() {
            let (is_sound, earlier) = (matches!(self.state, ParserState::Data(_)), self.data_bytes);
            let taken = self.step(bytes);
            if let (Some(format), true) = (self.format, self.data_bytes > earlier) {
                // Otherwise it was read as the header of a chunk.
                add_sound(format, if is_sound { &bytes[..taken] } else { &self.header[..8] });
            }
            bytes = &bytes[taken..];
        }
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Ends the stream and returns its format and the defects of its header, or the reason why it is not a whole
    /// recording.
    pub fn finish(mut self, end: StreamEnd) -> Result<ValidWav, WavError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.total_bytes == 0 {
            return Err(WavError::Empty);
        }
        if self.state == ParserState::Riff && self.first_format.is_none() {
            let start = &self.header[..self.header_len];
            if !MAGIC.iter().any(|magic| magic.starts_with(&start[..start.len().min(4)])) {
                return Err(WavError::NotWav(looks_like(start)));
            }
        }
        if let StreamEnd::Announced(expected) = end
            && expected != self.total_bytes
        {
            return Err(WavError::Length { expected, got: self.total_bytes });
        }
        self.settle_partial_chunk();
        let understated = self.claim_trailing_sound();
        let Some(format) = self.first_format.filter(|_| self.all_data_bytes() > 0) else {
            return Err(WavError::NoSound);
        };
        let overstated = self.declared_data_bytes.filter(|declared| *declared > self.data_bytes);
        if let (Some(expected), StreamEnd::Unmarked) = (overstated, end)
            && format.seconds(expected) <= MAX_BELIEVABLE_SECONDS
        {
            return Err(WavError::Truncated { expected, got: self.data_bytes });
        }
        Ok(ValidWav {
            info: WavInfo {
                format: format.name(),
                channels: format.channels,
                sample_rate_hz: format.sample_rate,
                bits_per_sample: format.bits,
                data_bytes: self.all_data_bytes(),
                seconds: self.seconds(),
                open_ended: self.is_open_ended() || overstated.is_some() || understated.is_some(),
            },
            defects: self.defects(overstated, understated),
        })
    }

    /// Assigns the bytes of a header or chunk that the end of the stream cut off.
    fn settle_partial_chunk(&mut self) {
        let left = self.header_len as u64;
        match (self.state, self.doubtful_chunk_bytes) {
            (ParserState::ChunkHeader, _) => match self.data_chunk {
                DataChunk::Missing => {}
                DataChunk::ZeroSize => self.data_bytes += left,
                DataChunk::Found => self.trailing_bytes += left.saturating_sub(u64::from(self.is_odd_chunk)),
            },
            (ParserState::Skip(missing), Some(size)) => self.trailing_bytes += 8 + size - missing,
            _ => {}
        }
    }

    /// Counts bytes after the audio as audio if the header understates its size: the size of the whole file includes them,
    /// or they are more than the audio before them. Returns the stated size.
    fn claim_trailing_sound(&mut self) -> Option<u64> {
        let declared = self.declared_data_bytes?;
        let is_in_file = !self.is_rf64 && (u64::from(self.riff_size) + 8).abs_diff(self.total_bytes) <= 1;
        if self.trailing_bytes <= TOLERATED_TRAILING_BYTES
            || !(is_in_file || self.trailing_bytes > self.all_data_bytes())
        {
            return None;
        }
        self.data_bytes += std::mem::take(&mut self.trailing_bytes);
        Some(declared)
    }

    fn defects(&self, overstated: Option<u64>, understated: Option<u64>) -> Vec<WavDefect> {
        let mut defects = Vec::new();
        if self.previous.count > 0 {
            defects.push(WavDefect::SeveralFiles(self.previous.count + 1));
        }
        if self.extra_data_chunks > 0 {
            defects.push(WavDefect::SeveralDataChunks(self.extra_data_chunks + 1));
        }
        if let Some(declared) = understated {
            defects.push(WavDefect::Understated { declared, got: self.data_bytes });
        }
        if let (Some(declared), Some(format)) = (overstated, self.format) {
            let declared_seconds = format.seconds(declared);
            defects.push(WavDefect::Overstated { declared, got: self.data_bytes, declared_seconds });
        } else if self.is_open_ended() {
            defects.push(WavDefect::OpenEnded);
        }
        if self.unpadded_chunks > 0 {
            defects.push(WavDefect::UnpaddedChunk);
        }
        if self.trailing_bytes > TOLERATED_TRAILING_BYTES {
            defects.push(WavDefect::TrailingBytes(self.trailing_bytes));
        }
        // The other defects explain a wrong size of the file.
        let declared = u64::from(self.riff_size) + 8;
        if defects.is_empty() && !self.is_rf64 && declared.abs_diff(self.total_bytes) > 1 {
            defects.push(WavDefect::FileSize { declared, got: self.total_bytes });
        }
        defects
    }

    fn is_open_ended(&self) -> bool {
        self.declared_data_bytes.is_none() && self.data_bytes > 0
    }

    /// Returns the bytes of audio of all files in the stream.
    fn all_data_bytes(&self) -> u64 {
        self.previous.data_bytes + self.data_bytes
    }

    fn seconds(&self) -> f64 {
        self.previous.seconds + self.format.map_or(0.0, |format| format.seconds(self.data_bytes))
    }

    /// Consumes some of `bytes`, and returns their number. It is zero only if the meaning of the next byte has changed.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let available = bytes.len() as u64;
        match self.state {
            ParserState::Riff => self.collect_header(12, bytes, Self::parse_riff),
            ParserState::NextWave => {
                self.collect_header(4, bytes, |validator| Ok(validator.parse_next_wave()))
            }
            ParserState::ChunkHeader if self.is_odd_chunk => {
                let taken = self.collect_header(9, bytes, Self::parse_padded_chunk_header);
                taken - std::mem::take(&mut self.reread_bytes)
            }
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
                    ParserState::ChunkHeader
                } else {
                    ParserState::Data(Some(left - taken))
                };
                saturating_usize(taken)
            }
            ParserState::Trailing => {
                self.trailing_bytes += available;
                bytes.len()
            }
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
                // What follows the audio does not make it worse.
                Err(_) if self.all_data_bytes() > 0 => self.state = self.trailing_after(size),
                Err(error) => self.error = Some(error),
            }
            self.header_len = 0;
        }
        taken
    }

    /// Returns the state for bytes that belong to nothing, of which some have been read.
    fn trailing_after(&mut self, read: usize) -> ParserState {
        self.trailing_bytes += read as u64;
        ParserState::Trailing
    }

    fn parse_riff(&mut self) -> Result<ParserState, WavError> {
        self.is_rf64 = &self.header[..4] != MAGIC[0];
        if !is_magic(&self.header) || &self.header[8..12] != b"WAVE" {
            return Err(WavError::NotWav(looks_like(&self.header[..12])));
        }
        self.riff_size = u32_at(&self.header, 4);
        Ok(ParserState::ChunkHeader)
    }

    fn parse_next_wave(&mut self) -> ParserState {
        if &self.header[..4] != b"WAVE" {
            return self.trailing_after(12);
        }
        self.previous = PreviousFiles {
            count: self.previous.count + 1,
            data_bytes: self.all_data_bytes(),
            seconds: self.seconds(),
        };
        (self.format, self.long_data_size, self.declared_data_bytes) = (None, None, None);
        (self.data_bytes, self.data_chunk, self.is_odd_chunk) = (0, DataChunk::Missing, false);
        ParserState::ChunkHeader
    }

    /// Parses the header of a chunk after a chunk of odd size, whose padding byte some writers forget.
    fn parse_padded_chunk_header(&mut self) -> Result<ParserState, WavError> {
        let mut bytes = [0; 9];
        bytes.copy_from_slice(&self.header[..9]);
        if lacks_padding(&bytes) {
            self.unpadded_chunks += 1;
            self.reread_bytes = 1;
        } else {
            self.header.copy_within(1..9, 0);
        }
        self.parse_chunk_header()
    }

    fn parse_chunk_header(&mut self) -> Result<ParserState, WavError> {
        let size = u32_at(&self.header, 4);
        self.is_odd_chunk = size % 2 == 1;
        self.doubtful_chunk_bytes = None;
        if self.data_chunk != DataChunk::Missing {
            return Ok(self.parse_header_after_data(size));
        }
        match &self.header[..4] {
            b"fmt " if size < MIN_FORMAT_BYTES => Err(WavError::Header("its format chunk is too short")),
            b"fmt " => Ok(self.read_chunk(size, ParserState::Format)),
            b"ds64" if self.is_rf64 && size >= 16 => Ok(self.read_chunk(size, ParserState::LongSizes)),
            b"data" if self.format.is_none() => Err(WavError::Header("its data comes before its format")),
            b"data" => Ok(self.begin_data(size)),
            _ => Ok(skip(u64::from(size))),
        }
    }

    fn begin_data(&mut self, size: u32) -> ParserState {
        self.declared_data_bytes = match self.long_data_size {
            Some(long) if size == u32::MAX => Some(long),
            _ if PLACEHOLDER_SIZES.contains(&size) => None,
            _ => Some(u64::from(size)),
        };
        self.is_odd_chunk = self.declared_data_bytes.is_some_and(|declared| declared % 2 == 1);
        if size == 0 {
            self.data_chunk = DataChunk::ZeroSize;
            return ParserState::ChunkHeader;
        }
        self.data_chunk = DataChunk::Found;
        ParserState::Data(self.declared_data_bytes)
    }

    /// Returns the state after a header that follows the audio: another chunk, a further file, or no header at all.
    fn parse_header_after_data(&mut self, size: u32) -> ParserState {
        let is_known = is_known_name(&self.header);
        if std::mem::replace(&mut self.data_chunk, DataChunk::Found) == DataChunk::ZeroSize && !is_known {
            // A size of zero was a placeholder, and this is the beginning of the audio.
            self.data_bytes += 8;
            return ParserState::Data(None);
        }
        if is_magic(&self.header) {
            return ParserState::NextWave;
        }
        if self.header.starts_with(b"data") && size > 0 {
            self.extra_data_chunks += 1;
            let is_placeholder = PLACEHOLDER_SIZES.contains(&size);
            let earlier = self.declared_data_bytes.filter(|_| !is_placeholder);
            self.declared_data_bytes = earlier.map(|declared| declared + u64::from(size));
            return ParserState::Data((!is_placeholder).then_some(u64::from(size)));
        }
        if !is_known && !can_be_name(&self.header) {
            return self.trailing_after(8);
        }
        self.doubtful_chunk_bytes = (!is_known).then_some(u64::from(size));
        skip(u64::from(size))
    }

    /// Reads as much of the body of a chunk as the header has room for, and skips the rest.
    fn read_chunk(&mut self, size: u32, state: fn(usize) -> ParserState) -> ParserState {
        let read = u64::from(size).min(MAX_HEADER_BYTES as u64);
        self.unread_chunk_bytes = u64::from(size) - read;
        self.header = [0; MAX_HEADER_BYTES];
        state(saturating_usize(read))
    }

    fn parse_long_sizes(&mut self) -> ParserState {
        let data = u64::from(u32_at(&self.header, 8)) | u64::from(u32_at(&self.header, 12)) << 32;
        self.long_data_size = Some(data).filter(|data| *data != 0 && *data != u64::MAX);
        skip(std::mem::take(&mut self.unread_chunk_bytes))
    }

    fn parse_format(&mut self) -> Result<ParserState, WavError> {
        let format = Format::read(&self.header)?;
        self.format = Some(format);
        self.first_format.get_or_insert(format);
        Ok(skip(std::mem::take(&mut self.unread_chunk_bytes)))
    }
}

/// Returns the state that skips this many bytes to the next chunk.
fn skip(bytes: u64) -> ParserState {
    if bytes == 0 { ParserState::ChunkHeader } else { ParserState::Skip(bytes) }
}

fn is_magic(bytes: &[u8]) -> bool {
    MAGIC.iter().any(|magic| bytes.starts_with(magic))
}

/// Converts a number that is at most the length of a slice.
fn saturating_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
