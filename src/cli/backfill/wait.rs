//! The second part of `backfill --wait`: waits until everything that was queued is archived or a dead letter.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    cli::output::{counted, plural},
    event::Discovery,
    reconcile::{PendingConversations, PendingCounts, PendingError},
};

/// The number of ids that are named when the command gives up.
const NAMED_IDS: usize = 3;

/// The times of a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitTimes {
    /// The first delay between two checks that find nothing. It grows to five times this.
    pub(super) poll: Duration,
    /// A remark is printed when nothing was archived for this time, and then less and less often.
    pub(super) remark_after: Duration,
    /// The command gives up if the queue has been empty and nothing was archived for this time: then the rest has left the
    /// queue in another way.
    pub(super) max_empty: Duration,
    /// The command gives up after this time. `None`: never.
    pub(super) timeout: Option<Duration>,
}

/// The progress of a wait, for a person.
pub(super) trait WaitDisplay {
    fn counts(&self, counts: PendingCounts);
    fn remark(&self, text: &str);
}

/// A wait for the conversations that arrive on a channel while they are queued.
pub(super) struct Wait<'a, 'b, D> {
    pub(super) pending: &'a mut PendingConversations<'b>,
    pub(super) times: WaitTimes,
    pub(super) display: &'a D,
}

/// The times of the last events of a wait.
struct Stall {
    progress_at: Instant,
    next_remark: Instant,
    remark_interval: Duration,
    empty_since: Option<Instant>,
}

impl Stall {
    fn new(times: &WaitTimes) -> Self {
        let now = Instant::now();
        Self {
            progress_at: now,
            next_remark: now + times.remark_after,
            remark_interval: times.remark_after,
            empty_since: None,
        }
    }
}

impl<D: WaitDisplay> Wait<'_, '_, D> {
    /// Returns when the channel is closed and everything that arrived has ended. The error is the reason for giving up.
    pub(super) async fn run(mut self, mut queued: mpsc::Receiver<Discovery>) -> Result<(), String> {
        let started_at = Instant::now();
        let (mut is_listing, mut delay) = (true, self.times.poll);
        let mut stall = Stall::new(&self.times);
        loop {
            let before = self.pending.counts();
            let checked = if before.left > 0 { self.pending.check().await } else { Ok(()) };
            let has_progress = self.pending.counts().ended() > before.ended() || before.left == 0;
            if has_progress {
                (stall, delay) = (Stall::new(&self.times), self.times.poll);
            } else {
                delay = (delay * 3 / 2).min(self.times.poll * 5);
                self.look_at_stall(&mut stall, checked.err()).await?;
            }
            self.display.counts(self.pending.counts());
            if self.times.timeout.is_some_and(|timeout| started_at.elapsed() >= timeout) {
                return Err(self.give_up(if is_listing {
                    "the time of --timeout was over before all were listed"
                } else {
                    "the time of --timeout is over"
                }));
            }
            let next_check =
                Instant::now() + if has_progress && before.left > 0 { Duration::ZERO } else { delay };
            loop {
                if !is_listing && self.pending.counts().left == 0 {
                    self.display.counts(self.pending.counts());
                    return Ok(());
                }
                tokio::select! {
                    biased;
                    discovery = queued.recv(), if is_listing && !self.pending.is_full() => match discovery {
                        Some(discovery) => self.pending.add(discovery),
                        None => is_listing = false,
                    },
                    () = sleep_until(next_check) => break,
                }
            }
        }
    }

    /// Prints a remark if one is due, or gives up because nothing can end any more.
    async fn look_at_stall(&mut self, stall: &mut Stall, error: Option<PendingError>) -> Result<(), String> {
        let now = Instant::now();
        let backlog = self.pending.backlog().await;
        let is_empty = matches!(&backlog, Ok(backlog) if backlog.waiting + backlog.delayed == 0);
        let empty_since = if is_empty { *stall.empty_since.get_or_insert(now) } else { now };
        if !is_empty {
            stall.empty_since = None;
        }
        if is_empty && now - empty_since >= self.times.max_empty && error.is_none() {
            // What was archived last may not have been looked up yet.
            let ended = self.pending.counts().ended();
            if self.pending.check_all().await.is_ok() && self.pending.counts().ended() == ended {
                return Err(self.give_up("the queue has no job for them any more"));
            }
        }
        if now >= stall.next_remark {
            stall.remark_interval = (stall.remark_interval * 2).min(self.times.remark_after * 20);
            stall.next_remark = now + stall.remark_interval;
            let PendingCounts { left, .. } = self.pending.counts();
            let idle = humantime::format_duration(Duration::from_secs((now - stall.progress_at).as_secs()));
            let cause = match (error, backlog) {
                (Some(error), _) | (None, Err(error)) => error.to_string(),
                (None, Ok(backlog)) if backlog.waiting == 0 && backlog.delayed > 0 => {
                    format!(
                        "{} after a failure: see the log of the worker",
                        counted(backlog.delayed, "delayed job")
                    )
                }
                (None, Ok(backlog)) => format!(
                    "{}: is a worker running? Start one with `polyhook work` or `polyhook run`",
                    counted(backlog.waiting + backlog.delayed, "waiting job")
                ),
            };
            self.display.remark(&format!(
                "nothing was archived for {idle}, {}; {cause}. Ctrl-C leaves the jobs in the queue",
                plural(left, "1 conversation is left", "{} conversations are left")
            ));
        }
        Ok(())
    }

    fn give_up(&self, reason: &str) -> String {
        let left = self.pending.counts().left;
        if left == 0 {
            return format!("gave up: {reason}");
        }
        let ids = self.pending.examples(NAMED_IDS);
        let more = if left > ids.len() as u64 { "…" } else { "" };
        let (ids, left) = (ids.join(", "), plural(left, "1 conversation is", "{} conversations are"));
        format!(
            "gave up: {left} not archived ({ids}{more}), and {reason}; see the log of the worker, or fetch one with `polyhook fetch ID`"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, path::Path, sync::Arc};

    use super::*;
    use crate::{
        archive::{Archive, ArchiveConfig},
        clock::Clock,
        event::{CONVERSATION_DISCOVERED, DedupKey},
        lifecycle::Lifecycle,
        queue::{
            Message, Queue, QueueConfig,
            sqlite::{SqliteOptions, SqliteQueue},
        },
    };

    #[derive(Default)]
    struct Remarks(RefCell<Vec<String>>);

    impl WaitDisplay for Remarks {
        fn counts(&self, _: PendingCounts) {}

        fn remark(&self, text: &str) {
            self.0.borrow_mut().push(text.to_owned());
        }
    }

    fn discovery() -> Discovery {
        Discovery {
            conversation_id: "CA1".to_owned(),
            account_id: "acme".to_owned(),
            project_id: "desk".to_owned(),
            started_at: Some("2026-11-02T10:00:00Z".parse().unwrap()),
            ..Discovery::default()
        }
    }

    fn open(folder: &Path) -> (Archive, Arc<SqliteQueue>) {
        let url = format!("file:{}", folder.join("archive").display());
        let config = ArchiveConfig { url, ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        let options = SqliteOptions::new(&QueueConfig::default(), Clock::System);
        (archive, SqliteQueue::open(&folder.join("queue.db"), options, &Lifecycle::new()).unwrap())
    }

    /// Waits for one conversation that is not archived.
    async fn wait(archive: &Archive, queue: &SqliteQueue, times: WaitTimes) -> (String, Vec<String>) {
        let mut pending = PendingConversations::new(archive, queue);
        let (sender, queued) = mpsc::channel(1);
        sender.send(discovery()).await.unwrap();
        drop(sender);
        let remarks = Remarks::default();
        let ended = Wait { pending: &mut pending, times, display: &remarks }.run(queued).await;
        (ended.unwrap_err(), remarks.0.into_inner())
    }

    const TIMES: WaitTimes = WaitTimes {
        poll: Duration::from_millis(10),
        remark_after: Duration::from_millis(50),
        max_empty: Duration::from_millis(50),
        timeout: Some(Duration::from_secs(1)),
    };

    #[tokio::test]
    async fn without_a_worker_it_says_so_before_it_gives_up() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, queue) = open(folder.path());
        let (id, body) = (discovery().id(), discovery().body().unwrap());
        let message = Message {
            dedup: DedupKey::new(&id, b""),
            id,
            kind: CONVERSATION_DISCOVERED.to_owned(),
            environment: "live".to_owned(),
            conversation_id: Some("CA1".to_owned()),
            received_at: Clock::System.now(),
            traceparent: None,
            content_type: "application/json".to_owned(),
            body: body.into(),
        };
        queue.publish(message).await.unwrap();
        let (reason, remarks) = wait(&archive, &queue, TIMES).await;
        assert!(
            reason.contains("1 conversation is not archived (CA1)") && reason.contains("--timeout"),
            "{reason}"
        );
        assert!(remarks[0].contains("is a worker running?") && remarks.len() < 8, "{remarks:?}");
    }

    #[tokio::test]
    async fn it_says_that_the_listing_took_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, queue) = open(folder.path());
        let times = WaitTimes { timeout: Some(Duration::from_millis(1)), ..TIMES };
        for (queued, named) in [(None, ""), (Some(discovery()), "1 conversation is not archived (CA1), and ")]
        {
            let mut pending = PendingConversations::new(&archive, &*queue);
            // The listing goes on while the sender exists.
            let (sender, receiver) = mpsc::channel(1);
            if let Some(discovery) = queued {
                sender.send(discovery).await.unwrap();
            }
            let wait = Wait { pending: &mut pending, times, display: &Remarks::default() };
            let reason = wait.run(receiver).await.unwrap_err();
            let expected = format!("gave up: {named}the time of --timeout was over before all were listed");
            assert!(reason.starts_with(&expected), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_job_that_left_the_queue_unarchived_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, queue) = open(folder.path());
        let (reason, _) = wait(&archive, &queue, WaitTimes { timeout: None, ..TIMES }).await;
        assert!(reason.contains("the queue has no job for them any more"), "{reason}");
    }
}
