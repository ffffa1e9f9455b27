//! A thread for work that takes CPU time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one piece of work after the other, so that memory does not depend on their number. It starts with the first one
/// and ends with the last clone.
///
/// Several threads would cost memory: the allocator keeps what one thread has allocated and another one has freed.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkThread(Arc<OnceLock<mpsc::Sender<Job>>>);

impl WorkThread {
    /// Runs work in the thread.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // The receiver is gone if the caller was cancelled.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        });
        // The thread runs as long as there is a sender.
        let _ = self.0.get_or_init(start).send(job);
        match result.await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => unreachable!("the thread sends its result"),
        }
    }
}

fn start() -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || jobs.into_iter().for_each(|job| job());
    let spawned = thread::Builder::new().name("index".to_owned()).spawn(work);
    // The process cannot continue without threads, as a runtime without its pool.
    spawned.unwrap_or_else(|error| panic!("cannot start a thread: {error}"));
    sender
}
