//! The threads in which row groups are read and searched.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

/// The number of threads. Each keeps the memory of a few row groups.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads for work that takes CPU time, shared by all searches. They start with the first search and end with the last clone.
///
/// A thread for each row group would cost memory: the allocator keeps some of each thread's for a while after its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoder(Arc<OnceLock<mpsc::Sender<Job>>>);

impl Decoder {
    /// Runs work in one of the threads.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            // The receiver is gone if the request was cancelled.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        });
        // The threads run as long as there is a sender.
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
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..THREADS {
        let jobs = Arc::clone(&jobs);
        let next = move || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        let work = move || std::iter::from_fn(&next).for_each(|job| job());
        let spawned = thread::Builder::new().name("search".to_owned()).spawn(work);
        // The process cannot continue without threads, as a runtime without its pool.
        spawned.unwrap_or_else(|error| panic!("cannot start a thread: {error}"));
    }
    sender
}
