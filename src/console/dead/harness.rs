//! A console with a queue, for the tests of the pages about dead letters.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;

use crate::{
    archive::{Archive, ArchiveConfig, ArchiveReader},
    clock::Clock,
    console::{Console, ConsoleConfig, LiveFeed, Overview, router},
    index::{Index, IndexConfig},
    lifecycle::Lifecycle,
    queue::{
        QueueConfig, QueueUrls,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    secret::Secret,
    status::{ArchiveSource, QueueSource, StatusReader},
};

pub(super) struct TestConsole {
    router: axum::Router,
    pub(super) console: Arc<Console>,
    folder: tempfile::TempDir,
}

impl TestConsole {
    pub(super) fn open(config: ConsoleConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::constant(1_800_000_000, 0));
        let archive_config = ArchiveConfig {
            url: format!("file:{}", folder.path().join("archive").display()),
            ..ArchiveConfig::default()
        };
        let archive = Archive::open(&archive_config, clock.clone()).unwrap();
        let index = Index::open(&IndexConfig::default(), archive.clone(), clock.clone()).unwrap();
        let queue_file = folder.path().join("queue.db");
        let options = SqliteOptions::new(&QueueConfig::default(), clock.clone());
        let lifecycle = Lifecycle::new();
        let queue = SqliteQueue::open(&queue_file, options, &lifecycle).unwrap();
        let source = ArchiveSource {
            url: archive_config.url.clone(),
            reader: ArchiveReader::open(&archive_config).map_err(|error| error.to_string()),
            reconciles: true,
            has_index: true,
        };
        let reader = StatusReader::new(
            QueueSource::File(queue_file.clone()),
            None,
            source,
            "http://127.0.0.1:1".to_owned(),
            clock.clone(),
        );
        let overview = Arc::new(Overview::new(reader, clock.clone(), lifecycle.clone()));
        let url = QueueUrls::One(Secret::new(format!("sqlite:{}", queue_file.display())));
        let queue_config = QueueConfig { url, ..QueueConfig::default() };
        let live = LiveFeed::new(&queue_config, clock.clone(), lifecycle.clone()).unwrap();
        let console = Arc::new(Console { config, archive, index, queue, overview, live, clock, lifecycle });
        Self { router: router(Arc::clone(&console)), console, folder }
    }

    async fn send(&self, request: Request) -> Answer {
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).header("host", "127.0.0.1:8090").body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::post(path)
            .header("host", "127.0.0.1:8090")
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    fn queue_file(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }

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

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: http::HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(super) fn csrf(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"csrf\" value=\"").expect("the page has a form");
        rest.split('"').next().unwrap().to_owned()
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
