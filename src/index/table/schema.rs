//! The columns of both tables: their names, their types and their values. The schema of the files follows from them.
//!
//! Columns are only ever added, at the end. A change of any kind increments [`super::SCHEMA_VERSION`].

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use parquet::schema::{
    parser::parse_message_type,
    types::{SchemaDescPtr, SchemaDescriptor},
};

use crate::index::rows::{CallRow, TurnRow};

/// The name of the first column of both tables.
pub(super) const ID: &str = "conversation_id";

/// A table: its columns and the limits of a row group.
pub(super) struct Table<R: 'static> {
    pub(super) columns: &'static [Column<R>],
    pub(super) schema: SchemaDescPtr,
    pub(super) max_rows: usize,
}

/// The table `calls`.
pub(super) static CALLS: LazyLock<Table<CallRow>> =
    LazyLock::new(|| Table::new("calls", CALL_COLUMNS, 8_000));
/// The table `turns`.
pub(super) static TURNS: LazyLock<Table<TurnRow>> =
    LazyLock::new(|| Table::new("turns", TURN_COLUMNS, 64_000));

impl<R> Table<R> {
    fn new(name: &str, columns: &'static [Column<R>], max_rows: usize) -> Self {
        let fields: String = columns.iter().map(Column::schema).collect();
        let schema =
            parse_message_type(&format!("message {name} {{ {fields} }}")).expect("the schema is valid");
        Self { columns, schema: Arc::new(SchemaDescriptor::new(Arc::new(schema))), max_rows }
    }
}

/// A column of rows of type `R`.
pub(super) struct Column<R> {
    name: &'static str,
    pub(super) get: Get<R>,
}

type Metric = (String, Option<String>);

/// The type of a column, and the function that reads its value from a row.
pub(super) enum Get<R> {
    Text(fn(&R) -> &str),
    OptionalText(fn(&R) -> Option<&str>),
    /// A JSON document.
    OptionalJson(fn(&R) -> Option<&str>),
    Time(fn(&R) -> Timestamp),
    OptionalTime(fn(&R) -> Option<Timestamp>),
    Flag(fn(&R) -> bool),
    OptionalFlag(fn(&R) -> Option<bool>),
    SmallCount(fn(&R) -> i32),
    Count(fn(&R) -> i64),
    OptionalCount(fn(&R) -> Option<i64>),
    OptionalNumber(fn(&R) -> Option<f64>),
    Texts(fn(&R) -> &[String]),
    TextMap(fn(&R) -> &[Metric]),
}

impl<R> Column<R> {
    const fn new(name: &'static str, get: Get<R>) -> Self {
        Self { name, get }
    }

    /// Returns the column's part of the schema.
    fn schema(&self) -> String {
        let name = self.name;
        match self.get {
            Get::Text(_) => format!("required binary {name} (STRING);"),
            Get::OptionalText(_) => format!("optional binary {name} (STRING);"),
            Get::OptionalJson(_) => format!("optional binary {name} (JSON);"),
            Get::Time(_) => format!("required int64 {name} (TIMESTAMP(MICROS,true));"),
            Get::OptionalTime(_) => format!("optional int64 {name} (TIMESTAMP(MICROS,true));"),
            Get::Flag(_) => format!("required boolean {name};"),
            Get::OptionalFlag(_) => format!("optional boolean {name};"),
            Get::SmallCount(_) => format!("required int32 {name};"),
            Get::Count(_) => format!("required int64 {name};"),
            Get::OptionalCount(_) => format!("optional int64 {name};"),
            Get::OptionalNumber(_) => format!("optional double {name};"),
            Get::Texts(_) => {
                format!(
                    "required group {name} (LIST) {{ repeated group list {{ required binary element (STRING); }} }}"
                )
            }
            Get::TextMap(_) => format!(
                "required group {name} (MAP) {{ repeated group key_value {{ required binary key (STRING); optional binary value (STRING); }} }}"
            ),
        }
    }
}

const CALL_COLUMNS: &[Column<CallRow>] = &[
    Column::new(ID, Get::Text(|row| &row.conversation_id)),
    Column::new("environment", Get::OptionalText(|row| row.environment.as_deref())),
    Column::new("channel", Get::OptionalText(|row| row.channel.as_deref())),
    Column::new("direction", Get::OptionalText(|row| row.direction.as_deref())),
    Column::new("variant", Get::OptionalText(|row| row.variant.as_deref())),
    Column::new("variant_id", Get::OptionalText(|row| row.variant_id.as_deref())),
    Column::new("language", Get::OptionalText(|row| row.language.as_deref())),
    Column::new("started_at", Get::Time(|row| row.started_at)),
    Column::new("ended_at", Get::OptionalTime(|row| row.ended_at)),
    Column::new("duration_s", Get::OptionalNumber(|row| row.duration_s)),
    Column::new("polyai_duration_s", Get::OptionalNumber(|row| row.polyai_duration_s)),
    Column::new("num_turns", Get::Count(|row| row.num_turns)),
    Column::new("turn_rows", Get::Count(|row| row.turn_rows)),
    Column::new("handoff", Get::Flag(|row| row.handoff)),
    Column::new("handoff_reason", Get::OptionalText(|row| row.handoff_reason.as_deref())),
    Column::new("handoff_destination", Get::OptionalText(|row| row.handoff_destination.as_deref())),
    Column::new("num_silences", Get::OptionalCount(|row| row.num_silences)),
    Column::new("num_out_of_domain", Get::OptionalCount(|row| row.num_out_of_domain)),
    Column::new("summary_heading", Get::OptionalText(|row| row.summary_heading.as_deref())),
    Column::new("summary", Get::OptionalText(|row| row.summary.as_deref())),
    Column::new("score", Get::OptionalNumber(|row| row.score)),
    Column::new("score_scale", Get::OptionalText(|row| row.score_scale.as_deref())),
    Column::new("from_number", Get::OptionalText(|row| row.from_number.as_deref())),
    Column::new("to_number", Get::OptionalText(|row| row.to_number.as_deref())),
    Column::new("metrics", Get::TextMap(|row| &row.metrics)),
    Column::new("tags", Get::Texts(|row| &row.tags)),
    Column::new("audio_status", Get::Text(|row| &row.audio_status)),
    Column::new("audio_seconds", Get::OptionalNumber(|row| row.audio_seconds)),
    Column::new("audio_path", Get::OptionalText(|row| row.audio_path.as_deref())),
    Column::new("conversation_path", Get::Text(|row| &row.conversation_path)),
    Column::new("warnings", Get::Texts(|row| &row.warnings)),
    Column::new("in_progress", Get::Flag(|row| row.in_progress)),
    Column::new("served_by", Get::Text(|row| &row.served_by)),
    Column::new("trigger", Get::Text(|row| &row.trigger)),
    Column::new("archived_at", Get::Time(|row| row.archived_at)),
    Column::new("revision", Get::Count(|row| row.revision)),
    Column::new("manifest_sha256", Get::Text(|row| &row.manifest_sha256)),
    Column::new("stored_at", Get::Time(|row| row.stored_at)),
    Column::new("rest", Get::OptionalJson(|row| row.rest.as_deref())),
];

const TURN_COLUMNS: &[Column<TurnRow>] = &[
    Column::new(ID, Get::Text(|row| &row.conversation_id)),
    Column::new("call_started_at", Get::Time(|row| row.call_started_at)),
    Column::new("number", Get::SmallCount(|row| row.number)),
    Column::new("user_input", Get::OptionalText(|row| row.user_input.as_deref())),
    Column::new("agent_response", Get::OptionalText(|row| row.agent_response.as_deref())),
    Column::new("translated_user_input", Get::OptionalText(|row| row.translated_user_input.as_deref())),
    Column::new("english_agent_response", Get::OptionalText(|row| row.english_agent_response.as_deref())),
    Column::new("user_input_at", Get::OptionalTime(|row| row.user_input_at)),
    Column::new("agent_response_at", Get::OptionalTime(|row| row.agent_response_at)),
    Column::new("offset_s", Get::OptionalNumber(|row| row.offset_s)),
    Column::new("latency_s", Get::OptionalNumber(|row| row.latency_s)),
    Column::new("interrupted", Get::OptionalFlag(|row| row.interrupted)),
    Column::new("silence", Get::OptionalFlag(|row| row.silence)),
    Column::new("out_of_domain", Get::OptionalFlag(|row| row.out_of_domain)),
    Column::new("intents", Get::Texts(|row| &row.intents)),
    Column::new("entities", Get::OptionalJson(|row| row.entities.as_deref())),
];
