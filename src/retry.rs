//! The schedule of retries.
//!
//! A job that fails is retried after the next delay of the schedule; after the last one it becomes a dead letter.
//! PolyAI's `Retry-After` can only lengthen a delay, up to an hour. Recordings that do not exist yet have their own times.
//! The worker applies both.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// `[retry]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Waits before the second attempt, the third and so on. After the last attempt the job is a dead letter.
    #[serde(with = "crate::retry::durations")]
    #[schemars(with = "Vec<String>")]
    pub delays: Vec<Duration>,
    /// Largest fraction by which a delay is shortened at random, so that many jobs are not retried at once.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub jitter: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { delays: [10, 60, 300, 1800, 7200, 21600].map(Duration::from_secs).to_vec(), jitter: 0.1 }
    }
}

impl RetryConfig {
    /// Returns the reason why the schedule cannot be used, if there is one.
    pub fn problem(&self) -> Option<Problem> {
        let is_valid = (0.0..=0.9).contains(&self.jitter);
        (!is_valid).then(|| Problem::new("retry.jitter", "it must be between 0 and 0.9"))
    }
}

/// The delays between the attempts of a job.
#[derive(Clone, Debug)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
    jitter: f64,
}

impl RetrySchedule {
    /// Creates the schedule of a configuration.
    pub fn new(config: &RetryConfig) -> Self {
        Self { delays: config.delays.clone(), jitter: config.jitter.clamp(0.0, 0.9) }
    }

    /// Returns the wait after the `failures`-th failure (1 is the first), or `None` after the last attempt.
    pub fn delay(&self, failures: usize) -> Option<Duration> {
        self.delays.get(failures.checked_sub(1)?).map(|delay| self.jittered(*delay))
    }

    /// Returns whether no attempt follows the `failures`-th failure.
    pub fn is_exhausted_by(&self, failures: usize) -> bool {
        failures > self.delays.len()
    }

    /// Returns the last delay, for a wait without a limit on attempts.
    pub fn last_delay(&self) -> Option<Duration> {
        self.delays.last().map(|delay| self.jittered(*delay))
    }

    fn jittered(&self, delay: Duration) -> Duration {
        delay.mul_f64(1.0 - self.jitter * fastrand::f64())
    }
}

/// Reads and writes a list of durations as `["10s", "1m"]`.
pub(crate) mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct HumanDuration(#[serde(with = "humantime_serde")] Duration);

    pub(crate) fn serialize<S: Serializer>(delays: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(delays.iter().map(|delay| humantime::format_duration(*delay).to_string()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<HumanDuration>::deserialize(deserializer)?.into_iter().map(|duration| duration.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_each_delay_once() {
        let schedule = RetrySchedule::new(&RetryConfig { jitter: 0.0, ..RetryConfig::default() });
        let seconds: Vec<_> =
            (0..9).map(|failures| schedule.delay(failures).map(|delay| delay.as_secs())).collect();
        assert_eq!(
            seconds,
            [None, Some(10), Some(60), Some(300), Some(1800), Some(7200), Some(21600), None, None]
        );
        assert!(
            (1..9).all(|failures| schedule.is_exhausted_by(failures) == schedule.delay(failures).is_none())
        );
    }

    #[test]
    fn jitter_only_shortens_delays() {
        let schedule = RetrySchedule::new(&RetryConfig { jitter: 0.5, ..RetryConfig::default() });
        for _ in 0..1000 {
            let delay = schedule.delay(1).unwrap();
            assert!(delay >= Duration::from_secs(5) && delay <= Duration::from_secs(10), "{delay:?}");
        }
    }

    #[test]
    fn reads_and_writes_human_durations() {
        let config: RetryConfig = toml::from_str(r#"delays = ["10s", "2h"]"#).unwrap();
        assert_eq!(config.delays, [Duration::from_secs(10), Duration::from_hours(2)]);
        assert!(toml::to_string(&config).unwrap().contains(r#"["10s", "2h"]"#));
    }
}
