//! Opens and starts the console.

use std::{net::SocketAddr, sync::Arc};

use super::{BoundListener, Context, StartError, status::open_status_reader_of};
use crate::{
    archive::Archive,
    clock::Clock,
    config::Config,
    console::{Console, ConsoleService, LiveFeed, Overview},
    index::Index,
    lifecycle::Lifecycle,
    queue::Queue,
    web::{self, AdminConfig},
};

/// Opens everything that the pages read. Sends no request yet. `admin` is the address of this process's admin listener, if it
/// has one.
pub(super) fn open(
    config: &Config,
    queue: &Arc<dyn Queue>,
    admin: Option<SocketAddr>,
    clock: &Clock,
    lifecycle: &Lifecycle,
) -> Result<Console, StartError> {
    let archive = Archive::open(&config.archive, clock.clone())?;
    let index = Index::open(&config.index, archive.clone(), clock.clone()).map_err(StartError::Index)?;
    let admin = admin.map_or(config.admin.clone(), |listen| AdminConfig { listen });
    let status = open_status_reader_of(config, &admin, clock.clone())?;
    Ok(Console {
        config: config.console.clone(),
        archive,
        index,
        queue: Arc::clone(queue),
        overview: Arc::new(Overview::new(status, clock.clone(), lifecycle.clone())),
        live: LiveFeed::new(&config.queue, clock.clone(), lifecycle.clone())?,
        config_file: config.file.as_deref().and_then(|file| std::path::absolute(file).ok()),
        clock: clock.clone(),
        lifecycle: lifecycle.clone(),
    })
}

pub(super) fn start(context: &Context<'_>, bound: BoundListener, console: Console) -> ConsoleService {
    let lifecycle = context.lifecycle.clone();
    let limits = Console::connection_limits();
    let (overview, draining) = (Arc::clone(&console.overview), lifecycle.draining());
    lifecycle.spawn_service("console samples", async move {
        draining.run_until_cancelled(overview.take_samples()).await;
    });
    let service = console.service(context.health.clone());
    let pages = service.clone();
    let of_client = move |client| pages.of_client(client);
    let serve = web::serve("console", bound.listener, of_client, limits, lifecycle.clone());
    lifecycle.spawn_service("console", serve);
    tracing::info!(address = %bound.address, "serving the console");
    service
}
