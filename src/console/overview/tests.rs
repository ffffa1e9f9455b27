use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::{
    archive::{ArchiveConfig, ArchiveReader},
    status::{
        ArchiveSource, Part, QueueSource,
        fixture::{calm_report, report},
    },
};

/// Returns an overview of an empty installation whose process is at `admin`.
fn overview(folder: &TempDir, admin: String, lifecycle: &Lifecycle) -> (Overview, Clock) {
    let clock = Clock::manual("2026-11-30T10:50:12Z".parse().unwrap());
    let url = format!("file:{}", folder.path().display());
    let config = ArchiveConfig { url: url.clone(), ..ArchiveConfig::default() };
    let reader = ArchiveReader::open(&config).map_err(|error| error.to_string());
    let archive = ArchiveSource { url, reader, reconciles: true, has_index: true };
    let queue = QueueSource::File(folder.path().join("queue.db"));
    let reader = StatusReader::new(queue, None, archive, admin, clock.clone());
    (Overview::new(reader, clock.clone(), lifecycle.clone()), clock)
}

/// Returns the text of each stage, without markup.
fn stages(overview: &Overview, report: &StatusReport) -> Vec<String> {
    let markup = overview.stages(report).into_string();
    markup.split("<li").skip(1).map(|stage| text(&format!("<li{stage}"))).collect()
}

fn text(markup: &str) -> String {
    let parts = markup.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("|")
}

#[test]
fn a_stage_has_its_number_and_an_unknown_one_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (overview, _) = overview(&folder, "http://127.0.0.1:9".to_owned(), &Lifecycle::new());
    let known = stages(&overview, &report());
    let since = "since |2026-11-30 09:00:00 UTC";
    for (stage, expected) in known.iter().zip([
        &format!("received|16|{since}"),
        "verified|13|3 without a correct signature, 2 repetitions",
        "queued|12|the oldest for at most 3 min, 3 more wait after a failed try",
        "fetching|8|of this process; other workers hold more",
        &format!("archived|7|{since}"),
        "dead|1|a person must decide",
        "spool|0|20.0 KiB of 1.0 GiB",
    ]) {
        assert_eq!(stage, expected);
    }

    let mut report = report();
    report.queue = Part::Failed("the broker is away".to_owned());
    report.process = Part::Absent { state: "not_here", text: "none answers".to_owned() };
    report.spool = Part::Absent { state: "off", text: "off".to_owned() };
    let unknown = stages(&overview, &report);
    let unknown: Vec<_> = unknown.iter().map(String::as_str).collect();
    assert_eq!(
        unknown,
        [
            "received|unknown|none answers",
            "verified|unknown|none answers",
            "queued|unknown|the broker is away",
            "fetching|unknown|the broker is away",
            "archived|unknown|none answers",
            "dead|unknown|the broker is away",
            "spool|–|off",
        ]
    );

    // A worker beside this console receives nothing, and a new process has archived nothing.
    let mut report = calm_report();
    if let Part::Known(process) = &mut report.process {
        (process.counts.deliveries, process.counts.archived) = (None, Some(0));
    }
    let stages = stages(&overview, &report);
    assert_eq!(stages[0], "received|unknown|the process at http://127.0.0.1:9090 is not a receiver");
    assert!(stages[4].starts_with("archived|0|"), "{}", stages[4]);
}

#[test]
fn lines_grow_with_samples_and_say_since_when_they_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let (overview, clock) = overview(&folder, "http://127.0.0.1:9".to_owned(), &Lifecycle::new());
    let mut report = report();
    for received in [16, 20, 24] {
        if let Part::Known(process) = &mut report.process
            && let Some(deliveries) = &mut process.counts.deliveries
        {
            deliveries.received = received;
        }
        overview.add_sample(&report);
        clock.advance(INTERVAL);
    }
    let markup = overview.stages(&report).into_string();
    assert!(markup.contains("aria-label=\"last 15 min: 8 in all, at most 4 in 15 s\""), "{markup}");
    assert!(markup.contains("aria-label=\"last 15 min: between 12 and 12, now 12\""), "{markup}");
    let footer = text(&overview.footer(clock.now()).into_string());
    let expected = "The lines show the last 15 min; this console knows them since |2026-11-30 10:50:12 UTC";
    assert!(footer.contains(expected), "{footer}");
}

#[tokio::test]
async fn the_page_waits_for_no_slow_source_and_says_which_one_is_missing() {
    // A process that accepts connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lifecycle = Lifecycle::new();
    let admin = format!("http://{}", listener.local_addr().unwrap());
    let (overview, _) = overview(&folder, admin, &lifecycle);
    let page = text(&overview.render().await.into_string());
    assert!(page.contains("The process has not answered yet."), "{page}");
    assert!(page.contains("received|unknown|not known yet: it is being read"), "{page}");
    assert!(page.contains("It is not known what waits: ") && page.contains("queue.db"), "{page}");
    assert!(page.contains("last pass|none yet"), "{page}");
    lifecycle.drain();
    lifecycle.wait().await;
}
