//! Dead letters: by reason, one with all its tries, and their replay or removal after a preview.
//!
//! * Reading changes nothing. RabbitMQ hides the letters that a process reads from others, so one request at a time reads
//!   them, for a short time and up to a limit, and others share its result ([`reader`]).
//! * Only `console.allow_replay` allows an action. It takes exactly the letters that its preview has counted: what becomes a
//!   dead letter afterwards, or has failed again, is not among them ([`selection`]).
//! * An action outlives its request, and is logged with its viewer and the ids of the events.

mod actions;
mod body;
#[cfg(test)]
mod harness;
mod letter;
mod list;
mod listing;
mod markup;
mod reader;
mod scan;
mod scope;
mod selection;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};

use self::{reader::Reader, selection::Selections};
use super::Console;

/// The longest form: many selected ids.
const MAX_FORM_BYTES: usize = 256 << 10;

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/dead", get(list::show))
        .route("/dead/{id}", get(letter::show))
        .route("/dead/actions/preview", post(actions::preview))
        .route("/dead/actions/confirm", post(actions::confirm))
        .route("/dead/actions/{id}", get(actions::show))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(Extension(Arc::new(DeadPages::default())))
}

/// What the pages about dead letters keep between requests.
#[derive(Debug, Default)]
struct DeadPages {
    reader: Arc<Reader>,
    selections: Selections,
}
