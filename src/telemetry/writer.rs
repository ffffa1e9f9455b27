//! Writes a service's log lines on a separate thread, so that no task waits for the reader of the log.
//!
//! Lines are collected for [`BATCH_DELAY`] and written together: waking a thread for each line costs a busy receiver more
//! than writing the line (19 % of its CPU). Lines that exceed [`MAX_BUFFER_BYTES`] are dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Time that a line waits for others, to be written together.
const BATCH_DELAY: Duration = Duration::from_millis(20);
/// Bytes of lines that may wait. The same number may be in the process of being written.
const MAX_BUFFER_BYTES: usize = 4 << 20;
/// Capacity that a buffer keeps after it has grown.
const RETAINED_BUFFER_BYTES: usize = 64 << 10;
/// Time that the shutdown waits for the reader of the log.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    closed: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > MAX_BUFFER_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        if waiting.lines.len() == line.len() {
            self.changed.notify_one();
        }
    }

    /// Writes lines until the buffer is closed and empty.
    fn write_to(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let waiting = self.waiting();
            let idle =
                self.changed.wait_while(waiting, |waiting| waiting.lines.is_empty() && !waiting.closed);
            let waiting = idle.unwrap_or_else(PoisonError::into_inner);
            let batch = self.changed.wait_timeout_while(waiting, BATCH_DELAY, |waiting| !waiting.closed);
            let (mut waiting, _) = batch.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut waiting.lines);
            let closed = waiting.closed;
            drop(waiting);
            // An error cannot be reported: this is the log.
            let _ = out.write_all(&lines);
            lines.clear();
            lines.shrink_to(RETAINED_BUFFER_BYTES);
            if closed {
                return;
            }
        }
    }
}

/// Accepts log lines. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

impl Lines {
    /// Returns the number of lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Ends the thread when it is dropped, after the remaining lines are written. Waits at most one second for that.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    ended: mpsc::Receiver<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.waiting().closed = true;
        self.shared.changed.notify_one();
        let _ = self.ended.recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Starts the thread that writes lines to `out`.
pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Lines, Writer)> {
    let shared = Arc::new(Shared::default());
    let (done, ended) = mpsc::channel();
    let lines = Arc::clone(&shared);
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        lines.write_to(out);
        let _ = done.send(());
    })?;
    Ok((Lines(Arc::clone(&shared)), Writer { shared, ended }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A pipe that blocks every write until it is opened.
    #[derive(Clone, Default)]
    struct Pipe {
        opened: Arc<(Mutex<bool>, Condvar)>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Pipe {
        fn open(&self) {
            *self.opened.0.lock().unwrap() = true;
            self.opened.1.notify_all();
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let open = self.opened.0.lock().unwrap();
            drop(self.opened.1.wait_while(open, |open| !*open).unwrap());
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_every_line_in_order_before_it_ends() {
        let pipe = Pipe::default();
        pipe.open();
        let (lines, writer) = start(pipe.clone()).unwrap();
        let mut expected = String::new();
        for number in 0..5000 {
            let line = format!("line {number}\n");
            lines.make_writer().write_all(line.as_bytes()).unwrap();
            expected.push_str(&line);
        }
        drop(writer);
        assert_eq!(String::from_utf8(pipe.taken.lock().unwrap().clone()).unwrap(), expected);
        assert_eq!(lines.dropped(), 0);
    }

    #[test]
    fn a_reader_that_stops_blocks_nothing_and_memory_stays_bounded() {
        let pipe = Pipe::default();
        let (lines, writer) = start(pipe.clone()).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            lines.make_writer().write_all(&line).unwrap();
        }
        assert!((12..=16).contains(&lines.dropped()), "{}", lines.dropped());
        let begun = Instant::now();
        drop(writer);
        assert!(begun.elapsed() < SHUTDOWN_TIMEOUT * 3, "{:?}", begun.elapsed());
        pipe.open();
    }
}
