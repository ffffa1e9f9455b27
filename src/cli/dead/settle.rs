//! Replays or drops the selected dead letters.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::{
    args::Selection,
    output::{self, DeadLetterSummary, DeadLetterTable, SettledDeadLetter},
    queue_failed, unknown_id,
};
use crate::{
    cli::{CliError, output as cli_output, progress},
    queue::{DeadLetter, DeadLetters, Queue, QueueError},
};

/// Maximum dead letters that are settled at the same time. They share a commit, or the wait for confirms. Times the
/// largest accepted body, it is also the memory that a replay needs.
const BATCH_SIZE: usize = 16;
/// Maximum dead letters that are read for one batch, so that the progress bar moves even if few are selected.
const MAX_READ_PER_BATCH: u64 = 64 * BATCH_SIZE as u64;

/// The action on the selected dead letters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Replay,
    Drop,
}

impl Action {
    fn past_tense(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop => "dropped",
        }
    }

    async fn apply(self, letters: &dyn DeadLetters, letter: DeadLetter) -> Result<(), QueueError> {
        match self {
            Self::Replay => letters.replay(letter).await,
            Self::Drop => letters.discard(letter).await,
        }
    }
}

/// Replays or drops what is selected. With `died_until`, only what was a dead letter at that time.
pub(super) async fn run(
    queue: &dyn Queue,
    action: Action,
    selection: &Selection,
    now: Timestamp,
    died_until: Option<Timestamp>,
) -> Result<(), CliError> {
    let mut letters = super::open(queue).await?;
    let bar = progress::bar(letters.total(), "looked at", selection.json || selection.dry_run);
    let selected = |letter: &DeadLetter| {
        selection.matches(letter, now) && died_until.is_none_or(|until| letter.since() <= until)
    };
    let mut table = DeadLetterTable::new(now);
    let mut totals = Totals::default();
    let read = loop {
        let Batch { selected, read, more } = next_batch(&mut *letters, selected).await;
        if !selection.ids.is_empty() {
            totals.found_ids.extend(selected.iter().map(|letter| letter.message.id.clone()));
        }
        if selection.dry_run {
            totals.done += selected.len() as u64;
            for letter in &selected {
                preview(letter, selection.json, &mut table);
            }
        } else {
            let settling = selected.iter().cloned().map(|letter| action.apply(&*letters, letter));
            for (letter, result) in selected.iter().zip(join_all(settling).await) {
                totals.add(action, letter, result, selection.json);
            }
        }
        bar.inc(read);
        match more {
            Ok(true) if totals.may_continue() => {}
            Ok(_) => break Ok(()),
            Err(error) => break Err(queue_failed(&error)),
        }
    };
    bar.finish_and_clear();
    letters.close().await;
    table.flush();
    totals.report(action, selection, read)
}

/// Prints a dead letter that a dry run selects.
fn preview(letter: &DeadLetter, json: bool, table: &mut DeadLetterTable) {
    if json {
        let summary = DeadLetterSummary::new(letter);
        cli_output::json(&SettledDeadLetter { outcome: "dry_run", error: None, summary });
    } else {
        table.row(letter);
    }
}

/// Dead letters that are settled together.
struct Batch {
    selected: Vec<DeadLetter>,
    /// The number of dead letters that were read to find them.
    read: u64,
    /// True if there may be more dead letters.
    more: Result<bool, QueueError>,
}

async fn next_batch(letters: &mut dyn DeadLetters, select: impl Fn(&DeadLetter) -> bool) -> Batch {
    let mut batch = Batch { selected: Vec::with_capacity(BATCH_SIZE), read: 0, more: Ok(true) };
    while batch.selected.len() < BATCH_SIZE && batch.read < MAX_READ_PER_BATCH {
        match letters.next().await {
            Ok(Some(letter)) => {
                batch.read += 1;
                if select(&letter) {
                    batch.selected.push(letter);
                }
            }
            Ok(None) => {
                batch.more = Ok(false);
                break;
            }
            Err(error) => {
                batch.more = Err(error);
                break;
            }
        }
    }
    batch
}

/// Counts the results.
#[derive(Debug, Default)]
struct Totals {
    done: u64,
    /// Settled by another process in the meantime.
    gone: u64,
    failed: u64,
    first_error: Option<QueueError>,
    /// The IDs that were found, if the user named IDs.
    found_ids: BTreeSet<String>,
}

impl Totals {
    fn add(&mut self, action: Action, letter: &DeadLetter, result: Result<(), QueueError>, json: bool) {
        let (outcome, error) = match result {
            Ok(()) => {
                self.done += 1;
                (action.past_tense(), None)
            }
            Err(QueueError::LeaseLost) => {
                self.gone += 1;
                ("gone", None)
            }
            Err(error) => {
                self.failed += 1;
                let text = error.to_string();
                self.first_error.get_or_insert(error);
                ("failed", Some(text))
            }
        };
        if json {
            cli_output::json(&SettledDeadLetter { outcome, error, summary: DeadLetterSummary::new(letter) });
        }
    }

    /// Returns false if the queue is unavailable. A refused message is not a reason to stop: the next one may succeed.
    fn may_continue(&self) -> bool {
        matches!(self.first_error, None | Some(QueueError::Refused(_)))
    }

    fn report(
        self,
        action: Action,
        selection: &Selection,
        read: Result<(), CliError>,
    ) -> Result<(), CliError> {
        let Self { done, gone, failed, first_error, found_ids } = self;
        if !selection.json {
            let would = if selection.dry_run { "would have " } else { "" };
            cli_output::line(format!("{would}{} {}", action.past_tense(), output::count(done)));
            if gone > 0 {
                let gone = output::count(gone);
                cli_output::line(format!("another process settled {gone} in the meantime"));
            }
        }
        if let Some(error) = first_error {
            cli_output::error(&format!(
                "{} could not be {} and stay dead letters: {error}; fix that and run the command again",
                output::count(failed),
                action.past_tense()
            ));
        }
        read?;
        // After a failure, an ID that was not found may be among the dead letters that were not read.
        let missing: Vec<_> =
            selection.ids.iter().filter(|id| failed == 0 && !found_ids.contains(*id)).collect();
        for id in &missing {
            cli_output::error(&unknown_id(id).to_string());
        }
        if failed == 0 && missing.is_empty() { Ok(()) } else { Err(CliError::AlreadyReported) }
    }
}
