//! Masking of phone numbers in what a person reads. Recordings and downloaded documents have them as PolyAI sent them.

use super::super::mask::mask_numbers;
use crate::index::{CallRow, ConversationRows, TurnRow};

/// Masks the numbers in all texts from outside. Each field is named, so that a new one is not forgotten.
pub(super) fn mask_rows(rows: &mut ConversationRows) {
    mask_call(&mut rows.call);
    for turn in &mut rows.turns {
        let TurnRow { user_input, agent_response, translated_user_input, english_agent_response, .. } = turn;
        let texts = [user_input, agent_response, translated_user_input, english_agent_response];
        texts.into_iter().flatten().for_each(mask);
    }
}

fn mask_call(call: &mut CallRow) {
    let CallRow {
        environment,
        channel,
        direction,
        variant,
        variant_id,
        language,
        handoff_reason,
        handoff_destination,
        summary_heading,
        summary,
        score_scale,
        from_number,
        to_number,
        metrics,
        tags,
        warnings,
        // Numbers, times, ids and words of polyhook.
        conversation_id: _,
        started_at: _,
        ended_at: _,
        duration_s: _,
        polyai_duration_s: _,
        num_turns: _,
        turn_rows: _,
        handoff: _,
        num_silences: _,
        num_out_of_domain: _,
        score: _,
        audio_status: _,
        audio_seconds: _,
        audio_path: _,
        conversation_path: _,
        in_progress: _,
        served_by: _,
        trigger: _,
        archived_at: _,
        revision: _,
        manifest_sha256: _,
        stored_at: _,
        // JSON, of which the transcript masks what it shows.
        rest: _,
    } = call;
    let texts = [environment, channel, direction, variant, variant_id, language, handoff_reason];
    let more = [handoff_destination, summary_heading, summary, score_scale, from_number, to_number];
    let metrics = metrics.iter_mut().flat_map(|(name, value)| std::iter::once(name).chain(value.as_mut()));
    let texts = texts.into_iter().chain(more).flatten();
    texts.chain(metrics).chain(tags).chain(warnings).for_each(mask);
}

fn mask(text: &mut String) {
    *text = mask_numbers(text);
}
