//! The page of one conversation: hear it, read it, and see where it came from.
//!
//! The page needs the manifest and `conversation.json`. It waits for nothing else: recordings, waveforms and the messages in the queue
//! have addresses of their own, which the browser asks for afterwards. An erased conversation is not found at any of them.

mod actions;
mod details;
mod facts;
mod masking;
mod messages;
mod objects;
mod page;
mod place;
mod player;
mod range;
mod reading;
#[cfg(test)]
mod tests;
mod transcript;
mod waveform;

use std::sync::Arc;

use axum::{
    Extension, Router,
    routing::{get, post},
};

use self::reading::{ReadPermits, RecordingReader};
use super::Console;

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/conversations/{id}", get(page::page))
        .route("/conversations/{id}/{document}", get(objects::document))
        .route("/conversations/{id}/audio/{direction}", get(objects::audio))
        .route("/conversations/{id}/waveform/{direction}", get(waveform::waveform))
        .route("/conversations/{id}/turns/{number}", get(page::turn))
        .route("/conversations/{id}/messages", get(messages::messages))
        .route("/conversations/{id}/verify", post(actions::verify))
        .route("/conversations/{id}/fetch", post(actions::fetch))
        .layer(Extension(Arc::new(RecordingReader::new())))
        .layer(Extension(ReadPermits::new()))
        .layer(Extension(Arc::new(messages::SearchTurn::default())))
}
