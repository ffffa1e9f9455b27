//! The numbers of the last hour.
//!
//! A service of the console takes a sample every [`INTERVAL`]. Samples are in memory only: after a restart the console knows
//! the past since its start.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;

use super::stages::{STAGES, StageKind};

/// The time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// The length of a line.
const HOUR: Duration = Duration::from_hours(1);
/// The points of a line, one per minute.
pub(super) const POINTS: usize = 60;
/// The samples of an hour, and the one before.
const MAX_SAMPLES: usize = 361;

/// The numbers of all stages at one moment. `None`: not known.
pub(super) type Numbers = [Option<u64>; STAGES.len()];

/// The samples of the last hour.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// The oldest first. Times are those of [`crate::clock::Clock::elapsed`].
    samples: VecDeque<(Duration, Numbers)>,
}

/// The line of a stage: a value for each minute of the last hour, `None` where it is not known.
pub(super) type Line = [Option<u64>; POINTS];

impl Samples {
    /// Adds a sample of this moment.
    pub(super) fn add(&mut self, elapsed: Duration, numbers: Numbers) {
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((elapsed, numbers));
    }

    /// Returns the time of the first sample, if the samples do not reach an hour back.
    pub(super) fn known_since(&self, elapsed: Duration, now: Timestamp) -> Option<Timestamp> {
        let (first, _) = self.samples.front()?;
        let age = elapsed.saturating_sub(*first);
        (age + INTERVAL < HOUR).then(|| now.checked_sub(age).unwrap_or(now))
    }

    /// Returns the line of a stage: the maximum of each minute, or the increase in each minute if the number only grows.
    pub(super) fn line(&self, stage: usize, elapsed: Duration) -> Line {
        let mut line: Line = [None; POINTS];
        let values = self.samples.iter().map(|(at, numbers)| (*at, numbers[stage]));
        let grows = STAGES[stage].kind == StageKind::Counter;
        let mut before = None;
        for (at, value) in values {
            let previous = std::mem::replace(&mut before, value);
            let minutes = usize::try_from(elapsed.saturating_sub(at).as_secs() / 60).unwrap_or(POINTS);
            let Some(point) = POINTS.checked_sub(minutes + 1).map(|point| &mut line[point]) else { continue };
            *point = match (grows, previous, value) {
                (false, _, Some(value)) => Some(point.unwrap_or_default().max(value)),
                // A process that was started again counts from zero.
                (true, Some(previous), Some(value)) => {
                    Some(point.unwrap_or_default() + value.checked_sub(previous).unwrap_or(value))
                }
                _ => *point,
            };
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVED: usize = 0;
    const QUEUED: usize = 2;

    fn numbers(received: Option<u64>, queued: Option<u64>) -> Numbers {
        let mut numbers = [None; STAGES.len()];
        (numbers[RECEIVED], numbers[QUEUED]) = (received, queued);
        numbers
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn lines_have_increases_and_maxima_and_gaps_where_nothing_is_known() {
        let mut samples = Samples::default();
        for (at, received, queued) in [
            (0, Some(100), Some(1)),
            (10, Some(103), Some(5)),
            (50, Some(104), Some(2)),
            // Nobody answers for two minutes.
            (60, None, None),
            (170, None, None),
            // Another process has counted 7 since its start.
            (180, Some(500), Some(0)),
            (190, Some(7), Some(0)),
        ] {
            samples.add(seconds(at), numbers(received, queued));
        }
        let last = |line: Line| line[POINTS - 4..].to_vec();
        assert_eq!(last(samples.line(RECEIVED, seconds(199))), [Some(3), Some(1), None, Some(7)]);
        assert_eq!(last(samples.line(QUEUED, seconds(199))), [Some(5), Some(2), None, Some(0)]);
        assert_eq!(samples.line(RECEIVED, seconds(199))[0], None, "unknown is not zero");
    }

    #[test]
    fn samples_are_bounded_and_say_since_when_they_know() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let mut samples = Samples::default();
        assert_eq!(samples.known_since(seconds(0), now), None);
        samples.add(seconds(5), numbers(None, None));
        assert_eq!(samples.known_since(seconds(65), now), Some("2026-11-30T11:59:00Z".parse().unwrap()));
        for at in 1..10_000 {
            samples.add(seconds(5 + 10 * at), numbers(Some(at), None));
        }
        assert_eq!(samples.samples.len(), MAX_SAMPLES);
        let end = seconds(5 + 10 * 9999);
        assert_eq!(samples.known_since(end, now), None, "a whole hour");
        assert_eq!(samples.line(RECEIVED, end), [Some(6); POINTS]);
    }
}
