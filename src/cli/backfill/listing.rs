//! The first part of a backfill: lists the conversations of all projects and queues the missing ones.

use std::cell::RefCell;

use indicatif::ProgressBar;
use jiff::{Timestamp, tz::Offset};

use crate::{
    cli::{output, progress},
    polyai::{ListQuery, Project},
    reconcile::{PassSummary, PendingCounts, ReconcilePass},
};

/// A listing and its progress, which can be read while the listing runs and after it was interrupted.
pub(super) struct Listing {
    hidden: bool,
    state: RefCell<State>,
}

struct State {
    /// A spinner while the conversations are listed: their number is unknown until then. Afterwards a bar of those that were
    /// queued, if the command waits for them.
    bar: ProgressBar,
    is_over: bool,
    /// The counts of the projects that are done.
    done: PassSummary,
    /// The counts of the present project.
    current: PassSummary,
    /// The conversations that the command waits for.
    pending: Option<PendingCounts>,
    failures: Vec<String>,
}

impl Listing {
    pub(super) fn new(hidden: bool) -> Self {
        let state = State {
            bar: progress::spinner(hidden),
            is_over: false,
            done: PassSummary::default(),
            current: PassSummary::default(),
            pending: None,
            failures: Vec::new(),
        };
        Self { hidden, state: RefCell::new(state) }
    }

    /// Lists all projects and queues what `pass` finds missing.
    pub(super) async fn run(&self, projects: &[&Project], query: &ListQuery, pass: &ReconcilePass<'_>) {
        for (number, project) in projects.iter().enumerate() {
            let show = |summary: &PassSummary, reached| {
                let state = &mut *self.state.borrow_mut();
                state.current = *summary;
                let text = listing_text(&state.summary(), state.pending.as_ref(), reached);
                let place = project_text(number, projects.len());
                state.bar.set_message(format!("{text}{place}"));
                state.bar.tick();
            };
            let outcome = pass.run(project, query.clone(), show).await;
            let state = &mut *self.state.borrow_mut();
            state.current = PassSummary::default();
            state.done.add(&outcome.summary);
            let name = |error| format!("project {}: {error}", project.project_id());
            state.failures.extend(outcome.failures.iter().map(name));
        }
        let state = &mut *self.state.borrow_mut();
        state.is_over = true;
        state.bar.finish_and_clear();
        if let Some(pending) = &state.pending {
            state.bar = progress::bar(pending.total(), "archived", self.hidden);
        }
    }

    /// Shows what became of the queued conversations.
    pub(super) fn show_pending(&self, counts: PendingCounts) {
        let state = &mut *self.state.borrow_mut();
        state.pending = Some(counts);
        if state.is_over {
            show_on_bar(&state.bar, counts);
        }
    }

    /// Prints a remark for a person.
    pub(super) fn note(&self, text: &str) {
        let bar = self.state.borrow().bar.clone();
        bar.suspend(|| output::note(text));
    }

    pub(super) fn summary(&self) -> PassSummary {
        self.state.borrow().summary()
    }

    /// Ends the display. Returns the reasons why something was not compared or not queued.
    pub(super) fn finish(&self) -> Vec<String> {
        let state = &mut *self.state.borrow_mut();
        state.bar.finish_and_clear();
        std::mem::take(&mut state.failures)
    }
}

impl State {
    fn summary(&self) -> PassSummary {
        let mut sum = self.done;
        sum.add(&self.current);
        sum
    }
}

fn show_on_bar(bar: &ProgressBar, counts: PendingCounts) {
    bar.set_length(counts.total());
    bar.set_position(counts.archived);
    if counts.dead_letters > 0 {
        bar.set_message(format!(", {} dead letters", counts.dead_letters));
    }
}

/// Describes a listing. It names the day that was reached and no share of the period: calls are not spread evenly over it.
fn listing_text(summary: &PassSummary, pending: Option<&PendingCounts>, reached: Timestamp) -> String {
    let PassSummary { listed, queued, .. } = summary;
    let archived = pending.map(|pending| format!(", {} archived", pending.archived)).unwrap_or_default();
    let day = Offset::UTC.to_datetime(reached).date();
    format!("{listed} listed back to {day}, {queued} queued{archived}")
}

fn project_text(number: usize, projects: usize) -> String {
    if projects > 1 { format!(", project {} of {projects}", number + 1) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: PendingCounts = PendingCounts { archived: 80, dead_letters: 2, left: 18 };

    #[test]
    fn a_listing_shows_counts_and_the_day_that_is_reached() {
        let summary = PassSummary { listed: 5000, queued: 100, ..PassSummary::default() };
        let reached = "2026-10-31T23:10:00Z".parse().unwrap();
        assert_eq!(
            listing_text(&summary, Some(&COUNTS), reached) + &project_text(1, 3),
            "5000 listed back to 2026-10-31, 100 queued, 80 archived, project 2 of 3"
        );
        assert_eq!(listing_text(&summary, None, reached), "5000 listed back to 2026-10-31, 100 queued");
        assert_eq!(project_text(0, 1), "");
    }

    #[test]
    fn the_bar_shows_the_archived_share_of_what_was_queued() {
        let bar = ProgressBar::hidden();
        for (archived, left) in [(0, 100), (40, 60), (80, 20), (80, 30), (110, 0)] {
            show_on_bar(&bar, PendingCounts { archived, dead_letters: 0, left });
            assert_eq!((bar.position(), bar.length()), (archived, Some(archived + left)));
        }
        show_on_bar(&bar, COUNTS);
        assert_eq!((bar.position(), bar.length(), &*bar.message()), (80, Some(100), ", 2 dead letters"));
    }
}
