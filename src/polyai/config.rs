//! `[polyai]` and `[[projects]]`: the projects, their hosts and their keys.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use super::region::{Hosts, Region};
use crate::secret::Secret;

/// `[polyai]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolyAiConfig {
    /// Region of all projects that name none. If it is not set and `base_url` is one of PolyAI's hosts, the region of that
    /// host.
    pub region: Option<Region>,
    /// API that serves conversations.
    pub api: ApiChoice,
    /// Replaces the runtime host (`https://api.us-1.platform.polyai.app`).
    #[schemars(with = "Option<String>")]
    pub base_url: Option<Url>,
    /// Replaces the platform host (`https://api.us.poly.ai`).
    #[schemars(with = "Option<String>")]
    pub platform_url: Option<Url>,
    /// Maximum requests per second for one project.
    #[schemars(range(min = 1))]
    pub max_requests_per_second: u32,
}

impl Default for PolyAiConfig {
    fn default() -> Self {
        Self {
            region: None,
            api: ApiChoice::Auto,
            base_url: None,
            platform_url: None,
            max_requests_per_second: 50,
        }
    }
}

/// The API that serves conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApiChoice {
    /// v3, and the Data API where v3 does not serve the path.
    #[default]
    Auto,
    /// v3 only.
    V3,
    /// The Data API only.
    Data,
}

/// One entry of `[[projects]]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    /// Account (workspace): slug (`acme-uk`) or `ws-…`, as in the URL of Agent Studio.
    pub account_id: String,
    /// Project (agent): slug (`acme-team-4`) or `PROJECT-…`.
    pub project_id: String,
    /// Key for the Conversations API of this project and region.
    #[serde(default)]
    pub api_key: Secret,
    /// File with the key, instead of `api_key`.
    pub api_key_file: Option<PathBuf>,
    /// Key for the Data API, if it is another one.
    pub data_api_key: Option<Secret>,
    /// File with that key, instead of `data_api_key`.
    pub data_api_key_file: Option<PathBuf>,
    /// Region of the project, if it is not `polyai.region`.
    pub region: Option<Region>,
    /// API that serves this project, if it is not `polyai.api`.
    pub api: Option<ApiChoice>,
}

/// An error in these sections.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The URL names an API version that polyhook does not support.
    #[error(
        "polyai.base_url ends in /{0}: the Conversations API v1 is unsupported since 31 August 2026 and v2 takes another kind of key; give the host alone and ask PolyAI for a v3 key"
    )]
    UnsupportedVersion(String),
    /// `https://api.poly.ai`
    #[error("{0}: there is no PolyAI host without a region; use https://api.us.poly.ai (or uk, eu, studio)")]
    HostWithoutRegion(&'static str),
    /// The URL is not http or https.
    #[error(
        "{0} is not an http or https URL; write https://HOST, or remove the key to use the region's hosts"
    )]
    NotHttpUrl(&'static str),
    /// The HTTP client cannot be built.
    #[error("there is no HTTP client: {}", super::http::CLIENT_SETUP_HINT)]
    ClientSetup,
    /// A project in a region without v3 is pinned to v3.
    #[error("project {0}: Studio tenants have no v3 API; set api = \"data\" (or leave it at \"auto\")")]
    StudioHasNoV3(String),
    /// A key is missing.
    #[error(
        "project {0}: there is no api_key; set projects.api_key_file (or projects.api_key, or POLYAI_API_KEY)"
    )]
    MissingKey(String),
    /// A key was copied with something else, or is something else.
    #[error("project {0}: the API key is wrong: {1}; store only the key, as PolyAI gave it to you")]
    WrongKey(String, &'static str),
    /// An id is empty.
    #[error("a project has an empty {0}; take it from the URL of Agent Studio")]
    EmptyId(&'static str),
    /// Two entries have the same ids.
    #[error("project {0} is configured twice; remove one of the [[projects]] entries")]
    DuplicateProject(String),
    /// No HTTP header can carry the key.
    #[error(
        "project {0}: the API key contains characters that no HTTP header can carry; is it the right file?"
    )]
    InvalidKey(String),
}

impl PolyAiConfig {
    /// Returns the hosts of a project. `region` is the project's own setting.
    pub(super) fn hosts(&self, region: Option<Region>) -> Result<Hosts, ConfigError> {
        let region = region
            .or(self.region)
            .or_else(|| self.base_url.as_ref().and_then(Region::of_host))
            .or_else(|| self.platform_url.as_ref().and_then(Region::of_host))
            .unwrap_or_default();
        let mut hosts = region.hosts();
        if let Some(url) = &self.base_url {
            hosts.runtime = Some(base("polyai.base_url", url)?);
        }
        if let Some(url) = &self.platform_url {
            hosts.platform = base("polyai.platform_url", url)?;
        }
        Ok(hosts)
    }
}

/// Checks the base URL of an API and removes query, fragment and version.
fn base(name: &'static str, url: &Url) -> Result<Url, ConfigError> {
    if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
        return Err(ConfigError::NotHttpUrl(name));
    }
    if url.host_str() == Some("api.poly.ai") {
        return Err(ConfigError::HostWithoutRegion(name));
    }
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let last = url.path_segments().and_then(|mut segments| segments.rfind(|segment| !segment.is_empty()));
    match last.map(str::to_owned).as_deref() {
        Some(version @ ("v1" | "v2")) => return Err(ConfigError::UnsupportedVersion(version.to_owned())),
        Some("v3") => {
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().pop();
            }
        }
        _ => {}
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(base_url: &str) -> PolyAiConfig {
        PolyAiConfig { base_url: Some(base_url.parse().unwrap()), ..PolyAiConfig::default() }
    }

    #[test]
    fn takes_the_region_from_the_quickstarts_base_url() {
        let hosts = config("https://api.uk-1.platform.polyai.app").hosts(None).unwrap();
        assert_eq!(hosts.platform.as_str(), "https://api.uk.poly.ai/");
    }

    #[test]
    fn rejects_old_versions_and_wrong_hosts() {
        assert!(matches!(config("https://h/v1/").hosts(None), Err(ConfigError::UnsupportedVersion(_))));
        assert!(matches!(config("https://h/v2").hosts(None), Err(ConfigError::UnsupportedVersion(_))));
        assert!(matches!(config("https://api.poly.ai").hosts(None), Err(ConfigError::HostWithoutRegion(_))));
        assert!(matches!(config("mailto:x@y.z").hosts(None), Err(ConfigError::NotHttpUrl(_))));
        assert_eq!(config("https://h/v3/").hosts(None).unwrap().runtime.unwrap().as_str(), "https://h/");
    }
}
