//! The output of the demo: the lines of `tail` with a progress bar, or JSON.

use std::{
    collections::{HashMap, HashSet},
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use polyhook_simulator::{Activity, AttemptOutcome, DeliveryReport, Simulator};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    super::{event_line, live_events, output},
    Args,
};
use crate::{
    archive::Manifest,
    event::CONVERSATION_COMPLETED,
    queue::{TailEvent, TailEventKind},
    shell,
    telemetry::{self, LogConfig, TelemetryError},
};

/// One step of the demo, as `--json` prints it.
#[derive(Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Step<'a> {
    Started {
        url: String,
        console: String,
        admin: String,
        simulator: String,
        #[serde(rename = "path")]
        archive: String,
    },
    Received {
        conversation_id: &'a str,
        event_type: &'a str,
        #[serde(flatten)]
        outcome: AttemptOutcome,
        latency_ms: f64,
    },
    Fetched {
        conversation_id: &'a str,
    },
    Retry {
        #[serde(skip_serializing_if = "Option::is_none")]
        conversation_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    Archived {
        conversation_id: &'a str,
        path: String,
        objects: usize,
        bytes: u64,
        audio: &'static str,
        audio_ms: u64,
    },
    Summary {
        calls: u64,
        archived: usize,
        audio_ms: u64,
        bytes: u64,
        duration_ms: u64,
        #[serde(rename = "path")]
        archive: String,
    },
}

/// The parts of a `conversation.ready` announcement that the display needs.
#[derive(Deserialize)]
struct Announcement {
    data: AnnouncementData,
}

#[derive(Deserialize)]
struct AnnouncementData {
    manifest: Manifest,
    urls: HashMap<String, String>,
}

/// The display of a demo, and its totals.
pub(super) struct Display {
    json: bool,
    pub(super) calls: u64,
    archive: PathBuf,
    bar: ProgressBar,
    started: Instant,
    /// The milliseconds of audio of each archived conversation.
    archived: HashMap<String, u64>,
    bytes: u64,
    /// Conversations whose delivery was shown.
    received: HashSet<String>,
    /// Conversations that were fetched before their delivery was shown.
    fetched_early: HashSet<String>,
}

impl Display {
    pub(super) fn new(args: &Args) -> Self {
        let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(args.calls) };
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} archived, {msg}{elapsed} elapsed")
        {
            bar.set_style(style);
        }
        Self {
            json: args.json,
            calls: args.calls,
            archive: args.dir.join("archive"),
            bar,
            started: Instant::now(),
            archived: HashMap::new(),
            bytes: 0,
            received: HashSet::new(),
            fetched_early: HashSet::new(),
        }
    }

    /// Prints a step as JSON, or `text` instead. The text of most steps is the line of an event.
    fn print(&self, step: &Step<'_>, text: Option<&str>) {
        if self.json {
            output::json(step);
        } else if let Some(text) = text {
            self.bar.suspend(|| output::line(text));
        }
    }

    /// Returns the function that shows an event of the queue.
    pub(super) fn event_printer(&self) -> impl FnMut(&TailEvent) + Send + 'static {
        let (json, bar) = (self.json, self.bar.clone());
        move |event| {
            if !json {
                let line = event_line::format_event(event, output::terminal_width());
                bar.suspend(|| output::line(line));
            } else if event.what == TailEventKind::Retry {
                let TailEvent { conversation_id, reason, retry_at, .. } = event;
                output::json(&Step::Retry {
                    conversation_id: conversation_id.as_deref(),
                    reason: reason.as_deref(),
                    retry_at: *retry_at,
                });
            }
        }
    }

    /// Writes warnings and errors to the log from now on: on a terminal between the other lines.
    pub(super) fn init_logs(&self) -> Result<(), TelemetryError> {
        if self.json || !io::stderr().is_terminal() {
            return telemetry::init_logs(&LogConfig { level: "warn".to_owned(), ..LogConfig::default() });
        }
        let bar = self.bar.clone();
        let config = LogConfig::default();
        telemetry::init_logs_beside_events(&config, live_events::LOG_LEVEL, move || BesideBar(bar.clone()))
    }

    /// Returns the number of archived conversations.
    pub(super) fn archived_count(&self) -> usize {
        self.archived.len()
    }

    pub(super) fn started(
        &self,
        receiver: Option<SocketAddr>,
        admin: Option<SocketAddr>,
        console: Option<SocketAddr>,
        simulator: &Simulator,
    ) {
        let http_url = |address: Option<SocketAddr>| {
            address.map(|address| format!("http://{address}")).unwrap_or_default()
        };
        let url = format!("{}/polyai-events", http_url(receiver));
        let archive = self.archive.display().to_string();
        let text = format!(
            "{}\n  console    {}  (open it in a browser)\n  receiver   {url}\n  metrics    {}/metrics\n  PolyAI     {} (simulated)\n  archive    {archive}\n{}\n",
            output::bold(format!("polyhook demo: {}; Ctrl-C stops it", output::counted(self.calls, "call"))),
            http_url(console),
            http_url(admin),
            simulator.url(),
            output::dimmed(
                "Each event is a line below: delivery, retry, ready (it is archived), done, dead."
            ),
        );
        let step = Step::Started {
            url,
            console: http_url(console),
            admin: http_url(admin),
            simulator: simulator.url().to_string(),
            archive,
        };
        self.print(&step, Some(&text));
    }

    pub(super) fn activity(&mut self, activity: &Activity) {
        match activity {
            Activity::Delivered(report) => self.delivered(report),
            // The worker may fetch a conversation before the sender has read the answer to its delivery.
            Activity::ConversationServed { id } if !self.received.contains(id) => {
                self.fetched_early.insert(id.clone());
            }
            Activity::ConversationServed { id } => self.fetched(id),
            Activity::AudioServed { .. } | Activity::ErrorServed { .. } => {}
        }
    }

    fn delivered(&mut self, report: &DeliveryReport) {
        let id = report.conversation_id.as_deref().unwrap_or("-");
        let DeliveryReport { event_type, outcome, latency_ms, .. } = report;
        let step =
            Step::Received { conversation_id: id, event_type, outcome: *outcome, latency_ms: *latency_ms };
        self.print(&step, None);
        if event_type == CONVERSATION_COMPLETED {
            self.received.insert(id.to_owned());
            if self.fetched_early.remove(id) {
                self.fetched(id);
            }
        }
    }

    fn fetched(&self, id: &str) {
        self.print(&Step::Fetched { conversation_id: id }, None);
    }

    pub(super) fn announcement(&mut self, body: &[u8]) {
        let Ok(Announcement { data: AnnouncementData { manifest, urls } }) = serde_json::from_slice(body)
        else {
            return;
        };
        let audio: Duration = manifest
            .objects
            .iter()
            .filter_map(|object| object.wav.as_ref())
            .filter_map(|wav| Duration::try_from_secs_f64(wav.seconds).ok())
            .sum();
        let audio_ms = u64::try_from(audio.as_millis()).unwrap_or(u64::MAX);
        let bytes: u64 = manifest.objects.iter().map(|object| object.size_bytes).sum();
        let path = urls.get("manifest.json").map(|url| self.folder(url)).unwrap_or_default();
        let step = Step::Archived {
            conversation_id: &manifest.conversation_id,
            path,
            objects: manifest.objects.len(),
            bytes,
            audio: manifest.audio.status.as_str(),
            audio_ms,
        };
        self.print(&step, None);
        if self.archived.insert(manifest.conversation_id, audio_ms).is_none() {
            self.bytes += bytes;
        }
        self.bar.set_position(self.archived.len() as u64);
        self.bar.set_message(format!("{}, ", ByteSize(self.bytes)));
    }

    /// Returns the folder of a manifest's URL as a local path.
    fn folder(&self, manifest_url: &str) -> String {
        let folder = manifest_url.trim_end_matches("/manifest.json");
        match folder.find("account_id=") {
            Some(at) => self.archive.join(Path::new(&folder[at..])).display().to_string(),
            None => folder.to_owned(),
        }
    }

    /// Shows the totals, and what to do next with the configuration at `config`. `admin` is the address of the demo if it
    /// keeps running.
    pub(super) fn summary(&self, config: &Path, admin: Option<SocketAddr>) {
        self.bar.finish_and_clear();
        let audio_ms: u64 = self.archived.values().sum();
        let duration = self.started.elapsed();
        let archive = self.archive.display().to_string();
        let all = self.archived.len() as u64 >= self.calls;
        let count = format!("{} of {} conversations archived", self.archived.len(), self.calls);
        let text = format!(
            "\n{} in {:.1} s: {} min of audio, {}\nNext{}:\n{}",
            if all { output::green(count) } else { output::red(count) },
            duration.as_secs_f64(),
            audio_ms / 60_000,
            ByteSize(self.bytes),
            if admin.is_some() { ", in another terminal" } else { "" },
            self.next_steps(config, admin),
        );
        let step = Step::Summary {
            calls: self.calls,
            archived: self.archived.len(),
            audio_ms,
            bytes: self.bytes,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            archive,
        };
        self.print(&step, Some(&text));
    }

    /// Returns lines like those at the start of `polyhook run`.
    fn next_steps(&self, config: &Path, admin: Option<SocketAddr>) -> String {
        let config = output::sanitize(&shell::quote(&config.display().to_string()));
        let archive = output::sanitize(&shell::quote(&self.archive.display().to_string()));
        let mut lines = Vec::new();
        let mut next = |purpose: &str, command: &str| lines.push(format!("  {purpose:<14} {command}"));
        next("see the calls", &format!("polyhook list --config {config}"));
        next("read one", &format!("polyhook show ID --config {config}"));
        next("hear one", &format!("find {archive} -name audio.wav"));
        next("query them", &query(&output::sanitize(&self.archive.display().to_string())));
        if let Some(admin) = admin {
            next("look at it", &format!("polyhook status --config {config}"));
            next("its metrics", &format!("curl http://{admin}/metrics"));
        }
        next("your own calls", "polyhook run --help");
        if admin.is_some() {
            lines.push("\nPress Ctrl-C to stop.".to_owned());
        }
        lines.join("\n")
    }
}

/// Returns a first question to the index, for `duckdb`, the program that is quickest to install.
fn query(archive: &str) -> String {
    let files = format!("{}/index/calls/**/*.parquet", archive.replace('\'', "''"));
    let statement = format!(
        "\n    SELECT channel, count(*) AS calls, avg(duration_s) AS seconds\n    FROM '{files}' GROUP BY ALL"
    );
    // The shell changes nothing between double quotes if the path is plain.
    let is_plain = shell::quote(archive) == archive;
    let argument = if is_plain { format!("\"{statement}\"").into() } else { shell::quote(&statement) };
    format!("duckdb -c {argument}")
}

/// Standard error while a progress bar is shown there.
struct BesideBar(ProgressBar);

impl Write for BesideBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_reaches_duckdb_with_any_path() {
        for path in ["polyhook-demo/archive", "my demo/archive", "it's/archive", r#"a"b$HOME`id`\c!/archive"#]
        {
            let command = query(path).replacen("duckdb -c", "printf %s", 1);
            let printed = std::process::Command::new("sh").args(["-c", &command]).output().unwrap().stdout;
            let files = format!("'{}/index/calls/**/*.parquet'", path.replace('\'', "''"));
            let printed = String::from_utf8(printed).unwrap();
            assert!(printed.ends_with(&format!("\n    FROM {files} GROUP BY ALL")), "{path}: {printed}");
        }
        assert!(query("polyhook-demo/archive").starts_with("duckdb -c \"\n    SELECT"));
    }
}
