//! The numbers of the last hour.
//!
//! A service of the console takes a sample every [`INTERVAL`]. Samples are in memory only: after a restart the console knows
//! the past since its start.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;

use super::stages::{STAGES, StageKind};

/// The time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// The lengths of a line. After a restart, a whole hour would show hardly a point.
const LENGTHS: [Duration; 3] = [Duration::from_mins(15), Duration::from_mins(30), Duration::from_hours(1)];
/// The points of a line.
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

/// The line of a stage: values at equal distances, the newest last. `None`: not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) points: [Option<u64>; POINTS],
    /// The time from the first to the last point.
    pub(super) length: Duration,
}

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
        let age = self.age(elapsed)?;
        (age + INTERVAL < LENGTHS[LENGTHS.len() - 1]).then(|| now.checked_sub(age).unwrap_or(now))
    }

    /// Returns the length of the lines: the shortest one that shows everything, or an hour.
    pub(super) fn length(&self, elapsed: Duration) -> Duration {
        let age = self.age(elapsed).unwrap_or_default();
        LENGTHS.into_iter().find(|length| *length >= age).unwrap_or(LENGTHS[LENGTHS.len() - 1])
    }

    /// Returns the age of the first sample.
    fn age(&self, elapsed: Duration) -> Option<Duration> {
        self.samples.front().map(|(first, _)| elapsed.saturating_sub(*first))
    }

    /// Returns the line of a stage. A point is the maximum in its time, or the increase if the number only grows.
    pub(super) fn line(&self, stage: usize, elapsed: Duration) -> Line {
        let length = self.length(elapsed);
        let step = length.as_millis() / POINTS as u128;
        let grows = STAGES[stage].kind == StageKind::Counter;
        let mut points: [Option<u64>; POINTS] = [None; POINTS];
        let mut before = None;
        for (at, numbers) in &self.samples {
            let value = numbers[stage];
            let previous = std::mem::replace(&mut before, value);
            let steps = usize::try_from(elapsed.saturating_sub(*at).as_millis() / step).unwrap_or(POINTS);
            let Some(point) = POINTS.checked_sub(steps + 1).map(|point| &mut points[point]) else { continue };
            *point = match (grows, previous, value) {
                (false, _, Some(value)) => Some(point.unwrap_or_default().max(value)),
                // A process that was started again counts from zero.
                (true, Some(previous), Some(value)) => {
                    Some(point.unwrap_or_default() + value.checked_sub(previous).unwrap_or(value))
                }
                _ => *point,
            };
        }
        Line { points, length }
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
        let last = |stage, elapsed| {
            let line = samples.line(stage, elapsed);
            assert_eq!(line.length, LENGTHS[0]);
            assert_eq!(line.points[0], None, "unknown is not zero");
            // Fifteen seconds each.
            line.points[POINTS - 14..].to_vec()
        };
        let expected = |known: &[(usize, u64)]| {
            let mut points = vec![None; 14];
            for (number, value) in known {
                points[*number] = Some(*value);
            }
            points
        };
        assert_eq!(last(RECEIVED, seconds(199)), expected(&[(1, 3), (4, 1), (13, 7)]));
        assert_eq!(last(QUEUED, seconds(199)), expected(&[(0, 1), (1, 5), (4, 2), (12, 0), (13, 0)]));
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
        let line = samples.line(RECEIVED, end);
        assert_eq!((line.points, line.length), ([Some(6); POINTS], Duration::from_hours(1)));
    }
}
