//! The scenario of a simulator: its projects, its calls, the APIs it serves and its faults.
//!
//! A scenario can be written in TOML. The same scenario gives the same calls and the same bytes.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{error::ErrorEnvelope, fault::Fault, random::token};

/// The definition of a simulated PolyAI.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// The seed of all calls, words and recordings.
    pub seed: u64,
    /// The number of calls at the start. They are distributed evenly over the projects.
    pub calls: u64,
    /// The end of the newest call. Absent means the start of the simulator.
    pub epoch: Option<Timestamp>,
    /// The time between the ends of two calls.
    #[serde(with = "humantime_serde")]
    pub spacing: Duration,
    /// The simulated region. A key of another region is a 401.
    pub region: String,
    /// The projects and their keys.
    pub projects: Vec<Project>,
    /// The mix of calls.
    pub mix: CallMix,
    /// The APIs that are served.
    pub served: ServedApis,
    /// The limits of lists.
    pub lists: ListLimits,
    /// The rules of the Webhooks API.
    pub webhooks: WebhookRules,
    /// The channels of a combined recording.
    pub combined: CombinedChannels,
    /// The envelope of errors.
    pub envelope: ErrorEnvelope,
    /// Uses only the types of the published schema in v3 answers. PolyAI's recorded answers do not (latency is an
    /// object, metrics are lists of `{timestamp, value}`, empty lists are `null`), so the default does not either.
    pub strict_schema: bool,
    /// The requests per second and project; more are a 429.
    pub rate_limit: Option<f64>,
    /// The faults of all requests.
    pub faults: Vec<Fault>,
    /// The secret that signs the simulator's deliveries. Empty means one that follows from the seed.
    pub signing_secret: String,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            calls: 20,
            epoch: None,
            spacing: Duration::from_secs(97),
            region: "us".to_owned(),
            projects: vec![Project::default()],
            mix: CallMix::default(),
            served: ServedApis::default(),
            lists: ListLimits::default(),
            webhooks: WebhookRules::default(),
            combined: CombinedChannels::Stereo,
            envelope: ErrorEnvelope::Standard,
            strict_schema: false,
            rate_limit: None,
            faults: Vec::new(),
            signing_secret: String::new(),
        }
    }
}

impl Scenario {
    /// Reads a scenario. Unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Returns the secret that signs deliveries.
    pub(crate) fn signing_secret(&self) -> String {
        if self.signing_secret.is_empty() {
            format!("whsec_{}", token(self.seed, "signing secret", 32))
        } else {
            self.signing_secret.clone()
        }
    }
}

/// A project (agent) of an account (workspace), and its keys. Identifiers have two forms, and both are valid in paths
/// (quickstart of June 2026).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Project {
    /// The account in its prefixed form.
    pub account_id: String,
    /// The account in its slug form.
    pub account_slug: String,
    /// The project in its prefixed form, which answers contain.
    pub project_id: String,
    /// The project in its slug form.
    pub project_slug: String,
    /// The key of the Conversations API, and of the Data and Webhooks APIs unless they have their own key.
    pub api_key: String,
    /// The Data API's own key.
    pub data_api_key: Option<String>,
    /// The Webhooks API's own key.
    pub webhooks_api_key: Option<String>,
    /// The region of the keys. Absent means the scenario's.
    pub region: Option<String>,
    /// Answers contain turns. If false, `turns` is empty and `num_turns` still has their number.
    pub transcripts: bool,
    /// The key gives access to private data. If false, recordings are always redacted.
    pub pii_access: bool,
}

impl Default for Project {
    fn default() -> Self {
        Self {
            account_id: "ws-5a11d0c5".to_owned(),
            account_slug: "harbour-hotels".to_owned(),
            project_id: "PROJECT-C0NC1ERG".to_owned(),
            project_slug: "concierge".to_owned(),
            api_key: "simulated-key-0001".to_owned(),
            data_api_key: None,
            webhooks_api_key: None,
            region: None,
            transcripts: true,
            pii_access: true,
        }
    }
}

impl Project {
    /// Returns true if `name` is one of the project's two identifiers.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.project_id == name || self.project_slug == name
    }

    /// Returns true if `account` is one of the two identifiers of the project's account.
    pub(crate) fn is_of_account(&self, account: &str) -> bool {
        self.account_id == account || self.account_slug == account
    }
}

/// The mix of calls. Shares are fractions from 0 to 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallMix {
    /// The minimum number of turns.
    pub min_turns: u32,
    /// The maximum number of turns. Long calls are rare.
    pub max_turns: u32,
    /// The share of calls in the `sandbox` environment.
    pub sandbox: f64,
    /// The share of calls in the `pre-release` environment. All others are `live`.
    pub pre_release: f64,
    /// The share of conversations on `WEBCHAT`.
    pub webchat: f64,
    /// The share of conversations on `CHAT`. All others are `VOICE-SIP`.
    pub chat: f64,
    /// The share of calls that are handed to a person.
    pub handoffs: f64,
    /// The share of calls in another language than English.
    pub foreign: f64,
    /// The share of ids that are not `CA` and 32 hex digits.
    pub other_ids: f64,
    /// The share of voice calls whose recording is late by `recording_delay`.
    pub late_recordings: f64,
    /// The delay of a late recording, from the time the call was added.
    #[serde(with = "humantime_serde")]
    pub recording_delay: Duration,
    /// The share of voice calls that never get a recording (`audioUrl: null`).
    pub missing_recordings: f64,
}

impl Default for CallMix {
    fn default() -> Self {
        Self {
            min_turns: 1,
            max_turns: 60,
            sandbox: 0.1,
            pre_release: 0.05,
            webchat: 0.1,
            chat: 0.05,
            handoffs: 0.2,
            foreign: 0.15,
            other_ids: 0.2,
            late_recordings: 0.0,
            recording_delay: Duration::from_secs(5),
            missing_recordings: 0.0,
        }
    }
}

/// The APIs that are served. Another one answers 404 without an error code of PolyAI's, like a host that does not know the
/// path.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "an independent switch for each API")]
pub struct ServedApis {
    /// `GET /v3/…/conversations`
    pub v3_list: bool,
    /// `GET /v3/…/conversations/{id}`; the reference of August 2026 does not have it.
    pub v3_by_id: bool,
    /// `GET /v3/…/conversations/{id}/audio`; the reference of August 2026 does not have it.
    pub v3_audio: bool,
    /// `/v1/agents/…/conversations`
    pub data_api: bool,
    /// `/v1/webhook-endpoints`, the path of the reference.
    pub webhook_endpoints: bool,
    /// `POST /v1/webhooks/endpoints`, the path of the quickstart.
    pub quickstart_endpoints: bool,
    /// The other requests below that path, as in the reference. No document names them.
    pub quickstart_management: bool,
}

impl Default for ServedApis {
    fn default() -> Self {
        Self {
            v3_list: true,
            v3_by_id: true,
            v3_audio: true,
            data_api: true,
            webhook_endpoints: true,
            quickstart_endpoints: true,
            quickstart_management: false,
        }
    }
}

/// The limits of lists. PolyAI's documents disagree about them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListLimits {
    /// The default page size of v3: 5 in the prose, 1000 in the specification.
    pub default_limit: usize,
    /// The largest page of v3: 1000 in the specification, 5000 in the prose.
    pub max_limit: usize,
    /// The default page size of the Data API.
    pub data_default_limit: usize,
}

impl Default for ListLimits {
    fn default() -> Self {
        Self { default_limit: 5, max_limit: 1000, data_default_limit: 50 }
    }
}

/// The rules of the Webhooks API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookRules {
    /// The event types that an endpoint can subscribe to. The reference of August 2026 has only the two alerts.
    pub event_types: Vec<String>,
    /// The maximum number of endpoints per account; one more is a 409.
    pub max_endpoints: usize,
}

impl Default for WebhookRules {
    fn default() -> Self {
        let event_types =
            ["conversation.completed", "handoff.created", "alerts.triggered", "alerts.resolved"];
        Self { event_types: event_types.map(str::to_owned).to_vec(), max_endpoints: 10 }
    }
}

/// The channels of a combined recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CombinedChannels {
    /// The caller on the left, the agent on the right.
    Stereo,
    /// One channel for both.
    Mono,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{FaultAction, Operation};

    #[test]
    fn reads_toml() {
        let scenario = Scenario::from_toml(
            r#"
            seed = 7
            calls = 3
            combined = "mono"
            rate_limit = 20
            [mix]
            late_recordings = 0.5
            recording_delay = "90s"
            [served]
            v3_by_id = false
            [[projects]]
            project_id = "PROJECT-A"
            [[faults]]
            operations = ["v3_audio"]
            times = 2
            action = { rate_limited = { seconds = 7 } }
            [[faults]]
            probability = 0.1
            action = "hang_up"
            "#,
        )
        .unwrap();
        assert_eq!(scenario.mix.recording_delay, Duration::from_secs(90));
        assert!(!scenario.served.v3_by_id && scenario.served.v3_audio);
        assert_eq!(scenario.faults[0].operations, [Operation::V3Audio]);
        assert!(matches!(scenario.faults[1].action, FaultAction::HangUp));
        assert!(Scenario::from_toml("sed = 1").is_err());
    }

    #[test]
    fn derives_the_signing_secret_from_the_seed() {
        let scenario = Scenario::default();
        assert_eq!(scenario.signing_secret(), Scenario::default().signing_secret());
        assert_ne!(scenario.signing_secret(), Scenario { seed: 2, ..Scenario::default() }.signing_secret());
    }
}
