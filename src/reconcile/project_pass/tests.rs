use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use futures_util::future::join_all;
use url::Url;

use super::*;
use crate::{
    archive::{Archive, ArchiveConfig},
    clock::Clock,
    event::{DedupKey, DiscoverySource},
    lifecycle::Lifecycle,
    polyai::{ApiChoice, PolyAiClient, PolyAiConfig, ProjectConfig},
    queue::{
        Message, Queue,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    secret::Secret,
};

const MINUTE: Duration = Duration::from_mins(1);

/// Starts a PolyAI whose lists are empty.
fn start_empty_polyai() -> Url {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n\
        {\"conversations\":[],\"cursor\":null}";
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let lines = BufReader::new(&connection).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            connection.write_all(ANSWER.as_bytes()).unwrap();
        }
    });
    url
}

fn job(number: u64) -> Message {
    let id = format!("evt-{number}");
    Message {
        dedup: DedupKey::new(&id, b"{}"),
        id,
        kind: "conversation.completed".to_owned(),
        environment: "live".to_owned(),
        conversation_id: None,
        received_at: Clock::System.now(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: "{}".into(),
    }
}

#[tokio::test]
async fn new_calls_do_not_wait_for_old_ones_while_many_jobs_wait() {
    let folder = tempfile::tempdir().unwrap();
    let config = ArchiveConfig {
        url: format!("file:{}", folder.path().join("archive").display()),
        ..ArchiveConfig::default()
    };
    let archive = Archive::open(&config, Clock::System).unwrap();
    let options = SqliteOptions { publish_timeout: MINUTE, ..SqliteOptions::default() };
    let queue = SqliteQueue::open(&folder.path().join("queue.db"), options, &Lifecycle::new()).unwrap();
    for published in join_all((0..=MAX_BACKLOG).map(|number| queue.publish(job(number)))).await {
        published.unwrap();
    }
    let config =
        PolyAiConfig { base_url: Some(start_empty_polyai()), api: ApiChoice::V3, ..PolyAiConfig::default() };
    let project = ProjectConfig {
        account_id: "acme".to_owned(),
        project_id: "desk".to_owned(),
        api_key: Secret::new("a-key"),
        ..ProjectConfig::default()
    };
    let polyai = PolyAiClient::new(&config, &[project], Clock::System).unwrap();
    let pass = ReconcilePass {
        polyai: &polyai,
        archive: &archive,
        queue: Some(&*queue),
        clock: &Clock::System,
        settle: Duration::ZERO,
        source: DiscoverySource::Reconcile,
        requested_at: None,
        limits: &QueueingLimits::default(),
        queued: None,
    };
    let config = ReconcileConfig::default();
    let deadline = Some(Instant::now() + MINUTE);
    let pass = ProjectPass { pass: &pass, project: &polyai.projects()[0], config: &config, deadline };

    let now = Clock::System.now();
    let window = |from: u32, to: u32| {
        let window = Window {
            from: now - MINUTE * from,
            to: now - MINUTE * to,
            environment: "live".to_owned(),
            failure: None,
        };
        window.failed(window.from..window.to, "502".to_owned(), now)
    };
    let windows = vec![window(3000, 2940), window(180, 20), window(10, 5)];
    for read in [pass.read(windows.clone()).await, pass.read_at_once(windows, 1).await] {
        assert_eq!((read.read, &read.failures[..], read.is_interrupted), (2, &[][..], false), "{read:?}");
        let unread: Vec<_> =
            read.unread.iter().map(|window| (window.from, window.to > now - MINUTE * 44)).collect();
        assert_eq!(unread, [(now - MINUTE * 3000, false), (now - MINUTE * 180, false)]);
    }
}
