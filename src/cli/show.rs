//! `polyhook show ID`: shows what the archive has of a conversation, and whether the queue knows it.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    CliError, GlobalArgs, backfill,
    list::{duration_ms, length},
    output::{self, counted, sanitize},
    queue_access::{require_queue_file, wait_until_ready, with_queue},
    table::Table,
};
use crate::{
    app::{Resources, StartError},
    archive::{ArchiveError, CONVERSATION, ErasureRecord, Location, MANIFEST, Manifest, StoredConversation},
    clock::Clock,
    config::{Config, Roles},
    queue::{
        MessageCounts, QueueBackend, find_messages,
        rabbitmq::{BrokerObserver, BrokerStatus},
    },
    shell,
};

/// The number of digits of a hash that the text shows. `--json` has all.
const SHOWN_HASH_LENGTH: usize = 12;
/// Bounds the counting of RabbitMQ's messages. The connection to one node may take five seconds of it.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook show CA0123456789abcdef
  polyhook show CA0123456789abcdef --no-transcript
  polyhook show CA0123456789abcdef --json | jq .manifest.objects

Prints the transcript, which is personal data. Then counts the messages about the \
conversation in the queue. RabbitMQ's jobs cannot be searched, and only its first 1,000 \
dead letters are. Exit code 1 if the archive does not have the conversation.")]
pub(super) struct Args {
    /// Conversation ID
    #[arg(value_name = "ID")]
    id: String,
    /// Look in this project only [default: all configured projects]
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// Leave out the transcript
    #[arg(long)]
    no_transcript: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that is known of a conversation.
#[derive(Debug, Serialize)]
struct Shown {
    conversation_id: String,
    /// `archived`, `erased` or `unknown`
    state: &'static str,
    copies: Vec<ArchivedCopy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erasure: Option<ErasureRecord>,
    queue: QueueMessages,
}

/// The messages about a conversation in the queue, or the reason why they cannot be counted.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum QueueMessages {
    Counted(MessageCounts),
    Unknown { error: String },
}

/// A copy in the archive. There are several only if the ids of projects are shared, or a start was corrected.
#[derive(Debug, Serialize)]
struct ArchivedCopy {
    manifest: Manifest,
    url: String,
    /// The names of objects that are missing or differ from the manifest.
    damaged: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transcript: Vec<TranscriptLine>,
}

/// One thing that was said.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct TranscriptLine {
    /// `user` or `agent`
    speaker: &'static str,
    text: String,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let resources = Resources::open_for_command(&config, &clock).await?;
    let (mut copies, mut erasure) = (Vec::new(), None);
    for project in backfill::select_projects(&resources, &args.projects)? {
        let (account_id, project_id) = (project.account_id(), project.project_id());
        for (location, stored) in
            resources.archive.find(account_id, project_id, &args.id).await.map_err(|error| failed(&error))?
        {
            copies.push(read_copy(&resources, &location, stored, &args).await?);
        }
        let record = resources
            .archive
            .erasure_record(account_id, project_id, &args.id)
            .await
            .map_err(|error| failed(&error))?;
        erasure = record.or(erasure);
    }
    let state = match (&copies[..], &erasure) {
        ([], None) => "unknown",
        ([], Some(_)) => "erased",
        _ => "archived",
    };
    if !args.json {
        print_archived(&args.id, &copies, erasure.as_ref());
    }
    // Searched last: the broker may be slow or away, and the archive is what the user wants to see.
    let queue = messages(&config, &clock, &args.id).await;
    if args.json {
        output::json(&Shown { conversation_id: args.id, state, copies, erasure, queue });
    } else {
        print_queue(&queue);
    }
    if state == "unknown" { Err(CliError::AlreadyReported) } else { Ok(()) }
}

fn failed(error: &ArchiveError) -> CliError {
    CliError::Failed(format!("archive.url: {error}"))
}

async fn read_copy(
    resources: &Resources,
    location: &Location,
    stored: StoredConversation,
    args: &Args,
) -> Result<ArchivedCopy, CliError> {
    let archive = &resources.archive;
    let transcript = if args.no_transcript {
        Vec::new()
    } else {
        let json = archive.read_object(location, CONVERSATION).await.map_err(|error| failed(&error))?;
        json.map(|json| transcript(&json)).unwrap_or_default()
    };
    let manifest_url = archive.object_url(location, MANIFEST).map_err(|error| failed(&error))?;
    let url = manifest_url.trim_end_matches(MANIFEST).to_owned();
    Ok(ArchivedCopy { damaged: stored.damaged().to_vec(), manifest: stored.manifest, url, transcript })
}

/// Counts the messages about the conversation.
async fn messages(config: &Config, clock: &Clock, id: &str) -> QueueMessages {
    match count_messages(config, clock, id).await {
        Ok(counts) => QueueMessages::Counted(counts),
        Err(error) => QueueMessages::Unknown { error: error.to_string() },
    }
}

async fn count_messages(config: &Config, clock: &Clock, id: &str) -> Result<MessageCounts, CliError> {
    let unsearched = match config.queue.backend() {
        Ok(QueueBackend::Sqlite(path)) => {
            require_queue_file(&path)?;
            None
        }
        Ok(QueueBackend::RabbitMq) => {
            let BrokerStatus { waiting, retry, refresh, dead, .. } = read_broker(config).await?;
            let unsearched = waiting + retry + refresh;
            if dead == 0 {
                return Ok(MessageCounts { unsearched, ..MessageCounts::default() });
            }
            Some(unsearched)
        }
        // Opening it reports the error.
        Err(_) => None,
    };
    let counted = with_queue(config, Roles::NONE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        let found = find_messages(&**queue, id, unsearched).await;
        found.map(|found| found.counts).map_err(|error| CliError::Failed(error.to_string()))
    });
    counted.await
}

/// Counts RabbitMQ's messages. Declares nothing, so a wrong `queue.prefix` leaves no queues behind.
async fn read_broker(config: &Config) -> Result<BrokerStatus, CliError> {
    let observer =
        BrokerObserver::new(&config.queue, &config.retry.delays, &config.refresh_ages(Roles::NONE))
            .map_err(StartError::from)?;
    let status = timeout(READ_TIMEOUT, observer.read()).await;
    observer.close().await;
    status
        .unwrap_or_else(|_| Err(format!("the broker does not answer within {READ_TIMEOUT:?}")))
        .map_err(CliError::Failed)
}

/// Returns what was said, in the order of the turns. Both of PolyAI's APIs name these fields alike. An answer that is not
/// JSON has no transcript here; `conversation.json` has its bytes.
fn transcript(json: &Bytes) -> Vec<TranscriptLine> {
    let Ok(conversation) = serde_json::from_slice::<Value>(json) else { return Vec::new() };
    let turns = conversation["turns"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |speaker, text: &Value| {
        let text = text.as_str().filter(|text| !text.trim().is_empty())?;
        Some(TranscriptLine { speaker, text: text.to_owned() })
    };
    turns
        .iter()
        .flat_map(|turn| [line("user", &turn["user_input"]), line("agent", &turn["agent_response"])])
        .flatten()
        .collect()
}

fn print_archived(id: &str, copies: &[ArchivedCopy], erasure: Option<&ErasureRecord>) {
    if let (Some(erasure), []) = (erasure, copies) {
        output::line(format!("{} was erased at {:.0}", sanitize(id), erasure.erased_at));
    } else if copies.is_empty() {
        output::line(format!("{} is not in the archive", sanitize(id)));
        output::line(format!("fetch it with: polyhook fetch {}", sanitize(&shell::last_argument(id))));
    }
    for copy in copies {
        print_copy(copy);
    }
}

fn print_queue(queue: &QueueMessages) {
    let MessageCounts { jobs, dead_letters, unsearched, refresh_due_at, .. } = match queue {
        QueueMessages::Counted(counts) => counts,
        QueueMessages::Unknown { error } => {
            output::line(format!("queue: cannot be read from here: {}", sanitize(error)));
            return;
        }
    };
    let jobs = jobs.map(|jobs| format!("{}, ", counted(jobs, "job"))).unwrap_or_default();
    output::line(format!("queue: {jobs}{}", counted(*dead_letters, "dead letter")));
    if *unsearched > 0 {
        output::line(format!("not searched: {}", counted(*unsearched, "other message")));
    }
    if let Some(due) = refresh_due_at {
        output::line(format!("a refresh is due at {due:.0}"));
    }
    if *dead_letters > 0 {
        output::line("`polyhook dead list` names the reason");
    }
}

fn print_copy(ArchivedCopy { manifest, url, damaged, transcript }: &ArchivedCopy) {
    let Manifest { facts, audio, provenance, timings, .. } = manifest;
    output::line(output::bold(&manifest.conversation_id));
    let length = duration_ms(facts.total_duration_s).map(length).unwrap_or_default();
    output::line(sanitize(url));
    let mut table = Table::without_header(CONVERSATION.len());
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("project", format!("{} / {} ({})", manifest.account_id, manifest.project_id, facts.environment));
    row(
        "call",
        format!(
            "{:.0}, {length}, {}, {}",
            facts.started_at,
            facts.channel,
            counted(facts.turn_count, "turn")
        ),
    );
    if let Some(handoff) = &facts.handoff {
        row("handoff", handoff.reason.clone().unwrap_or_else(|| "yes".to_owned()));
    }
    row("audio", audio.status.as_str().to_owned());
    let (trigger, served_by) = (provenance.trigger.as_str(), provenance.served_by.as_str());
    row(
        "archived",
        format!("{:.0}, revision {}, {trigger}, {served_by}", timings.archived_at, manifest.revision),
    );
    for warning in &manifest.warnings {
        row("warning", warning.clone());
    }
    for object in &manifest.objects {
        let state = if damaged.contains(&object.name) { "  missing or changed" } else { "" };
        let hash = object.sha256.get(..SHOWN_HASH_LENGTH).unwrap_or(&object.sha256);
        row(&object.name, format!("{}  sha256 {hash}…{state}", ByteSize(object.size_bytes)));
    }
    table.flush();
    if !transcript.is_empty() {
        output::line("");
    }
    for TranscriptLine { speaker, text } in transcript {
        // Escape sequences of the colour would count as width.
        output::line(format!("{}  {}", output::dimmed(format!("{speaker:>6}")), sanitize(text)));
    }
    output::line("");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_transcript_of_both_shapes() {
        let said = |speaker, text: &str| TranscriptLine { speaker, text: text.to_owned() };
        let json = br#"{"conversationId": "CA1", "turns": [
            {"user_input": null, "agent_response": "Hello."},
            {"user_input": "A table, please.", "agent_response": " "}, 7
        ]}"#;
        let expected = [said("agent", "Hello."), said("user", "A table, please.")];
        assert_eq!(transcript(&Bytes::from_static(json)), expected);
        for odd in ["", "[]", "{\"turns\": null}", "{\"turns\": {}}", "{"] {
            assert_eq!(transcript(&Bytes::from_static(odd.as_bytes())), [], "{odd}");
        }
    }
}
