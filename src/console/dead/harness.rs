//! What the tests of the pages about dead letters need beside the usual console.

use std::{
    io,
    sync::{Arc, Mutex},
};

pub(super) use crate::console::fixture::{Answer, TestConsole};

impl TestConsole {
    /// Copies the only dead letter until there are `letters`.
    pub(super) fn multiply_dead_letters(&self, letters: usize) {
        let file = rusqlite::Connection::open(self.queue_file()).unwrap();
        file.execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < {letters})
             INSERT INTO messages (seq, dedup, state, id, kind, environment, received_at, content_type, history)
                 SELECT n.n, CAST(printf('%032d', n.n) AS BLOB), state, 'evt_' || n.n, kind, environment, received_at,
                     content_type, history
                 FROM messages JOIN n;
             INSERT INTO bodies SELECT messages.seq, bodies.body FROM messages JOIN bodies ON bodies.seq = 1
                 WHERE messages.seq > 1;
             COMMIT;"
        ))
        .unwrap();
    }

    pub(super) fn remove_queue_file(&self) {
        for ending in ["", "-wal", "-shm"] {
            let mut path = self.queue_file().into_os_string();
            path.push(ending);
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The lines that this thread logs.
#[derive(Clone, Default)]
pub(super) struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Records what this thread logs until the guard is dropped.
pub(super) fn record_log() -> (LogLines, tracing::subscriber::DefaultGuard) {
    let lines = LogLines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (lines, tracing::subscriber::set_default(subscriber))
}
