//! The update of a day: the only way in which the files of the index change.
//!
//! A day is updated in rounds. A round reads both files with their versions, **then** the list of erasures, **then** the
//! conversations that differ, and replaces both files on the condition that they still have these versions. So what a round
//! writes is never older than what it replaces, and a conversation that is erased while the round runs does not return: an
//! erasure is recorded before both files are replaced for it, so the round sees the record, or its write fails. After a
//! conflict the next round reads the files again.
//!
//! * The turns are written before the calls. After a crash between the two, the row of the call still differs from the
//!   archive, so the next update writes the same rows again.
//! * The conversations and the time of a round are limited, so an interrupted build loses little. The conversations and the
//!   bytes of a batch are limited, and so are the rows of turns that are in memory together, because a turn in JSON may be
//!   much smaller than its row. So memory does not depend on the number of conversations, except for the files.

use std::{collections::HashSet, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{
    Index, IndexError,
    files::Files,
    reading::{ConversationCopy, Reading, UnreadableConversation},
    snapshot::Snapshot,
};
use crate::archive::ProjectDay;

/// The limits of an update.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The conversations that are read at the same time.
    pub(super) concurrency: usize,
    /// The conversations of a batch.
    pub(super) batch_conversations: usize,
    /// The bytes of the conversations of a batch.
    pub(super) batch_bytes: usize,
    /// The rows of turns that are added to the file together. Those of one conversation are not divided.
    pub(super) batch_turns: usize,
    /// The conversations of a round, after which the files are replaced.
    pub(super) round_conversations: usize,
    /// The time of a round, after which the files are replaced.
    pub(super) round_time: Duration,
}

impl Limits {
    /// The limits for a bucket, where a read mostly waits.
    pub(super) const DEFAULT: Self = Self {
        concurrency: 8,
        batch_conversations: 1_000,
        batch_bytes: 4 << 20,
        batch_turns: 10_000,
        round_conversations: 100_000,
        round_time: Duration::from_mins(1),
    };
    /// The limits for a folder, whose reads mostly need a processor and a thread with memory of its own.
    pub(super) const FOLDER: Self = Self { concurrency: 2, ..Self::DEFAULT };
    /// Readers must not see a part of a day that was complete before.
    fn for_rebuild(self) -> Self {
        Self { round_conversations: usize::MAX, round_time: Duration::MAX, ..self }
    }
}

/// The number of conflicts in a row after which an update gives up: about half a minute.
pub(super) const MAX_CONFLICTS: usize = 12;
/// The pause after the first conflict, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The conversations that an update brings up to date.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// All that differ from the archive.
    All,
    /// Those in the folders with these names.
    Folders(Vec<String>),
}

/// The result of an update.
#[derive(Clone, Debug, Default)]
pub struct DayUpdate {
    /// The calls in the index now.
    pub calls: usize,
    /// The conversations that were read.
    pub read: usize,
    /// The calls that were removed, because the archive does not have them.
    pub removed: usize,
    /// The conversations that cannot be read. Their rows stay as they are.
    pub unreadable: Vec<UnreadableConversation>,
    /// The latest time at which one of the conversations that were read was archived.
    pub newest_archived_at: Option<Timestamp>,
    /// True if the files were replaced.
    pub is_written: bool,
    /// True if the time was over before everything was read. The next update continues.
    pub is_unfinished: bool,
}

/// The progress of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateProgress {
    /// The conversations to read.
    pub total: usize,
    /// Of these, the conversations that were read.
    pub done: usize,
}

/// The remaining work of an update.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The conversations to compare with their rows.
    pub(super) targets: Vec<Target>,
    /// The ids whose rows are removed. A list of conversations that is younger than the files lacks them.
    pub(super) removed: HashSet<String>,
}

/// A conversation that may differ from its row.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The name of its folder: the encoded id.
    pub(super) name: String,
    /// The time at which its manifest was written, if it is known.
    pub(super) stored_at: Option<Timestamp>,
}

/// The part of a plan that a round has done.
#[derive(Debug, Default)]
pub(super) struct RoundResult {
    /// The number of targets, from the first one.
    targets: usize,
    update: DayUpdate,
}

/// The parameters of an update that stay the same.
pub(super) struct Update<'a> {
    pub(super) index: &'a Index,
    pub(super) day: &'a ProjectDay,
    pub(super) deadline: Option<Instant>,
    pub(super) on_progress: &'a mut (dyn FnMut(UpdateProgress) + Send),
    pub(super) progress: UpdateProgress,
}

impl Index {
    /// Brings the rows of `scope` up to date. If the files are damaged or of another version, all rows of the day are written
    /// again. After `deadline` it stops, with what is done by then.
    pub(super) async fn update(
        &self,
        day: &ProjectDay,
        scope: Scope,
        deadline: Option<Instant>,
        on_progress: &mut (dyn FnMut(UpdateProgress) + Send),
    ) -> Result<DayUpdate, IndexError> {
        let progress = UpdateProgress::default();
        Update { index: self, day, deadline, on_progress, progress }.run(&scope).await
    }

    /// Returns false if a conversation was erased since the round began: a worker may have archived it for a moment.
    async fn has_no_new_erasure(&self, day: &ProjectDay, snapshot: &Snapshot) -> Result<bool, IndexError> {
        let erased = self.archive.erased_conversations().await;
        Ok(erased.map_err(|error| IndexError::archive(day, error))? == snapshot.erased)
    }
}

impl Update<'_> {
    async fn run(mut self, scope: &Scope) -> Result<DayUpdate, IndexError> {
        let (mut sum, mut plan, mut must_rebuild) = (DayUpdate::default(), None, false);
        let mut limits = self.index.limits;
        let mut pauses = backoff();
        loop {
            let (mut files, snapshot) = Snapshot::load(self.index, self.day, must_rebuild).await?;
            let (mut rest, round) =
                match self.run_round(plan.take(), scope, &mut files, &snapshot, &limits).await {
                    // A file is damaged, but the conversations are in the archive.
                    Err(IndexError::Table { .. }) if !snapshot.is_rebuild => {
                        must_rebuild = true;
                        continue;
                    }
                    result => result?,
                };
            if !files.is_changed
                || self.index.has_no_new_erasure(self.day, &snapshot).await?
                    && files.replace(self.index, self.day).await?
            {
                rest.targets.drain(..round.targets);
                rest.removed.clear();
                sum.add(round.update);
                sum.is_written |= files.is_changed;
                sum.is_unfinished = !rest.targets.is_empty();
                if !sum.is_unfinished || self.is_over() {
                    return Ok(sum);
                }
                (plan, pauses, must_rebuild) = (Some(rest), backoff(), false);
            } else {
                // Another writer is active. A shorter round is less likely to lose.
                limits.round_time = Duration::ZERO;
                self.progress.done = sum.read;
                sleep(pauses.next().ok_or_else(|| IndexError::contended(self.day))?).await;
                // A plan removes rows only of the files that it was compared with, so everything is compared again.
                plan = matches!(scope, Scope::Folders(_)).then_some(rest);
            }
        }
    }

    /// Does a part of `plan`, or of a new plan. Returns the plan, and how much of it is done.
    pub(super) async fn run_round(
        &mut self,
        plan: Option<Plan>,
        scope: &Scope,
        files: &mut Files,
        snapshot: &Snapshot,
        limits: &Limits,
    ) -> Result<(Plan, RoundResult), IndexError> {
        let plan = match plan.filter(|_| !snapshot.is_rebuild) {
            Some(plan) => plan,
            None => snapshot.plan(self.index, self.day, files, scope).await?,
        };
        self.progress.total = self.progress.done + plan.targets.len();
        (self.on_progress)(self.progress);
        let limits = if snapshot.is_rebuild { limits.for_rebuild() } else { *limits };
        let result = self.read_targets(&plan, files, snapshot, &limits).await?;
        Ok((plan, result))
    }

    /// Reads conversations until a limit is reached, and adds their rows to the files in memory.
    async fn read_targets(
        &mut self,
        plan: &Plan,
        files: &mut Files,
        snapshot: &Snapshot,
        limits: &Limits,
    ) -> Result<RoundResult, IndexError> {
        let (index, day, started_at) = (self.index, self.day, Instant::now());
        let mut result = RoundResult::default();
        result.update.calls = snapshot.rows.len();
        files.remove(plan.removed.iter().cloned());
        result.update.remove_calls(snapshot.count(&plan.removed));
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let read = |place: usize| async move {
            let target = &plan.targets[place];
            (target, snapshot.read(index, day, target).await)
        };
        let mut readings = stream::iter(0..plan.targets.len()).map(read).buffered(limits.concurrency);
        while let Some((target, reading)) = readings.next().await {
            result.targets += 1;
            self.progress.done += 1;
            match reading? {
                Reading::Current => {}
                Reading::Gone => {
                    if let Some(id) = snapshot.id_of(&target.name) {
                        result.update.remove_calls(1);
                        files.remove([id.to_owned()]);
                    }
                }
                Reading::Unreadable(unreadable) => result.update.unreadable.push(unreadable),
                Reading::Copy(copy) => {
                    result.update.add_copy(&copy, snapshot.rows.contains_key(&target.name));
                    bytes += copy.conversation.len();
                    batch.push(copy);
                }
            }
            if batch.len() < limits.batch_conversations && bytes < limits.batch_bytes {
                continue;
            }
            bytes = 0;
            files.add(index, day, std::mem::take(&mut batch)).await?;
            (self.on_progress)(self.progress);
            let is_over = self.is_over() && !snapshot.is_rebuild;
            let is_full =
                result.update.read >= limits.round_conversations || started_at.elapsed() >= limits.round_time;
            if is_over || is_full {
                break;
            }
        }
        files.add(index, day, batch).await?;
        files.finish_round(index, day).await?;
        (self.on_progress)(self.progress);
        Ok(result)
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl DayUpdate {
    fn add_copy(&mut self, copy: &ConversationCopy, is_replaced: bool) {
        self.read += 1;
        self.calls += usize::from(!is_replaced);
        let archived_at = copy.stored.manifest.timings.archived_at;
        self.newest_archived_at = self.newest_archived_at.max(Some(archived_at));
    }

    fn remove_calls(&mut self, count: usize) {
        self.removed += count;
        self.calls = self.calls.saturating_sub(count);
    }

    /// Adds the result of a later round.
    fn add(&mut self, round: Self) {
        self.calls = round.calls;
        self.read += round.read;
        self.removed += round.removed;
        self.unreadable.extend(round.unreadable);
        self.newest_archived_at = self.newest_archived_at.max(round.newest_archived_at);
    }
}

pub(super) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_max_times(MAX_CONFLICTS)
        .build()
}
