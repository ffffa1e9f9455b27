//! PolyAI's REST APIs, as far as polyhook reads them.
//!
//! A conversation and its recording are served by two APIs: v3 on the regional runtime host, and the Data API
//! on the regional `poly.ai` host. The reference of August 2026 no longer lists v3's by-id and audio paths, so
//! [`PolyAiClient`] asks v3 first and, where the path itself is not served, the Data API; it remembers per project
//! and path what worked. `api = "v3"` or `"data"` pins it.
//!
//! Every error says what to do about it ([`ApiError::advice`]). The key goes into one header, marked
//! sensitive, and nowhere else; redirects to another host are refused, so it cannot leak that way either.

mod client;
mod config;
mod conversation;
mod error;
pub mod http;
mod key;
mod list;
pub mod probe;
mod region;
mod throttle;
mod webhooks;

pub use client::{Conversation, PolyAiClient, Project, Recording, UnknownProject};
pub use config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig};
pub use conversation::{ConversationInfo, Handoff};
pub use error::{Advice, ApiError, ErrorKind};
pub use list::{ConversationLister, ListQuery, ListedConversation};
pub use region::{Hosts, Region};
pub use webhooks::{CreatedEndpoint, Endpoint, EndpointSettings, WebhooksClient, WebhooksError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API that served something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `GET /v3/{account_id}/{project_id}/conversations/…` on `platform.polyai.app`.
    V3,
    /// `GET /v1/agents/{agentId}/conversations/…` on `poly.ai`.
    Data,
}

impl Api {
    /// `v3` or `data`
    pub fn label(self) -> &'static str {
        match self {
            Self::V3 => "v3",
            Self::Data => "data",
        }
    }
}

/// Which side of the call to download, as PolyAI's `direction` parameter names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AudioDirection {
    /// Both parties mixed.
    Combined,
    /// The caller alone.
    User,
    /// The agent alone.
    Agent,
}

impl AudioDirection {
    /// The parameter's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::User => "user",
            Self::Agent => "agent",
        }
    }
}
