//! Compares a recording with its call and describes what a reader should know about it. Pure.
//!
//! A recording is not as long as its call to the second: ringing, a caller who hangs up early and the time after a transfer
//! make a difference. So only a recording that is shorter than half of the call or longer than twice the call, and by more
//! than [`TOLERANCE_S`], gets a warning.

use crate::{
    polyai::{AudioDirection, ConversationInfo},
    wav::{WavDefect, WavInfo},
};

/// The factor between the lengths of a recording and its call that is not worth a warning.
const TOLERATED_FACTOR: f64 = 2.0;
/// The difference in seconds that is never worth a warning.
const TOLERANCE_S: f64 = 5.0;

/// The length of a call in seconds. If it was transferred, the recording may end with the agent's part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CallLength {
    shortest: f64,
    longest: f64,
}

impl CallLength {
    /// Returns the length, if PolyAI states it.
    pub(super) fn of(info: &ConversationInfo) -> Option<Self> {
        let from_times = || {
            let (started_at, finished_at) = (info.started_at?, info.finished_at?);
            Some(finished_at.duration_since(started_at).as_secs_f64())
        };
        let total = info.total_duration_s.filter(|seconds| *seconds > 0.0).or_else(from_times)?;
        let agent = info.polyai_duration_s.filter(|seconds| *seconds > 0.0);
        let shortest = agent.filter(|_| info.handoff.happened).map_or(total, |agent| agent.min(total));
        let longest = agent.map_or(total, |agent| agent.max(total));
        (total > 0.0).then_some(Self { shortest, longest })
    }

    fn is_much_longer_than(self, seconds: f64) -> bool {
        seconds * TOLERATED_FACTOR < self.shortest && self.shortest - seconds > TOLERANCE_S
    }

    fn is_much_shorter_than(self, seconds: f64) -> bool {
        seconds > self.longest * TOLERATED_FACTOR && seconds - self.longest > TOLERANCE_S
    }

    fn fits(self, seconds: f64) -> bool {
        !self.is_much_longer_than(seconds) && !self.is_much_shorter_than(seconds)
    }
}

/// Returns whether the header of a whole download tells the truth and the sound is incomplete: the length in the header
/// fits the call, and that of the sound does not. PolyAI may serve the rest later.
pub(super) fn is_incomplete(wav: &WavInfo, defects: &[WavDefect], call: Option<CallLength>) -> bool {
    let declared = defects.iter().find_map(|defect| match defect {
        WavDefect::Overstated { declared_seconds, .. } => Some(*declared_seconds),
        _ => None,
    });
    match (declared, call) {
        (Some(declared), Some(call)) => call.fits(declared) && call.is_much_longer_than(wav.seconds),
        _ => false,
    }
}

/// Returns the warnings about an archived recording. Each contains [`recording_name`].
pub(super) fn warnings(
    direction: AudioDirection,
    wav: &WavInfo,
    defects: &[WavDefect],
    call: Option<CallLength>,
) -> Vec<String> {
    let name = recording_name(direction);
    let mut warnings: Vec<_> = defects
        .iter()
        .map(|defect| format!("recording_header: {name} is archived as it came, but {defect}"))
        .collect();
    if let Some(call) = call.filter(|call| !call.fits(wav.seconds)) {
        let CallLength { shortest, longest } = call;
        let call = if call.is_much_longer_than(wav.seconds) { shortest } else { longest };
        warnings.push(format!(
            "recording_length: {name} lasts {:.1} s, but PolyAI states {call:.1} s for the call",
            wav.seconds
        ));
    }
    warnings
}

/// Returns the words for a recording in the warnings about it.
pub(super) fn recording_name(direction: AudioDirection) -> String {
    format!("the {} recording", direction.label())
}

/// Returns whether an earlier manifest's warning is about this recording, which is kept.
pub(super) fn is_about(warning: &str, direction: AudioDirection) -> bool {
    warning.starts_with("recording_") && warning.contains(&recording_name(direction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polyai::Handoff;

    fn call(total: f64, agent: Option<f64>, transferred: bool) -> Option<CallLength> {
        CallLength::of(&ConversationInfo {
            total_duration_s: Some(total),
            polyai_duration_s: agent,
            handoff: Handoff { happened: transferred, ..Handoff::default() },
            ..ConversationInfo::default()
        })
    }

    fn wav(seconds: f64) -> WavInfo {
        WavInfo {
            format: "pcm".to_owned(),
            channels: 1,
            sample_rate_hz: 8000,
            bits_per_sample: 16,
            data_bytes: 1,
            seconds,
            open_ended: false,
        }
    }

    fn words(seconds: f64, defects: &[WavDefect], call: Option<CallLength>) -> Vec<String> {
        let warnings = warnings(AudioDirection::User, &wav(seconds), defects, call);
        assert!(warnings.iter().all(|warning| is_about(warning, AudioDirection::User)), "{warnings:?}");
        assert!(!warnings.iter().any(|warning| is_about(warning, AudioDirection::Agent)), "{warnings:?}");
        warnings.iter().map(|warning| warning.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn ordinary_lengths_give_no_warning() {
        for (seconds, call) in [
            (73.0, call(73.0, Some(70.0), false)),
            (2.0, call(7.0, None, false)),
            (9.0, call(4.0, None, false)),
            (40.0, call(73.0, None, false)),
            (140.0, call(73.0, None, false)),
            // Transferred: the recording ends with the agent's part, or with the call.
            (60.0, call(900.0, Some(62.0), true)),
            (895.0, call(900.0, Some(62.0), true)),
            // PolyAI does not state the length.
            (2.0, call(0.0, None, false)),
            (2.0, CallLength::of(&ConversationInfo::default())),
        ] {
            assert_eq!(words(seconds, &[], call), [""; 0], "{seconds} {call:?}");
        }
    }

    #[test]
    fn a_much_shorter_or_longer_recording_gives_a_warning() {
        for (seconds, call) in [
            (2.0, call(600.0, None, false)),
            (2.0, call(600.0, Some(598.0), false)),
            (600.0, call(60.0, Some(60.0), false)),
            (2.0, call(900.0, Some(62.0), true)),
            (60.0, call(900.0, Some(62.0), false)),
        ] {
            assert_eq!(words(seconds, &[], call), ["recording_length"], "{seconds} {call:?}");
        }
        let times = ConversationInfo {
            started_at: Some("2026-11-22T10:00:00Z".parse().unwrap()),
            finished_at: Some("2026-11-22T10:10:00Z".parse().unwrap()),
            ..ConversationInfo::default()
        };
        assert_eq!(words(2.0, &[], CallLength::of(&times)), ["recording_length"]);
    }

    #[test]
    fn believes_a_header_that_fits_the_call() {
        let overstated = |declared_seconds| [WavDefect::Overstated { declared: 1, got: 1, declared_seconds }];
        let minute = call(60.0, None, false);
        assert!(is_incomplete(&wav(3.0), &overstated(61.0), minute));
        // The header is wrong, or the difference is small, or nothing is known about the call.
        assert!(!is_incomplete(&wav(3.0), &overstated(125_000.0), minute));
        assert!(!is_incomplete(&wav(60.0), &overstated(60.002), minute));
        assert!(!is_incomplete(&wav(3.0), &overstated(3.002), minute));
        assert!(!is_incomplete(&wav(3.0), &overstated(61.0), None));
        assert!(!is_incomplete(&wav(3.0), &[WavDefect::OpenEnded], minute));
        assert_eq!(words(60.0, &overstated(125_000.0), minute), ["recording_header"]);
    }
}
