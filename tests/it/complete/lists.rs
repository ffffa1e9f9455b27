//! Lists: pages of any size, and errors between them.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{RECENT_CHATS, request_count, site};
use crate::support::process::{SimulatedPolyAi, peak_allocated_kib};

/// The size of one conversation's transcript in bytes.
const TRANSCRIPT: usize = 1 << 20;

/// Starts a server whose list is one page of the given size, sent as it is generated.
fn serve_large_page(megabytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let turn = "{\"user_input\":\"yes please\",\"agent_response\":\"of course, one moment\"},";
        let turns = turn.repeat(TRANSCRIPT / turn.len());
        for stream in listener.incoming().map_while(Result::ok) {
            let turns = turns.clone();
            std::thread::spawn(move || write_page(stream, megabytes, &turns));
        }
    });
    address
}

fn write_page(mut stream: TcpStream, megabytes: usize, turns: &str) -> io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request)?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"{\"conversations\":[")?;
    for number in 0..megabytes {
        let comma = if number == 0 { "" } else { "," };
        write!(stream, "{comma}{{\"id\":\"C{number}\",\"turns\":[{turns}{{}}],\"environment\":\"live\",")?;
        write!(stream, "\"started_at\":\"2026-11-02T10:00:00Z\",\"total_duration\":3}}")?;
    }
    stream.write_all(b"],\"cursor\":null}")
}

/// A server that ignores the page parameter, in either API, is detected and not asked forever.
#[test]
fn a_repeated_page_is_an_error() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 1);
    let site = site(&polyai, "settle = \"0s\"", "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, count) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let answered = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let number = answered.fetch_add(1, Ordering::SeqCst);
            let item = "{\"id\":\"C1\",\"environment\":\"live\",\"started_at\":\"2026-11-02T10:00:00Z\"}";
            let body = format!("{{\"conversations\":[{item}],\"cursor\":\"c{number}\",\"count\":9}}");
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    for api in ["v3", "data"] {
        let settings = ["base_url", "platform_url"].map(|key| format!("polyai.{key}={url}"));
        let api = format!("polyai.api={api}");
        let arguments =
            ["backfill", "--from", "2026-11-01", "--dry-run", "--set", &settings[0], "--set", &settings[1]];
        let listed = site.polyhook(arguments.into_iter().chain(["--set", &api])).run();
        assert_eq!(listed.code, Some(1), "{listed:?}");
        assert!(listed.stderr.contains("not what was asked for"), "{listed:?}");
        let before = count.swap(asked.load(Ordering::SeqCst), Ordering::SeqCst);
        assert!(asked.load(Ordering::SeqCst) - before < 5, "the same page is not requested forever");
    }
}

/// The page has 100 MB, with `SCALE=full` 500 MB, and is never in memory.
#[test]
fn a_huge_page_needs_little_memory() {
    let megabytes = if std::env::var_os("SCALE").is_some_and(|scale| scale == "full") { 500 } else { 100 };
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 1);
    let site = site(&polyai, "settle = \"0s\"", "");
    let base_url = format!("polyai.base_url=http://{}", serve_large_page(megabytes));
    let day =
        ["backfill", "--from", "2026-11-02", "--to", "2026-11-02", "--dry-run", "--json", "--set", &base_url];
    let mut process = site.polyhook(day).start();
    let mut peak = 0;
    while process.is_running() {
        if let Some(kib) = peak_allocated_kib(process.pid()) {
            peak = peak.max(kib);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its output may not be read yet.
    process.wait(Duration::from_secs(10));
    let stdout = process.stdout().join("\n");
    assert_eq!(super::json(&stdout)["tally"]["missing"], megabytes, "{stdout} {:?}", process.stderr());
    eprintln!("a page of {megabytes} MB: {peak} KiB at most");
    assert!(peak > 1000 && peak < 32 << 10, "{peak} KiB");
}

/// A 429, an error and a broken connection in the middle of a list are retried.
#[test]
fn retries_errors_in_the_middle_of_a_list() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 450);
    let site = site(&polyai, "settle = \"0s\"", "");
    let actions = [
        json!({ "status": 503 }),
        json!({ "reset": 40_000 }),
        json!({ "truncate": 50_000 }),
        json!({ "rate_limited": { "seconds": 1 } }),
    ];
    for action in actions {
        let fault = json!({ "operations": ["v3_list"], "action": action, "times": 1, "probability": 0.5 });
        polyai.control("POST", "faults", &json!({ "fault": fault }));
    }
    let listed = site.polyhook(["backfill", "--last", "4d", "--dry-run", "--json"]).run();
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let tally = &super::json(&listed.stdout)["tally"];
    assert_eq!(tally["listed"], tally["missing"], "{tally}");
    assert_eq!(tally["missing"], 450, "{tally}");
    // Five days, and the pages that were requested again.
    assert!(request_count(&polyai, "v3_list") >= 9);
}

/// A permanent error is reported with advice and not retried.
#[test]
fn a_rejected_api_key_is_not_retried() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 1);
    let site = site(&polyai, "settle = \"0s\"", "");
    polyai.control("PUT", "api-key", &json!({ "api_key": "another" }));
    let listed = site.polyhook(["backfill", "--last", "1d", "--dry-run"]).run();
    assert_eq!(listed.code, Some(1));
    assert!(listed.stderr.contains("API key"), "{listed:?}");
    assert_eq!(request_count(&polyai, "v3_list"), 1, "it is not retried");
}
