//! A client for PolyAI's REST APIs.
//!
//! Two APIs serve conversations and recordings: v3 on the regional runtime host, and the Data API on the regional
//! `poly.ai` host. The reference of August 2026 no longer lists v3's paths for one conversation and its audio. So
//! [`PolyAiClient`] asks v3 first and, if v3 does not serve the path, the Data API, then the list of v3; it remembers for a
//! while, for each project and kind of request, that PolyAI said so. `api = "v3"` or `"data"` pins the choice.
//!
//! Every error has advice for its caller ([`ApiError::advice`]). Only PolyAI's own word is final: an answer in its error
//! envelope with a code that is known to be final (`envelope.rs`). The API key is in one header, marked as sensitive, and
//! nowhere else. Redirects to another host are followed without it ([`http`]).

mod account;
mod client;
mod config;
mod conversation;
mod correlation;
mod data_access;
mod envelope;
mod error;
mod fallback;
mod fetch;
pub mod http;
mod key;
mod list;
pub mod probe;
mod project;
mod region;
mod request;
mod throttle;
mod webhooks;

pub use account::{AccountError, check_config, find_account};
pub use client::PolyAiClient;
pub use config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig};
pub use conversation::{ConversationInfo, Handoff, ListedConversation, NotAConversation};
pub use error::{Advice, ApiError, ErrorKind, MAX_RETRY_AFTER};
pub use fallback::Route;
pub use fetch::{Conversation, Recording};
pub use list::{
    ConversationHint, ConversationLister, EndlessList, ListError, ListFailure, ListQuery, ListWindow,
};
pub use project::{Project, UnknownProject};
pub use region::{Hosts, Region};
pub use request::{ApiRequest, Target};
pub use webhooks::{CreatedEndpoint, Endpoint, EndpointSettings, WebhooksClient, WebhooksError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the two APIs that serve conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `GET /v3/{account_id}/{project_id}/conversations/…` on `platform.polyai.app`.
    V3,
    /// `GET /v1/agents/{agentId}/conversations/…` on `poly.ai`.
    Data,
}

impl Api {
    /// Returns `v3` or `data`.
    pub fn label(self) -> &'static str {
        match self {
            Self::V3 => "v3",
            Self::Data => "data",
        }
    }
}

/// The parties that a recording contains, as PolyAI's parameter `direction` names them.
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
    /// Returns the value of the parameter.
    pub fn label(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::User => "user",
            Self::Agent => "agent",
        }
    }
}
