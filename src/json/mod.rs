//! Lenient reading of the JSON that PolyAI sends: events, list entries and conversations.
//!
//! PolyAI names one fact in several ways: the quickstart (June 2026), the reference (August 2026), API v3 and the Data
//! API differ, and recorded answers differ from all of them. This module is the only list of those names
//! ([`event_key`], [`conversation_key`], [`turn_key`]) and the only interpretation of their values ([`Scalar`]). A value of an
//! unexpected type is unknown; it is never an error. What is only nearly JSON is read as far as it goes
//! ([`JsonReader`]), and can be copied as JSON ([`copy_json`]).

mod copy;
mod nesting;
mod reader;
mod recorder;
mod scalar;
mod text;

pub(crate) use self::{
    copy::{JsonFilter, copy_json},
    reader::JsonReader,
    recorder::Recorder,
    scalar::Scalar,
};

/// A fact that polyhook reads, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// The type of an event.
    EventType,
    Environment,
    ConversationId,
    AccountId,
    ProjectId,
    /// The object inside an event that describes its subject.
    EventData,
    Channel,
    InProgress,
    StartedAt,
    FinishedAt,
    /// Seconds of the whole call.
    TotalDuration,
    /// Seconds that the agent handled.
    PolyAiDuration,
    Handoff,
    HandoffReason,
    HandoffDestination,
    TurnCount,
    Turns,
    ShortSummary,
    /// `inbound` or `outbound`.
    CallDirection,
    VariantId,
    VariantName,
    AudioUrl,
    Language,
    FromNumber,
    ToNumber,
    /// The number of turns without a discernible input.
    SilenceCount,
    /// The number of turns that the agent could not understand.
    OutOfDomainCount,
    Metrics,
    Tags,
    Score,
}

/// A fact about a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnField {
    UserInput,
    AgentResponse,
    TranslatedUserInput,
    EnglishAgentResponse,
    UserInputAt,
    AgentResponseAt,
    Latency,
    Interrupted,
    Silence,
    OutOfDomain,
    Intents,
    Entities,
}

/// The field that a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) field: Field,
    /// The preference among the names of one field: if several have a usable value, the lowest rank wins.
    pub(crate) rank: u8,
}

/// Returns the field that `name` has in an event.
pub(crate) fn event_key(name: &str) -> Option<Key> {
    let (field, rank) = match name {
        "type" => (Field::EventType, 0),
        "event_type" => (Field::EventType, 1),
        "eventType" => (Field::EventType, 2),
        "environment" => (Field::Environment, 0),
        "clientEnv" => (Field::Environment, 1),
        "client_env" => (Field::Environment, 2),
        "conversationId" => (Field::ConversationId, 1),
        "conversation_id" => (Field::ConversationId, 2),
        "account_id" => (Field::AccountId, 0),
        "accountId" => (Field::AccountId, 1),
        "project_id" => (Field::ProjectId, 0),
        "projectId" => (Field::ProjectId, 1),
        "agent_id" => (Field::ProjectId, 2),
        "agentId" => (Field::ProjectId, 3),
        "data" => (Field::EventData, 0),
        "alert" => (Field::EventData, 1),
        _ => return None,
    };
    Some(Key { field, rank })
}

/// Returns the field that `name` has in a conversation, or in an entry of a list of conversations.
pub(crate) fn conversation_key(name: &str) -> Option<Key> {
    let (field, rank) = match name {
        // In an event `id` is the id of something else.
        "id" => (Field::ConversationId, 0),
        "channel" => (Field::Channel, 0),
        "in_progress" => (Field::InProgress, 0),
        "inProgress" => (Field::InProgress, 1),
        "started_at" => (Field::StartedAt, 0),
        "startedAt" => (Field::StartedAt, 1),
        "createdAt" => (Field::StartedAt, 2),
        "created_at" => (Field::StartedAt, 3),
        "finished_at" => (Field::FinishedAt, 0),
        "finishedAt" => (Field::FinishedAt, 1),
        "total_duration" => (Field::TotalDuration, 0),
        "totalDuration" => (Field::TotalDuration, 1),
        "duration" => (Field::TotalDuration, 2),
        "polyai_duration" => (Field::PolyAiDuration, 0),
        "polyaiDuration" => (Field::PolyAiDuration, 1),
        "handoff" => (Field::Handoff, 0),
        "handoff_reason" => (Field::HandoffReason, 0),
        "handoffReason" => (Field::HandoffReason, 1),
        "handoff_destination" => (Field::HandoffDestination, 0),
        "handoffDestination" => (Field::HandoffDestination, 1),
        "num_turns" => (Field::TurnCount, 0),
        "numTurns" => (Field::TurnCount, 1),
        "turns" => (Field::Turns, 0),
        "shortSummary" => (Field::ShortSummary, 0),
        "short_summary" => (Field::ShortSummary, 1),
        "direction" => (Field::CallDirection, 0),
        "variant_id" => (Field::VariantId, 0),
        "variantId" => (Field::VariantId, 1),
        "variant_name" => (Field::VariantName, 0),
        "variantName" => (Field::VariantName, 1),
        "audioUrl" => (Field::AudioUrl, 0),
        "audio_url" => (Field::AudioUrl, 1),
        "language" => (Field::Language, 0),
        "from_number" => (Field::FromNumber, 0),
        "fromNumber" => (Field::FromNumber, 1),
        "to_number" => (Field::ToNumber, 0),
        "toNumber" => (Field::ToNumber, 1),
        "num_silences" => (Field::SilenceCount, 0),
        "numSilences" => (Field::SilenceCount, 1),
        "num_ood" => (Field::OutOfDomainCount, 0),
        "numOod" => (Field::OutOfDomainCount, 1),
        "metrics" => (Field::Metrics, 0),
        "tags" => (Field::Tags, 0),
        "polyScore" => (Field::Score, 0),
        "poly_score" => (Field::Score, 1),
        _ => return event_key(name),
    };
    Some(Key { field, rank })
}

/// Returns the field that `name` has in a turn, with its rank. Both APIs use the same names; camel case was never seen.
pub(crate) fn turn_key(name: &str) -> Option<(TurnField, u8)> {
    Some(match name {
        "user_input" => (TurnField::UserInput, 0),
        "userInput" => (TurnField::UserInput, 1),
        "agent_response" => (TurnField::AgentResponse, 0),
        "agentResponse" => (TurnField::AgentResponse, 1),
        "translated_user_input" => (TurnField::TranslatedUserInput, 0),
        "translatedUserInput" => (TurnField::TranslatedUserInput, 1),
        "english_agent_response" => (TurnField::EnglishAgentResponse, 0),
        "englishAgentResponse" => (TurnField::EnglishAgentResponse, 1),
        "user_input_datetime" => (TurnField::UserInputAt, 0),
        "userInputDatetime" => (TurnField::UserInputAt, 1),
        "agent_response_datetime" => (TurnField::AgentResponseAt, 0),
        "agentResponseDatetime" => (TurnField::AgentResponseAt, 1),
        "latency" => (TurnField::Latency, 0),
        "barge_in" => (TurnField::Interrupted, 0),
        "bargeIn" => (TurnField::Interrupted, 1),
        "is_silence" => (TurnField::Silence, 0),
        "isSilence" => (TurnField::Silence, 1),
        "is_ood" => (TurnField::OutOfDomain, 0),
        "isOod" => (TurnField::OutOfDomain, 1),
        "intents" => (TurnField::Intents, 0),
        "entities" => (TurnField::Entities, 0),
        _ => return None,
    })
}

/// The value of a field, from the name with the lowest rank that had a usable value. Of two values of the same name
/// the later one counts.
#[derive(Debug)]
pub(crate) struct Ranked<T> {
    rank: u8,
    value: Option<T>,
}

impl<T> Default for Ranked<T> {
    fn default() -> Self {
        Self { rank: u8::MAX, value: None }
    }
}

impl<T> Ranked<T> {
    /// Takes `value` unless it is absent or a preferred name has one.
    pub(crate) fn offer(&mut self, rank: u8, value: Option<T>) {
        if value.is_some() && rank <= self.rank {
            *self = Self { rank, value };
        }
    }

    /// Returns the value.
    pub(crate) fn into_value(self) -> Option<T> {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_the_lowest_rank_in_any_order() {
        for offers in [[(0, Some("a")), (1, Some("b"))], [(1, Some("b")), (0, Some("a"))]] {
            let mut best = Ranked::default();
            for (rank, value) in offers {
                best.offer(rank, value);
            }
            best.offer(0, None);
            assert_eq!(best.into_value(), Some("a"));
        }
    }
}
