//! One question at a time, answered with everything there is to know about the answer: for `polyhook doctor`.
//!
//! The client proper hides what is none of its callers' business (which host, which certificate, whose clock) and
//! tries again by itself. Here a [`Target`] is one API of one project at one host, [`Prober::ask`] knocks once, and
//! the [`ProbeResponse`] is as it came. Only GETs are sent, and a key goes nowhere but to hosts that are PolyAI's or that
//! the configuration names.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, DATE},
};
use jiff::{SignedDuration, Timestamp};
use reqwest::Response;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use url::Url;

use super::{
    Api, ApiChoice, ApiError, AudioDirection, ConfigError, ErrorKind, Hosts, PolyAiConfig, ProjectConfig,
    Region, error::CORRELATION_HEADER, http as client_policy,
};
use crate::{clock::Clock, secret::Secret};

/// How much of an answer that is text is read; a list of a few conversations fits.
const MAX_TEXT_BYTES: usize = 32 << 20;
/// How much of a recording is compared. At 8 kHz some minutes.
const MAX_AUDIO_BYTES: usize = 16 << 20;
/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a recording.
const AUDIO_TIMEOUT: Duration = Duration::from_secs(30);

/// One API of one project at one host, and the key to it.
#[derive(Clone)]
pub struct Target {
    /// Which API.
    pub api: Api,
    /// Where.
    pub base: Url,
    account_id: String,
    project_id: String,
    key: HeaderValue,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("api", &self.api)
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// A place where a key may turn out to belong.
#[derive(Clone, Debug)]
pub struct CandidateRegion {
    /// As `polyai.region` names it.
    pub region: String,
    /// Where its APIs are.
    pub hosts: Hosts,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum ProbeRequest<'a> {
    /// The newest conversations, this many.
    List(usize),
    /// One conversation.
    Conversation(&'a str),
    /// Its recording.
    Audio {
        /// Whose.
        id: &'a str,
        /// Which side.
        direction: AudioDirection,
        /// Whether to ask for the redacted one.
        redacted: bool,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct ProbeResponse {
    /// A 200's body, or what else it was.
    pub outcome: Result<Body, ApiError>,
    /// Why there was no answer, in words.
    pub cause: Option<String>,
    /// Whether it is PolyAI that answered: by its correlation id, which every answer of theirs has.
    pub is_polyai: bool,
    /// The answer's content type, if it has one that can be shown.
    pub content_type: Option<String>,
    /// Their clock minus ours, to about half a second.
    pub skew: Option<SignedDuration>,
    /// Until when the host's certificate is valid.
    pub certificate_expires: Option<Timestamp>,
    /// How long it took.
    pub elapsed: Duration,
}

/// The body of a 200.
#[derive(Clone, Debug)]
pub struct Body {
    /// The beginning of a recording; otherwise all of it.
    pub start: Bytes,
    /// Of what was read.
    pub sha256: [u8; 32],
}

/// A conversation of a list, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedConversation {
    /// Its id.
    pub id: String,
    /// Whether there may be a recording.
    pub voice: bool,
    /// Whether it is not over yet.
    pub in_progress: bool,
}

impl Target {
    /// The doors that the configuration opens: v3 first, then the Data API.
    pub fn configured(config: &PolyAiConfig, project: &ProjectConfig) -> Result<Vec<Self>, ConfigError> {
        let hosts = config.hosts(project.region)?;
        let api = project.api.unwrap_or(config.api);
        let own = Self::new(project, &project.api_key)?;
        let data = match &project.data_api_key {
            Some(key) => Self::new(project, key)?,
            None => own.clone(),
        };
        let v3 = hosts.runtime.filter(|_| api != ApiChoice::Data).map(|base| own.to(Api::V3, base));
        let data = (api != ApiChoice::V3).then(|| data.to(Api::Data, hosts.platform));
        Ok(v3.into_iter().chain(data).collect())
    }

    fn new(project: &ProjectConfig, key: &Secret) -> Result<Self, ConfigError> {
        let mut header = HeaderValue::from_str(key.expose())
            .map_err(|_| ConfigError::BadKey(project.project_id.clone()))?;
        header.set_sensitive(true);
        Ok(Self {
            api: Api::V3,
            base: Region::default().hosts().platform,
            account_id: project.account_id.clone(),
            project_id: project.project_id.clone(),
            key: header,
        })
    }

    fn to(&self, api: Api, base: Url) -> Self {
        Self { api, base, ..self.clone() }
    }

    /// The same project and key at another place: v3 first, where there is one.
    pub fn at_hosts(&self, hosts: &Hosts) -> Vec<Self> {
        let v3 = hosts.runtime.clone().map(|base| self.to(Api::V3, base));
        v3.into_iter().chain([self.to(Api::Data, hosts.platform.clone())]).collect()
    }

    /// The other API's path at the very same host.
    #[must_use]
    pub fn other_api(&self) -> Self {
        let api = match self.api {
            Api::V3 => Api::Data,
            Api::Data => Api::V3,
        };
        self.to(api, self.base.clone())
    }

    /// The host and, where it is not the usual one, its port.
    pub fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or("no host");
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Whether the same key opens both.
    pub fn has_same_key_as(&self, other: &Self) -> bool {
        self.key == other.key
    }

    fn url(&self, ask: ProbeRequest<'_>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            match self.api {
                Api::V3 => path.extend(["v3", &self.account_id, &self.project_id, "conversations"]),
                Api::Data => path.extend(["v1", "agents", &self.project_id, "conversations"]),
            };
            match ask {
                ProbeRequest::List(_) => {}
                ProbeRequest::Conversation(id) => drop(path.push(id)),
                ProbeRequest::Audio { id, .. } => drop(path.extend([id, "audio"])),
            }
        }
        match ask {
            ProbeRequest::List(limit) => drop(url.query_pairs_mut().append_pair("limit", &limit.to_string())),
            ProbeRequest::Conversation(_) => {}
            ProbeRequest::Audio { direction, redacted, .. } => drop(
                url.query_pairs_mut()
                    .append_pair("direction", direction.label())
                    .append_pair("redacted", if redacted { "true" } else { "false" }),
            ),
        }
        url
    }
}

impl CandidateRegion {
    /// The regions a key may belong to instead, if `hosts` are PolyAI's own; a key for somebody's own host is
    /// shown to nobody else.
    pub fn other_than(hosts: &[&Url]) -> Vec<Self> {
        let Some(own) = hosts.iter().find_map(|url| Region::of_host(url)) else { return Vec::new() };
        Region::ALL
            .into_iter()
            .filter(|region| *region != own)
            .map(|region| Self { region: region.label().to_owned(), hosts: region.hosts() })
            .collect()
    }
}

/// Asks.
#[derive(Debug)]
pub struct Prober {
    http: reqwest::Client,
    clock: Clock,
}

impl Prober {
    /// With the connections' policy of every other client of ours.
    pub fn new(clock: Clock) -> Result<Self, reqwest::Error> {
        Ok(Self { http: client_policy::certificate_info_client()?, clock })
    }

    /// Asks once.
    pub async fn send(&self, door: &Target, ask: ProbeRequest<'_>) -> ProbeResponse {
        let audio = matches!(ask, ProbeRequest::Audio { .. });
        let (accept, timeout) =
            if audio { ("audio/wav", AUDIO_TIMEOUT) } else { ("application/json", TIMEOUT) };
        let before = self.clock.now();
        let started = Instant::now();
        let sent = self
            .http
            .get(door.url(ask))
            .header("x-api-key", door.key.clone())
            .header(ACCEPT, HeaderValue::from_static(accept))
            .timeout(timeout)
            .send()
            .await;
        let host = door.host();
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                return ProbeResponse {
                    cause: Some(client_policy::describe_error(&error)),
                    outcome: Err(ApiError::transport(&error, &host)),
                    is_polyai: false,
                    content_type: None,
                    skew: None,
                    certificate_expires: None,
                    elapsed: started.elapsed(),
                };
            }
        };
        let now = self.clock.now();
        let (status, headers) = (response.status(), response.headers().clone());
        let certificate_expires = client_policy::certificate_expires(&response);
        let keep = if audio && status == StatusCode::OK { 64 } else { MAX_TEXT_BYTES };
        let max = if audio { MAX_AUDIO_BYTES } else { MAX_TEXT_BYTES };
        let read = read(response, keep, max).await;
        let cause = read.as_ref().err().map(client_policy::describe_error);
        let outcome = match read {
            Ok(body) if status == StatusCode::OK => Ok(body),
            Ok(body) => Err(ApiError::answer(status, &headers, &body.start, now, &host)),
            Err(error) => Err(ApiError::transport(&error, &host)),
        };
        ProbeResponse {
            outcome,
            cause,
            is_polyai: headers.contains_key(CORRELATION_HEADER) || Region::of_host(&door.base).is_some(),
            content_type: content_type(&headers),
            skew: skew(&headers, before, now),
            certificate_expires,
            elapsed: started.elapsed(),
        }
    }
}

impl ProbeResponse {
    /// What kind of error it was, if it was one.
    pub fn error(&self) -> Option<ErrorKind> {
        self.outcome.as_ref().err().map(|error| error.kind)
    }

    /// Whether the key was good enough to be told about the project.
    pub fn accepts_key(&self) -> bool {
        let known = [ErrorKind::KeyLacksScope, ErrorKind::UnknownProject];
        self.conversations().is_some()
            || self.is_polyai && self.error().is_some_and(|kind| known.contains(&kind))
    }

    /// The conversations of a list; none if it is no list.
    pub fn conversations(&self) -> Option<Vec<ProbedConversation>> {
        #[derive(serde::Deserialize)]
        struct Page<'a> {
            #[serde(borrow)]
            conversations: Vec<&'a RawValue>,
        }
        let body = self.outcome.as_ref().ok()?;
        let page: Page<'_> = serde_json::from_slice(&body.start).ok()?;
        Some(page.conversations.into_iter().filter_map(|raw| ProbedConversation::read(raw.get())).collect())
    }
}

impl ProbedConversation {
    fn read(json: &str) -> Option<Self> {
        let summary = super::ConversationInfo::read(json.as_bytes()).ok()?;
        let id = summary.id.clone()?;
        // It is shown, and asked for.
        let plain = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| Self { id, voice: summary.is_voice(), in_progress: summary.in_progress })
    }
}

/// Reads up to `max` bytes and keeps the first `keep`.
async fn read(response: Response, keep: usize, max: usize) -> Result<Body, reqwest::Error> {
    let (mut start, mut hash, mut got) = (BytesMut::new(), Sha256::new(), 0);
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part?;
        let part = &part[..part.len().min(max - got)];
        hash.update(part);
        start.extend_from_slice(&part[..part.len().min(keep.saturating_sub(got))]);
        got += part.len();
        if got == max {
            break;
        }
    }
    Ok(Body { start: start.freeze(), sha256: hash.finalize().into() })
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let full = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let plain = full.split(';').next().unwrap_or(full).trim();
    (plain.len() <= 64 && plain.bytes().all(|byte| byte.is_ascii_graphic())).then(|| plain.to_owned())
}

/// `Date` has whole seconds, cut off, so half a second is added; the answer was written between both times.
fn skew(headers: &HeaderMap, before: Timestamp, after: Timestamp) -> Option<SignedDuration> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let theirs = Timestamp::try_from(date).ok()? + SignedDuration::from_millis(500);
    Some(theirs.duration_since(before + after.duration_since(before) / 2))
}
