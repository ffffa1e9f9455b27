//! What the stand-in is like: how many calls of which kind, which doors are open, what goes wrong.
//!
//! A scenario is data, so it can be written in TOML, and it is seeded: the same scenario makes the same
//! calls and the same bytes. What goes wrong for one call is its [`CallScript`]; what goes wrong for a project
//! or for everybody is a [`Fault`].

use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::faults::Fault;

/// Everything about the stand-in that can be chosen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Decides every call, every word and every sample.
    pub seed: u64,
    /// How many calls there are at the start, dealt to the projects in turn.
    pub calls: u64,
    /// When the newest of them ended; the time of the start where absent.
    pub epoch: Option<Timestamp>,
    /// The time between the ends of two calls.
    #[serde(with = "humantime_serde")]
    pub spacing: Duration,
    /// The region the stand-in plays. A key of another region is refused with a 401.
    pub region: String,
    /// Who may ask for what.
    pub projects: Vec<Project>,
    /// What the calls are like.
    pub mix: CallMix,
    /// Which of PolyAI's doors are open.
    pub served: ServedApis,
    /// What lists do where the documents disagree.
    pub lists: ListLimits,
    /// The Webhooks API.
    pub webhooks: WebhookRules,
    /// Both channels in a combined recording, or one.
    pub combined: CombinedChannels,
    /// The form of an error's body.
    pub envelope: ErrorEnvelope,
    /// Keep to the types of the published schema in v3 answers. Recorded answers do not (latency is an
    /// object, metrics are lists of `{timestamp, value}`, lists are `null`), so the default does not either.
    pub strict_schema: bool,
    /// Requests per second and project; beyond them 429.
    pub rate_limit: Option<f64>,
    /// What goes wrong, for everybody.
    pub faults: Vec<Fault>,
    /// Signs the deliveries of the stand-in's own sender; made from the seed where empty.
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
    /// Reads a scenario; unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The secret deliveries are signed with.
    pub(crate) fn secret(&self) -> String {
        if self.signing_secret.is_empty() {
            format!("whsec_{}", super::token(self.seed, "signing secret", 32))
        } else {
            self.signing_secret.clone()
        }
    }
}

/// A project (agent) of an account (workspace), and the key to it. Identifiers have two forms, and both are
/// valid in paths (quickstart of June 2026).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Project {
    /// The workspace, prefixed form.
    pub account_id: String,
    /// The workspace, slug form.
    pub account_slug: String,
    /// The project, prefixed form. It is what answers carry.
    pub project_id: String,
    /// The project, slug form.
    pub project_slug: String,
    /// The key for conversations, and for the Data and Webhooks API where they have none of their own.
    pub api_key: String,
    /// The Data API's key where it differs.
    pub data_api_key: Option<String>,
    /// The Webhooks API's key where it differs.
    pub webhooks_api_key: Option<String>,
    /// The region the keys belong to; the scenario's where absent.
    pub region: Option<String>,
    /// Whether turns are shown: off, `num_turns` says how many there are and `turns` is empty.
    pub transcripts: bool,
    /// Whether the key may hear what is private: off, recordings are always the redacted ones.
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

/// What the calls are like. Shares are fractions from 0 to 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallMix {
    /// The fewest turns a call has.
    pub min_turns: u32,
    /// The most turns a call has; long calls are rare.
    pub max_turns: u32,
    /// Calls of the `sandbox` environment.
    pub sandbox: f64,
    /// Calls of the `pre-release` environment. All others are `live`.
    pub pre_release: f64,
    /// Conversations on `WEBCHAT`.
    pub webchat: f64,
    /// Conversations on `CHAT`. All others are `VOICE-SIP`.
    pub chat: f64,
    /// Calls handed to a person.
    pub handoffs: f64,
    /// Calls in another language than English.
    pub foreign: f64,
    /// Ids that are not `CA` and 32 hex digits.
    pub other_ids: f64,
    /// Voice calls whose recording comes late, by `recording_delay`.
    pub late_recordings: f64,
    /// How late it comes, from when the call came into being here.
    #[serde(with = "humantime_serde")]
    pub recording_delay: Duration,
    /// Voice calls that never get a recording (`audioUrl: null`).
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

/// Which doors are open. A closed one answers 404 with none of the codes that mean "unknown conversation",
/// as a path does that is not served on a host.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each door is open or not")]
pub struct ServedApis {
    /// `GET /v3/…/conversations`
    pub v3_list: bool,
    /// `GET /v3/…/conversations/{id}`; absent from the reference of August 2026.
    pub v3_by_id: bool,
    /// `GET /v3/…/conversations/{id}/audio`; absent from the reference of August 2026.
    pub v3_audio: bool,
    /// `/v1/agents/…/conversations`
    pub data_api: bool,
    /// `/v1/webhook-endpoints`, the path of the reference.
    pub webhook_endpoints: bool,
    /// `POST /v1/webhooks/endpoints`, the path of the quickstart.
    pub quickstart_endpoints: bool,
    /// The rest below that path, as in the reference; no document names it.
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

/// What lists do where PolyAI's documents disagree.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListLimits {
    /// v3 page size where none is asked for: 5 in the prose, 1000 in the specification.
    pub default_limit: usize,
    /// Largest v3 page: 1000 in the specification, 5000 in the prose.
    pub max_limit: usize,
    /// Data API page size where none is asked for.
    pub data_default_limit: usize,
}

impl Default for ListLimits {
    fn default() -> Self {
        Self { default_limit: 5, max_limit: 1000, data_default_limit: 50 }
    }
}

/// The Webhooks API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookRules {
    /// Event types an endpoint may subscribe to. The reference of August 2026 has the two alerts only.
    pub event_types: Vec<String>,
    /// Endpoints per account; one more is a 409.
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
    /// Both on one channel.
    Mono,
}

/// The form of an error's body; PolyAI's services use two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorEnvelope {
    /// `{success, error, error_id, error_code, error_message, data}`
    Standard,
    /// `{message, errors: [{field, message}]}`
    Message,
}

/// What is special about one call. The default is nothing: over, visible, recorded.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallScript {
    /// In progress until this much time has passed since the script was given.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub in_progress_for: Option<Duration>,
    /// In progress for this many requests for the conversation.
    pub in_progress_requests: u32,
    /// When its recording is there.
    pub recording: RecordingAvailability,
    /// Its turns are not shown.
    pub hidden_transcript: bool,
    /// It is announced but unknown to the APIs: 404 `CONVERSATIONS_NOT_FOUND`.
    pub missing: bool,
    /// The size of its recording, header included, instead of what its duration gives. Made on the fly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_size: Option<ByteSize>,
    /// How it is changed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<LaterChange>,
    /// What goes wrong with requests for it.
    pub faults: Vec<Fault>,
}

/// When a recording is there. Until then asking for it is a 404 `CONVERSATIONS_RECORDING_NOT_FOUND`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordingAvailability {
    /// At once.
    #[default]
    Ready,
    /// This long after the script was given.
    After(#[serde(with = "humantime_serde")] Duration),
    /// After this many requests for it were refused.
    AfterRequests(u32),
    /// Never; `audioUrl` is `null`.
    Never,
}

/// A conversation that is not the same later.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaterChange {
    /// When: this long after the script was given, …
    #[serde(with = "humantime_serde", default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// … or after this many requests for the conversation, whichever comes first. Neither: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_requests: Option<u32>,
    /// This many turns more, and as much more to hear.
    #[serde(default)]
    pub more_turns: u32,
    /// The summary and the score are there only then.
    #[serde(default)]
    pub summarised: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultAction, Operation};

    #[test]
    fn reads_what_a_person_writes() {
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
    fn scripts_travel_as_json() {
        let script: CallScript = serde_json::from_str(
            r#"{"in_progress_for": "2s", "recording": {"after_requests": 2}, "audio_size": "2 GiB",
                "change": {"after_requests": 1, "more_turns": 3}}"#,
        )
        .unwrap();
        assert_eq!(script.recording, RecordingAvailability::AfterRequests(2));
        assert_eq!(script.audio_size, Some(ByteSize::gib(2)));
        let late: CallScript = serde_json::from_str(r#"{"recording": {"after": "3s"}}"#).unwrap();
        assert_eq!(late.recording, RecordingAvailability::After(Duration::from_secs(3)));
    }

    #[test]
    fn derives_the_signing_secret_from_the_seed() {
        let scenario = Scenario::default();
        assert_eq!(scenario.secret(), Scenario::default().secret());
        assert_ne!(scenario.secret(), Scenario { seed: 2, ..Scenario::default() }.secret());
    }
}
