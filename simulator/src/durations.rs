//! Lists of durations in a scenario or a request: `["1m", "5m"]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

#[derive(Deserialize)]
struct HumanDuration(#[serde(with = "humantime_serde")] Duration);

pub(crate) fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(durations.iter().map(|duration| humantime::format_duration(*duration).to_string()))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    Ok(Vec::<HumanDuration>::deserialize(deserializer)?.into_iter().map(|human| human.0).collect())
}
