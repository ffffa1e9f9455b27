//! Who may work at the same time, and that nobody's silence is everybody's.
//!
//! A job has one of `worker.concurrency` slots. With several projects, a job that waits long for PolyAI's answer
//! gives its slot to the next and gets one again when the answer comes: a project whose API hangs keeps none of
//! the others waiting. Half of the jobs of one project may wait like that, and as many in all as there are slots; a
//! project that has used up its share is held up, and further jobs of it are put off.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::telemetry::GaugeGuard;

/// An answer that takes longer is waited for without a slot. PolyAI's usually come within a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    /// How many may wait without a slot, in all and of one project.
    most_waiting: usize,
    most_of_one: usize,
    waiting: Mutex<HashMap<String, usize>>,
}

impl Slots {
    /// `concurrency` slots for the jobs of so many projects.
    pub(super) fn new(concurrency: usize, projects: usize) -> Arc<Self> {
        let most_waiting = super::waiting_jobs(concurrency, projects);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS))),
            most_waiting,
            most_of_one: most_waiting.div_ceil(2),
            waiting: Mutex::default(),
        })
    }

    /// Waits for a slot.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Slot> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(Slot { slots: Arc::clone(self), permit: Mutex::new(Some(permit)) })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One job's slot.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    /// Whether so many jobs of this project wait for answers that another would only wait with them.
    pub(super) fn is_held_up(&self, project: &str) -> bool {
        let most = self.slots.most_of_one;
        most > 0 && self.slots.waiting().get(project).is_some_and(|waiting| *waiting >= most)
    }

    /// Waits for an answer of this project's API; after a while without the slot, if that may be.
    pub(super) async fn wait_for<T>(&self, project: &str, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answer) = timeout(PATIENCE, &mut answer).await {
            return answer;
        }
        let Some(_waiting) = self.step_aside(project) else { return answer.await };
        let answer = answer.await;
        // Never an error: nobody closes it.
        if let Ok(permit) = Arc::clone(&self.slots.free).acquire_owned().await {
            *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        }
        answer
    }

    /// Gives the slot to others, if this project may have one more that waits.
    fn step_aside(&self, project: &str) -> Option<Waiting<'_>> {
        let mut waiting = self.slots.waiting();
        let all: usize = waiting.values().sum();
        let mine = waiting.entry(project.to_owned()).or_default();
        if all >= self.slots.most_waiting || *mine >= self.slots.most_of_one {
            return None;
        }
        *mine += 1;
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let counted = GaugeGuard::increment(gauge!("polyhook_jobs_waiting"));
        Some(Waiting { slots: &self.slots, project: project.to_owned(), _counted: counted })
    }
}

/// Counts a job that waits, for as long as it does.
struct Waiting<'a> {
    slots: &'a Slots,
    project: String,
    _counted: GaugeGuard,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.slots.waiting().get_mut(&self.project) {
            *waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn free(slots: &Arc<Slots>) -> bool {
        timeout(Duration::from_millis(1), slots.take()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_long_makes_room_and_gets_it_back() {
        let slots = Slots::new(2, 2);
        let (a, b) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        let hanging = tokio::time::sleep(Duration::from_secs(30));
        let others = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!free(&slots).await, "an answer may take its time");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(b.is_held_up("a") && !b.is_held_up("b"));
            let third = slots.take().await;
            // Its share is used up: it keeps its slot.
            b.wait_for("a", tokio::time::sleep(Duration::from_secs(5))).await;
            assert!(!free(&slots).await);
            drop(third);
        };
        tokio::join!(a.wait_for("a", hanging), others);
        assert!(!b.is_held_up("a"));
        assert!(!free(&slots).await, "both work again");
        drop(a);
        assert!(free(&slots).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_project_alone_has_nobody_to_make_room_for() {
        let slots = Slots::new(1, 1);
        let only = slots.take().await.unwrap();
        let others = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(!free(&slots).await && !only.is_held_up("a"));
        };
        tokio::join!(only.wait_for("a", tokio::time::sleep(Duration::from_secs(30))), others);
    }
}
