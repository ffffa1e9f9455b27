//! Builds requests to v3 and the Data API: the only place that knows their paths, parameters and headers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderValue, Method, header::ACCEPT};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder};
use url::Url;

use super::{
    Api, AudioDirection, Hosts,
    config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig},
    correlation::CorrelationId,
    error::CORRELATION_HEADER,
    key::Key,
};
use crate::secret::Secret;

/// The characters of an identifier that are not encoded in a path: the unreserved characters of RFC 3986.
const ENCODED_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request for conversations or recordings. All are GETs.
#[derive(Clone, Copy, Debug)]
pub enum ApiRequest<'a> {
    /// A list of at most this many conversations, newest first.
    List {
        /// Entries of a page.
        limit: usize,
    },
    /// One conversation.
    Conversation {
        /// PolyAI's id.
        id: &'a str,
    },
    /// The recording of a conversation.
    Audio {
        /// PolyAI's id.
        id: &'a str,
        /// The parties to hear.
        direction: AudioDirection,
        /// If true, the redacted recording is requested.
        redacted: bool,
    },
}

impl ApiRequest<'_> {
    /// Returns the `Accept` header.
    pub(super) fn accept(self) -> &'static str {
        match self {
            Self::List { .. } | Self::Conversation { .. } => "application/json",
            Self::Audio { .. } => "audio/wav",
        }
    }

    /// Returns the metric label.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Conversation { .. } => "conversation",
            Self::Audio { .. } => "audio",
        }
    }
}

/// One API of one project at one host, and the key for it.
#[derive(Clone, Debug)]
pub struct Target {
    api: Api,
    base: Url,
    account_id: String,
    project_id: String,
    key: Arc<Key>,
    /// The last value of the key that this API accepted.
    accepted_key: Arc<Mutex<Option<HeaderValue>>>,
}

impl Target {
    /// Returns the targets that the configuration names: v3 first, then the Data API.
    pub fn configured(config: &PolyAiConfig, project: &ProjectConfig) -> Result<Vec<Self>, ConfigError> {
        let choice = project.api.unwrap_or(config.api);
        let hosts = config.hosts(project.region, choice)?;
        let key = |key: &Secret, file: &Option<std::path::PathBuf>| {
            let unusable = || ConfigError::InvalidKey(project.project_id.clone());
            Key::new(key, file.clone()).map(Arc::new).ok_or_else(unusable)
        };
        let own_key = key(&project.api_key, &project.api_key_file)?;
        let data_key = match &project.data_api_key {
            Some(data_key) => key(data_key, &project.data_api_key_file)?,
            None => Arc::clone(&own_key),
        };
        let target = |api, base, key| Self {
            api,
            base,
            account_id: project.account_id.clone(),
            project_id: project.project_id.clone(),
            key,
            accepted_key: Arc::default(),
        };
        let v3 = hosts.runtime.filter(|_| choice != ApiChoice::Data);
        let v3 = v3.map(|base| target(Api::V3, base, own_key));
        let data = hosts.platform.filter(|_| choice != ApiChoice::V3);
        let data = data.map(|base| target(Api::Data, base, data_key));
        Ok(v3.into_iter().chain(data).collect())
    }

    /// Returns the targets with the same project and key at other hosts: v3 first, if there is a host for it.
    pub fn at_hosts(&self, hosts: &Hosts) -> Vec<Self> {
        let at = |api, host: &Option<Url>| host.clone().map(|base| self.with(api, base));
        at(Api::V3, &hosts.runtime).into_iter().chain(at(Api::Data, &hosts.platform)).collect()
    }

    /// Returns the target for the other API at the same host.
    #[must_use]
    pub fn other_api(&self) -> Self {
        let api = match self.api {
            Api::V3 => Api::Data,
            Api::Data => Api::V3,
        };
        self.with(api, self.base.clone())
    }

    fn with(&self, api: Api, base: Url) -> Self {
        Self { api, base, accepted_key: Arc::default(), ..self.clone() }
    }

    /// Returns the API.
    pub fn api(&self) -> Api {
        self.api
    }

    /// Returns the URL of the host.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Returns the name of the host.
    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or("no host")
    }

    /// Returns the name of the host and its port, unless that is the usual one.
    pub fn host_and_port(&self) -> String {
        let host = self.host();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Returns whether both targets have the same key.
    pub fn has_same_key_as(&self, other: &Self) -> bool {
        self.key.header() == other.key.header()
    }

    pub(super) fn project_id(&self) -> &str {
        &self.project_id
    }

    pub(super) fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Notes that the API accepted this value of the key.
    pub(super) fn note_accepted(&self, key: &HeaderValue) {
        let mut accepted = self.accepted_key();
        if accepted.as_ref() != Some(key) {
            *accepted = Some(key.clone());
        }
    }

    /// Returns whether the API has accepted this value of the key in this process.
    pub(super) fn has_accepted(&self, key: &HeaderValue) -> bool {
        self.accepted_key().as_ref() == Some(key)
    }

    fn accepted_key(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.accepted_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the URL of a request, or `None` for an id that no path can carry.
    pub(super) fn url(&self, request: ApiRequest<'_>) -> Option<Url> {
        let (account, project) =
            (encode_path_segment(&self.account_id), encode_path_segment(&self.project_id));
        let base = self.base.path().trim_end_matches('/');
        let list = match self.api {
            Api::V3 => format!("{base}/v3/{account}/{project}/conversations"),
            Api::Data => format!("{base}/v1/agents/{project}/conversations"),
        };
        let mut url = self.base.clone();
        match request {
            ApiRequest::List { limit } => {
                url.set_path(&list);
                url.query_pairs_mut().append_pair("limit", &limit.to_string());
            }
            // A URL resolves such an id, and the request would be for the list of all conversations.
            ApiRequest::Conversation { id: "" | "." | ".." }
            | ApiRequest::Audio { id: "" | "." | "..", .. } => return None,
            ApiRequest::Conversation { id } => {
                url.set_path(&format!("{list}/{}", encode_path_segment(id)));
            }
            ApiRequest::Audio { id, direction, redacted } => {
                url.set_path(&format!("{list}/{}/audio", encode_path_segment(id)));
                url.query_pairs_mut()
                    .append_pair("direction", direction.label())
                    .append_pair("redacted", if redacted { "true" } else { "false" });
            }
        }
        Some(url)
    }
}

/// Encodes an identifier for a path. The setters of a URL drop tabs and newlines, and so would ask for the conversation
/// of another id.
fn encode_path_segment(id: &str) -> String {
    utf8_percent_encode(id, ENCODED_IN_PATH).to_string()
}

/// Builds a request with an API key and a correlation id. The key is in one header, marked as sensitive, and nowhere else.
pub(super) fn authorized(
    http: &Client,
    method: Method,
    url: Url,
    key: HeaderValue,
    accept: &'static str,
    id: &CorrelationId,
) -> RequestBuilder {
    http.request(method, url)
        .header("x-api-key", key)
        .header(ACCEPT, HeaderValue::from_static(accept))
        .header(CORRELATION_HEADER, id.header())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_escapes_its_path_segment() {
        let project = ProjectConfig {
            account_id: "a/c".to_owned(),
            project_id: "p?q".to_owned(),
            api_key: Secret::new("key"),
            ..ProjectConfig::default()
        };
        let [v3, data] = &Target::configured(&PolyAiConfig::default(), &project).unwrap()[..] else {
            panic!("two APIs")
        };
        let url = |id: &str| v3.url(ApiRequest::Conversation { id }).map(|url| url.path().to_owned());
        assert_eq!(url("CA1").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/CA1");
        assert_eq!(url("../../x%2f#?").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/..%2F..%2Fx%252f%23%3F");
        assert_eq!(url("\tC\nA1\0").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/%09C%0AA1%00");
        assert_eq!(url(".\t.").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/.%09.");
        assert_eq!(url("%2e%2e").unwrap(), "/v3/a%2Fc/p%3Fq/conversations/%252e%252e");
        assert_eq!((url(".."), url("")), (None, None));
        let audio = ApiRequest::Audio { id: "C/1", direction: AudioDirection::User, redacted: true };
        assert!(
            data.url(audio)
                .unwrap()
                .as_str()
                .ends_with("/v1/agents/p%3Fq/conversations/C%2F1/audio?direction=user&redacted=true")
        );
    }
}
