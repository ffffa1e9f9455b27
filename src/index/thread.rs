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
    /// Runs work in the thread. If the caller is cancelled before the work begins, it does not run.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // The receiver is gone if the caller was cancelled.
            if sender.is_closed() {
                return;
            }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_whose_caller_has_left_does_not_run() {
        let thread = WorkThread::default();
        let (release, released) = mpsc::channel::<()>();
        let mut first = Box::pin(thread.run(move || released.recv()));
        assert!(first.as_mut().now_or_never().is_none());
        let has_run = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&has_run);
        assert!(thread.run(move || mark.store(true, Ordering::SeqCst)).now_or_never().is_none());
        release.send(()).unwrap();
        first.await.unwrap();
        assert_eq!(thread.run(|| 7).await, 7);
        assert!(!has_run.load(Ordering::SeqCst));
    }
}
