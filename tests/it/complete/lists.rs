//! Lists: pages of any size, and trouble in between.

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

use super::{RECENT, asked, site};
use crate::support::process::{PolyAi, Process};

/// Bytes of one conversation's transcript.
const TRANSCRIPT: usize = 1 << 20;

/// Somebody whose list is one page of so many megabytes, sent as it is made.
fn heavy(megabytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let turn = "{\"user_input\":\"yes please\",\"agent_response\":\"of course, one moment\"},";
        let turns = turn.repeat(TRANSCRIPT / turn.len());
        for stream in listener.incoming().map_while(Result::ok) {
            let turns = turns.clone();
            std::thread::spawn(move || page(stream, megabytes, &turns));
        }
    });
    address
}

fn page(mut stream: TcpStream, megabytes: usize, turns: &str) -> io::Result<()> {
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

/// A server that does not know what a page is, by either API, is found out, and not asked for ever.
#[test]
fn the_same_page_again_and_again_is_an_error() {
    let polyai = PolyAi::start(RECENT, 1);
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
        assert!(asked.load(Ordering::SeqCst) - before < 5, "and not asked again and again");
    }
}

/// Of 100 MB here, of 500 MB by `SCALE=full`: it is never in memory.
#[test]
fn a_huge_page_goes_through_a_small_process() {
    let megabytes = if std::env::var_os("SCALE").is_some_and(|scale| scale == "full") { 500 } else { 100 };
    let polyai = PolyAi::start(RECENT, 1);
    let site = site(&polyai, "settle = \"0s\"", "");
    let heavy = format!("polyai.base_url=http://{}", heavy(megabytes));
    let day =
        ["backfill", "--from", "2026-11-02", "--to", "2026-11-02", "--dry-run", "--json", "--set", &heavy];
    let mut process = site.polyhook(day).start();
    let mut peak = 0;
    while process.is_running() {
        if let Some(kib) = memory(&process) {
            peak = peak.max(kib);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let stdout = process.stdout().join("\n");
    assert_eq!(super::json(&stdout)["tally"]["missing"], megabytes, "{stdout} {:?}", process.stderr());
    eprintln!("a page of {megabytes} MB: {peak} KiB at most");
    assert!(peak > 1000 && peak < 64 << 10, "{peak} KiB");
}

fn memory(process: &Process) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A 429, an error and a broken connection in the middle of a list cost time and nothing else.
#[test]
fn trouble_in_the_middle_of_a_list_is_ridden_out() {
    let polyai = PolyAi::start(RECENT, 450);
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
    // Five days, and the pages that were asked for again.
    assert!(asked(&polyai, "v3_list") >= 9);
}

/// What never gets better is said, with what to do.
#[test]
fn what_is_no_list_is_an_error() {
    let polyai = PolyAi::start(RECENT, 1);
    let site = site(&polyai, "settle = \"0s\"", "");
    polyai.control("PUT", "api-key", &json!({ "api_key": "another" }));
    let listed = site.polyhook(["backfill", "--last", "1d", "--dry-run"]).run();
    assert_eq!(listed.code, Some(1));
    assert!(listed.stderr.contains("API key"), "{listed:?}");
    assert_eq!(asked(&polyai, "v3_list"), 1, "it is not asked again and again");
}
