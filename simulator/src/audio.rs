//! Recordings that play: two voices taking turns, made while they are sent.
//!
//! A recording is 16-bit PCM at 8 kHz, as telephone calls are. Where somebody speaks there is a voice: a
//! pulse train at the party's pitch through two formants that change with every syllable, and hiss where
//! consonants would be. No word can be understood, but who speaks, how long, and what is muted can be
//! heard. [`Recording`] is an iterator of small blocks: its length is known before the first, and none is
//! kept. The same call gives the same bytes.

use std::f64::consts::TAU;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;

use super::{Purpose, conversation::Call, rng, scenario::CombinedChannels};

/// Samples a second.
pub(crate) const RATE: u32 = 8_000;
/// Bytes of a header without anything optional in it.
pub(crate) const HEADER: u64 = 44;
/// Frames made at a time: a quarter of a second.
const BLOCK: usize = 2_000;
/// What a recording of a chosen size goes on with after its call: made once, sent again and again.
const FILLER: usize = 64 * 1024;

/// Which side of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Both.
    #[default]
    Combined,
    /// The caller.
    User,
    /// The agent.
    Agent,
}

/// A recording, as the blocks of its file.
#[derive(Debug)]
pub(crate) struct Recording {
    header: Option<Bytes>,
    /// One or two channels; a channel is a voice, or both.
    channels: Vec<Vec<Party>>,
    frame: u64,
    frames: u64,
    /// Bytes of the file in all.
    length: u64,
    sent: u64,
    filler: Bytes,
}

impl Recording {
    pub(crate) fn new(
        seed: u64,
        call: &Call,
        direction: Direction,
        redacted: bool,
        combined: CombinedChannels,
        size: Option<u64>,
    ) -> Self {
        let party = |agent| Party::new(seed, call, agent, redacted);
        let channels = match (direction, combined) {
            (Direction::User, _) => vec![vec![party(false)]],
            (Direction::Agent, _) => vec![vec![party(true)]],
            (Direction::Combined, CombinedChannels::Stereo) => vec![vec![party(false)], vec![party(true)]],
            (Direction::Combined, CombinedChannels::Mono) => vec![vec![party(false), party(true)]],
        };
        let frame_bytes = 2 * channels.len() as u64;
        let frames = call.duration_ms * u64::from(RATE) / 1000;
        let natural = frames * frame_bytes;
        // Whole frames only: a file that ends in half a sample would be damaged in another way than asked.
        let data = size.map_or(natural, |size| size.saturating_sub(HEADER) / frame_bytes * frame_bytes);
        Self {
            header: Some(header(if channels.len() == 2 { 2 } else { 1 }, data)),
            frames: frames.min(data / frame_bytes),
            length: HEADER + data,
            channels,
            frame: 0,
            sent: 0,
            filler: Bytes::new(),
        }
    }

    /// The size of the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounded by the block's size, or clamped to 16 bits")]
    fn block(&mut self) -> Bytes {
        let frames = BLOCK.min((self.frames - self.frame) as usize);
        let mut block = BytesMut::with_capacity(frames * 2 * self.channels.len());
        for _ in 0..frames {
            for channel in &mut self.channels {
                let sample: f64 = channel.iter_mut().map(|party| party.sample(self.frame)).sum();
                block.put_i16_le((sample * 9_000.0).clamp(-32_000.0, 32_000.0) as i16);
            }
            self.frame += 1;
        }
        block.freeze()
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounded by the filler's size")]
    fn filler(&mut self) -> Bytes {
        if self.filler.is_empty() {
            let mut hiss = Noise(0x5EED);
            let mut filler = BytesMut::with_capacity(FILLER);
            while filler.len() < FILLER {
                filler.put_i16_le((hiss.next() * 300.0) as i16);
            }
            self.filler = filler.freeze();
        }
        self.filler.slice(..(FILLER as u64).min(self.length - self.sent) as usize)
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

/// The header of `data` bytes of samples. The format's lengths have 32 bits; what is longer says the most
/// they can.
pub(crate) fn header(channels: u16, data: u64) -> Bytes {
    let clamp = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
    let mut header = BytesMut::with_capacity(44);
    header.put_slice(b"RIFF");
    header.put_u32_le(clamp(data + 36));
    header.put_slice(b"WAVEfmt ");
    header.put_u32_le(16);
    header.put_u16_le(1);
    header.put_u16_le(channels);
    header.put_u32_le(RATE);
    header.put_u32_le(RATE * 2 * u32::from(channels));
    header.put_u16_le(2 * channels);
    header.put_u16_le(16);
    header.put_slice(b"data");
    header.put_u32_le(clamp(data));
    header.freeze()
}

/// One side of the call: when it speaks, and with what voice.
#[derive(Debug)]
struct Party {
    /// In frames, in order: from, to, and whether it is muted.
    speech: Vec<(u64, u64, bool)>,
    at: usize,
    voice: Option<Voice>,
    seed: u64,
    pitch: f64,
}

impl Party {
    fn new(seed: u64, call: &Call, agent: bool, redacted: bool) -> Self {
        let frame = |ms: u64| ms * u64::from(RATE) / 1000;
        let speech = call
            .turns
            .iter()
            .filter_map(|turn| {
                let (text, from, to) = if agent {
                    (&turn.agent, turn.agent_from, turn.agent_to)
                } else {
                    (&turn.user, turn.user_from, turn.user_to)
                };
                (!text.is_empty()).then(|| (frame(from), frame(to), redacted && turn.private))
            })
            .collect();
        let mut dice =
            rng(seed, call.profile.index, if agent { Purpose::AgentVoice } else { Purpose::UserVoice });
        // The agent sounds the same in every call, callers do not.
        let pitch = if agent { 205.0 } else { 95.0 + 90.0 * dice.f64() };
        Self { speech, at: 0, voice: None, seed: dice.u64(..), pitch }
    }

    fn sample(&mut self, frame: u64) -> f64 {
        let Some(&(from, to, muted)) = self.speech.get(self.at) else { return 0.0 };
        if frame < from {
            return 0.0;
        }
        if frame >= to {
            self.at += 1;
            self.voice = None;
            return 0.0;
        }
        if muted {
            return 0.0;
        }
        let (seed, pitch) = (self.seed ^ self.at as u64, self.pitch);
        self.voice.get_or_insert_with(|| Voice::new(seed, pitch)).next(to - frame)
    }
}

/// Somebody speaking.
#[derive(Debug)]
struct Voice {
    dice: fastrand::Rng,
    noise: Noise,
    pitch: f64,
    phase: f64,
    formants: [Resonator; 2],
    /// Frames into the syllable, and its length.
    syllable: (u32, u32),
    hiss: u32,
    stress: f64,
}

/// First and second formant of vowels as they are spoken, in Hz.
const VOWELS: [(f64, f64); 7] = [
    (730.0, 1090.0),
    (570.0, 840.0),
    (530.0, 1840.0),
    (390.0, 1990.0),
    (300.0, 870.0),
    (640.0, 1190.0),
    (490.0, 1350.0),
];

impl Voice {
    fn new(seed: u64, pitch: f64) -> Self {
        let mut voice = Self {
            dice: fastrand::Rng::with_seed(seed),
            noise: Noise(seed | 1),
            pitch,
            phase: 0.0,
            formants: [Resonator::default(), Resonator::default()],
            syllable: (0, 0),
            hiss: 0,
            stress: 0.0,
        };
        voice.next_syllable();
        voice
    }

    fn next_syllable(&mut self) {
        let (first, second) = VOWELS[self.dice.usize(..VOWELS.len())];
        self.formants[0].tune(first, 80.0);
        self.formants[1].tune(second, 120.0);
        // About four to six a second, with a pause now and then, as between words.
        self.syllable = (0, self.dice.u32(1_100..2_000));
        self.hiss = self.dice.u32(150..500);
        self.stress = if self.dice.f64() < 0.12 { 0.0 } else { 0.6 + 0.4 * self.dice.f64() };
    }

    /// The next sample, with `left` frames to go in this turn.
    fn next(&mut self, left: u64) -> f64 {
        let (at, length) = self.syllable;
        if at >= length {
            self.next_syllable();
            return self.next(left);
        }
        self.syllable.0 += 1;
        let through = f64::from(at) / f64::from(length);
        let swell = 4.0 * through * (1.0 - through) * self.stress;
        // The pitch falls over a syllable and at the end of what is said.
        let falling = if left < 4_000 { 0.9 } else { 1.0 };
        self.phase += self.pitch * (1.08 - 0.16 * through) * falling / f64::from(RATE);
        let pulse = if self.phase >= 1.0 {
            self.phase -= 1.0;
            1.0
        } else {
            -0.02
        };
        let vowel = self.formants[0].filter(pulse) + 0.5 * self.formants[1].filter(pulse);
        let consonant =
            if at < self.hiss { self.noise.next() * 0.12 * self.stress } else { self.noise.next() * 0.004 };
        swell * vowel + consonant
    }
}

/// A second-order resonance.
#[derive(Debug, Default)]
struct Resonator {
    gain: f64,
    feedback: (f64, f64),
    past: (f64, f64),
}

impl Resonator {
    fn tune(&mut self, frequency: f64, width: f64) {
        let radius = (-TAU / 2.0 * width / f64::from(RATE)).exp();
        self.feedback = (2.0 * radius * (TAU * frequency / f64::from(RATE)).cos(), -radius * radius);
        self.gain = (1.0 - radius) * 6.0;
    }

    fn filter(&mut self, input: f64) -> f64 {
        let out = self.gain * input + self.feedback.0 * self.past.0 + self.feedback.1 * self.past.1;
        self.past = (out, self.past.0);
        out
    }
}

/// White noise from −1 to 1 (xorshift: the quality is for ears, and it is made for every sample).
#[derive(Debug)]
struct Noise(u64);

impl Noise {
    #[expect(clippy::cast_precision_loss, reason = "it is noise")]
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::{conversation::Profile, scenario::CallMix};

    fn call() -> Call {
        let mix = CallMix {
            webchat: 0.0,
            chat: 0.0,
            foreign: 0.0,
            min_turns: 8,
            max_turns: 8,
            ..CallMix::default()
        };
        (0..1_000)
            .map(|index| Call::draw(5, &Profile::draw(5, index, &mix), 0))
            .find(|call| call.turns.iter().any(|turn| turn.private))
            .unwrap()
    }

    fn file(call: &Call, direction: Direction, redacted: bool, combined: CombinedChannels) -> Vec<u8> {
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
    fn plays_for_as_long_as_the_call() {
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
    fn the_parties_take_turns() {
        let call = call();
        let loud = |samples: &[i16], from: u64, to: u64| {
            let part = &samples[usize::try_from(from * 8).unwrap()..usize::try_from(to * 8).unwrap()];
            let energy: f64 = part.iter().map(|sample| f64::from(*sample).powi(2)).sum();
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            (energy / part.len() as f64).sqrt()
        };
        let user = samples(&file(&call, Direction::User, false, CombinedChannels::Stereo));
        let agent = samples(&file(&call, Direction::Agent, false, CombinedChannels::Stereo));
        for turn in call.turns.iter().filter(|turn| !turn.user.is_empty() && !turn.barge_in) {
            let (on, off) =
                (loud(&user, turn.user_from, turn.user_to), loud(&agent, turn.user_from, turn.user_to));
            assert!(on > 300.0 && off < 1.0, "{on} {off}");
            let (on, off) = (
                loud(&agent, turn.agent_from, turn.agent_to - 700),
                loud(&user, turn.agent_from, turn.agent_to - 700),
            );
            assert!(on > 300.0 && off < 1.0, "{on} {off}");
        }
        assert!(user.iter().chain(&agent).all(|sample| sample.unsigned_abs() < 32_000), "nothing clips");
    }

    #[test]
    fn what_is_private_is_muted_and_the_rest_is_the_same() {
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
    fn any_size_is_made_on_the_fly() {
        let call = call();
        for size in [44, 45, 1_000, 40 << 20] {
            let recording =
                Recording::new(5, &call, Direction::Combined, false, CombinedChannels::Stereo, Some(size));
            let length = recording.length();
            assert!(length <= size && size - length < 4);
            assert_eq!(recording.map(|block| block.len() as u64).sum::<u64>(), length);
        }
        let huge =
            Recording::new(5, &call, Direction::Combined, false, CombinedChannels::Stereo, Some(2 << 30));
        assert_eq!(huge.length(), 2 << 30);
        assert_eq!(huge.take(1_000).map(|block| block.len()).max(), Some(FILLER));
    }
}
