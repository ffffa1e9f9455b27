//! The conversations that deliveries name: whether PolyAI can know them, so that a worker can fetch them.
//!
//! If the configured PolyAI is the simulator, the conversations are added to it. Otherwise PolyAI knows none that this
//! command invents, and a job that asks for one becomes a dead letter.

use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use url::Url;

use super::Args;
use crate::{
    config::Config,
    event::{self, CONVERSATION_COMPLETED, Event},
    polyai::http,
};

/// Time for one answer of the simulator.
const TIMEOUT: Duration = Duration::from_secs(2);
/// More conversations than this are not added to the simulator: it keeps each in memory.
const MAX_ADDED: u64 = 1000;
/// The answer of the simulator is shorter.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// The ids that the deliveries of one call of the command name.
#[derive(Debug)]
pub(super) struct ConversationIds<'a> {
    args: &'a Args,
    invented: u128,
}

impl<'a> ConversationIds<'a> {
    pub(super) fn new(args: &'a Args) -> Self {
        Self { args, invented: uuid::Uuid::new_v4().as_u128() }
    }

    /// Returns the id of a delivery, the given one or a new one.
    pub(super) fn id(&self, number: u64) -> String {
        match &self.args.conversation {
            Some(id) if self.args.count == 1 => id.clone(),
            Some(id) => format!("{id}-{number}"),
            None => format!("CA{:032x}", self.invented.wrapping_add(number.into())),
        }
    }

    /// Makes the conversations known to the simulator if it is the configured PolyAI. Returns what the user should know
    /// about jobs that ask for them. `event` is the event of the deliveries.
    pub(super) async fn prepare(&self, config: Option<&Config>, event: &Event) -> ExpectedFetch {
        let Args { bad, expect, .. } = self.args;
        if bad.is_some() || expect.is_some_and(|status| !(200..300).contains(&status)) {
            return ExpectedFetch::Unknown;
        }
        if let Some(warning) = reason_not_archived(config, event) {
            return ExpectedFetch::Warning(warning);
        }
        if !event::triggers_fetch(&event.kind) {
            return ExpectedFetch::Unknown;
        }
        let added = match config.filter(|_| self.args.count <= MAX_ADDED) {
            Some(config) => self.add_to_simulator(config, event).await,
            None => Added::NoSimulator,
        };
        let is_invented = self.args.conversation.is_none() && self.args.body.is_none();
        match added {
            Added::All => ExpectedFetch::Simulated(self.subject(event)),
            Added::Refused => ExpectedFetch::Warning(format!(
                "the simulated PolyAI has no project {}, so it does not know {}: {}. Name one of its projects with --project-id",
                event.project_id.as_deref().unwrap_or_default(),
                self.subject(event),
                self.describe_retries(config)
            )),
            Added::NoSimulator if is_invented => ExpectedFetch::Warning(format!(
                "PolyAI does not know {}: {}. Name a real one with --conversation ID",
                if self.args.count == 1 { "an invented conversation" } else { "invented conversations" },
                self.describe_retries(config)
            )),
            Added::NoSimulator => ExpectedFetch::Unknown,
        }
    }

    /// Names the conversations of the deliveries.
    fn subject(&self, event: &Event) -> String {
        match &event.conversation_id {
            Some(id) if self.args.count == 1 || self.args.body.is_some() => id.clone(),
            _ => "these conversations".to_owned(),
        }
    }

    async fn add_to_simulator(&self, config: &Config, event: &Event) -> Added {
        // The simulator has no TLS, and without such a URL it is PolyAI itself.
        let url = config.polyai.base_url.as_ref().or(config.polyai.platform_url.as_ref());
        let Some(url) = url.filter(|url| url.scheme() == "http") else { return Added::NoSimulator };
        let configured = config.projects.first().map(|project| project.project_id.as_str());
        let project = event.project_id.as_deref().or(configured.filter(|id| !id.is_empty()));
        let mut call = json!({});
        if event.environment != event::UNKNOWN {
            call["environment"] = json!(event.environment);
        }
        if let Some(project) = project {
            call["project_id"] = json!(project);
        }
        let in_body = self.args.body.is_some().then_some(event.conversation_id.as_ref()).flatten();
        let ids: Box<dyn Iterator<Item = String> + Send + '_> = match in_body {
            Some(id) => Box::new(std::iter::once(id.clone())),
            None => Box::new((0..self.args.count).map(|number| self.id(number))),
        };
        let Ok(client) = http::client() else { return Added::NoSimulator };
        for id in ids {
            match add(&client, url, &id, &call).await.unwrap_or(Added::NoSimulator) {
                Added::All => {}
                other => return other,
            }
        }
        Added::All
    }

    /// Describes what happens to a job whose conversation does not exist.
    fn describe_retries(&self, config: Option<&Config>) -> String {
        // Another receiver may have other workers.
        let config = config.filter(|_| self.args.url.is_none());
        let period = config.map_or_else(String::new, |config| {
            format!(" ({} here)", humantime::format_duration(config.retry.delays.iter().sum()))
        });
        format!("a worker tries as long as its retry.delays say{period}, then the job is a dead letter")
    }
}

/// Returns why no worker archives the conversation of an accepted event, if that is certain.
fn reason_not_archived(config: Option<&Config>, event: &Event) -> Option<String> {
    let Event { kind, environment, conversation_id, .. } = event;
    if kind == event::UNPARSED || kind == event::UNKNOWN {
        return Some(format!(
            "the body {}, so a receiver keeps it, but no conversation is archived",
            if kind == event::UNPARSED { "is not valid JSON" } else { "has no event type" }
        ));
    }
    if !event::triggers_fetch(kind) {
        // Alerts and handoffs cause no fetch either, as everybody expects.
        return kind.to_ascii_lowercase().contains("conversation").then(|| {
            format!("{kind} starts no fetch, so no conversation is archived; {CONVERSATION_COMPLETED} does")
        });
    }
    if conversation_id.is_none() {
        return Some(
            "the body names no conversation, so the job is a dead letter; give it a data.conversation_id"
                .to_owned(),
        );
    }
    let environments = config.map(|config| &config.worker.environments)?;
    let is_other = environment != event::UNKNOWN && !environments.contains(environment);
    is_other.then(|| {
        format!(
            "a worker does not archive this: the environment {environment} is not in worker.environments ({})",
            environments.join(", ")
        )
    })
}

/// The expected result of the jobs that accepted deliveries cause.
#[derive(Debug)]
pub(super) enum ExpectedFetch {
    /// The simulated PolyAI has the conversations with this name.
    Simulated(String),
    /// They are not archived, and this is the warning.
    Warning(String),
    /// There are no jobs, or the conversations may be real.
    Unknown,
}

impl ExpectedFetch {
    /// Returns the warning, if one delivery at least was accepted.
    pub(super) fn warning(&self, any_accepted: bool) -> Option<&str> {
        match self {
            Self::Warning(warning) if any_accepted => Some(warning),
            _ => None,
        }
    }
}

/// The result of adding conversations to the simulator.
#[derive(Debug, PartialEq)]
enum Added {
    All,
    /// The simulator does not have the project.
    Refused,
    /// There is no simulator, or it does not answer.
    NoSimulator,
}

/// Adds a conversation to the simulator, unless it has one with this id. Returns `None` if there is no
/// simulator.
async fn add(client: &Client, url: &Url, id: &str, call: &Value) -> Option<Added> {
    let mut url = url.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(["_simulator", "calls", id]);
    let request = client.put(url).body(call.to_string()).timeout(TIMEOUT);
    let response = request.send().await.ok()?;
    let status = response.status();
    let answer: Value = serde_json::from_slice(&http::read_prefix(response, MAX_ANSWER_BYTES).await).ok()?;
    if status.is_success() && answer["call"]["id"] == id {
        return Some(Added::All);
    }
    answer.to_string().contains("PROJECT_NOT_FOUND").then_some(Added::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_why_a_delivery_is_never_archived() {
        let config = Config::default();
        let warning = |body: &str| reason_not_archived(Some(&config), &Event::read(body.as_bytes()));
        let event = |kind: &str, environment: &str| {
            warning(&format!(
                r#"{{"type":"{kind}","data":{{"conversation_id":"CA1","environment":"{environment}"}}}}"#
            ))
        };
        assert_eq!(event("conversation.completed", "live"), None);
        assert_eq!(event("alerts.triggered", "live"), None);
        for (warning, reason) in [
            (event("conversation.completed", "sandbox"), "sandbox is not in worker.environments (live)"),
            (event("conversation.finished", "live"), "conversation.finished starts no fetch"),
            (event("Conversation.Completed", "live"), "starts no fetch"),
            (warning("no JSON"), "is not valid JSON"),
            (warning("{}"), "has no event type"),
            (warning(r#"{"type":"conversation.completed","data":{}}"#), "names no conversation"),
        ] {
            let warning = warning.expect(reason);
            assert!(warning.contains(reason), "{warning}");
        }
    }
}
