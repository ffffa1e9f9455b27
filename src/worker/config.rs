//! `[worker]` and `[refresh]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{polyai::AudioDirection, problem::Problem};

/// `[worker]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Maximum conversations fetched at the same time.
    #[schemars(range(min = 1))]
    pub concurrency: usize,
    /// Environments that are archived. Events of others are acknowledged and counted.
    pub environments: Vec<String>,
    /// Recordings that are archived.
    pub audio: AudioChoice,
    /// Request the redacted recording. A key without access to personal data always gets that one.
    pub redacted: bool,
    /// Time after the end of a call during which its recording may still appear. After that the conversation is archived
    /// without it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub audio_wait: Duration,
}

impl WorkerConfig {
    /// Returns what keeps a worker from archiving anything.
    pub fn problems(&self) -> Vec<Problem> {
        let checks = [
            ("worker.concurrency", self.concurrency == 0, "it is 0, so nothing would be fetched"),
            (
                "worker.environments",
                self.environments.is_empty(),
                "it is empty, so nothing would be archived",
            ),
        ];
        let wrong = checks.into_iter().filter(|(_, is_wrong, _)| *is_wrong);
        wrong.map(|(key, _, message)| Problem::new(key, message)).collect()
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            environments: vec!["live".to_owned()],
            audio: AudioChoice::Combined,
            redacted: false,
            audio_wait: Duration::from_mins(30),
        }
    }
}

/// `[refresh]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RefreshConfig {
    /// Ages of a call, since its end, at which its conversation is fetched again, without recordings. PolyAI writes summary,
    /// score, notes and reviews after the call. An empty list switches this off.
    #[serde(with = "crate::retry::durations")]
    #[schemars(with = "Vec<String>")]
    pub after: Vec<Duration>,
}

impl Default for RefreshConfig {
    fn default() -> Self {
        Self { after: vec![Duration::from_hours(1)] }
    }
}

impl RefreshConfig {
    /// The largest number of ages. Each costs one request for each call, and RabbitMQ has a queue for each.
    pub const MAX_AGES: usize = 8;
    /// The largest age. RabbitMQ holds no message for longer than 49 days.
    pub const MAX_AGE: Duration = Duration::from_hours(30 * 24);

    /// Returns the ages in order, each once.
    pub fn ages(&self) -> Vec<Duration> {
        let mut ages = self.after.clone();
        ages.sort_unstable();
        ages.dedup();
        ages
    }

    /// Returns everything that is wrong with the list.
    pub fn problems(&self) -> Vec<Problem> {
        let checks = [
            (
                self.after.iter().any(Duration::is_zero),
                "it contains 0s, but a conversation is archived right after the call anyway".to_owned(),
                "leave it out, and use an empty list to refresh nothing",
            ),
            (
                self.after.iter().any(|age| *age > Self::MAX_AGE),
                "it contains more than 30days".to_owned(),
                "use shorter ages, and `polyhook fetch` for older calls",
            ),
            (
                self.ages().len() > Self::MAX_AGES,
                format!("it has more than {} ages, and each costs a request for every call", Self::MAX_AGES),
                "use fewer",
            ),
        ];
        let wrong = checks.into_iter().filter(|(is_wrong, ..)| *is_wrong);
        wrong.map(|(_, message, fix)| Problem::new("refresh.after", message).fix(fix)).collect()
    }
}

/// The recordings that are archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioChoice {
    /// `audio.wav`: both parties mixed.
    #[default]
    Combined,
    /// `audio.user.wav`: the caller alone.
    User,
    /// `audio.agent.wav`: the agent alone.
    Agent,
    /// `audio.user.wav` and `audio.agent.wav`.
    Both,
    /// No recording.
    Off,
}

impl AudioChoice {
    /// Returns the recordings to request from PolyAI.
    pub fn directions(self) -> &'static [AudioDirection] {
        match self {
            Self::Combined => &[AudioDirection::Combined],
            Self::User => &[AudioDirection::User],
            Self::Agent => &[AudioDirection::Agent],
            Self::Both => &[AudioDirection::User, AudioDirection::Agent],
            Self::Off => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh(after: &[&str]) -> RefreshConfig {
        toml::from_str(&format!("after = {after:?}")).unwrap()
    }

    #[test]
    fn ages_are_sorted_and_bounded() {
        let config = refresh(&["6h", "15m", "1h", "6h"]);
        assert_eq!(config.ages(), [15, 60, 360].map(Duration::from_mins));
        assert!(config.problems().is_empty());
        assert!(refresh(&[]).ages().is_empty() && refresh(&[]).problems().is_empty());
        assert_eq!(RefreshConfig::default().ages(), [Duration::from_hours(1)]);
        let many: Vec<_> = (1..=9).map(|hours| format!("{hours}h")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(refresh(&many[..8]).problems().is_empty());
        for (unusable, word) in
            [(&["1h", "0s"][..], "0s"), (&["31days"][..], "30days"), (&many[..], "8 ages")]
        {
            let problem = refresh(unusable).problems().remove(0);
            assert!(problem.message().contains(word), "{problem}");
        }
    }
}
