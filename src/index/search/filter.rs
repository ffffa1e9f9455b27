//! The filter of a search: which days, row groups and calls it takes.

use jiff::civil::Date;

use super::{Phrase, SearchProject};
use crate::{
    archive::Manifest,
    index::table::{Footer, RowGroup, TableError, TextColumn},
};

/// The columns by name.
pub(super) const ID: &str = "conversation_id";
pub(super) const STARTED_AT: &str = "started_at";
const ENVIRONMENT: &str = "environment";
const CHANNEL: &str = "channel";
const AUDIO_STATUS: &str = "audio_status";
const DURATION: &str = "duration_s";
const HANDOFF: &str = "handoff";
const HANDOFF_REASON: &str = "handoff_reason";

/// The calls that a search finds: those for which each given field is true.
#[derive(Clone, Debug, Default)]
pub struct CallFilter {
    /// The first day (UTC) on which a call began.
    pub first_date: Option<Date>,
    /// The last day (UTC) on which a call began.
    pub last_date: Option<Date>,
    /// The project.
    pub project_id: Option<String>,
    /// `live`, `sandbox`, …, without regard to case.
    pub environment: Option<String>,
    /// `VOICE-SIP`, `WEBCHAT`, …, without regard to case.
    pub channel: Option<String>,
    /// `ready`, `absent`, …
    pub audio: Option<String>,
    /// True for calls that were handed over, false for the others.
    pub handoff: Option<bool>,
    /// A part of the reason of the handoff.
    pub handoff_reason: Option<Phrase>,
    /// The shortest call, in whole seconds.
    pub min_seconds: Option<u32>,
    /// The longest call. A call of 60.9 s has 60.
    pub max_seconds: Option<u32>,
    /// The id of the conversation, or its beginning.
    pub id_prefix: Option<String>,
    /// A part of what the caller or the agent said in one turn, or of its translation.
    pub text: Option<Phrase>,
}

impl CallFilter {
    /// The longest period that `polyhook list` takes, in days. It sorts conversations day by day.
    pub const MAX_LISTED_DAYS: i32 = 366;

    /// Returns true if calls of this day can match.
    pub(super) fn takes_date(&self, date: Date) -> bool {
        self.first_date.is_none_or(|first| first <= date) && self.last_date.is_none_or(|last| date <= last)
    }

    /// Returns true if calls of this project can match.
    pub(super) fn takes_project(&self, project: &SearchProject) -> bool {
        self.project_id.as_ref().is_none_or(|id| *id == project.project_id)
    }

    fn words(&self) -> [(&'static str, Option<&str>); 3] {
        [
            (ENVIRONMENT, self.environment.as_deref()),
            (CHANNEL, self.channel.as_deref()),
            (AUDIO_STATUS, self.audio.as_deref()),
        ]
    }

    /// Returns the columns that [`CallFilter::matches`] reads, with those of each search.
    pub(super) fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec![ID, STARTED_AT];
        columns.extend(self.words().iter().filter_map(|(column, word)| word.is_some().then_some(*column)));
        columns.extend((self.min_seconds.is_some() || self.max_seconds.is_some()).then_some(DURATION));
        columns.extend(self.handoff.map(|_| HANDOFF));
        columns.extend(self.handoff_reason.is_some().then_some(HANDOFF_REASON));
        columns
    }

    /// Returns false if the statistics show that no call of a row group matches.
    pub(super) fn may_match(&self, footer: &Footer, group: usize) -> bool {
        let has_word = self.words().into_iter().all(|(column, word)| {
            let (Some(word), Some((min, max))) = (word, footer.text_range(group, column)) else {
                return true;
            };
            // A range does not show case. If all calls have the same word, that does not matter.
            min != max || min.eq_ignore_ascii_case(word.as_bytes())
        });
        has_word
            && self.id_prefix.as_ref().is_none_or(|prefix| may_have_prefix(footer, group, prefix.as_bytes()))
    }

    /// Returns true for a conversation with this manifest, without regard to the days, the project and `text`.
    pub fn matches_manifest(&self, manifest: &Manifest) -> bool {
        let Manifest { facts, audio, conversation_id, .. } = manifest;
        let is_word = |wanted: &Option<String>, word: &str| {
            wanted.as_ref().is_none_or(|wanted| word.eq_ignore_ascii_case(wanted))
        };
        let reason = facts.handoff.as_ref().and_then(|handoff| handoff.reason.as_deref());
        is_word(&self.environment, &facts.environment)
            && is_word(&self.channel, &facts.channel)
            && is_word(&self.audio, audio.status.as_str())
            && self.takes_duration(facts.total_duration_s)
            && self.handoff.is_none_or(|handoff| handoff == facts.handoff.is_some())
            && self.handoff_reason.as_ref().is_none_or(|part| reason.is_some_and(|reason| part.is_in(reason)))
            && self.id_prefix.as_ref().is_none_or(|prefix| conversation_id.starts_with(prefix))
    }

    fn takes_duration(&self, seconds: Option<f64>) -> bool {
        if self.min_seconds.is_none() && self.max_seconds.is_none() {
            return true;
        }
        let min = self.min_seconds.map_or(0.0, f64::from);
        let max = self.max_seconds.map_or(f64::MAX, f64::from);
        seconds.is_some_and(|seconds| (min..=max).contains(&seconds.floor()))
    }

    /// Returns true for each call of a row group that matches, without regard to `text`.
    pub(super) fn matches(&self, group: &RowGroup, ids: &TextColumn) -> Result<Vec<bool>, TableError> {
        let prefix = self.id_prefix.as_deref().unwrap_or_default().as_bytes();
        let mut matches: Vec<bool> =
            ids.bytes().map(|id| id.is_some_and(|id| id.starts_with(prefix))).collect();
        for (column, word) in self.words() {
            if let Some(word) = word {
                let texts = group.texts(column)?;
                let has_word =
                    texts.iter().map(|text| text.is_some_and(|text| text.eq_ignore_ascii_case(word)));
                keep(&mut matches, has_word);
            }
        }
        if self.min_seconds.is_some() || self.max_seconds.is_some() {
            keep(
                &mut matches,
                group.doubles(DURATION)?.into_iter().map(|seconds| self.takes_duration(seconds)),
            );
        }
        if let Some(handoff) = self.handoff {
            keep(&mut matches, group.bools(HANDOFF)?.into_iter().map(|value| value == handoff));
        }
        if let Some(reason) = &self.handoff_reason {
            let texts = group.texts(HANDOFF_REASON)?;
            keep(&mut matches, texts.iter().map(|text| text.is_some_and(|text| reason.is_in(text))));
        }
        Ok(matches)
    }
}

/// Leaves `matches` true where both are. A row without a value does not match.
fn keep(matches: &mut [bool], other: impl Iterator<Item = bool>) {
    let mut other = other;
    for value in matches {
        *value &= other.next().unwrap_or(false);
    }
}

fn may_have_prefix(footer: &Footer, group: usize, prefix: &[u8]) -> bool {
    let Some((min, max)) = footer.text_range(group, ID) else { return true };
    let start = &min[..min.len().min(prefix.len())];
    start <= prefix && prefix <= max
}
