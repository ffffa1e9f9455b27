//! The style sheets, scripts and images, which are in the binary.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use sha2::{Digest, Sha256};

use super::Console;

struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

const ASSETS: &[Asset] = &[
    Asset {
        name: "console.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/console.css"),
    },
    Asset {
        name: "console.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/console.js"),
    },
    Asset {
        name: "conversation.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/conversation.css"),
    },
    Asset {
        name: "conversation.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/conversation.js"),
    },
    Asset {
        name: "overview.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/overview.css"),
    },
    Asset {
        name: "overview.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/overview.js"),
    },
    Asset {
        name: "live.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/live.css"),
    },
    Asset {
        name: "live.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/live.js"),
    },
    Asset {
        name: "dead.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/dead.css"),
    },
    Asset {
        name: "dead.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/dead.js"),
    },
    Asset {
        name: "conversations.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/conversations.css"),
    },
    Asset { name: "icon.svg", content_type: "image/svg+xml", content: include_str!("assets/icon.svg") },
];

/// A part of the hash of all assets. It is in their addresses, so browsers may keep them forever.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.content);
    }
    hex::encode(&hash.finalize()[..6])
});

/// Returns the address of an asset.
pub(super) fn asset_url(name: &str) -> String {
    format!("/assets/{}/{name}", *VERSION)
}

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new().route("/assets/{version}/{name}", get(asset))
}

async fn asset(Path((_, name)): Path<(String, String)>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.content).into_response()
}
