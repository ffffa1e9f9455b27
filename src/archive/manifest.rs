//! `manifest.json`: what lies in a conversation's folder, and how it came there.
//!
//! Written last, so that its presence means that everything it names is there. It is the announcement's data
//! too, so it says nothing private: no transcript, no phone number, no caller.
//!
//! Reading is lenient: fields this version does not know are ignored and words it does not know become
//! `unknown`, so that a later polyhook can add some without a new [`SCHEMA_VERSION`].

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::CONVERSATION;
use crate::wav::WavInfo;

/// Grows when something is removed or changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// One archived conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Grows when something is removed or changes its meaning; fields and words may be added without.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// 1 for the first copy that was archived; one more each time a newer one replaced it.
    pub revision: u64,
    /// PolyAI's id of the conversation.
    pub conversation_id: String,
    /// The account (workspace).
    pub account_id: String,
    /// The project (agent).
    pub project_id: String,
    /// What PolyAI said of the conversation.
    #[serde(flatten)]
    pub facts: ConversationFacts,
    /// Everything in the folder but the manifest itself; `conversation.json` first.
    pub objects: Vec<ManifestObject>,
    /// What became of the recordings.
    pub audio: AudioSummary,
    /// What a reader should know: a constant word, a colon, and text for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How it came here.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// When.
    pub timings: Timings,
    /// The version of polyhook that wrote it.
    pub polyhook_version: String,
}

impl Manifest {
    /// The entry of `conversation.json`.
    pub fn conversation(&self) -> Option<&ManifestObject> {
        self.objects.iter().find(|object| object.name == CONVERSATION)
    }

    /// The entry of one recording.
    pub fn recording(&self, direction: Direction) -> Option<&ManifestObject> {
        self.objects
            .iter()
            .find(|object| object.kind == ObjectKind::Audio && object.direction == Some(direction))
    }
}

/// What PolyAI says of a conversation, read from `conversation.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationFacts {
    /// `VOICE-SIP`, `WEBCHAT`, `CHAT`, …
    pub channel: String,
    /// `live`, `sandbox`, `pre-release`.
    pub environment: String,
    /// Who called whom, where PolyAI says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// When it started; its UTC date is part of the key.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// Seconds, transfer included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_duration_s: Option<f64>,
    /// Seconds with PolyAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polyai_duration_s: Option<f64>,
    /// Where it was handed over to, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handoff: Option<Handoff>,
    /// How many turns PolyAI counted, shown or not.
    pub turn_count: u64,
    /// It may still change.
    pub in_progress: bool,
    /// PolyAI has written its summary, which comes some time after the call.
    #[serde(default)]
    pub summarised: bool,
}

/// A conversation that went on elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Handoff {
    /// PolyAI's word for why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// PolyAI's name of where to. A number or an address is left out when the manifest is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// How a conversation came into the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// Which of PolyAI's APIs it was read from.
    pub served_by: ServedBy,
    /// What asked for it.
    pub trigger: Trigger,
    /// PolyAI's id of the event that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// The stations of a conversation's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// When the event arrived that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub received_at: Option<Timestamp>,
    /// When PolyAI answered with the conversation.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub fetched_at: Timestamp,
    /// When the manifest was written.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub archived_at: Timestamp,
}

/// One file in the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Object")]
pub struct ManifestObject {
    /// Its name in the conversation's folder.
    pub name: String,
    /// What it holds.
    pub kind: ObjectKind,
    /// Whose voice a recording holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Bytes.
    pub size_bytes: u64,
    /// Hexadecimal, lower case.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// `application/json`, `audio/wav`.
    pub content_type: String,
    /// The sound of a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wav: Option<WavInfo>,
    /// The store's own mark of these bytes, by which a later replacement shows; absent in a file archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What became of the recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Audio")]
pub struct AudioSummary {
    /// Whether they are here, and if not, why.
    pub status: AudioStatus,
    /// They were asked for with personal data removed.
    #[serde(default)]
    pub redacted: bool,
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        $(#[$meta])*
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
            /// A word of a later version. Read, never written.
            #[serde(other, rename = "unknown")]
            #[schemars(skip)]
            Unknown,
        }

        impl $name {
            /// The word in the manifest; also good for metric labels.
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
    /// Whether recordings are in the archive.
    AudioStatus {
        /// Every recording that was asked for is here.
        Ready = "ready",
        /// PolyAI had none within the time it was given.
        Absent = "absent",
        /// A channel without sound.
        NotApplicable = "not_applicable",
        /// The configuration does not want any.
        Disabled = "disabled",
    }
}

words! {
    /// What an object holds.
    #[schemars(rename = "Kind")]
    ObjectKind {
        /// PolyAI's bytes.
        Conversation = "conversation",
        /// A recording.
        Audio = "audio",
    }
}

words! {
    /// Whose voice a recording holds.
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
    /// Which of PolyAI's APIs a conversation was read from.
    ServedBy {
        /// `/v3/…`
        V3 = "v3",
        /// The Data API, `/v1/agents/…`
        Data = "data",
    }
}

words! {
    /// What asked for a conversation.
    Trigger {
        /// A delivery of PolyAI's.
        Webhook = "webhook",
        /// It was found missing.
        Reconcile = "reconcile",
        /// A person.
        Command = "command",
    }
}

impl Direction {
    /// The object's name.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::User => "audio.user.wav",
            Self::Agent => "audio.agent.wav",
            Self::Combined | Self::Unknown => "audio.wav",
        }
    }
}

/// What the worker knows before anything is written; the archive adds the objects, revision and time.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestDraft {
    /// What PolyAI said.
    pub facts: ConversationFacts,
    /// How it came here.
    pub provenance: Provenance,
    /// When the event arrived that asked for it.
    pub received_at: Option<Timestamp>,
    /// When PolyAI answered with the conversation.
    pub fetched_at: Timestamp,
    /// What became of the recordings. [`AudioStatus::Ready`] goes with at least one recording.
    pub audio: AudioSummary,
    /// See [`Manifest::warnings`].
    pub warnings: Vec<String>,
    /// Somebody has found that what lies there is not good: write all of it again, be it the same.
    pub again: bool,
}
