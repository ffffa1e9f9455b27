//! WAV recordings that are generated while they are sent.
//!
//! A recording is 16-bit PCM at 8 kHz, like a telephone call. Each party is a tone that swells and fades while the party
//! speaks: high for the agent, lower for the caller. Silence, turns and muted passages are audible, words are not.
//! [`Recording`] is an iterator of small blocks. Its length is known before the first block, and no block is kept. The
//! same call gives the same bytes.

use std::f64::consts::TAU;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    calls::Conversation,
    random::{Purpose, rng},
    scenario::CombinedChannels,
};

/// Samples per second.
const SAMPLE_RATE: u32 = 8_000;
/// Bytes of a WAV header without optional chunks.
const HEADER_BYTES: u64 = 44;
/// Frames of a block: a quarter of a second.
const BLOCK_FRAMES: u64 = 2_000;
/// Bytes of the block that fills a recording beyond the end of its call. It is generated once and sent repeatedly.
const FILLER_BYTES: usize = 64 * 1024;
/// The agent's pitch in Hz.
const AGENT_PITCH: f64 = 205.0;
/// Swells of a tone per second, about as many as syllables.
const SYLLABLES_PER_S: f64 = 5.0;

/// The recorded side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Combined,
    User,
    Agent,
}

/// A WAV file, as an iterator of its blocks.
#[derive(Debug)]
pub(crate) struct Recording {
    header: Option<Bytes>,
    /// One or two channels. A channel carries one party, or both.
    channels: Vec<Vec<Party>>,
    frame: u64,
    /// The frames that carry the call. The filler follows them.
    frames: u64,
    /// Bytes of the whole file.
    length: u64,
    sent: u64,
    filler: Bytes,
}

impl Recording {
    /// The recording of a call. With `size`, the file has this many bytes, rounded down to whole frames: a file that ends
    /// within a sample would be damaged in another way than the caller asked for.
    pub(crate) fn new(
        seed: u64,
        call: &Conversation,
        direction: Direction,
        redacted: bool,
        combined: CombinedChannels,
        size: Option<u64>,
    ) -> Self {
        let user = || Party::user(seed, call, redacted);
        let agent = || Party::agent(call, redacted);
        let channels = match (direction, combined) {
            (Direction::User, _) => vec![vec![user()]],
            (Direction::Agent, _) => vec![vec![agent()]],
            (Direction::Combined, CombinedChannels::Stereo) => vec![vec![user()], vec![agent()]],
            (Direction::Combined, CombinedChannels::Mono) => vec![vec![user(), agent()]],
        };
        let frame_bytes = 2 * channels.len() as u64;
        let frames = frames_in(call.duration_ms);
        let data = size.map_or(frames * frame_bytes, |size| {
            size.saturating_sub(HEADER_BYTES) / frame_bytes * frame_bytes
        });
        Self {
            header: Some(header(if channels.len() == 2 { 2 } else { 1 }, data)),
            frames: frames.min(data / frame_bytes),
            length: HEADER_BYTES + data,
            channels,
            frame: 0,
            sent: 0,
            filler: Bytes::new(),
        }
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    #[expect(clippy::cast_possible_truncation, reason = "the amplitude of two parties is below 2^15")]
    fn block(&mut self) -> Bytes {
        let end = self.frames.min(self.frame + BLOCK_FRAMES);
        let mut block = BytesMut::new();
        for frame in self.frame..end {
            for channel in &mut self.channels {
                let amplitude: f64 = channel.iter_mut().map(|party| party.sample(frame)).sum();
                block.put_i16_le((amplitude * 9_000.0) as i16);
            }
        }
        self.frame = end;
        block.freeze()
    }

    fn filler(&mut self) -> Bytes {
        if self.filler.is_empty() {
            let mut noise = fastrand::Rng::with_seed(0);
            let samples = std::iter::repeat_with(|| noise.i16(-300..300).to_le_bytes());
            self.filler = samples.take(FILLER_BYTES / 2).flatten().collect();
        }
        let left = usize::try_from(self.length - self.sent).unwrap_or(usize::MAX);
        self.filler.slice(..left.min(FILLER_BYTES))
    }
}

impl Iterator for Recording {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let next = if let Some(header) = self.header.take() {
            header
        } else if self.frame < self.frames {
            self.block()
        } else if self.sent < self.length {
            self.filler()
        } else {
            return None;
        };
        self.sent += next.len() as u64;
        Some(next)
    }
}

/// Returns the header of a WAV file with `data` bytes of samples. Its lengths have 32 bits; longer data gets the largest
/// value.
pub(crate) fn header(channels: u16, data: u64) -> Bytes {
    let clamp = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
    let mut header = BytesMut::with_capacity(44);
    header.put_slice(b"RIFF");
    header.put_u32_le(clamp(data + 36));
    header.put_slice(b"WAVEfmt ");
    header.put_u32_le(16);
    header.put_u16_le(1);
    header.put_u16_le(channels);
    header.put_u32_le(SAMPLE_RATE);
    header.put_u32_le(SAMPLE_RATE * 2 * u32::from(channels));
    header.put_u16_le(2 * channels);
    header.put_u16_le(16);
    header.put_slice(b"data");
    header.put_u32_le(clamp(data));
    header.freeze()
}

fn frames_in(ms: u64) -> u64 {
    ms * u64::from(SAMPLE_RATE) / 1000
}

/// The voice of one side of the call.
#[derive(Debug)]
struct Party {
    /// Passages in order: first frame, end frame, and true if muted.
    speech: Vec<(u64, u64, bool)>,
    /// The current or next passage.
    passage: usize,
    /// Radians per frame.
    pitch: f64,
}

impl Party {
    fn user(seed: u64, call: &Conversation, redacted: bool) -> Self {
        let pitch = 95.0 + 90.0 * rng(seed, call.profile.index, Purpose::UserVoice).f64();
        let turns = call.turns.iter().filter(|turn| !turn.user.is_empty());
        Self::new(pitch, turns.map(|turn| (turn.user_from, turn.user_to, redacted && turn.private)))
    }

    fn agent(call: &Conversation, redacted: bool) -> Self {
        let turns = call.turns.iter().filter(|turn| !turn.agent.is_empty());
        Self::new(AGENT_PITCH, turns.map(|turn| (turn.agent_from, turn.agent_to, redacted && turn.private)))
    }

    fn new(pitch: f64, speech_ms: impl Iterator<Item = (u64, u64, bool)>) -> Self {
        let speech = speech_ms.map(|(from, to, muted)| (frames_in(from), frames_in(to), muted)).collect();
        Self { speech, passage: 0, pitch: TAU * pitch / f64::from(SAMPLE_RATE) }
    }

    /// Returns the amplitude at `frame`, from −1 to 1. Frames must come in order.
    #[expect(clippy::cast_precision_loss, reason = "the frames of a passage are far below 2^52")]
    fn sample(&mut self, frame: u64) -> f64 {
        while self.speech.get(self.passage).is_some_and(|(_, to, _)| frame >= *to) {
            self.passage += 1;
        }
        match self.speech.get(self.passage) {
            Some(&(from, _, false)) if frame >= from => {
                let at = (frame - from) as f64;
                let swell = (TAU / 2.0 * SYLLABLES_PER_S * at / f64::from(SAMPLE_RATE)).sin().abs();
                swell * (self.pitch * at).sin()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::{calls::Profile, scenario::CallMix};

    fn call() -> Conversation {
        let mix = CallMix {
            webchat: 0.0,
            chat: 0.0,
            foreign: 0.0,
            min_turns: 8,
            max_turns: 8,
            ..CallMix::default()
        };
        (0..1_000)
            .map(|index| Conversation::generate(5, &Profile::draw(5, index, &mix), 0))
            .find(|call| call.turns.iter().any(|turn| turn.private))
            .unwrap()
    }

    fn file(
        call: &Conversation,
        direction: Direction,
        redacted: bool,
        combined: CombinedChannels,
    ) -> Vec<u8> {
        let recording = Recording::new(5, call, direction, redacted, combined, None);
        let length = recording.length();
        let bytes: Vec<u8> = recording.flatten().collect();
        assert_eq!(bytes.len() as u64, length);
        bytes
    }

    fn samples(file: &[u8]) -> Vec<i16> {
        hound::WavReader::new(Cursor::new(file)).unwrap().into_samples().map(Result::unwrap).collect()
    }

    #[test]
    fn lasts_as_long_as_the_call() {
        let call = call();
        for (direction, combined, channels) in [
            (Direction::Combined, CombinedChannels::Stereo, 2),
            (Direction::Combined, CombinedChannels::Mono, 1),
            (Direction::User, CombinedChannels::Stereo, 1),
            (Direction::Agent, CombinedChannels::Stereo, 1),
        ] {
            let bytes = file(&call, direction, false, combined);
            let reader = hound::WavReader::new(Cursor::new(&bytes)).unwrap();
            let spec = reader.spec();
            assert_eq!((spec.channels, spec.sample_rate, spec.bits_per_sample), (channels, 8_000, 16));
            assert_eq!(u64::from(reader.duration()), call.duration_ms * 8);
            assert_eq!(bytes, file(&call, direction, false, combined), "deterministic");
        }
    }

    #[test]
    fn each_party_is_loud_only_in_its_own_turns() {
        let call = call();
        let loudness = |samples: &[i16], from: u64, to: u64| {
            let part = &samples[usize::try_from(from * 8).unwrap()..usize::try_from(to * 8).unwrap()];
            let energy: f64 = part.iter().map(|sample| f64::from(*sample).powi(2)).sum();
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            (energy / part.len() as f64).sqrt()
        };
        let user = samples(&file(&call, Direction::User, false, CombinedChannels::Stereo));
        let agent = samples(&file(&call, Direction::Agent, false, CombinedChannels::Stereo));
        for turn in call.turns.iter().filter(|turn| !turn.user.is_empty() && !turn.barge_in) {
            let (loud, quiet) = (
                loudness(&user, turn.user_from, turn.user_to),
                loudness(&agent, turn.user_from, turn.user_to),
            );
            assert!(loud > 300.0 && quiet < 1.0, "{loud} {quiet}");
            let (loud, quiet) = (
                loudness(&agent, turn.agent_from, turn.agent_to - 700),
                loudness(&user, turn.agent_from, turn.agent_to - 700),
            );
            assert!(loud > 300.0 && quiet < 1.0, "{loud} {quiet}");
        }
        assert!(user.iter().chain(&agent).all(|sample| sample.unsigned_abs() < 32_000), "nothing clips");
    }

    #[test]
    fn redaction_mutes_private_turns_and_changes_nothing_else() {
        let call = call();
        let open = samples(&file(&call, Direction::User, false, CombinedChannels::Stereo));
        let redacted = samples(&file(&call, Direction::User, true, CombinedChannels::Stereo));
        assert_eq!(open.len(), redacted.len());
        let muted = |frame: usize| {
            let ms = frame as u64 / 8;
            call.turns.iter().any(|turn| turn.private && (turn.user_from..=turn.user_to).contains(&ms))
        };
        assert_ne!(open, redacted);
        for (frame, (open, redacted)) in open.iter().zip(&redacted).enumerate() {
            assert_eq!(*redacted, if muted(frame) { 0 } else { *open }, "frame {frame}");
        }
    }

    #[test]
    fn has_the_requested_size() {
        let call = call();
        let recording =
            |size| Recording::new(5, &call, Direction::Combined, false, CombinedChannels::Stereo, Some(size));
        for size in [44, 45, 1_000, 40 << 20] {
            let length = recording(size).length();
            assert!(length <= size && size - length < 4);
            assert_eq!(recording(size).map(|block| block.len() as u64).sum::<u64>(), length);
        }
        let huge = recording(2 << 30);
        assert_eq!(huge.length(), 2 << 30);
        assert_eq!(huge.take(1_000).map(|block| block.len()).max(), Some(FILLER_BYTES));
    }
}
