//! The overview: is anything lost, late or stuck?

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use maud::html;

use super::{
    Console,
    access::Viewer,
    format,
    layout::{Page, Section},
};

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new().route("/", get(overview))
}

async fn overview(State(console): State<Arc<Console>>, _viewer: Viewer) -> Page {
    let report = console.status.read().await;
    let body = html! {
        h1 { "Overview" }
        @if let Some(queue) = report.queue.known() {
            @if let Some(oldest) = queue.oldest_age_ms {
                p { "The oldest job waits for " (format::age(Duration::from_millis(oldest))) "." }
            }
            p { (queue.waiting_jobs) " jobs wait, " (format::badge("quiet", &queue.dead_letters.to_string())) " dead letters." }
        }
        @if let Some(spool) = report.spool.known() { p { (format::bytes(spool.bytes)) " in the spool." } }
        p class="quiet" { "Checked at " (format::time(report.checked_at)) "." }
    };
    Page::new(Section::Overview, "Overview", body)
}
