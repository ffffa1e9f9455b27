//! `[polyai]` and `[[projects]]`: the projects, their hosts and their keys.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use super::{
    Api,
    region::{Hosts, Region, host_name},
};
use crate::{problem::Problem, secret::Secret};

/// `[polyai]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolyAiConfig {
    /// Region of all projects that name none. If it is not set, the region of PolyAI's host that `base_url` or
    /// `platform_url` names.
    pub region: Option<Region>,
    /// API that serves conversations.
    pub api: ApiChoice,
    /// Replaces the runtime host (`https://api.us-1.platform.polyai.app`). One of PolyAI's `poly.ai` hosts counts as
    /// `platform_url`. If it is another host, `platform_url` (or `region`, or `api = "v3"`) must be set, too.
    #[schemars(with = "Option<String>")]
    pub base_url: Option<Url>,
    /// Replaces the platform host (`https://api.us.poly.ai`). If it is not PolyAI's, `base_url` (or `region`, or `api =
    /// "data"`) must be set, too.
    #[schemars(with = "Option<String>")]
    pub platform_url: Option<Url>,
    /// Maximum requests per second for one project. A 429 halves the rate, and successful requests raise it again.
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
            max_requests_per_second: 10,
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
    /// Account (workspace): slug (`acme-uk`) or `ws-…`, as in the URL of Agent Studio. If an only project does not
    /// set it, it is read from a conversation that the Data API lists.
    #[serde(default)]
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
        "{0} ends in /{1}: the Conversations API v1 is unsupported since 31 August 2026 and v2 takes another kind of key; give the host alone and ask PolyAI for a v3 key"
    )]
    UnsupportedVersion(&'static str, String),
    /// `https://api.poly.ai`
    #[error(
        "{0}: there is no PolyAI host without a region; use https://api.us.poly.ai (or uk, eu, studio), or https://api.us-1.platform.polyai.app (or uk-1, euw-1)"
    )]
    HostWithoutRegion(&'static str),
    /// One host is not PolyAI's, and the other one is not set.
    #[error(
        "{given} is not one of PolyAI's hosts, so it does not tell which host serves the other API, and polyhook sends a key only to hosts that you have named: set {missing} as well, or polyai.region to use PolyAI's own host, or polyai.api = \"{api}\" to do without"
    )]
    UnknownHost {
        /// The key of the host that is set.
        given: &'static str,
        /// The key of the host that is not.
        missing: &'static str,
        /// The API that the host that is set serves.
        api: &'static str,
    },
    /// The keys name PolyAI's hosts of two regions.
    #[error(
        "{0}, but PolyAI's host in polyai.base_url (POLYAI_BASE_URL) or polyai.platform_url (POLYAI_PLATFORM_URL) is of region {region}, and a key is valid in one region only: remove one of the two", region = .1.label()
    )]
    SeveralRegions(String, Region),
    /// The URL is not http or https.
    #[error(
        "{0} is not an http or https URL; write https://HOST, or remove the key to use the region's hosts"
    )]
    NotHttpUrl(&'static str),
    /// The URL contains a user or a password.
    #[error("{0} contains a user or a password, but PolyAI expects only the API key; write https://HOST")]
    UserInUrl(&'static str),
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
    #[error(
        "project {project}: the API key is wrong: {problem}; store only the key, as PolyAI gave it to you"
    )]
    WrongKey {
        /// The project.
        project: String,
        /// What is wrong.
        problem: &'static str,
        /// True if it is the key of the Data API.
        is_data: bool,
    },
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

/// The names of the two URLs in errors.
const BASE_URL: &str = "polyai.base_url (POLYAI_BASE_URL)";
const PLATFORM_URL: &str = "polyai.platform_url (POLYAI_PLATFORM_URL)";

impl ConfigError {
    /// Locates the error: in the entry `index` of `[[projects]]`, or in `[polyai]`.
    pub(super) fn problem(&self, index: usize) -> Problem {
        let project = |name: &str| format!("projects[{index}].{name}");
        let key = match self {
            Self::UnsupportedVersion(key, _)
            | Self::HostWithoutRegion(key)
            | Self::NotHttpUrl(key)
            | Self::UserInUrl(key)
            | Self::UnknownHost { given: key, .. } => key.split(' ').next().unwrap_or_default().to_owned(),
            Self::SeveralRegions(..) | Self::ClientSetup => "polyai.base_url".to_owned(),
            Self::StudioHasNoV3(_) => project("api"),
            Self::MissingKey(_) | Self::InvalidKey(_) | Self::WrongKey { is_data: false, .. } => {
                project("api_key")
            }
            Self::WrongKey { is_data: true, .. } => project("data_api_key"),
            Self::EmptyId(name) => project(name),
            Self::DuplicateProject(_) => project("project_id"),
        };
        let mut text = self.to_string();
        for name in [BASE_URL, PLATFORM_URL] {
            if let Some(rest) = text.strip_prefix(name) {
                text = rest.strip_prefix(": ").map_or_else(|| format!("it{rest}"), str::to_owned);
            }
        }
        let problem = Problem::new(key, text);
        match self {
            Self::UnknownHost { .. } | Self::SeveralRegions(..) => problem
                .with("polyai.region")
                .with("polyai.base_url")
                .with("polyai.platform_url")
                .with("polyai.api"),
            Self::StudioHasNoV3(_) => problem.with("polyai.region").with("polyai.api"),
            _ => problem,
        }
    }
}

impl PolyAiConfig {
    /// Returns every error of the two URLs that one of them has alone.
    pub(super) fn url_errors(&self) -> impl Iterator<Item = ConfigError> {
        let urls = [(BASE_URL, Api::V3, &self.base_url), (PLATFORM_URL, Api::Data, &self.platform_url)];
        let error = |(key, api, url): (_, _, &Option<Url>)| match NamedHost::new(key, api, url.as_ref()) {
            Ok(host) => host.and_then(|host| host.url().err()),
            Err(error) => Some(error),
        };
        urls.map(error).into_iter().flatten()
    }

    /// Returns these settings with the region and the hosts that they lead to, for a person to see.
    pub fn resolved(&self) -> Result<Self, ConfigError> {
        let Hosts { runtime, platform } = self.hosts(None, self.api)?;
        Ok(Self {
            region: self.effective_region(None)?,
            base_url: runtime,
            platform_url: platform,
            ..self.clone()
        })
    }

    /// Returns the region of a project, as its hosts name it. `None` if they are not PolyAI's.
    pub fn effective_region(&self, project_region: Option<Region>) -> Result<Option<Region>, ConfigError> {
        let base = NamedHost::new(BASE_URL, Api::V3, self.base_url.as_ref())?;
        let platform = NamedHost::new(PLATFORM_URL, Api::Data, self.platform_url.as_ref())?;
        let named = self.named_region(base.as_ref(), platform.as_ref())?;
        let default = (base.is_none() && platform.is_none()).then(Region::default);
        Ok(project_region.or(self.region).or(named).or(default))
    }

    /// Returns the hosts of a project that is served by `choice`. `project_region` is the project's own setting.
    ///
    /// A host of PolyAI's serves the API that it serves, whichever key names it. Other hosts serve the API of their key. A
    /// host that no key names is PolyAI's, and only if its region is certain: an API key is sent to no host that was
    /// guessed.
    pub(super) fn hosts(
        &self,
        project_region: Option<Region>,
        choice: ApiChoice,
    ) -> Result<Hosts, ConfigError> {
        let base = NamedHost::new(BASE_URL, Api::V3, self.base_url.as_ref())?;
        let platform = NamedHost::new(PLATFORM_URL, Api::Data, self.platform_url.as_ref())?;
        let named_region = self.named_region(base.as_ref(), platform.as_ref())?;
        let region = project_region.or(self.region).or(named_region);
        // The region of a project replaces PolyAI's hosts of another one.
        let applies = |host: &&NamedHost<'_>| host.region.is_none() || host.region == region;
        // The host that its own key names comes first.
        let named = |api| {
            let all = [base.as_ref(), platform.as_ref()].into_iter().flatten().filter(applies);
            let hosts = all.filter(|host| host.api == api).max_by_key(|host| host.is_in_place);
            hosts.map(NamedHost::url).transpose()
        };
        let public = match (region, &base, &platform) {
            (Some(region), ..) => region.hosts(),
            (None, None, None) => Region::default().hosts(),
            _ => Hosts::default(),
        };
        let runtime = named(Api::V3)?.or(public.runtime);
        let platform = named(Api::Data)?.or(public.platform);
        if platform.is_none() && choice != ApiChoice::V3 {
            return Err(ConfigError::UnknownHost { given: BASE_URL, missing: PLATFORM_URL, api: "v3" });
        }
        if runtime.is_none() && choice != ApiChoice::Data && region.is_none() {
            return Err(ConfigError::UnknownHost { given: PLATFORM_URL, missing: BASE_URL, api: "data" });
        }
        Ok(Hosts { runtime, platform })
    }

    /// Returns the region of the PolyAI host that a URL names.
    fn named_region(
        &self,
        base: Option<&NamedHost<'_>>,
        platform: Option<&NamedHost<'_>>,
    ) -> Result<Option<Region>, ConfigError> {
        let mut regions = [base, platform].into_iter().flatten().filter_map(|host| host.region);
        let Some(first) = regions.next() else { return Ok(None) };
        if let Some(second) = regions.find(|region| *region != first) {
            let other = format!("{BASE_URL} is of region {}", first.label());
            return Err(ConfigError::SeveralRegions(other, second));
        }
        match self.region {
            Some(region) if region != first => {
                Err(ConfigError::SeveralRegions(format!("polyai.region is {}", region.label()), first))
            }
            _ => Ok(Some(first)),
        }
    }
}

/// A host that the configuration names.
struct NamedHost<'a> {
    key: &'static str,
    url: &'a Url,
    /// The region, if it is a host of PolyAI's.
    region: Option<Region>,
    api: Api,
    /// True if the key is the one of the API.
    is_in_place: bool,
}

impl<'a> NamedHost<'a> {
    /// Checks the URL in `key`, which is meant for the host of `api`.
    fn new(key: &'static str, api: Api, url: Option<&'a Url>) -> Result<Option<Self>, ConfigError> {
        let Some(url) = url else { return Ok(None) };
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(ConfigError::NotHttpUrl(key));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::UserInUrl(key));
        }
        if host_name(url) == Some("api.poly.ai") {
            return Err(ConfigError::HostWithoutRegion(key));
        }
        let served = Region::served_by(url);
        let is_in_place = served.is_none_or(|(_, served)| served == api);
        Ok(Some(Self {
            key,
            url,
            region: served.map(|(region, _)| region),
            api: served.map_or(api, |(_, served)| served),
            is_in_place,
        }))
    }

    /// Returns the base URL of the API, without query, fragment and version. PolyAI's own hosts have no other path.
    fn url(&self) -> Result<Url, ConfigError> {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let segments = || url.path_segments().into_iter().flatten();
        let first = segments().next().filter(|_| self.region.is_some());
        let last = segments().rfind(|segment| !segment.is_empty());
        match (self.api, first.or(last).map(str::to_owned).as_deref()) {
            (Api::V3, Some(version @ ("v1" | "v2"))) => {
                return Err(ConfigError::UnsupportedVersion(self.key, version.to_owned()));
            }
            _ if self.region.is_some() => url.set_path(""),
            (Api::V3, Some("v3")) | (Api::Data, Some("v1")) => {
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop_if_empty().pop();
                }
            }
            _ => {}
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the hosts of `base_url` and `platform_url` (empty: not set).
    fn hosts_of(
        [base_url, platform_url]: [&str; 2],
        region: Option<Region>,
        project_region: Option<Region>,
        api: ApiChoice,
    ) -> Result<[String; 2], ConfigError> {
        let url = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        let (base_url, platform_url) = (url(base_url), url(platform_url));
        let config = PolyAiConfig { region, base_url, platform_url, ..PolyAiConfig::default() };
        let Hosts { runtime, platform } = config.hosts(project_region, api)?;
        let text = |url: Option<Url>| {
            url.map_or_else(String::new, |url| url.as_str().trim_end_matches('/').to_owned())
        };
        Ok([text(runtime), text(platform)])
    }

    const US: [&str; 2] = ["https://api.us-1.platform.polyai.app", "https://api.us.poly.ai"];
    const UK: [&str; 2] = ["https://api.uk-1.platform.polyai.app", "https://api.uk.poly.ai"];
    const STUDIO: [&str; 2] = ["", "https://api.studio.poly.ai"];

    #[test]
    fn each_host_goes_where_it_belongs_and_the_region_follows() {
        for (given, hosts) in [
            (["", ""], US),
            ([UK[0], ""], UK),
            ([UK[1], ""], UK),
            (["", UK[0]], UK),
            (["", UK[1]], UK),
            (UK, UK),
            ([UK[1], UK[0]], UK),
            ([UK[1], UK[1]], UK),
            ([STUDIO[1], ""], STUDIO),
            (["", STUDIO[1]], STUDIO),
            (
                ["https://API.uk.poly.ai./", ""],
                ["https://api.uk-1.platform.polyai.app", "https://api.uk.poly.ai."],
            ),
            (["https://api.uk.poly.ai/v1/", ""], UK),
            (["https://api.uk-1.platform.polyai.app/v3", ""], UK),
            (["https://api.uk-1.platform.polyai.app/v3/acme/desk/conversations?limit=1", ""], UK),
            (["https://api.uk.poly.ai/v1/agents/PROJECT-1", ""], UK),
            // A gateway in front of one of them.
            ([UK[1], "https://gateway/data/v1"], [UK[0], "https://gateway/data"]),
            (["https://gateway/v3/", UK[1]], ["https://gateway", UK[1]]),
            (["https://gateway", UK[0]], ["https://gateway", UK[1]]),
            ([UK[0], "http://gateway:8080"], [UK[0], "http://gateway:8080"]),
            (["https://one", "https://two"], ["https://one", "https://two"]),
        ] {
            assert_eq!(hosts_of(given, None, None, ApiChoice::Auto).unwrap(), hosts, "{given:?}");
        }
        let gateway = ["https://gateway", ""];
        let hosts = |region, project, api| hosts_of(gateway, region, project, api).unwrap();
        assert_eq!(hosts(Some(Region::Uk), None, ApiChoice::Auto), ["https://gateway", UK[1]]);
        assert_eq!(hosts(None, Some(Region::Uk), ApiChoice::Auto), ["https://gateway", UK[1]]);
        assert_eq!(hosts(None, None, ApiChoice::V3), gateway);
        let data = hosts_of(["", "https://gateway"], None, None, ApiChoice::Data).unwrap();
        assert_eq!(data, ["", "https://gateway"]);
        // The region of a project replaces the one that the URLs name.
        assert_eq!(hosts_of([US[0], ""], None, Some(Region::Uk), ApiChoice::Auto).unwrap(), UK);
        assert_eq!(hosts_of(US, Some(Region::Us), Some(Region::Studio), ApiChoice::Auto).unwrap(), STUDIO);
    }

    #[test]
    fn no_host_is_guessed() {
        for unknown in [
            "https://gateway",
            "http://127.0.0.1:8088",
            "https://studio.us.poly.ai/acme",
            "https://api.us.platform.polyai.app",
            "https://api.us.poly.ai.example.com",
        ] {
            for (given, api, missing) in [
                ([unknown, ""], ApiChoice::Auto, "set polyai.platform_url"),
                ([unknown, ""], ApiChoice::Data, "set polyai.platform_url"),
                (["", unknown], ApiChoice::Auto, "set polyai.base_url"),
                (["", unknown], ApiChoice::V3, "set polyai.base_url"),
            ] {
                let error = hosts_of(given, None, None, api).unwrap_err().to_string();
                assert!(error.contains(missing), "{given:?}: {error}");
            }
        }
    }

    #[test]
    fn rejects_old_versions_wrong_hosts_and_several_regions() {
        let error = |given| hosts_of(given, None, None, ApiChoice::Auto).unwrap_err();
        let known = "https://api.uk-1.platform.polyai.app/v1/acme/desk";
        for old in [["https://h/v1/", "https://d"], ["https://h/v2", "https://d"], [known, ""]] {
            assert!(matches!(error(old), ConfigError::UnsupportedVersion(..)));
        }
        for given in
            [["https://api.poly.ai", ""], ["", "https://api.poly.ai./v1"], [UK[0], "https://api.poly.ai"]]
        {
            let error = error(given);
            assert!(matches!(error, ConfigError::HostWithoutRegion(_)));
            assert!(error.to_string().contains("https://api.us-1.platform.polyai.app (or uk-1, euw-1)"));
        }
        assert!(matches!(error(["mailto:x@y.z", ""]), ConfigError::NotHttpUrl(_)));
        for given in [[UK[0], US[1]], [UK[1], US[0]], [UK[1], US[1]], [UK[1], STUDIO[1]]] {
            let error = error(given).to_string();
            assert!(error.contains("is of region uk, but"), "{error}");
        }
        let error = hosts_of([UK[1], ""], Some(Region::Eu), None, ApiChoice::Auto).unwrap_err().to_string();
        assert!(error.starts_with("polyai.region is eu, but") && error.contains("region uk"), "{error}");
    }
}
