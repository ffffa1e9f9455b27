//! The `[console]` section.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[console]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// Serve the console in `polyhook run`. `polyhook console` always serves it.
    pub enabled: bool,
    /// Address of the console. It shows conversations, so it must never be the public listener.
    pub listen: SocketAddr,
    /// Allow people to fetch conversations again, and to replay and drop dead letters.
    pub allow_replay: bool,
    /// Show phone numbers whole. By default all but the last digits are masked.
    pub show_numbers: bool,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 8090)),
            allow_replay: false,
            show_numbers: false,
        }
    }
}
