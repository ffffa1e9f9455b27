//! The console: pages on which people see and hear what happened.
//!
//! The sources are the archive, its index and the queue. The console has no store of its own, and changes nothing unless
//! `console.allow_replay` is set. Erasing stays on the command line.
//!
//! Pages are rendered on the server, and all assets are in the binary. Without JavaScript everything works but playing a
//! recording and the live view. A part that is away leaves the others usable.
//!
//! A page is a module with its `routes`. Each request passes [`access`] first.

mod access;
mod assets;
mod config;
mod conversations;
mod dead;
mod error;
mod format;
mod layout;
mod live;
mod mask;
mod overview;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware, routing::get};
use hyper_util::service::TowerToHyperService;

use self::{access::Access, error::PageError};
pub use self::{
    config::ConsoleConfig,
    live::{LiveFeed, LiveLine, LivePlace, LiveViewer},
    overview::Overview,
};
use crate::{
    archive::Archive, clock::Clock, index::Index, lifecycle::Lifecycle, queue::Queue, web::ConnectionLimits,
};

/// Time that a client has to take an answer. A recording that is paused, and the live view, take long; a browser asks again.
const TRANSFER_TIMEOUT: Duration = Duration::from_hours(1);
/// Time that a connection may stay open without a request.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Connections at the same time. A browser opens up to six.
const MAX_CONNECTIONS: usize = 256;

/// Everything that the pages read.
#[derive(Debug)]
pub struct Console {
    /// The `[console]` section.
    pub config: ConsoleConfig,
    /// The conversations.
    pub archive: Archive,
    /// The tables of calls and turns.
    pub index: Index,
    /// The jobs and dead letters.
    pub queue: Arc<dyn Queue>,
    /// The state of the installation.
    pub overview: Arc<Overview>,
    /// The events as they happen.
    pub live: Arc<LiveFeed>,
    /// The time.
    pub clock: Clock,
    /// Tasks that outlive their request.
    pub lifecycle: Lifecycle,
}

impl Console {
    /// Returns the limits of the console's connections.
    pub fn connection_limits() -> ConnectionLimits {
        ConnectionLimits {
            transfer_timeout: TRANSFER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
        }
    }

    /// Returns the console's routes.
    pub fn service(self) -> TowerToHyperService<Router> {
        TowerToHyperService::new(router(Arc::new(self)))
    }
}

fn router(console: Arc<Console>) -> Router {
    let access = Arc::new(Access::new(&console.config));
    let pages = Router::new()
        .merge(overview::routes())
        .merge(live::routes())
        .merge(conversations::routes())
        .merge(dead::routes())
        .fallback(async || PageError::not_found("There is no such page.", "Start from the overview."));
    let pages = pages.layer(middleware::from_fn_with_state(Arc::clone(&access), access::check));
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .merge(assets::routes())
        .merge(pages)
        .layer(middleware::map_response(layout::add_security_headers))
        .with_state(console)
}
