//! When a job is tried again.
//!
//! A ladder of delays, climbed one rung a failure; after the last rung the job is a dead letter. What is
//! known to be ready at a certain time (a `Retry-After`, a recording on its way) asks for that time instead
//! and gets the rung that is long enough.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[retry]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// The wait before the second try, the third and so on. After the last the job is a dead letter.
    #[serde(with = "crate::retry::durations")]
    #[schemars(with = "Vec<String>")]
    pub delays: Vec<Duration>,
    /// How much earlier than its delay a try may come, as a fraction, so that many do not come at once.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub jitter: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { delays: [10, 60, 300, 1800, 7200, 21600].map(Duration::from_secs).to_vec(), jitter: 0.1 }
    }
}

/// The ladder of delays.
#[derive(Clone, Debug)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
    jitter: f64,
}

impl RetrySchedule {
    /// The ladder of a configuration.
    pub fn new(config: &RetryConfig) -> Self {
        Self { delays: config.delays.clone(), jitter: config.jitter.clamp(0.0, 0.9) }
    }

    /// The wait after the `failures`-th failure (1 is the first); `None` once the ladder is climbed.
    pub fn delay(&self, failures: usize) -> Option<Duration> {
        self.delays.get(failures.checked_sub(1)?).map(|delay| self.jittered(*delay))
    }

    /// The longest wait of all, for what is waited for however long it takes.
    pub fn last(&self) -> Option<Duration> {
        self.delays.last().map(|delay| self.jittered(*delay))
    }

    fn jittered(&self, delay: Duration) -> Duration {
        delay.mul_f64(1.0 - self.jitter * fastrand::f64())
    }
}

/// A list of durations written `["10s", "1m"]`.
pub(crate) mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Written(#[serde(with = "humantime_serde")] Duration);

    pub(crate) fn serialize<S: Serializer>(delays: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(delays.iter().map(|delay| humantime::format_duration(*delay).to_string()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Written>::deserialize(deserializer)?.into_iter().map(|written| written.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn climbs_the_ladder_and_ends() {
        let ladder = RetrySchedule::new(&RetryConfig { jitter: 0.0, ..RetryConfig::default() });
        let seconds: Vec<_> =
            (0..9).map(|failures| ladder.delay(failures).map(|delay| delay.as_secs())).collect();
        assert_eq!(
            seconds,
            [None, Some(10), Some(60), Some(300), Some(1800), Some(7200), Some(21600), None, None]
        );
    }

    #[test]
    fn jitter_only_shortens() {
        let ladder = RetrySchedule::new(&RetryConfig { jitter: 0.5, ..RetryConfig::default() });
        for _ in 0..1000 {
            let delay = ladder.delay(1).unwrap();
            assert!(delay >= Duration::from_secs(5) && delay <= Duration::from_secs(10), "{delay:?}");
        }
    }

    #[test]
    fn durations_are_written_as_people_do() {
        let config: RetryConfig = toml::from_str(r#"delays = ["10s", "2h"]"#).unwrap();
        assert_eq!(config.delays, [Duration::from_secs(10), Duration::from_hours(2)]);
        assert!(toml::to_string(&config).unwrap().contains(r#"["10s", "2h"]"#));
    }
}
