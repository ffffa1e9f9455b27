//! Sends requests for the configured projects.

use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use metrics::{counter, histogram};
use tokio::time::Instant;
use url::Url;

use super::{
    ApiRequest, Project, Target, UnknownProject,
    config::{ConfigError, PolyAiConfig, ProjectConfig},
    correlation::CorrelationId,
    error::{ApiError, ErrorKind},
    http::{Answer, HttpClient},
    throttle::SlowDown,
};
use crate::{clock::Clock, health::Health, telemetry::trace::Span};

/// The part of an error's body that is searched for its code.
const MAX_ERROR_BYTES: usize = 16 << 10;
/// The health condition of key files.
const KEY_CONDITION: &str = "api_key";
/// The health condition of keys that PolyAI rejects.
const REJECTED_KEY_CONDITION: &str = "api_key_rejected";
/// The metric label of a v3 key that the Data API refuses.
const NOT_FOR_THIS_API: &str = "not_served";
/// The number of rejected keys that a condition describes.
const MAX_DESCRIBED_KEYS: usize = 5;

/// A client for all configured projects.
#[derive(Debug)]
pub struct PolyAiClient {
    http: HttpClient,
    projects: Vec<Project>,
    clock: Clock,
}

impl PolyAiClient {
    /// Checks the configuration and prepares the connections. Sends nothing yet.
    pub fn new(config: &PolyAiConfig, projects: &[ProjectConfig], clock: Clock) -> Result<Self, ConfigError> {
        let mut known: Vec<Project> = Vec::with_capacity(projects.len());
        for project in projects {
            let project = Project::new(config, project)?;
            if known.iter().any(|other| other.has_ids(Some(project.account_id()), Some(project.project_id())))
            {
                return Err(ConfigError::DuplicateProject(project.project_id().to_owned()));
            }
            known.push(project);
        }
        let http = HttpClient::new(|builder| builder).map_err(|_| ConfigError::ClientSetup)?;
        Ok(Self { http, projects: known, clock })
    }

    /// Reads the files of all keys again. An unusable file changes nothing; it becomes a condition of `health`, and so do
    /// keys that PolyAI rejects.
    pub async fn reload_keys(&self, health: &Health) {
        self.reload_key_files(health).await;
        let mut rejected: Vec<_> = self.projects.iter().flat_map(Project::key_rejections).collect();
        if rejected.is_empty() {
            health.clear(REJECTED_KEY_CONDITION);
            return;
        }
        let more = rejected.len().saturating_sub(MAX_DESCRIBED_KEYS);
        rejected.truncate(MAX_DESCRIBED_KEYS);
        if more > 0 {
            rejected.push(format!("and {more} more"));
        }
        health.set_degraded(REJECTED_KEY_CONDITION, rejected.join("; "));
    }

    async fn reload_key_files(&self, health: &Health) {
        // At the same time, because each file may hang for a while.
        let keys = self.projects.iter().flat_map(|project| project.keys().map(move |key| (project, key)));
        let reloads = join_all(keys.map(async |(project, key)| (project, key.reload().await))).await;
        let mut errors = Vec::new();
        for (project, reloaded) in reloads {
            match reloaded {
                Ok(true) => {
                    project.forget_rejections();
                    tracing::info!(project.id = project.project_id(), "API key reloaded");
                }
                Ok(false) => {}
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            health.clear(KEY_CONDITION);
            return;
        }
        // Projects may share a file.
        errors.dedup();
        let errors = errors.join("; ");
        health.set_degraded(
            KEY_CONDITION,
            format!(
                "{errors}. The API key that was read before remains active; write the key into the file, readable by this process"
            ),
        );
    }

    /// Returns the configured projects.
    pub fn projects(&self) -> &[Project] {
        &self.projects
    }

    /// Returns the projects with these ids: all if none is named.
    ///
    /// A single configured project has every id: ids come in a slug and a prefixed form, so they cannot be compared
    /// strictly.
    pub fn with_ids(
        &self,
        account: Option<&str>,
        project: Option<&str>,
    ) -> Result<Vec<&Project>, UnknownProject> {
        let all = self.projects.iter();
        let named: Vec<_> = match self.projects.len() {
            1 => all.collect(),
            _ => all.filter(|candidate| candidate.has_ids(account, project)).collect(),
        };
        if named.is_empty() { Err(UnknownProject::new(account, project)) } else { Ok(named) }
    }

    /// Returns the projects that an event with these ids can belong to. If no project has them, all: the event may name
    /// them in the other form. Then the names are returned, too.
    pub fn candidates(
        &self,
        account: Option<&str>,
        project: Option<&str>,
    ) -> (Vec<&Project>, Option<UnknownProject>) {
        match self.with_ids(account, project) {
            Ok(named) => (named, None),
            Err(unknown) => (self.projects.iter().collect(), Some(unknown)),
        }
    }

    /// Returns the time at which a request is sent.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Sends a request to a target. An answer that is not a 200 is an error.
    pub(super) async fn get(
        &self,
        project: &Project,
        target: &Target,
        request: ApiRequest<'_>,
    ) -> Result<Answer, ApiError> {
        // Only an id that no path can carry has no URL, so no conversation has that id.
        let url = target.url(request);
        let url = url.ok_or_else(|| ApiError::new(ErrorKind::UnknownConversation, target.host()))?;
        self.get_url(project, target, request, url).await
    }

    /// Sends a request with a URL that may have further parameters. If the key is refused and its file has another one
    /// by now, sends the request again with that one: a key that was rotated a moment ago must not cost a dead letter.
    pub(super) async fn get_url(
        &self,
        project: &Project,
        target: &Target,
        request: ApiRequest<'_>,
        url: Url,
    ) -> Result<Answer, ApiError> {
        let mut key = target.key().header();
        loop {
            // Callers hold this future several times.
            let sent = Box::pin(self.send(key.clone(), project, target, request, url.clone()));
            let error = match sent.await {
                Err(error) if error.kind == ErrorKind::KeyRejected => error,
                Ok(answer) => {
                    target.note_accepted(&key);
                    return Ok(answer);
                }
                other => return other,
            };
            // The periodic reload reports a file that cannot be read.
            let _ = target.key().reload().await;
            let current = target.key().header();
            if current == key {
                return Err(ApiError { key_worked: target.has_accepted(&key), ..error });
            }
            key = current;
        }
    }

    /// Sends one GET within the rate of the project, with a span and metrics. A 429 pauses the project.
    async fn send(
        &self,
        key: HeaderValue,
        project: &Project,
        target: &Target,
        request: ApiRequest<'_>,
        url: Url,
    ) -> Result<Answer, ApiError> {
        let (host, operation) = (target.host(), request.operation());
        check_not_paused(project, host)?;
        let sent_at = project.throttle.wait_for_turn().await;
        // Another request may have been answered 429 meanwhile.
        check_not_paused(project, host)?;
        let span = Span::api_request(operation, host);
        let (started, id) = (Instant::now(), CorrelationId::new());
        let answered = self.http.get(url, key, request.accept(), &id).await;
        let elapsed = started.elapsed();
        histogram!("polyhook_api_seconds", "operation" => operation).record(elapsed.as_secs_f64());
        log_request(operation, host, &id, &answered, elapsed);
        let is_known_refusal = project.data_access.expects_refusal(target);
        let count = |status: &str| {
            counter!("polyhook_api_requests_total", "operation" => operation, "status" => status.to_owned())
                .increment(1);
        };
        let answer = answered.inspect_err(|error| {
            count(error.kind.label());
            span.set_error(error.kind.label());
        })?;
        let status = answer.status();
        // A key that is not one for the Data API is no reason for an alert.
        let is_refusal = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        count(if is_refusal && is_known_refusal { NOT_FOR_THIS_API } else { status.as_str() });
        span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        span.set_attribute("polyai.correlation_id", answer.correlation_id().to_owned());
        if status == StatusCode::OK {
            if project.throttle.speed_up() {
                tracing::info!(project.id = project.project_id(), "the request rate is back at its maximum");
            }
            return Ok(answer);
        }
        let error = self.error_of(answer, host).await;
        span.set_error(error.kind.label());
        if error.kind == ErrorKind::RateLimited {
            let SlowDown { per_second, pause } = project.throttle.slow_down(sent_at, error.retry_after);
            tracing::warn!(
                project.id = project.project_id(),
                operation,
                requests_per_second = per_second,
                pause_s = pause.as_secs(),
                "PolyAI answered 429: the project pauses and its request rate is reduced"
            );
        }
        Err(error)
    }

    async fn error_of(&self, answer: Answer, host: &str) -> ApiError {
        let now = self.clock.now();
        if let Some(error) = answer.redirect_error(now) {
            return error;
        }
        let (status, headers) = (answer.status(), answer.headers().clone());
        let correlation_id = Some(answer.correlation_id().to_owned());
        let body = answer.start(MAX_ERROR_BYTES).await;
        ApiError { correlation_id, ..ApiError::from_answer(status, &headers, &body, now, host) }
    }
}

/// Logs one request with the id that it carried and, if the answer has another one, that of the answer.
fn log_request(
    operation: &str,
    host: &str,
    sent: &CorrelationId,
    answered: &Result<Answer, ApiError>,
    elapsed: Duration,
) {
    let (status, reason, received) = match answered {
        Ok(answer) => (Some(answer.status().as_u16()), None, Some(answer.correlation_id())),
        Err(error) => (error.status, Some(error.kind.label()), error.correlation_id.as_deref()),
    };
    tracing::debug!(
        operation,
        host,
        status,
        reason,
        request.correlation_id = sent.as_str(),
        polyai.correlation_id = received,
        elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        "sent a request to PolyAI ({operation})"
    );
}

fn check_not_paused(project: &Project, host: &str) -> Result<(), ApiError> {
    match project.paused_for() {
        Some(left) => Err(ApiError { retry_after: Some(left), ..ApiError::new(ErrorKind::Paused, host) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn project(account: &str, project: &str) -> ProjectConfig {
        ProjectConfig {
            account_id: account.to_owned(),
            project_id: project.to_owned(),
            api_key: Secret::new("key"),
            ..ProjectConfig::default()
        }
    }

    fn polyai(projects: &[ProjectConfig]) -> Result<PolyAiClient, ConfigError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        PolyAiClient::new(&PolyAiConfig::default(), projects, Clock::System)
    }

    fn ids<'a>(projects: &[&'a Project]) -> Vec<&'a str> {
        projects.iter().map(|project| project.project_id()).collect()
    }

    #[test]
    fn a_single_project_accepts_every_event() {
        let polyai = polyai(&[project("acme", "one")]).unwrap();
        assert_eq!(ids(&polyai.candidates(Some("ws-12345678"), Some("PROJECT-1")).0), ["one"]);
    }

    #[test]
    fn ids_select_among_several_projects() {
        let polyai =
            polyai(&[project("acme", "one"), project("acme", "two"), project("other", "two")]).unwrap();
        let of = |account, project| ids(&polyai.candidates(account, project).0);
        assert_eq!(of(None, Some("one")), ["one"]);
        assert_eq!(of(Some("other"), Some("two")), ["two"]);
        assert_eq!(of(None, None), ["one", "two", "two"]);
        let unknown = polyai.with_ids(None, Some("three")).unwrap_err();
        assert!(unknown.to_string().contains("three"), "{unknown}");
    }

    #[test]
    fn every_project_is_a_candidate_for_ids_that_none_has() {
        let polyai = polyai(&[project("acme", "one"), project("acme", "two")]).unwrap();
        for (account, project) in [
            (Some("ws-12345678"), Some("PROJECT-1")),
            (Some("ws-12345678"), None),
            (Some("ws-12345678"), Some("one")),
            (Some("acme"), Some("PROJECT-1")),
        ] {
            let (candidates, unknown) = polyai.candidates(account, project);
            assert_eq!(ids(&candidates), ["one", "two"], "{account:?} {project:?}");
            assert_eq!(unknown, Some(UnknownProject::new(account, project)));
        }
    }

    #[test]
    fn rejects_unusable_configurations() {
        assert!(matches!(polyai(&[project("a", "")]), Err(ConfigError::EmptyId("project_id"))));
        assert!(matches!(
            polyai(&[project("a", "b"), project("a", "b")]),
            Err(ConfigError::DuplicateProject(_))
        ));
        let keyless = ProjectConfig { api_key: Secret::default(), ..project("a", "b") };
        assert!(matches!(polyai(&[keyless]), Err(ConfigError::MissingKey(_))));
        let odd = ProjectConfig { api_key: Secret::new("a\nb"), ..project("a", "b") };
        assert!(matches!(polyai(&[odd]), Err(ConfigError::WrongKey { .. })));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let shown = format!("{:?}", polyai(&[project("a", "b")]).unwrap());
        assert!(!shown.contains("\"key\"") && shown.contains("Sensitive"), "{shown}");
    }
}
