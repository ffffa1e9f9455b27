//! Replays or drops the selected dead letters.

use std::{collections::BTreeSet, ops::ControlFlow};

use indicatif::ProgressBar;
use jiff::Timestamp;

use super::{
    args::Selection,
    output::{self, DeadLetterTable, SettledDeadLetter},
    queue_failed, unknown_id,
};
use crate::{
    cli::{CliError, output as cli_output, progress},
    queue::{
        self, DeadLetter, DeadLetterAction, DeadLetterSummary, Queue, SettleObserver, SettleOutcome,
        SettleTotals,
    },
};

/// Replays or drops what is selected. With `died_until`, only what was a dead letter at that time.
pub(super) async fn run(
    queue: &dyn Queue,
    action: DeadLetterAction,
    selection: &Selection,
    now: Timestamp,
    died_until: Option<Timestamp>,
) -> Result<(), CliError> {
    let mut letters = super::open(queue).await?;
    let is_selected = selection.test(now);
    let select =
        |letter: &DeadLetter| is_selected(letter) && died_until.is_none_or(|until| letter.since() <= until);
    let mut printer = Printer {
        action,
        selection,
        bar: progress::bar(letters.total(), "looked at", selection.json || selection.dry_run),
        table: DeadLetterTable::new(now),
        found_ids: BTreeSet::new(),
    };
    let action_to_take = (!selection.dry_run).then_some(action);
    let (totals, read) = queue::settle(&mut *letters, action_to_take, &select, &mut printer).await;
    printer.bar.finish_and_clear();
    letters.close().await;
    printer.table.flush();
    printer.report(totals, read.map_err(|error| queue_failed(&error)))
}

/// Prints the results and the progress.
struct Printer<'a> {
    action: DeadLetterAction,
    selection: &'a Selection,
    bar: ProgressBar,
    /// The dead letters that a dry run selects.
    table: DeadLetterTable,
    /// The IDs that were found, if the user named IDs.
    found_ids: BTreeSet<String>,
}

impl SettleObserver for Printer<'_> {
    fn settled(&mut self, letter: &DeadLetter, outcome: SettleOutcome<'_>) {
        if !self.selection.ids.is_empty() {
            self.found_ids.insert(letter.message.id.clone());
        }
        if self.selection.json {
            let (outcome, error) = match outcome {
                SettleOutcome::Selected => ("dry_run", None),
                SettleOutcome::Done => (self.action.past_tense(), None),
                SettleOutcome::Gone => ("gone", None),
                SettleOutcome::Failed(error) => ("failed", Some(error.to_string())),
            };
            cli_output::json(&SettledDeadLetter { outcome, error, summary: DeadLetterSummary::new(letter) });
        } else if matches!(outcome, SettleOutcome::Selected) {
            self.table.row(letter);
        }
    }

    fn read(&mut self, letters: u64) -> ControlFlow<()> {
        self.bar.inc(letters);
        ControlFlow::Continue(())
    }
}

impl Printer<'_> {
    fn report(self, totals: SettleTotals, read: Result<(), CliError>) -> Result<(), CliError> {
        let Self { action, selection, found_ids, .. } = self;
        let SettleTotals { done, gone, failed, first_error } = totals;
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
