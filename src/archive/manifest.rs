//! `manifest.json`: the description of an archived conversation.
//!
//! The manifest is written last, so its existence means that everything it names exists. It is also the data of the
//! announcement, so it contains nothing private: no transcript, no phone number, no caller.
//!
//! Reading is lenient: unknown fields are ignored, and unknown words become `unknown`. So a later polyhook can add
//! both without a new [`SCHEMA_VERSION`].

use std::time::Duration;

use jiff::Timestamp;
use object_store::path::Path;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ArchiveError, key::CONVERSATION};
use crate::wav::WavInfo;

/// The schema version. It grows when something is removed or changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// The first word of the warning about an earlier revision that is lost.
pub(super) const REVISION_LOST: &str = "revision_lost";

/// One archived conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Grows when something is removed or changes its meaning. Fields and words may be added without a new version.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// 1 for the first archived copy, and one more for each copy that replaced it.
    pub revision: u64,
    /// PolyAI's id of the conversation.
    pub conversation_id: String,
    /// The account (workspace).
    pub account_id: String,
    /// The project (agent).
    pub project_id: String,
    /// PolyAI's data about the conversation.
    #[serde(flatten)]
    pub facts: ConversationFacts,
    /// All objects in the folder except the manifest itself. `conversation.json` comes first; earlier revisions of it are
    /// `conversation.<revision>.json`.
    pub objects: Vec<ManifestObject>,
    /// The state of the recordings.
    pub audio: AudioSummary,
    /// Warnings for the reader: each is a constant word, a colon, and a text for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The origin of this copy.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// The times of its processing.
    pub timings: Timings,
    /// The version of polyhook that wrote the manifest.
    pub polyhook_version: String,
}

impl Manifest {
    /// Returns the entry of `conversation.json`.
    pub fn conversation(&self) -> Option<&ManifestObject> {
        self.objects.iter().find(|object| object.name == CONVERSATION)
    }

    /// Returns true if `conversation.json` has replaced other bytes, whether they are kept or lost.
    pub fn replaces_earlier_bytes(&self) -> bool {
        self.objects.iter().any(|object| object.kind == ObjectKind::Revision)
            || self.warnings.iter().any(|warning| warning.starts_with(REVISION_LOST))
    }

    /// Returns the entry of one recording.
    pub fn recording(&self, direction: Direction) -> Option<&ManifestObject> {
        self.objects
            .iter()
            .find(|object| object.kind == ObjectKind::Audio && object.direction == Some(direction))
    }
}

/// PolyAI's data about a conversation, read from `conversation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationFacts {
    /// `VOICE-SIP`, `WEBCHAT`, `CHAT`, …
    pub channel: String,
    /// `live`, `sandbox`, `pre-release`.
    pub environment: String,
    /// The direction of the call, if PolyAI states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The start of the conversation. Its UTC date is part of the key.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// The end of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// The duration in seconds, including a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_duration_s: Option<f64>,
    /// The duration of PolyAI's part in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polyai_duration_s: Option<f64>,
    /// The handoff, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handoff: Option<Handoff>,
    /// The number of turns that PolyAI counted, visible or not.
    pub turn_count: u64,
    /// The conversation was still in progress and may change.
    pub in_progress: bool,
    /// PolyAI has written its summary, which it does some time after the call.
    #[serde(default)]
    pub summarised: bool,
}

impl ConversationFacts {
    /// Returns the end of the conversation, as exactly as it is known.
    pub fn ended_at(&self) -> Option<Timestamp> {
        let of_duration = || {
            let duration = Duration::try_from_secs_f64(self.total_duration_s?).ok()?;
            self.started_at.checked_add(duration).ok()
        };
        self.finished_at.or_else(of_duration)
    }
}

/// A conversation that was handed over to another system or person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Handoff {
    /// PolyAI's word for the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// PolyAI's name of the destination. A number or an address is left out when the manifest is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// The origin of an archived copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// The API of PolyAI that returned it.
    pub served_by: ServedBy,
    /// The trigger of the fetch.
    pub trigger: Trigger,
    /// PolyAI's id of the event that triggered the fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// The times at which a conversation was processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// The time at which the triggering event arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub received_at: Option<Timestamp>,
    /// The time at which PolyAI was asked for the conversation.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub fetched_at: Timestamp,
    /// The time at which the manifest was written.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub archived_at: Timestamp,
}

/// One object in the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Object")]
pub struct ManifestObject {
    /// Its name in the conversation's folder.
    pub name: String,
    /// The kind of its content.
    pub kind: ObjectKind,
    /// The voices in a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256, hexadecimal in lower case.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// `application/json`, `audio/wav`.
    pub content_type: String,
    /// The audio format of a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wav: Option<WavInfo>,
    /// The store's `ETag` of these bytes, which reveals a later replacement. Absent in a file archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// The state of the recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Audio")]
pub struct AudioSummary {
    /// States if the recordings are archived, or the reason why they are not.
    pub status: AudioStatus,
    /// The recordings were requested with personal data removed.
    #[serde(default)]
    pub redacted: bool,
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        $(#[$meta])*
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
            /// A word of a later version. It is read, but never written.
            #[serde(other, rename = "unknown")]
            #[schemars(skip)]
            Unknown,
        }

        impl $name {
            /// Returns the word in the manifest. Also used for metric labels.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

words! {
    /// The state of the recordings.
    AudioStatus {
        /// Every requested recording is archived.
        Ready = "ready",
        /// PolyAI had no recording within the permitted time.
        Absent = "absent",
        /// A recording was refused, unusable or unreachable until the last attempt; a warning names the reason. A later
        /// fetch adds it.
        Failed = "failed",
        /// The channel has no audio.
        NotApplicable = "not_applicable",
        /// The configuration disables recordings.
        Disabled = "disabled",
    }
}

words! {
    /// The kind of an object.
    #[schemars(rename = "Kind")]
    ObjectKind {
        /// PolyAI's bytes.
        Conversation = "conversation",
        /// A recording.
        Audio = "audio",
        /// PolyAI's bytes of an earlier revision, whose number is in the name.
        Revision = "revision",
    }
}

words! {
    /// The voices in a recording.
    Direction {
        /// Both, `audio.wav`.
        Combined = "combined",
        /// The caller, `audio.user.wav`.
        User = "user",
        /// PolyAI, `audio.agent.wav`.
        Agent = "agent",
    }
}

words! {
    /// The API of PolyAI from which a conversation was read.
    ServedBy {
        /// `/v3/…`
        V3 = "v3",
        /// The Data API, `/v1/agents/…`
        Data = "data",
        /// An entry of v3's list, because no API serves the conversation by id
        V3List = "v3_list",
    }
}

words! {
    /// The trigger of a fetch.
    Trigger {
        /// PolyAI's webhook.
        Webhook = "webhook",
        /// Reconciliation, which found that the conversation was missing.
        Reconcile = "reconcile",
        /// A command of a person.
        Command = "command",
        /// A refresh, some time after the end of the call.
        Refresh = "refresh",
        /// A request of a token holder to the trigger.
        Trigger = "trigger",
    }
}

impl Direction {
    /// Returns the object's name.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::User => "audio.user.wav",
            Self::Agent => "audio.agent.wav",
            Self::Combined | Self::Unknown => "audio.wav",
        }
    }
}

/// The worker's data for a manifest. The archive adds the objects, the revision and the time.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestDraft {
    /// PolyAI's data about the conversation.
    pub facts: ConversationFacts,
    /// The origin of this copy.
    pub provenance: Provenance,
    /// The time at which the triggering event arrived.
    pub received_at: Option<Timestamp>,
    /// The time at which PolyAI was asked for the conversation.
    pub fetched_at: Timestamp,
    /// The state of the recordings. [`AudioStatus::Ready`] requires at least one recording.
    pub audio: AudioSummary,
    /// See [`Manifest::warnings`].
    pub warnings: Vec<String>,
    /// The archived copy is damaged: write everything again, even if it is identical.
    pub force_rewrite: bool,
    /// Only `conversation.json` was fetched: the archived recordings stay as they are. `audio` is that of the archived copy.
    pub json_only: bool,
}

/// Reads the manifest at `key`. An error does not quote it.
pub(super) fn parse(key: &Path, bytes: &[u8]) -> Result<Manifest, ArchiveError> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let unreadable = |error: serde_json::Error| ArchiveError::Manifest {
        key: key.to_string(),
        // Only the position, because the error itself may quote the content.
        reason: format!("line {}, column {}", error.line(), error.column()),
    };
    let version = serde_json::from_slice::<Version>(bytes).map_err(unreadable)?.schema_version;
    if version > SCHEMA_VERSION {
        return Err(ArchiveError::Newer { key: key.to_string(), version });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}
