//! Fetching one conversation and its recording.

use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{
    HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use jiff::Timestamp;
use metrics::{counter, histogram};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Response;
use thiserror::Error;
use tokio::time::Instant;
use url::Url;

use super::{
    Api, AudioDirection,
    config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig},
    conversation::ConversationInfo,
    error::{ApiError, ErrorKind, correlation_id},
    http as client_policy,
    key::Key,
    throttle::Throttle,
};
use crate::{clock::Clock, health::Health, secret::Secret, telemetry::trace::Span};

/// The largest conversation read into memory. Ten thousand turns fit.
const MAX_CONVERSATION_BYTES: usize = 32 << 20;
/// How much of an error's body is read for its code.
const MAX_ERROR_BYTES: usize = 16 << 10;
/// What of an identifier stands as it is in a path: the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// For one conversation, from request to last byte.
const CONVERSATION_TIMEOUT: Duration = Duration::from_mins(1);
/// The condition of a key's file.
const KEY_CONDITION: &str = "api_key";
/// A pause where a 429 does not say for how long.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);

/// All configured projects and the connections to PolyAI.
#[derive(Debug)]
pub struct PolyAiClient {
    http: reqwest::Client,
    projects: Vec<Project>,
    clock: Clock,
}

/// One project: whose conversations, where, with which key.
#[derive(Debug)]
pub struct Project {
    account_id: String,
    #[expect(clippy::struct_field_names, reason = "PolyAI's name of it, next to account_id")]
    project_id: String,
    v3: Option<Access>,
    data: Option<Access>,
    /// Whether the Data API was the one that worked last, per path.
    conversations_from_data: AtomicBool,
    audio_from_data: AtomicBool,
    pub(super) lists_from_data: AtomicBool,
    throttle: Throttle,
}

#[derive(Debug)]
pub(super) struct Access {
    base: Url,
    key: Arc<Key>,
}

/// A conversation as PolyAI sent it.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The answer's bytes, untouched.
    pub json: Bytes,
    /// What was read of them.
    pub summary: ConversationInfo,
    /// Which API served it.
    pub api: Api,
    /// When the answer was complete.
    pub fetched_at: Timestamp,
}

/// A recording on its way.
pub struct Recording {
    /// The bytes as they arrive; an error ends them.
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>,
    /// How many bytes PolyAI announced.
    pub content_length: Option<u64>,
    /// The answer's content type.
    pub content_type: Option<String>,
    /// PolyAI's id of the request.
    pub correlation_id: Option<String>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("content_length", &self.content_length)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

/// An event belongs to no configured project.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the event is of account {account:?}, project {project:?}, which is not configured: add it to [[projects]], then replay"
)]
pub struct UnknownProject {
    /// As the event names it.
    pub account: String,
    /// As the event names it.
    pub project: String,
}

impl PolyAiClient {
    /// Checks the configuration and prepares the connections; asks nothing yet.
    pub fn new(config: &PolyAiConfig, projects: &[ProjectConfig], clock: Clock) -> Result<Self, ConfigError> {
        let mut known: Vec<Project> = Vec::with_capacity(projects.len());
        for project in projects {
            let project = Project::new(config, project)?;
            if known.iter().any(|other| other.is(Some(&project.account_id), Some(&project.project_id))) {
                return Err(ConfigError::Twice(project.project_id));
            }
            known.push(project);
        }
        let http = client_policy::client().map_err(|_| ConfigError::NoClient)?;
        Ok(Self { http, projects: known, clock })
    }

    /// Reads the files of all keys again. A key that cannot be used changes nothing and is told to `health`.
    pub async fn reload_keys(&self, health: &Health) {
        let mut trouble = Vec::new();
        for project in &self.projects {
            for key in project.keys() {
                match key.reload().await {
                    Ok(true) => tracing::info!(project.id = project.project_id, "API key reloaded"),
                    Ok(false) => {}
                    Err(why) => trouble.push(why),
                }
            }
        }
        if trouble.is_empty() {
            health.clear(KEY_CONDITION);
            return;
        }
        // Projects may share a file.
        trouble.dedup();
        let why = trouble.join("; ");
        health.set_degraded(
            KEY_CONDITION,
            format!(
                "{why}. The API key read before stays in force; put the key there, readable by this process"
            ),
        );
    }

    /// The configured projects.
    pub fn projects(&self) -> &[Project] {
        &self.projects
    }

    /// The projects that an event with these ids can belong to: a single configured project takes all (ids
    /// come in a slug and a prefixed form, so they cannot be compared strictly); of several, those that the
    /// ids name, or all where the event names none.
    pub fn candidates(
        &self,
        account: Option<&str>,
        project: Option<&str>,
    ) -> Result<Vec<&Project>, UnknownProject> {
        let all = self.projects.iter();
        let candidates: Vec<_> = match self.projects.len() {
            1 => all.collect(),
            _ => all.filter(|candidate| candidate.is(account, project)).collect(),
        };
        if candidates.is_empty() {
            let name = |id: Option<&str>| id.unwrap_or("(none)").chars().take(100).collect();
            return Err(UnknownProject { account: name(account), project: name(project) });
        }
        Ok(candidates)
    }

    /// Fetches a conversation: v3 or the Data API, as configured and as it worked before.
    pub async fn conversation(&self, project: &Project, id: &str) -> Result<Conversation, ApiError> {
        self.either(project, &project.conversations_from_data, |api, access| async move {
            let host = access.host();
            let url = access
                .url(api, project, id, None)
                .ok_or_else(|| ApiError::new(ErrorKind::UnknownConversation, host))?;
            let get = async {
                let response = self.get(project, access, url, "application/json", "conversation").await?;
                let correlation = correlation_id(response.headers());
                let answered = |error| ApiError {
                    correlation_id: correlation.clone(),
                    status: Some(StatusCode::OK.as_u16()),
                    ..error
                };
                let bad = || answered(ApiError::new(ErrorKind::BadAnswer, host));
                let json = read_whole(response, MAX_CONVERSATION_BYTES, host).await.map_err(answered)?;
                let summary = ConversationInfo::read(&json).map_err(|_| bad())?;
                // Another conversation under this name would be worse than none, and so would something
                // that is JSON but no conversation.
                if summary.id.as_deref() != Some(id) {
                    return Err(bad());
                }
                Ok(Conversation { json, summary, api, fetched_at: self.clock.now() })
            };
            tokio::time::timeout(CONVERSATION_TIMEOUT, get)
                .await
                .unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, host)))
        })
        .await
    }

    /// Opens a recording.
    pub async fn audio(
        &self,
        project: &Project,
        id: &str,
        direction: AudioDirection,
        redacted: bool,
    ) -> Result<Recording, ApiError> {
        self.either(project, &project.audio_from_data, |api, access| async move {
            let host = access.host();
            let url = access
                .url(api, project, id, Some((direction, redacted)))
                .ok_or_else(|| ApiError::new(ErrorKind::UnknownConversation, host))?;
            let response = self.get(project, access, url, "audio/wav", "audio").await?;
            let header =
                |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
            let content_type = header(CONTENT_TYPE).map(str::to_owned);
            let host = host.to_owned();
            let correlation = correlation_id(response.headers());
            Ok(Recording {
                content_length: response.content_length(),
                content_type,
                correlation_id: correlation.clone(),
                body: Box::pin(response.bytes_stream().map(move |part| {
                    part.map_err(|error| ApiError {
                        correlation_id: correlation.clone(),
                        status: Some(StatusCode::OK.as_u16()),
                        ..ApiError::transport(&error, &host)
                    })
                })),
            })
        })
        .await
    }

    /// Asks the API that worked last, and where it does not serve the path, the other. What worked is
    /// remembered only when it did.
    pub(super) async fn either<'a, T, F>(
        &'a self,
        project: &'a Project,
        data_worked: &AtomicBool,
        ask: impl Fn(Api, &'a Access) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let mut order = [(Api::V3, project.v3.as_ref()), (Api::Data, project.data.as_ref())];
        if data_worked.load(Ordering::Relaxed) {
            order.reverse();
        }
        let mut available = order.into_iter().filter_map(|(api, access)| Some((api, access?)));
        let Some((first, access)) = available.next() else {
            return Err(ApiError::new(ErrorKind::NotServed, "no host"));
        };
        let error = match ask(first, access).await {
            Err(error) if error.kind == ErrorKind::NotServed => error,
            other => return other,
        };
        let Some((second, access)) = available.next() else { return Err(error) };
        let answer = ask(second, access).await;
        if answer.is_ok() && data_worked.swap(second == Api::Data, Ordering::Relaxed) != (second == Api::Data)
        {
            tracing::info!(
                project.id = project.project_id,
                api = second.label(),
                "{} does not serve this path; {} does and is asked first from now on",
                first.label(),
                second.label()
            );
        }
        // Both lack the path: the conversation is unknown under either reading, and v3's id is the one to quote.
        answer.map_err(
            |second_error| if second_error.kind == ErrorKind::NotServed { error } else { second_error },
        )
    }

    /// [`PolyAiClient::get_with`] the key in force; where it is refused and its file has another one, with that one: a
    /// key that was rotated a moment ago must not cost a dead letter.
    pub(super) async fn get(
        &self,
        project: &Project,
        access: &Access,
        url: Url,
        accept: &'static str,
        operation: &'static str,
    ) -> Result<Response, ApiError> {
        let mut key = access.key.header();
        loop {
            let error =
                match self.get_with(key.clone(), project, access, url.clone(), accept, operation).await {
                    Err(error) if error.kind == ErrorKind::KeyRejected => error,
                    other => return other,
                };
            // A file that cannot be read is reported by who looks at it every second.
            let _ = access.key.reload().await;
            let now = access.key.header();
            if now == key {
                return Err(error);
            }
            key = now;
        }
    }

    /// One GET; an answer that is no success is an error, and a 429 pauses the project.
    async fn get_with(
        &self,
        key: HeaderValue,
        project: &Project,
        access: &Access,
        url: Url,
        accept: &'static str,
        operation: &'static str,
    ) -> Result<Response, ApiError> {
        let awake = || match project.throttle.paused_for() {
            Some(left) => {
                Err(ApiError { retry_after: Some(left), ..ApiError::new(ErrorKind::Paused, access.host()) })
            }
            None => Ok(()),
        };
        awake()?;
        project.throttle.turn().await;
        // Somebody else's 429 may have come meanwhile.
        awake()?;
        let span = Span::api_request(operation, access.host());
        let started = Instant::now();
        let sent = self
            .http
            .get(url)
            .header("x-api-key", key)
            .header(ACCEPT, HeaderValue::from_static(accept))
            .send()
            .await;
        histogram!("polyhook_api_seconds", "operation" => operation).record(started.elapsed().as_secs_f64());
        let count = |status: &str| {
            counter!("polyhook_api_requests_total", "operation" => operation, "status" => status.to_owned())
                .increment(1);
        };
        let response = sent.map_err(|error| {
            let error = ApiError::transport(&error, access.host());
            count(error.kind.label());
            span.set_error(error.kind.label());
            error
        })?;
        let status = response.status();
        count(status.as_str());
        span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        if let Some(id) = correlation_id(response.headers()) {
            span.set_attribute("polyai.correlation_id", id);
        }
        if status == StatusCode::OK {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let body = read_some(response, MAX_ERROR_BYTES).await;
        let error = ApiError::answer(status, &headers, &body, self.clock.now(), access.host());
        span.set_error(error.kind.label());
        if error.kind == ErrorKind::RateLimited {
            project.throttle.pause(error.retry_after.unwrap_or(DEFAULT_PAUSE));
        }
        Err(error)
    }
}

impl Project {
    fn new(config: &PolyAiConfig, project: &ProjectConfig) -> Result<Self, ConfigError> {
        for (name, id) in [("account_id", &project.account_id), ("project_id", &project.project_id)] {
            if id.is_empty() || matches!(id.as_str(), "." | "..") {
                return Err(ConfigError::NoId(name));
            }
        }
        if project.api_key.is_empty() {
            return Err(ConfigError::NoKey(project.project_id.clone()));
        }
        let key = |key: &Secret, file: &Option<PathBuf>| {
            let bad = || ConfigError::BadKey(project.project_id.clone());
            Key::new(key, file.clone()).map(Arc::new).ok_or_else(bad)
        };
        let hosts = config.hosts(project.region)?;
        let api = project.api.unwrap_or(config.api);
        if api == ApiChoice::V3 && hosts.runtime.is_none() {
            return Err(ConfigError::StudioHasNoV3(project.project_id.clone()));
        }
        let data_key =
            project.data_api_key.as_ref().map(|data| key(data, &project.data_api_key_file)).transpose()?;
        let key = key(&project.api_key, &project.api_key_file)?;
        let data_key = data_key.unwrap_or_else(|| Arc::clone(&key));
        Ok(Self {
            account_id: project.account_id.clone(),
            project_id: project.project_id.clone(),
            v3: hosts.runtime.filter(|_| api != ApiChoice::Data).map(|base| Access { base, key }),
            data: (api != ApiChoice::V3).then_some(Access { base: hosts.platform, key: data_key }),
            conversations_from_data: AtomicBool::new(false),
            audio_from_data: AtomicBool::new(false),
            lists_from_data: AtomicBool::new(false),
            throttle: Throttle::new(config.max_requests_per_second),
        })
    }

    /// The account, as configured; part of every archive key.
    pub fn account_id(&self) -> &str {
        &self.account_id
    }

    /// The project, as configured; part of every archive key.
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// Its keys, each once.
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let (v3, data) = (self.v3.as_ref(), self.data.as_ref());
        let data = data.filter(|data| v3.is_none_or(|v3| !Arc::ptr_eq(&v3.key, &data.key)));
        v3.into_iter().chain(data).map(|access| &*access.key)
    }

    /// How one of the APIs is asked, if it may be.
    pub(super) fn access(&self, api: Api) -> Option<&Access> {
        match api {
            Api::V3 => self.v3.as_ref(),
            Api::Data => self.data.as_ref(),
        }
    }

    /// How much longer the project is paused by a 429.
    pub fn paused_for(&self) -> Option<Duration> {
        self.throttle.paused_for()
    }

    fn is(&self, account: Option<&str>, project: Option<&str>) -> bool {
        account.is_none_or(|id| id == self.account_id) && project.is_none_or(|id| id == self.project_id)
    }
}

impl Access {
    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or("no host")
    }

    /// The URL of all conversations.
    pub(super) fn list_url(&self, api: Api, project: &Project) -> Url {
        let (account, agent) = (word(&project.account_id), word(&project.project_id));
        let base = self.base.path().trim_end_matches('/');
        let mut url = self.base.clone();
        url.set_path(&match api {
            Api::V3 => format!("{base}/v3/{account}/{agent}/conversations"),
            Api::Data => format!("{base}/v1/agents/{agent}/conversations"),
        });
        url
    }

    /// The URL of a conversation, or of its audio; none for an id that no path can carry.
    fn url(
        &self,
        api: Api,
        project: &Project,
        id: &str,
        audio: Option<(AudioDirection, bool)>,
    ) -> Option<Url> {
        // A URL resolves these, which would ask for the list of all conversations instead.
        if matches!(id, "" | "." | "..") {
            return None;
        }
        let mut url = self.list_url(api, project);
        let audio_path = if audio.is_some() { "/audio" } else { "" };
        url.set_path(&format!("{}/{}{audio_path}", url.path(), word(id)));
        if let Some((direction, redacted)) = audio {
            url.query_pairs_mut()
                .append_pair("direction", direction.label())
                .append_pair("redacted", if redacted { "true" } else { "false" });
        }
        Some(url)
    }
}

/// An identifier in a path. Encoded here and not by the URL's segments, which drop tabs and newlines and so would ask
/// for the conversation of another id.
fn word(id: &str) -> String {
    utf8_percent_encode(id, SEGMENT).to_string()
}

/// A whole body of at most `max` bytes.
pub(super) async fn read_whole(response: Response, max: usize, host: &str) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::transport(&error, host))?;
        if body.len() + part.len() > max {
            return Err(ApiError::new(ErrorKind::TooLarge, host));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// The beginning of a body, as far as it can be had.
pub(super) async fn read_some(response: Response, max: usize) -> Bytes {
    let mut body = BytesMut::new();
    let mut parts = response.bytes_stream();
    while let Some(Ok(part)) = parts.next().await {
        body.extend_from_slice(&part[..part.len().min(max - body.len())]);
        if body.len() == max {
            break;
        }
    }
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn ids(found: Result<Vec<&Project>, UnknownProject>) -> Vec<&str> {
        found.map(|projects| projects.into_iter().map(Project::project_id).collect()).unwrap_or_default()
    }

    #[test]
    fn a_single_project_takes_every_event() {
        let polyai = polyai(&[project("acme", "one")]).unwrap();
        assert_eq!(ids(polyai.candidates(Some("ws-12345678"), Some("PROJECT-1"))), ["one"]);
    }

    #[test]
    fn of_several_the_ids_decide() {
        let polyai =
            polyai(&[project("acme", "one"), project("acme", "two"), project("other", "two")]).unwrap();
        assert_eq!(ids(polyai.candidates(None, Some("one"))), ["one"]);
        assert_eq!(ids(polyai.candidates(Some("other"), Some("two"))), ["two"]);
        assert_eq!(ids(polyai.candidates(None, None)), ["one", "two", "two"]);
        let unknown = polyai.candidates(None, Some("three")).unwrap_err();
        assert!(unknown.to_string().contains("three"), "{unknown}");
    }

    #[test]
    fn the_configuration_is_checked() {
        assert!(matches!(polyai(&[project("a", "")]), Err(ConfigError::NoId("project_id"))));
        assert!(matches!(polyai(&[project("a", "b"), project("a", "b")]), Err(ConfigError::Twice(_))));
        let keyless = ProjectConfig { api_key: Secret::default(), ..project("a", "b") };
        assert!(matches!(polyai(&[keyless]), Err(ConfigError::NoKey(_))));
        let odd = ProjectConfig { api_key: Secret::new("a\nb"), ..project("a", "b") };
        assert!(matches!(polyai(&[odd]), Err(ConfigError::BadKey(_))));
    }

    #[test]
    fn no_id_escapes_its_place_in_the_path() {
        let polyai = polyai(&[project("a/c", "p?q")]).unwrap();
        let project = &polyai.projects()[0];
        let access = project.v3.as_ref().unwrap();
        let url = |id: &str| access.url(Api::V3, project, id, None).map(|url| url.path().to_owned());
        assert_eq!(url("CA1").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/CA1");
        assert_eq!(url("../../x%2f#?").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/..%2F..%2Fx%252f%23%3F");
        assert_eq!(url("\tC\nA1\0").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/%09C%0AA1%00");
        assert_eq!(url(".\t.").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/.%09.");
        assert_eq!(url("%2e%2e").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/%252e%252e");
        assert_eq!(url(".."), None);
        assert_eq!(url(""), None);
    }

    #[test]
    fn nothing_prints_a_key() {
        let shown = format!("{:?}", polyai(&[project("a", "b")]).unwrap());
        assert!(!shown.contains("\"key\"") && shown.contains("Sensitive"), "{shown}");
    }
}
