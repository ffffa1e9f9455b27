//! Tests of the files. `updates` has those of updates, `damage` those of damaged files, `duckdb` those with an independent reader.

mod damage;
mod duckdb;
mod updates;
mod values;

use std::collections::HashSet;

use parquet::file::{
    reader::{FileReader as _, SerializedFileReader},
    serialized_reader::ReadOptionsBuilder,
};

use super::{schema::Table, *};

fn stamp() -> Stamp {
    Stamp::new(NumberMode::Omit, None)
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// Returns a call with a value in each column.
fn full_call(id: &str) -> CallRow {
    let text = |name: &str| Some(format!("{name} of {id}"));
    CallRow {
        conversation_id: id.to_owned(),
        environment: text("environment"),
        channel: text("channel"),
        direction: text("direction"),
        variant: text("variant"),
        variant_id: text("variant_id"),
        language: text("language"),
        started_at: at("2026-11-30T23:59:59.123456Z"),
        ended_at: Some(at("2026-12-01T00:01:00Z")),
        duration_s: Some(60.5),
        polyai_duration_s: Some(0.125),
        num_turns: 3,
        turn_rows: 2,
        handoff: true,
        handoff_reason: text("handoff_reason"),
        handoff_destination: text("handoff_destination"),
        num_silences: Some(1),
        num_out_of_domain: Some(0),
        summary_heading: text("summary_heading"),
        summary: text("summary"),
        score: Some(7.5),
        score_scale: text("score_scale"),
        from_number: text("from_number"),
        to_number: text("to_number"),
        metrics: vec![("colour".to_owned(), text("metric")), ("empty".to_owned(), None)],
        tags: vec!["first".to_owned(), "second".to_owned()],
        audio_status: "ready".to_owned(),
        audio_seconds: Some(59.75),
        audio_path: text("audio_path"),
        conversation_path: format!("conversation_path of {id}"),
        warnings: vec!["warning".to_owned()],
        in_progress: true,
        served_by: "v3".to_owned(),
        trigger: "webhook".to_owned(),
        archived_at: at("2026-12-01T00:02:00Z"),
        revision: 2,
        manifest_sha256: format!("sha256 of {id}"),
        stored_at: at("2026-12-01T00:02:01Z"),
        rest: Some(r#"{"a":[1,null]}"#.to_owned()),
    }
}

/// Returns a turn with a value in each column.
fn full_turn(id: &str, number: i32) -> TurnRow {
    let text = |name: &str| Some(format!("{name} {number} of {id}"));
    TurnRow {
        conversation_id: id.to_owned(),
        call_started_at: at("2026-11-30T23:59:59.123456Z"),
        number,
        user_input: text("user_input"),
        agent_response: text("agent_response"),
        translated_user_input: text("translated_user_input"),
        english_agent_response: text("english_agent_response"),
        user_input_at: Some(at("2026-12-01T00:00:01.5Z")),
        agent_response_at: Some(at("2026-12-01T00:00:03Z")),
        offset_s: Some(2.5),
        latency_s: Some(1.5),
        interrupted: Some(true),
        silence: Some(false),
        out_of_domain: Some(false),
        intents: vec!["greet".to_owned(), "book".to_owned()],
        entities: Some(r#"[{"name":"date"}]"#.to_owned()),
    }
}

/// Returns a call with values in the required columns only.
fn bare_call(id: &str) -> CallRow {
    CallRow { conversation_id: id.to_owned(), ..CallRow::default() }
}

fn file_of_calls(rows: &[CallRow]) -> Bytes {
    update_calls(None, &stamp(), &|_| false, rows).unwrap().into()
}

fn file_of_turns(rows: &[TurnRow]) -> Bytes {
    update_turns(None, &stamp(), &|_| false, rows).unwrap().into()
}

/// Returns a file of calls with small row groups.
pub(crate) fn calls_in_groups(rows: &[CallRow], max_rows: usize) -> Bytes {
    in_groups(&CALLS, rows, max_rows)
}

/// Returns a file of turns with small row groups.
pub(crate) fn turns_in_groups(rows: &[TurnRow], max_rows: usize) -> Bytes {
    in_groups(&TURNS, rows, max_rows)
}

fn in_groups<R>(table: &schema::Table<R>, rows: &[R], max_rows: usize) -> Bytes {
    let mut file = update::Update::new(&table.schema, &stamp(), max_rows, 0).unwrap();
    file.add(table, rows).unwrap();
    file.finish().unwrap().into()
}

fn open(file: &Bytes) -> SerializedFileReader<Bytes> {
    SerializedFileReader::new_with_options(file.clone(), ReadOptionsBuilder::new().with_page_index().build())
        .unwrap()
}

/// Returns the rows of a file as the Parquet crate shows them.
fn rows(file: &Bytes) -> Vec<String> {
    open(file).get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
}

fn sorted_rows(file: &Bytes) -> Vec<String> {
    let mut rows = rows(file);
    rows.sort();
    rows
}

/// Returns the rows of each row group.
fn group_sizes(file: &Bytes) -> Vec<i64> {
    open(file)
        .metadata()
        .row_groups()
        .iter()
        .map(parquet::file::metadata::RowGroupMetaData::num_rows)
        .collect()
}

/// Returns the file that follows `old`: without the rows of changed conversations, and with the new rows.
fn update<R>(
    table: &Table<R>,
    old: Option<&Bytes>,
    stamp: &Stamp,
    is_changed: &dyn Fn(&str) -> bool,
    new: &[R],
    id: fn(&R) -> &str,
) -> Result<Vec<u8>, TableError> {
    let ids: HashSet<&str> = new.iter().map(id).collect();
    let written = update::write(table, stamp, new)?.into();
    let is_changed = |id: &str| ids.contains(id) || is_changed(id);
    guard(|| update::merge(table, old.cloned(), vec![written], stamp, &is_changed))
}

fn update_calls(
    old: Option<&Bytes>,
    stamp: &Stamp,
    is_changed: &dyn Fn(&str) -> bool,
    new: &[CallRow],
) -> Result<Vec<u8>, TableError> {
    update(&CALLS, old, stamp, is_changed, new, |row| &row.conversation_id)
}

fn update_turns(
    old: Option<&Bytes>,
    stamp: &Stamp,
    is_changed: &dyn Fn(&str) -> bool,
    new: &[TurnRow],
) -> Result<Vec<u8>, TableError> {
    update(&TURNS, old, stamp, is_changed, new, |row| &row.conversation_id)
}
