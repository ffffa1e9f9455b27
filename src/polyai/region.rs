//! The hosts of PolyAI's APIs (API introduction, June 2026).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Api;

/// A region of PolyAI. A key is valid in one region; in another it is answered 401.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// United States.
    #[default]
    Us,
    /// United Kingdom.
    Uk,
    /// European Union.
    Eu,
    /// `studio.poly.ai` tenants: the `poly.ai` host only, no v3.
    Studio,
}

/// The hosts of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Runtime and v3 conversations; `None` for [`Region::Studio`], or if it is not known.
    pub runtime: Option<Url>,
    /// Data, Agents, Alerts and Webhooks APIs; `None` if it is not known.
    pub platform: Option<Url>,
}

impl Region {
    /// All regions.
    pub const ALL: [Self; 4] = [Self::Us, Self::Uk, Self::Eu, Self::Studio];

    /// Returns the name in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Uk => "uk",
            Self::Eu => "eu",
            Self::Studio => "studio",
        }
    }

    /// Returns the hosts of the region. `api.poly.ai` is none of them: it serves no region.
    pub fn hosts(self) -> Hosts {
        let (runtime, platform) = match self {
            Self::Us => (Some("https://api.us-1.platform.polyai.app"), "https://api.us.poly.ai"),
            Self::Uk => (Some("https://api.uk-1.platform.polyai.app"), "https://api.uk.poly.ai"),
            Self::Eu => (Some("https://api.euw-1.platform.polyai.app"), "https://api.eu.poly.ai"),
            Self::Studio => (None, "https://api.studio.poly.ai"),
        };
        let parse = |text: &str| Url::parse(text).unwrap_or_else(|_| unreachable!("{text} is a URL"));
        Hosts { runtime: runtime.map(parse), platform: Some(parse(platform)) }
    }

    /// Returns the region of one of PolyAI's hosts. A configuration with only `POLYAI_BASE_URL`, as in the quickstarts,
    /// names its region by it.
    pub fn of_host(url: &Url) -> Option<Self> {
        Self::served_by(url).map(|(region, _)| region)
    }

    /// Returns the region of one of PolyAI's hosts, and the API that it serves.
    pub fn served_by(url: &Url) -> Option<(Self, Api)> {
        let host = host_name(url)?;
        Self::ALL.into_iter().find_map(|region| {
            let Hosts { runtime, platform } = region.hosts();
            let is_given = |known: &Url| known.host_str() == Some(host);
            let api = match (runtime, platform) {
                (Some(runtime), _) if is_given(&runtime) => Api::V3,
                (_, Some(platform)) if is_given(&platform) => Api::Data,
                _ => return None,
            };
            Some((region, api))
        })
    }
}

/// Returns the name of a host without the dot that may end it.
pub(super) fn host_name(url: &Url) -> Option<&str> {
    url.host_str().map(|host| host.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_the_region_and_the_api_of_a_host() {
        let served = |url: &str| Region::served_by(&Url::parse(url).unwrap());
        assert_eq!(served("https://api.euw-1.platform.polyai.app/"), Some((Region::Eu, Api::V3)));
        assert_eq!(served("https://API.uk.poly.ai.:443/v1"), Some((Region::Uk, Api::Data)));
        assert_eq!(served("https://api.studio.poly.ai"), Some((Region::Studio, Api::Data)));
        for unknown in
            ["https://api.poly.ai", "https://studio.us.poly.ai", "https://api.us.poly.ai.example.com"]
        {
            assert_eq!(served(unknown), None);
        }
    }
}
