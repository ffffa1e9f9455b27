//! Opens and starts the console.

use std::sync::Arc;

use super::{BoundListener, Context, StartError, open_status_reader};
use crate::{
    archive::Archive, clock::Clock, config::Config, console::Console, index::Index, queue::Queue, web,
};

/// Opens everything that the pages read. Sends no request yet.
pub(super) fn open(config: &Config, queue: &Arc<dyn Queue>, clock: &Clock) -> Result<Console, StartError> {
    let archive = Archive::open(&config.archive, clock.clone())?;
    let index = Index::open(&config.index, archive.clone(), clock.clone()).map_err(StartError::Index)?;
    Ok(Console {
        config: config.console.clone(),
        archive,
        index,
        queue: Arc::clone(queue),
        status: open_status_reader(config, clock.clone())?,
        clock: clock.clone(),
    })
}

pub(super) fn start(context: &Context<'_>, bound: BoundListener, console: Console) {
    let lifecycle = context.lifecycle.clone();
    let limits = Console::connection_limits();
    let serve = web::serve("console", bound.listener, console.service(), limits, lifecycle.clone());
    lifecycle.spawn_service("console", serve);
    tracing::info!(address = %bound.address, "serving the console");
}
