use std::collections::BTreeMap;

use console::measure_text_width;

use super::*;
use crate::{
    reconcile::LastPass,
    status::{
        Condition, QueueStatus,
        fixture::{at, process, queue, report},
    },
};

/// Returns the screen as text, after a check of its size.
#[track_caller]
fn screen(report: &StatusReport, width: usize) -> String {
    let lines: Vec<_> = lines(report, width).iter().map(Line::styled).collect();
    assert!(lines.len() < 24, "{lines:#?}");
    for line in &lines {
        assert!(measure_text_width(line) <= width, "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    lines.join("\n")
}

#[test]
fn shows_every_part_on_one_screen() {
    let expected = "\
polyhook    0.1.0, RabbitMQ 4.0.5; 2026-11-30T10:50:12Z
queue       amqp://mq.example:5672/polyhook, 2 workers
waiting     12 jobs, the oldest for at most 3m
in flight   8 jobs of the process below; other workers hold more
delayed     3 jobs after a failure, 40 refreshes; `polyhook tail` shows why,
            `polyhook doctor --role work` tests the access
dead        1 dead letter; `polyhook dead list` names the reasons
unrouted    5 events for which no queue is bound
spool       0 messages, 20.0 KiB of 1.0 GiB
last pass   1m ago, 1 project, 3 calls not settled
last audit  2026-11-29 incomplete (3h ago): 1 hidden transcript, 2 missing
index       newest call archived 2m ago, 3 changes waiting
process     ready, polyhook 0.1.0 at http://127.0.0.1:9090
degraded    condition0: the broker is away:";
    assert_eq!(screen(&report(), 80), expected);
}

#[test]
fn fits_80_columns_and_24_lines_whatever_failed() {
    let long = format!(
        "amqp://mq.example:5672/ {}\u{1b}[2J\n秘密",
        "cannot be reached, because it is away; ".repeat(30)
    );
    let all_failed = StatusReport {
        complete: false,
        queue: Part::Failed(long.clone()),
        spool: Part::Failed(long.clone()),
        last_pass: Part::Failed(long.clone()),
        last_audit: Part::Failed(long.clone()),
        index: Part::Failed(long.clone()),
        process: Part::Failed(long.clone()),
        ..report()
    };
    let huge = QueueStatus {
        address: "/very/long/path".repeat(40),
        waiting_jobs: u64::MAX,
        refresh_jobs: u64::MAX,
        retry_jobs: u64::MAX,
        oldest_age_ms: Some(u64::MAX),
        ..queue()
    };
    let many = StatusReport { process: Part::Known(process(30)), queue: Part::Known(huge), ..report() };
    for width in [60, 71, 80, 200] {
        let failed = screen(&all_failed, width.min(80));
        for name in ["queue", "spool", "last pass", "last audit", "index", "process"] {
            assert!(failed.contains(&format!("\n{name}")), "{failed}");
        }
        let many = screen(&many, width.min(80));
        assert!(many.contains("more conditions"), "{many}");
    }
}

#[test]
fn says_what_is_unknown_and_why() {
    let why = "RabbitMQ does not report it";
    let queue = QueueStatus {
        workers: Some(0),
        oldest_age_ms: None,
        in_flight_jobs: None,
        unknown: BTreeMap::from([("oldest_age_ms", why), ("in_flight_jobs", why)]),
        ..queue()
    };
    let report = StatusReport { queue: Part::Known(queue), ..report() };
    let shown = screen(&report, 80).replace("\n            ", " ");
    assert!(shown.contains("in flight   unknown: RabbitMQ does not report it"), "{shown}");
    let waiting = "12 jobs; no worker takes them: start `polyhook work`; age of the oldest unknown: RabbitMQ";
    assert!(shown.contains(waiting), "{shown}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["queue"].get("in_flight_jobs").is_none() && !json.to_string().contains("null"), "{json}");
    assert_eq!(json["queue"]["unknown"]["in_flight_jobs"], why);
}

#[test]
fn one_line_leaves_out_what_is_unknown_and_quotes_errors() {
    assert_eq!(
        one_line(&report()),
        "2026-11-30T10:50:12Z workers=2 waiting=12 oldest=3m in_flight=8 delayed=43 dead=1 spool=0 last_pass=1m process=ready conditions=1"
    );
    let failed = StatusReport { queue: Part::Failed("\"away\"\nstart it".to_owned()), ..report() };
    let line = one_line(&failed);
    assert!(line.ends_with(r#" queue_error="\"away\"\nstart it""#), "{line}");
    assert!(!line.contains("waiting="), "{line}");
}

/// Returns the lines of one name as one line.
fn value(report: &StatusReport, name: &str) -> (String, Tone) {
    let lines = lines(report, 80);
    let start = lines.iter().position(|line| line.name == name).unwrap();
    let rest = lines[start + 1..].iter().take_while(|line| line.name.is_empty());
    let texts: Vec<_> = std::iter::once(&lines[start]).chain(rest).map(|line| &*line.text).collect();
    (texts.join(" "), lines[start].tone)
}

#[test]
fn a_failed_pass_does_not_look_healthy() {
    let why = "project desk: PolyAI rejected the key (401, key of `projects.api_key_file`)";
    let failed = |completed_at| LastPass {
        started_at: at("2026-11-30T10:50:05Z"),
        projects: 1,
        failed_windows: 1,
        unsettled_calls: 0,
        completed_at,
        failure: Some(why.to_owned()),
    };
    let last = StatusReport { last_pass: Part::Known(failed(Some(at("2026-11-30T10:47:00Z")))), ..report() };
    let expected = format!("failed 7s ago; last complete pass 3m ago; 1 part of PolyAI's list unread: {why}");
    assert_eq!(value(&last, "last pass"), (expected, Tone::Warning));
    assert!(one_line(&last).contains(" last_pass=7s last_complete_pass=3m "), "{}", one_line(&last));
    let never = StatusReport { last_pass: Part::Known(failed(None)), ..report() };
    assert!(value(&never, "last pass").0.starts_with("failed 7s ago; no complete pass yet; "));
}

#[test]
fn shows_a_condition_to_its_end() {
    let text = format!("{}set projects.api_key_file", "a key is rejected; calls wait; ".repeat(9));
    let condition = Condition { name: "polyai".to_owned(), text: text.clone() };
    let process = ProcessStatus { conditions: vec![condition], ..process(0) };
    let report = StatusReport { process: Part::Known(process), ..report() };
    assert_eq!(value(&report, "degraded").0, format!("polyai: {text}"));
}

#[test]
fn says_that_no_worker_takes_the_jobs_of_the_embedded_queue() {
    let shown = |oldest_age_ms, in_flight, process: Part<ProcessStatus>| {
        let queue = QueueStatus {
            workers: None,
            oldest_age_ms: Some(oldest_age_ms),
            in_flight_jobs: Some(in_flight),
            retry_jobs: 0,
            ..queue()
        };
        let report = StatusReport { queue: Part::Known(queue), process, ..report() };
        let (waiting, tone) = value(&report, "waiting");
        assert_eq!(value(&report, "delayed"), ("no retries, 40 refreshes".to_owned(), Tone::Plain));
        assert_eq!(waiting.contains("start `polyhook work` or `run`"), tone == Tone::Warning);
        tone
    };
    let of = |running_jobs| Part::Known(ProcessStatus { running_jobs, ..process(0) });
    let none = || Part::Absent { state: "not_here", text: "none answers".to_owned() };
    assert_eq!(shown(1, 0, of(None)), Tone::Warning, "the process is a receiver");
    assert_eq!(shown(60_000, 0, none()), Tone::Warning);
    assert_eq!(shown(60_000, 0, of(Some(0))), Tone::Plain);
    assert_eq!(shown(60_000, 1, none()), Tone::Plain);
    assert_eq!(shown(1, 0, none()), Tone::Plain);
}

#[test]
fn wraps_long_words_and_keeps_commands_together() {
    assert_eq!(
        wrap_and_cut("see `polyhook doctor --role work` now", 30, 3),
        ["see", "`polyhook doctor --role work`", "now"]
    );
    assert_eq!(wrap_and_cut("/a/long/path/of/a/key", 8, 3), ["/a/long/", "path/of/", "a/key"]);
    assert_eq!(wrap_and_cut("an open ` backtick and more", 10, 3), ["an open", "` backtick", "and more"]);
}
