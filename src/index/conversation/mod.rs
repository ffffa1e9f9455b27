//! The rows of a conversation, from its manifest and from PolyAI's bytes, whichever API served them.
//!
//! Reading never fails. A fact that is absent or has an unexpected type is null, and what no column holds is in `rest`. Facts that the
//! manifest has come from there, so that index and manifest agree.
//!
//! Memory is bounded: turns are read one at a time, no tree of the document is built, and texts, lists and JSON columns have a limit
//! far above what PolyAI sends.

mod document;
mod numbers;
mod phone;
mod scrubber;
#[cfg(test)]
mod tests;
mod turns;
mod values;

use jiff::{Timestamp, civil::date, tz::Offset};

use self::{
    document::{Document, Taken},
    scrubber::Scrubber,
    turns::{Call, count, read_turns},
};
use super::rows::{CallRow, ConversationRows};
use crate::{
    archive::{CONVERSATION, Direction, Manifest, ServedBy, StoredManifest},
    json::{Field, Scalar},
};

pub use self::numbers::Numbers;

/// The first word of the manifest's warning about a start that is only a guess.
const START_UNKNOWN: &str = "started_at_unknown";
const SCALE_TO_10: &str = "0-10";
const SCALE_TO_5: &str = "1-5";
/// The highest score on the newer scale.
const MAX_SCORE_OF_5: f64 = 5.0;

/// Returns the rows of a conversation. `conversation` are PolyAI's bytes, which need not be JSON.
pub fn read_rows(stored: &StoredManifest, conversation: &[u8], numbers: &Numbers) -> ConversationRows {
    let mut document = Document::read(conversation);
    let mut call = row_of_manifest(stored);
    drop_facts_of_manifest(&mut document, &stored.manifest, &call);
    let own = [Field::FromNumber, Field::ToNumber].map(|field| document.take_scalar(field, values::text));
    let scrubber = Scrubber::new(numbers, &own);
    [call.from_number, call.to_number] = own.map(|number| numbers.column(&number?));

    let start = Call {
        conversation_id: &stored.manifest.conversation_id,
        started_at: stored.manifest.facts.started_at,
        is_start_known: !stored.manifest.warnings.iter().any(|warning| warning.starts_with(START_UNKNOWN)),
    };
    let turns = document.turns.map(|turns| read_turns(turns, &start, &scrubber)).unwrap_or_default();
    call.turn_rows = i64::try_from(turns.len()).unwrap_or(i64::MAX);
    let total = |document: &mut Document<'_>, field| {
        document.take_scalar(field, |scalar| scalar.count().and_then(|count| i64::try_from(count).ok()))
    };
    call.num_silences =
        total(&mut document, Field::SilenceCount).or_else(|| count(&turns, |turn| turn.silence));
    call.num_out_of_domain =
        total(&mut document, Field::OutOfDomainCount).or_else(|| count(&turns, |turn| turn.out_of_domain));
    add_facts_of_document(&mut call, &mut document, &scrubber);
    call.score_scale = call.score.map(|score| score_scale(score, &stored.manifest).to_owned());
    call.rest = document.rest(&scrubber);
    scrub_facts_of_manifest(&mut call, &scrubber);
    ConversationRows { call, turns }
}

fn row_of_manifest(stored: &StoredManifest) -> CallRow {
    let StoredManifest { manifest, sha256, stored_at, folder, .. } = stored;
    let facts = &manifest.facts;
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let recordings = [Direction::Combined, Direction::User, Direction::Agent];
    let recording = recordings.into_iter().find_map(|direction| manifest.recording(direction));
    let handoff = facts.handoff.clone().unwrap_or_default();
    CallRow {
        conversation_id: manifest.conversation_id.clone(),
        environment: text(&facts.environment),
        channel: text(&facts.channel),
        direction: facts.direction.as_deref().and_then(text),
        started_at: facts.started_at,
        ended_at: facts.ended_at(),
        duration_s: facts.total_duration_s,
        polyai_duration_s: facts.polyai_duration_s,
        num_turns: count(facts.turn_count),
        handoff: facts.handoff.is_some(),
        handoff_reason: handoff.reason,
        handoff_destination: handoff.destination,
        audio_status: manifest.audio.status.as_str().to_owned(),
        audio_seconds: recording.and_then(|recording| Some(recording.wav.as_ref()?.seconds)),
        audio_path: recording.map(|recording| format!("{folder}/{}", recording.name)),
        conversation_path: format!("{folder}/{CONVERSATION}"),
        warnings: manifest.warnings.clone(),
        in_progress: facts.in_progress,
        served_by: manifest.provenance.served_by.as_str().to_owned(),
        trigger: manifest.provenance.trigger.as_str().to_owned(),
        archived_at: manifest.timings.archived_at,
        revision: count(manifest.revision),
        manifest_sha256: sha256.clone(),
        stored_at: *stored_at,
        ..CallRow::default()
    }
}

/// Leaves members out of the rest whose value the manifest has.
fn drop_facts_of_manifest(document: &mut Document<'_>, manifest: &Manifest, call: &CallRow) {
    let facts = &manifest.facts;
    let texts = [
        (Field::ConversationId, Some(&manifest.conversation_id)),
        (Field::AccountId, Some(&manifest.account_id)),
        (Field::ProjectId, Some(&manifest.project_id)),
        (Field::Channel, call.channel.as_ref()),
        (Field::Environment, call.environment.as_ref()),
        (Field::CallDirection, call.direction.as_ref()),
        (Field::HandoffReason, call.handoff_reason.as_ref()),
        (Field::HandoffDestination, call.handoff_destination.as_ref()),
    ];
    for (field, known) in texts {
        document.drop_known(field, |scalar| known.is_some() && values::text(scalar).as_ref() == known);
    }
    for (field, known) in [(Field::StartedAt, Some(facts.started_at)), (Field::FinishedAt, facts.finished_at)]
    {
        document.drop_known(field, |scalar| known.is_some() && scalar.time() == known);
    }
    for (field, known) in
        [(Field::TotalDuration, facts.total_duration_s), (Field::PolyAiDuration, facts.polyai_duration_s)]
    {
        document.drop_known(field, |scalar| known.is_some() && scalar.seconds() == known);
    }
    for (field, known) in [(Field::Handoff, call.handoff), (Field::InProgress, call.in_progress)] {
        document.drop_known(field, |scalar| scalar.flag() == Some(known));
    }
    document.drop_known(Field::TurnCount, |scalar| scalar.count() == Some(facts.turn_count));
}

/// Adds what only the document has.
fn add_facts_of_document(call: &mut CallRow, document: &mut Document<'_>, scrubber: &Scrubber<'_>) {
    let name = |scalar: Scalar| scrubber.text(values::text(scalar)?);
    let variant_name = document.take_scalar(Field::VariantName, name);
    let variant_id = document.take_scalar(Field::VariantId, name);
    // The Data API's `variantId` was seen with the name.
    let is_id = variant_name.is_some() || call.served_by != ServedBy::Data.as_str();
    call.variant = variant_name.or_else(|| variant_id.clone());
    call.variant_id = variant_id.filter(|_| is_id);
    call.language = document.take_scalar(Field::Language, name);
    let summary = document.take(Field::ShortSummary, values::summary);
    [call.summary_heading, call.summary] = summary.unwrap_or_default();
    call.score = document.take_scalar(Field::Score, |scalar| values::number(&scalar));
    call.metrics = document.take(Field::Metrics, |json| values::metrics(json, scrubber)).unwrap_or_default();
    let tags = document.take(Field::Tags, |json| {
        let tags = values::names(json, scrubber);
        Some(tags).filter(|Taken { value, is_whole }| *is_whole || !value.is_empty())
    });
    call.tags = tags.unwrap_or_default();
}

/// The manifest has no addresses. An older polyhook may have written it by other rules.
fn scrub_facts_of_manifest(call: &mut CallRow, scrubber: &Scrubber<'_>) {
    for text in [&mut call.handoff_reason, &mut call.handoff_destination] {
        *text = text.take().and_then(|text| scrubber.text(text)).filter(|text| !text.is_empty());
    }
    let warnings = std::mem::take(&mut call.warnings);
    call.warnings = warnings.into_iter().filter_map(|warning| scrubber.text(warning)).collect();
}

/// Returns the scale of a score. `PolyAI` changed it on 5 August 2026, for conversations that started on 28 July or later (release
/// notes of August 2026).
fn score_scale(score: f64, manifest: &Manifest) -> &'static str {
    let day = |time: Timestamp| Offset::UTC.to_datetime(time).date();
    let is_older = day(manifest.timings.fetched_at) < date(2026, 8, 5)
        || day(manifest.facts.started_at) < date(2026, 7, 28);
    if score > MAX_SCORE_OF_5 || is_older { SCALE_TO_10 } else { SCALE_TO_5 }
}
