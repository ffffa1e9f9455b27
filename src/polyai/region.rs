//! The hosts of PolyAI's APIs (API introduction, June 2026).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

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

/// The two hosts of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// Runtime and v3 conversations; `None` for [`Region::Studio`].
    pub runtime: Option<Url>,
    /// Data, Agents, Alerts and Webhooks APIs.
    pub platform: Url,
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
        Hosts { runtime: runtime.map(parse), platform: parse(platform) }
    }

    /// Returns the region of one of PolyAI's hosts. A configuration with only `POLYAI_BASE_URL`, as in the quickstart,
    /// names its region by it.
    pub fn of_host(url: &Url) -> Option<Self> {
        Self::ALL.into_iter().find(|region| {
            let hosts = region.hosts();
            hosts.platform.host_str() == url.host_str()
                || hosts.runtime.is_some_and(|runtime| runtime.host_str() == url.host_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_the_region_of_a_host() {
        let region = |url: &str| Region::of_host(&Url::parse(url).unwrap());
        assert_eq!(region("https://api.euw-1.platform.polyai.app/"), Some(Region::Eu));
        assert_eq!(region("https://api.studio.poly.ai"), Some(Region::Studio));
        assert_eq!(region("https://api.poly.ai"), None);
    }
}
