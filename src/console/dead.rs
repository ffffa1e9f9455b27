//! Dead letters.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::State,
    routing::{get, post},
};
use maud::html;
use serde::Deserialize;

use super::{
    Console,
    access::Viewer,
    error::PageError,
    layout::{Page, Section},
};

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new().route("/dead", get(list)).route("/dead/replay", post(replay))
}

async fn list(State(_): State<Arc<Console>>, viewer: Viewer) -> Result<Page, PageError> {
    let body = html! {
        h1 { "Dead letters" }
        form method="post" action="/dead/replay" { (viewer.csrf_field()) }
    };
    Ok(Page::new(Section::Dead, "Dead letters", body).with_asset("console.css"))
}

#[derive(Deserialize)]
struct Replay {
    csrf: String,
}

async fn replay(
    State(console): State<Arc<Console>>,
    viewer: Viewer,
    Form(form): Form<Replay>,
) -> Result<Page, PageError> {
    viewer.check_csrf(&form.csrf)?;
    let letters = console.queue.dead_letters().await;
    letters.map_err(|error| PageError::unavailable(error.to_string(), "Check the broker."))?;
    Err(PageError::bad_request("Nothing is selected.", "Select a dead letter."))
}
