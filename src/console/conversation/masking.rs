//! Masking of phone numbers in what a person reads. Recordings and downloaded documents have them as PolyAI sent them.

use super::super::mask::mask_numbers;
use crate::index::{CallRow, ConversationRows, TurnRow};

/// Masks the numbers in all texts that the page shows.
pub(super) fn mask_rows(rows: &mut ConversationRows) {
    let CallRow {
        from_number,
        to_number,
        variant,
        handoff_reason,
        handoff_destination,
        summary_heading,
        summary,
        metrics,
        tags,
        ..
    } = &mut rows.call;
    let texts =
        [from_number, to_number, variant, handoff_reason, handoff_destination, summary_heading, summary];
    let metrics = metrics.iter_mut().flat_map(|(name, value)| std::iter::once(name).chain(value.as_mut()));
    texts.into_iter().flatten().chain(metrics).chain(tags).for_each(mask);
    for turn in &mut rows.turns {
        let TurnRow { user_input, agent_response, translated_user_input, english_agent_response, .. } = turn;
        let texts = [user_input, agent_response, translated_user_input, english_agent_response];
        texts.into_iter().flatten().for_each(mask);
    }
}

fn mask(text: &mut String) {
    *text = mask_numbers(text);
}
