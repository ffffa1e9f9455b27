//! A console for unit tests, and requests to it without a socket.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    response::Response,
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;

use super::{Access, Client, Console, ConsoleConfig, LiveFeed, Overview, router_with};
use crate::{
    archive::{Archive, ArchiveConfig, ArchiveReader},
    clock::Clock,
    health::Health,
    index::{Index, IndexConfig},
    lifecycle::Lifecycle,
    queue::{
        QueueConfig, QueueUrls,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    secret::Secret,
    status::{ArchiveSource, QueueSource, StatusReader},
};

/// The time at which the clock stands.
pub(super) const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// A console over an empty folder.
pub(super) struct TestConsole {
    pub(super) router: Router,
    pub(super) console: Arc<Console>,
    pub(super) access: Arc<Access>,
    folder: tempfile::TempDir,
}

impl TestConsole {
    /// Opens one.
    pub(super) fn open(config: ConsoleConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let archive_config = ArchiveConfig {
            url: format!("file:{}", folder.path().join("archive").display()),
            ..ArchiveConfig::default()
        };
        let archive = Archive::open(&archive_config, clock.clone()).unwrap();
        let index = Index::open(&IndexConfig::default(), archive.clone(), clock.clone()).unwrap();
        let queue_file = folder.path().join("queue.db");
        let url = QueueUrls::One(Secret::new(format!("sqlite:{}", queue_file.display())));
        let queue_config = QueueConfig { url, ..QueueConfig::default() };
        let lifecycle = Lifecycle::new();
        let options = SqliteOptions::new(&queue_config, clock.clone());
        let queue = SqliteQueue::open(&queue_file, options, &lifecycle).unwrap();
        let source = ArchiveSource {
            url: archive_config.url.clone(),
            reader: ArchiveReader::open(&archive_config).map_err(|error| error.to_string()),
            reconciles: true,
            has_index: true,
        };
        let admin = "http://127.0.0.1:1".to_owned();
        let status = StatusReader::new(QueueSource::File(queue_file), None, source, admin, clock.clone());
        let access = Arc::new(Access::new(&config, clock.clone(), Health::default()));
        let console = Console {
            config,
            archive,
            index,
            queue,
            overview: Arc::new(Overview::new(status, clock.clone(), lifecycle.clone())),
            live: LiveFeed::new(&queue_config, clock.clone(), lifecycle.clone()).unwrap(),
            config_file: None,
            clock,
            lifecycle,
        };
        let console = Arc::new(console);
        Self { router: router_with(&access, Arc::clone(&console)), console, access, folder }
    }

    /// Sends a request from a client.
    pub(super) async fn send(&self, client: &str, mut request: Request) -> Answer {
        request.extensions_mut().insert(Client(client.parse::<IpAddr>().ok()));
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        Answer::read(response).await
    }

    /// Gets a page as a person on this machine does.
    pub(super) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header("host", "127.0.0.1:8090");
        self.send("127.0.0.1", request.body(Body::empty()).unwrap()).await
    }

    /// Sends a form as a browser on this machine does.
    pub(super) async fn post(&self, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let mut request = Request::post(path)
            .header("host", "127.0.0.1:8090")
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send("127.0.0.1", request.body(Body::from(form.to_owned())).unwrap()).await
    }

    /// Returns the paths of all routes, with `filling` for each part that varies.
    pub(super) fn paths(&self, filling: &str) -> BTreeSet<String> {
        let routes = format!("{:?}", self.router);
        let paths = routes.split('"').filter(|text| text.starts_with('/'));
        let fill = |path: &str| {
            let parts = path.split('/').map(|part| if part.starts_with('{') { filling } else { part });
            parts.collect::<Vec<_>>().join("/")
        };
        let paths: BTreeSet<_> = paths.map(fill).collect();
        assert!(paths.contains("/") && paths.contains("/livez") && paths.contains("/logout"), "{paths:?}");
        paths
    }

    /// Returns the token of the forms of a person on this machine, also if no page has a form.
    pub(super) fn local_csrf(&self) -> String {
        self.access.person(Client(None), &http::HeaderMap::new()).unwrap().unwrap().csrf
    }

    /// Returns the file of the queue.
    pub(super) fn queue_file(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Returns a header, or an empty text.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Returns the token of the forms on the page.
    pub(super) fn csrf(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"csrf\" value=\"").expect("the page has a form");
        rest.split('"').next().unwrap().to_owned()
    }
}
