//! The conversations that deliveries name: whether PolyAI can know them, so that a worker can fetch them.
//!
//! If the configured PolyAI is the simulator, the conversations are added to it. Otherwise PolyAI knows none that this
//! command invents, and a job that asks for one becomes a dead letter.

use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use super::Args;
use crate::{config::Config, event, polyai::http};

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
    /// about jobs that ask for them.
    pub(super) async fn prepare(&self, config: Option<&Config>) -> Prospect {
        if !self.cause_jobs(config) {
            return Prospect::Unknown;
        }
        if let Some(config) = config
            && self.args.count <= MAX_ADDED
            && self.add_to_simulator(config).await
        {
            return Prospect::Simulated;
        }
        match self.args.conversation {
            Some(_) => Prospect::Unknown,
            None => Prospect::DeadLetter(self.warning(config)),
        }
    }

    /// Returns true if a worker fetches a conversation for each delivery that is accepted.
    fn cause_jobs(&self, config: Option<&Config>) -> bool {
        let Args { body, bad, expect, event, environment, .. } = self.args;
        let is_wanted = config.is_none_or(|config| config.worker.environments.contains(environment));
        let is_refused = bad.is_some() || expect.is_some_and(|status| !(200..300).contains(&status));
        body.is_none() && !is_refused && is_wanted && event::triggers_fetch(event)
    }

    async fn add_to_simulator(&self, config: &Config) -> bool {
        // The simulator has no TLS, and without such a URL it is PolyAI itself.
        let url = config.polyai.base_url.as_ref().or(config.polyai.platform_url.as_ref());
        let Some(url) = url.filter(|url| url.scheme() == "http") else { return false };
        let configured = config.projects.first().map(|project| project.project_id.as_str());
        let project = self.args.project_id.as_deref().or(configured.filter(|id| !id.is_empty()));
        let mut call = json!({ "environment": self.args.environment });
        if let Some(project) = project {
            call["project_id"] = json!(project);
        }
        for number in 0..self.args.count {
            if add(url, &self.id(number), &call).await.is_none() {
                return false;
            }
        }
        true
    }

    fn warning(&self, config: Option<&Config>) -> String {
        // Another receiver may have other workers.
        let config = config.filter(|_| self.args.url.is_none());
        let period = config.map_or_else(
            || "for some hours".to_owned(),
            |config| format!("for {}", humantime::format_duration(config.retry.delays.iter().sum())),
        );
        let subject =
            if self.args.count == 1 { "an invented conversation" } else { "invented conversations" };
        format!(
            "PolyAI does not know {subject}: a worker tries {period}, then the job is a dead letter. Name a real one with \
             --conversation ID"
        )
    }
}

/// The prospect of the jobs that accepted deliveries cause.
#[derive(Debug)]
pub(super) enum Prospect {
    /// The simulated PolyAI has the conversations.
    Simulated,
    /// PolyAI does not have them, and this is the warning.
    DeadLetter(String),
    /// There are no jobs, or the conversations may be real.
    Unknown,
}

impl Prospect {
    /// Returns the warning, if one delivery at least was accepted.
    pub(super) fn warning(&self, any_accepted: bool) -> Option<&str> {
        match self {
            Self::DeadLetter(warning) if any_accepted => Some(warning),
            _ => None,
        }
    }
}

/// Adds a conversation to the simulator, unless it has one with this id. Returns `None` if there is no simulator.
async fn add(url: &Url, id: &str, call: &Value) -> Option<()> {
    let mut url = url.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(["_simulator", "calls", id]);
    let request = http::certificate_info_client().ok()?.put(url).body(call.to_string()).timeout(TIMEOUT);
    let mut response = request.send().await.ok()?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        answer.extend_from_slice(&chunk);
        if answer.len() > MAX_ANSWER_BYTES {
            return None;
        }
    }
    let answer: Value = serde_json::from_slice(&answer).ok()?;
    (response.status().is_success() && answer["call"]["id"] == id).then_some(())
}
