//! Finds out the account of a project whose configuration names none.
//!
//! PolyAI's current quickstart names the agent (the project) alone. The Data API needs no more, and each conversation that
//! it lists names its account. v3 and the keys in the archive need the account, so nothing is fetched before it is known.

use thiserror::Error;

use super::{
    ApiRequest, ConversationInfo, PolyAiClient, Project,
    config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig},
    error::{ApiError, ErrorKind},
    http::HttpClient,
    list::page::Page,
};
use crate::{clock::Clock, problem::Problem};

/// Stands for the account in requests to the Data API, which do not contain it.
const STAND_IN: &str = "unknown";
/// The largest list of one conversation.
const MAX_LIST_BYTES: usize = 32 << 20;

/// The reason why an account is not known.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The Data API did not list the conversations.
    #[error("{hint}, and the Data API does not list its conversations: {0}", hint = hint(.1))]
    Api(Box<ApiError>, String),
    /// There is no conversation that names it.
    #[error("{hint}, and the project has no conversation yet that names it", hint = hint(.0))]
    NoConversation(String),
}

fn hint(project: &str) -> String {
    format!(
        "the account of project {project} is not configured (set POLYAI_ACCOUNT_ID or projects.account_id; it is in the URL of Agent Studio)"
    )
}

impl ProjectConfig {
    /// Returns whether the project names no account.
    pub fn needs_account(&self) -> bool {
        self.account_id.is_empty()
    }
}

/// Returns everything for which [`PolyAiClient::new`] would refuse the configuration, but accepts a project without an
/// account if the Data API can tell it. It must be the only one: others must not wait for its first conversation.
pub fn check_config(config: &PolyAiConfig, projects: &[ProjectConfig]) -> Vec<Problem> {
    let mut problems: Vec<_> = config.url_errors().map(|error| error.problem(0)).collect();
    let are_urls_valid = problems.is_empty();
    for (index, project) in projects.iter().enumerate() {
        let can_learn = project.api.unwrap_or(config.api) != ApiChoice::V3 && projects.len() == 1;
        let account_id = if project.needs_account() && can_learn { STAND_IN } else { &project.account_id };
        let known = ProjectConfig { account_id: account_id.to_owned(), ..project.clone() };
        let mut errors = Project::errors(config, &known);
        let same = |other: &ProjectConfig| {
            other.account_id == project.account_id && other.project_id == project.project_id
        };
        if projects[..index].iter().any(same) {
            errors.push(ConfigError::DuplicateProject(project.project_id.clone()));
        }
        for problem in errors.iter().map(|error| error.problem(index)) {
            // The hosts of all projects have the same errors, and an invalid URL was reported above.
            let is_of_hosts = problem.key().starts_with("polyai.");
            if !(is_of_hosts && (!are_urls_valid || problems.contains(&problem))) {
                problems.push(problem);
            }
        }
    }
    if config.max_requests_per_second == 0 {
        let message = "it is 0, so nothing could be fetched; the default is 10";
        problems.push(Problem::new("polyai.max_requests_per_second", message));
    }
    if problems.is_empty() && HttpClient::new(|builder| builder).is_err() {
        problems.push(ConfigError::ClientSetup.problem(0));
    }
    problems
}

/// Returns the account of `project`, as a conversation of the project names it.
pub async fn find_account(
    config: &PolyAiConfig,
    project: &ProjectConfig,
    clock: Clock,
) -> Result<String, AccountError> {
    let by_data_api =
        ProjectConfig { account_id: STAND_IN.to_owned(), api: Some(ApiChoice::Data), ..project.clone() };
    let client = PolyAiClient::new(config, &[by_data_api], clock)?;
    let failed = |error| AccountError::Api(Box::new(error), project.project_id.clone());
    let account = newest_account(&client).await.map_err(failed)?;
    account.ok_or_else(|| AccountError::NoConversation(project.project_id.clone()))
}

/// Returns the account that the newest conversation of the client's only project names.
async fn newest_account(client: &PolyAiClient) -> Result<Option<String>, ApiError> {
    let [project] = client.projects() else { return Ok(None) };
    let [target] = project.targets() else { return Ok(None) };
    let answer = client.get(project, target, ApiRequest::List { limit: 1 }).await?;
    let body = answer.whole(MAX_LIST_BYTES).await?;
    let mut page = Page::default();
    page.read(&body[..], |reader| Ok(ConversationInfo::read_object(reader)?.account_id))
        .map_err(|_| ApiError::new(ErrorKind::BadAnswer, target.host()))?;
    Ok(page.items.pop())
}
