//! Carries out an action and logs it.

use std::{ops::ControlFlow, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    console::{
        Console,
        dead::{
            DeadPages,
            selection::{Selection, State},
        },
    },
    queue::{self, DeadLetter, DeadLetterAction, SettleObserver, SettleOutcome, SettleTotals},
};

/// Replays or drops the letters of a selection that are still dead letters. The drain ends it early: what is not reached
/// stays a dead letter.
pub(super) async fn run(console: Arc<Console>, pages: Arc<DeadPages>, selection: Arc<Selection>) {
    let Selection { viewer, action, letters, id, .. } = &*selection;
    let action = verb(*action);
    tracing::info!(viewer, action, selection = id, letters = letters.count, "a person acts on dead letters");
    let _end = EndAfterPanic(&selection);
    let (totals, ended_early) = settle(&console, &pages, &selection).await;
    pages.reader.forget();
    let SettleTotals { done, gone, failed, .. } = totals;
    let ended = ended_early.as_deref();
    tracing::info!(
        viewer,
        action,
        selection = id,
        done,
        gone,
        failed,
        ended,
        "the action on dead letters is over"
    );
    selection.state.send_replace(State::Finished { totals, ended_early });
}

/// Ends an action that a panic has interrupted.
struct EndAfterPanic<'a>(&'a Selection);

impl Drop for EndAfterPanic<'_> {
    fn drop(&mut self) {
        self.0.state.send_if_modified(|state| {
            let is_running = matches!(state, State::Running(_));
            if is_running {
                let ended_early = Some("a bug in polyhook, which the log names".to_owned());
                *state = State::Finished { totals: SettleTotals::default(), ended_early };
            }
            is_running
        });
    }
}

async fn settle(
    console: &Console,
    pages: &DeadPages,
    selection: &Selection,
) -> (SettleTotals, Option<String>) {
    let draining = console.lifecycle.draining();
    let shutdown = || (SettleTotals::default(), Some("the process was stopped".to_owned()));
    let turn = tokio::select! {
        turn = pages.reader.next_turn() => turn,
        () = draining.cancelled() => return shutdown(),
    };
    let mut letters = match console.queue.dead_letters().await {
        Ok(letters) => letters,
        Err(error) => return (SettleTotals::default(), Some(error.to_string())),
    };
    // Where reading hides no letters, pages are not kept waiting.
    let turn = letters.hides_letters().then_some(turn);
    let mut progress = Progress { selection, draining, settled: 0, done: Vec::new(), others: Vec::new() };
    let select = |letter: &DeadLetter| selection.letters.contains(letter);
    let (totals, read) = queue::settle(&mut *letters, Some(selection.action), &select, &mut progress).await;
    letters.close().await;
    drop(turn);
    let ended_early = match read {
        Err(error) => Some(error.to_string()),
        Ok(()) if progress.settled < selection.letters.count && progress.draining.is_cancelled() => {
            shutdown().1
        }
        Ok(()) => None,
    };
    (totals, ended_early)
}

/// Reports the progress to the page and the events to the log.
struct Progress<'a> {
    selection: &'a Selection,
    draining: CancellationToken,
    settled: u64,
    /// The events of the batch that are replayed or dropped.
    done: Vec<String>,
    /// The events of the batch that are not.
    others: Vec<String>,
}

impl SettleObserver for Progress<'_> {
    fn settled(&mut self, letter: &DeadLetter, outcome: SettleOutcome<'_>) {
        self.settled += 1;
        let ids = if matches!(outcome, SettleOutcome::Done) { &mut self.done } else { &mut self.others };
        ids.push(letter.message.id.clone());
    }

    fn read(&mut self, _: u64) -> ControlFlow<()> {
        let Selection { viewer, action, id, letters, state, .. } = self.selection;
        for (outcome, ids) in [(action.past_tense(), &mut self.done), ("failed", &mut self.others)] {
            if !ids.is_empty() {
                let events = std::mem::take(ids).join(" ");
                tracing::info!(viewer, outcome, selection = id, events, "dead letters of an action");
            }
        }
        state.send_replace(State::Running(self.settled));
        let is_over = self.settled >= letters.count || self.draining.is_cancelled();
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(super) fn verb(action: DeadLetterAction) -> &'static str {
    match action {
        DeadLetterAction::Replay => "replay",
        DeadLetterAction::Drop => "drop",
    }
}
