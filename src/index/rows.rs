//! The rows of one conversation. Every name is a column; docs/analyze.md explains each.

use jiff::Timestamp;

/// The rows of one conversation in both tables.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationRows {
    /// The row of the table `calls`.
    pub call: CallRow,
    /// The rows of the table `turns`, in PolyAI's order.
    pub turns: Vec<TurnRow>,
}

/// A row of the table `calls`. What PolyAI does not state is `None`, and a text is never empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallRow {
    /// PolyAI's id.
    pub conversation_id: String,
    /// `live`, `sandbox`, `pre-release`, …
    pub environment: Option<String>,
    /// `VOICE-SIP`, `WEBCHAT`, …
    pub channel: Option<String>,
    /// `inbound` or `outbound`. The Data API alone states it.
    pub direction: Option<String>,
    /// The variant's name, or its id if PolyAI sends no name.
    pub variant: Option<String>,
    /// The variant's id. v3 alone states it; the Data API has the name in its place.
    pub variant_id: Option<String>,
    /// The language of the conversation. The Data API alone states it.
    pub language: Option<String>,
    /// The start.
    pub started_at: Timestamp,
    /// The end, as exactly as it is known.
    pub ended_at: Option<Timestamp>,
    /// Seconds of the whole call, including a transfer.
    pub duration_s: Option<f64>,
    /// Seconds of PolyAI's part.
    pub polyai_duration_s: Option<f64>,
    /// The number of turns that PolyAI counted, visible or not.
    pub num_turns: i64,
    /// The number of rows in the table `turns`.
    pub turn_rows: i64,
    /// True if the call was handed over.
    pub handoff: bool,
    /// PolyAI's word for the reason of the handoff.
    pub handoff_reason: Option<String>,
    /// PolyAI's name of the destination of the handoff.
    pub handoff_destination: Option<String>,
    /// The number of turns without a discernible input.
    pub num_silences: Option<i64>,
    /// The number of turns that the agent could not understand.
    pub num_out_of_domain: Option<i64>,
    /// The heading of PolyAI's summary.
    pub summary_heading: Option<String>,
    /// PolyAI's summary.
    pub summary: Option<String>,
    /// The value of `PolyScore`.
    pub score: Option<f64>,
    /// The scale of the score: `0-10` or `1-5`.
    pub score_scale: Option<String>,
    /// The caller's number: absent, a hash, or plain, as `index.numbers` says.
    pub from_number: Option<String>,
    /// The agent's number, like `from_number`.
    pub to_number: Option<String>,
    /// The last value of each custom metric, in the order of PolyAI's answer. A name occurs once.
    pub metrics: Vec<(String, Option<String>)>,
    /// PolyAI's tags.
    pub tags: Vec<String>,
    /// `ready`, `absent`, `failed`, `not_applicable`, `disabled`
    pub audio_status: String,
    /// Seconds of the recording.
    pub audio_seconds: Option<f64>,
    /// The key of the recording below the archive's root.
    pub audio_path: Option<String>,
    /// The key of `conversation.json` below the archive's root.
    pub conversation_path: String,
    /// The warnings of the manifest.
    pub warnings: Vec<String>,
    /// True if the conversation was still in progress when it was fetched.
    pub in_progress: bool,
    /// The API of PolyAI that returned the conversation: `v3`, `data`, `v3_list`.
    pub served_by: String,
    /// The trigger of the fetch: `webhook`, `reconcile`, …
    pub trigger: String,
    /// The time at which the conversation was archived.
    pub archived_at: Timestamp,
    /// 1 for the first archived copy, and one more for each copy that replaced it.
    pub revision: i64,
    /// SHA-256 of `manifest.json`, hexadecimal.
    pub manifest_sha256: String,
    /// The time at which the store wrote `manifest.json`, in whole seconds. It shows that a row is out of date.
    pub stored_at: Timestamp,
    /// Everything else that PolyAI sent about the conversation, as a JSON object without the turns.
    pub rest: Option<String>,
}

/// A row of the table `turns`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnRow {
    /// PolyAI's id of the conversation.
    pub conversation_id: String,
    /// The start of the conversation.
    pub call_started_at: Timestamp,
    /// The position in the conversation, from 1.
    pub number: i32,
    /// The caller's words.
    pub user_input: Option<String>,
    /// The agent's words.
    pub agent_response: Option<String>,
    /// The caller's words in the agent's language.
    pub translated_user_input: Option<String>,
    /// The agent's words in English.
    pub english_agent_response: Option<String>,
    /// The time of the caller's words.
    pub user_input_at: Option<Timestamp>,
    /// The time of the agent's words.
    pub agent_response_at: Option<Timestamp>,
    /// Seconds from the start of the conversation to the earlier of the two times.
    pub offset_s: Option<f64>,
    /// Seconds that the caller waited for the response.
    pub latency_s: Option<f64>,
    /// True if the caller interrupted the agent.
    pub interrupted: Option<bool>,
    /// True if the caller gave no discernible input.
    pub silence: Option<bool>,
    /// True if the agent could not understand the caller.
    pub out_of_domain: Option<bool>,
    /// The intents.
    pub intents: Vec<String>,
    /// The entities, as a JSON array.
    pub entities: Option<String>,
}
