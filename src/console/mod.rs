//! The console: pages on which people see and hear what happened.
//!
//! The sources are the archive, its index and the queue. The console has no store of its own, and changes nothing unless
//! `console.allow_replay` is set. Erasing stays on the command line.
//!
//! Pages are rendered on the server, and all assets are in the binary. Without JavaScript everything works but the live view,
//! and a recording has the browser's own controls only. A part that is away leaves the others usable.
//!
//! A page is a module with its `routes`. Each request passes `access` first.

mod access;
mod address;
mod assets;
mod config;
mod conversation;
mod conversations;
mod dead;
mod error;
mod extract;
#[cfg(test)]
mod fixture;
mod format;
mod layout;
mod live;
mod mask;
mod overview;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware, routing::get};
use http::{Request, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

pub use self::{
    access::ProxyNetwork,
    config::ConsoleConfig,
    live::{LiveFeed, LiveLine, LivePlace, LiveViewer},
    overview::Overview,
};
use self::{
    access::{Access, Client},
    error::PageError,
};
use crate::{
    archive::Archive,
    clock::Clock,
    health::Health,
    index::Index,
    lifecycle::Lifecycle,
    queue::Queue,
    shell,
    web::{ConnectionLimits, RequestBody},
};

/// Time that a client has to take an answer. A recording that is paused, and the live view, take long; a browser asks again.
const TRANSFER_TIMEOUT: Duration = Duration::from_hours(1);
/// Time that a connection may stay open without a request.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Connections at the same time. A browser opens up to six.
const MAX_CONNECTIONS: usize = 256;
/// Bytes of one request's headers. The cookies of an authenticating proxy take several KiB.
const MAX_HEADER_BYTES: usize = 32 << 10;

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
    /// The absolute path of the configuration file, if one was named.
    pub config_file: Option<PathBuf>,
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
            max_header_bytes: MAX_HEADER_BYTES,
            // A browser that closes its connection has left the page.
            half_close: false,
        }
    }

    /// Returns the command line that runs polyhook with these arguments and the configuration of this process.
    fn command(&self, arguments: &str) -> String {
        command_with(self.config_file.as_deref(), arguments)
    }

    /// Returns the service that answers requests. It reports unusable files of tokens to `health`.
    pub fn service(self, health: Health) -> ConsoleService {
        let access = Arc::new(Access::new(&self.config, self.clock.clone(), health));
        ConsoleService { router: router_with(&access, Arc::new(self)), access }
    }
}

/// Puts the option first, because the arguments may end with `--` and an id.
fn command_with(config_file: Option<&Path>, arguments: &str) -> String {
    let option = config_file.map(|path| format!(" --config {}", shell::quote(&path.to_string_lossy())));
    format!("polyhook{} {arguments}", option.unwrap_or_default())
}

/// The pages, and who may see them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConsoleService {
    router: Router,
    access: Arc<Access>,
}

impl ConsoleService {
    /// Returns the service of one connection.
    pub fn of_client(&self, client: SocketAddr) -> ClientService {
        ClientService { router: TowerToHyperService::new(self.router.clone()), client: client.ip() }
    }

    /// Reads the file of tokens again. Call it every second, and on SIGHUP.
    pub async fn refresh(&self) {
        self.access.reload().await;
    }
}

/// Answers the requests of one connection.
#[derive(Clone, Debug)]
pub struct ClientService {
    router: TowerToHyperService<Router>,
    client: IpAddr,
}

impl Service<Request<RequestBody>> for ClientService {
    type Response = <TowerToHyperService<Router> as Service<Request<RequestBody>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<RequestBody>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<RequestBody>>>::Future;

    fn call(&self, mut request: Request<RequestBody>) -> Self::Future {
        request.extensions_mut().insert(Client(Some(self.client)));
        self.router.call(request)
    }
}

fn router_with(access: &Arc<Access>, console: Arc<Console>) -> Router {
    let pages = Router::new()
        .merge(overview::routes())
        .merge(conversation::routes())
        .merge(live::routes())
        .merge(conversations::routes())
        .merge(dead::routes())
        .merge(access::logout_route(access))
        .fallback(async || PageError::not_found("There is no such page.", "Start from the overview."))
        .method_not_allowed_fallback(async || {
            let what = "This page does not accept such a request.";
            PageError::new(StatusCode::METHOD_NOT_ALLOWED, what, "Start from the overview.")
        });
    let pages = pages.layer(middleware::from_fn_with_state(Arc::clone(access), access::check));
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .merge(assets::routes())
        .merge(access::login_routes(access))
        .merge(pages)
        .layer(middleware::from_fn_with_state(Arc::clone(access), access::guard))
        .layer(middleware::map_response(layout::add_security_headers))
        .with_state(console)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page that nobody waits for any more must not take the place of another one.
    #[test]
    fn a_viewer_who_leaves_cancels_the_request() {
        assert!(!Console::connection_limits().half_close);
    }

    #[test]
    fn commands_name_the_configuration_of_the_process() {
        assert_eq!(command_with(None, "list"), "polyhook list");
        let file = Path::new("/srv/my demo/polyhook.toml");
        assert_eq!(
            command_with(Some(file), "dead show -- -x"),
            "polyhook --config '/srv/my demo/polyhook.toml' dead show -- -x"
        );
    }
}
