//! `/dead`: the dead letters by reason.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{RawQuery, State},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    DeadPages,
    listing::{Group, Listing, ROWS_PER_PAGE},
    markup::{grouped, letters, table},
    scope::{ListQuery, Scope},
};
use crate::{
    console::{
        Console,
        access::Viewer,
        address,
        error::PageError,
        format,
        layout::{Page, Section},
    },
    queue::next_step_for,
    terminal,
};

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    Extension(pages): Extension<Arc<DeadPages>>,
    viewer: Viewer,
    RawQuery(raw): RawQuery,
) -> Result<Response, PageError> {
    let raw = raw.unwrap_or_default();
    let query = ListQuery::parse(&raw)?;
    if address::has_empty_parameter(&raw) {
        // The short address is the one to share.
        return Ok(Redirect::to(&query.scope.url(query.page)).into_response());
    }
    // Before the queue is read: a wrong age is the caller's error, whatever the queue does.
    query.scope.filter()?;
    let listing = pages.reader.list(&console, query.clone()).await?;
    let is_empty = query.scope.is_everything() && listing.matching() == 0 && !listing.extent.is_cut;
    let retry_jobs = if is_empty { console.overview.retry_jobs().await } else { None };
    let view = View { console: &console, viewer: &viewer, query: &query, listing: &listing, retry_jobs };
    let page = Page::new(Section::Dead, "Dead letters", view.page());
    Ok(page.with_asset("dead.css").with_asset("dead.js").into_response())
}

/// Renders a list.
struct View<'a> {
    console: &'a Console,
    viewer: &'a Viewer,
    query: &'a ListQuery,
    listing: &'a Listing,
    /// Jobs that wait after a failure, if it is known and the queue has no dead letters.
    retry_jobs: Option<u64>,
}

impl View<'_> {
    fn page(&self) -> Markup {
        let Self { query, listing, .. } = *self;
        let matching = listing.matching();
        html! {
            h1 { "Dead letters" }
            (self.state())
            (self.filters())
            @if matching > 0 {
                (self.allowance())
                @for (number, group) in listing.groups.iter().enumerate() { (self.group(number, group)) }
                @if listing.other_reasons > 0 {
                    h2 { "Other reasons" }
                    p {
                        (letters(listing.other_reasons)) " of further reasons. "
                        code { "polyhook dead list" } " shows them."
                    }
                }
            } @else if query.scope.is_everything() && !listing.extent.is_cut {
                (self.no_letters())
            } @else {
                p { "No dead letter matches. " a href="/dead" { "Show all" } }
            }
        }
    }

    fn no_letters(&self) -> Markup {
        match self.retry_jobs {
            Some(jobs) if jobs > 0 => html! {
                div class="notice" {
                    p {
                        strong { "No dead letters." } " But "
                        (grouped(jobs)) (if jobs == 1 { " job has failed and waits" } else { " jobs have failed and wait" })
                        " for the next try. " a href="/live?outcome=retry" { "Live" } " shows the failures."
                    }
                }
            },
            Some(_) => {
                html! { div class="notice good" { p { strong { "No dead letters." } " No job waits after a failure." } } }
            }
            None => html! { div class="notice" { p { strong { "No dead letters." } } } },
        }
    }

    /// Says how much was read, and when.
    fn state(&self) -> Markup {
        let Listing { at, extent, .. } = *self.listing;
        html! {
            p class="quiet" {
                (letters(extent.total)) " in the queue at " (format::time(at)) @if extent.total > 0 { ", listed in the order received" } ". "
                @if extent.is_cut {
                    strong { "Only the first " (grouped(extent.read)) " are counted and listed here." }
                    " The command line reads all of them. "
                }
                @if extent.hides {
                    "RabbitMQ hides dead letters from other readers while they are read, so this page is up to 5 s old."
                }
            }
        }
    }

    fn filters(&self) -> Markup {
        let scope = &self.query.scope;
        let field = |name: &str, label: &str, hint: &str, value: &Option<String>| {
            html! {
                label { (label)
                    input type="text" name=(name) value=[value.as_deref()] placeholder=(hint) autocomplete="off" maxlength="255";
                }
            }
        };
        html! {
            form class="filters dead" method="get" action="/dead" {
                (field("reason", "Reason", "any", &scope.reason))
                (field("project", "Project", "any", &scope.project))
                (field("environment", "Environment", "any", &scope.environment))
                (field("older_than", "Older than", "1d", &scope.older_than))
                (field("newer_than", "Newer than", "90m", &scope.newer_than))
                button type="submit" { "Filter" }
                @if !scope.is_everything() { a class="button" href="/dead" { "Show all" } }
            }
        }
    }

    /// Returns the buttons for the selected letters, or how to act on the command line.
    fn allowance(&self) -> Markup {
        if !self.console.config.allow_replay {
            return html! {
                p class="quiet" {
                    "This console is read-only: "
                    code { "console.allow_replay" }
                    " is not set. Replay or drop dead letters on the command line; the lines below can be copied."
                }
            };
        }
        html! {
            form id="selected" class="actions" method="post" action="/dead/actions/preview" {
                (self.viewer.csrf_field())
                input type="hidden" name="scope" value="ids";
                button type="submit" name="action" value="replay" { "Replay selected …" }
                button type="submit" name="action" value="drop" class="danger" { "Drop selected …" }
                span class="quiet" id="selected-count" aria-live="polite" { "Nothing is done before you have seen a preview." }
            }
        }
    }

    fn group(&self, number: usize, group: &Group) -> Markup {
        let scope = self.query.scope.with_reason(&group.reason);
        let age = group.oldest.duration_until(self.listing.at).unsigned_abs();
        let is_one_reason = self.query.scope.reason.is_some();
        html! {
                    section class="reason" aria-labelledby={ "reason-" (number) } {
                        h2 id={ "reason-" (number) } {
                            (format::badge("bad", &terminal::escape(&self.console.text_mask().apply(&group.reason))))
                            " " (letters(group.count)) ", the oldest "
        (format::age(age)) " old, since " (format::time(group.oldest))
                        }
                        p { (format::own_text(next_step_for(&group.reason))) }
                        (self.actions(&scope))
                        (table(&group.rows, self.console.config.allow_replay))
                        @if is_one_reason {
                            (self.pager(group))
                        } @else if group.count > group.rows.len() as u64 {
                            p {
                                a href=(scope.url(1)) { "All " (grouped(group.count)) " of this reason" }
                                " (" (grouped(group.count - group.rows.len() as u64)) " more)"
                            }
                        }
                    }
                }
    }

    /// Returns the actions on a whole reason.
    fn actions(&self, scope: &Scope) -> Markup {
        let options = scope.options();
        html! {
            @if self.console.config.allow_replay {
                form class="actions" method="post" action="/dead/actions/preview" {
                    (self.viewer.csrf_field())
                    input type="hidden" name="scope" value="filter";
                    (scope.hidden_fields())
                    button type="submit" name="action" value="replay" { "Replay all of this reason …" }
                    button type="submit" name="action" value="drop" class="danger" { "Drop all of this reason …" }
                }
            }
            @if let Some(options) = options {
                details open[!self.console.config.allow_replay] {
                    summary { "On the command line" }
                    p { (format::command(&self.console.command(&format!("dead replay {options}")))) }
                    p { (format::command(&self.console.command(&format!("dead drop {options}")))) }
                }
            }
        }
    }

    fn pager(&self, group: &Group) -> Markup {
        let ListQuery { scope, page } = self.query;
        let pages = usize::try_from(group.count.div_ceil(ROWS_PER_PAGE)).unwrap_or(usize::MAX);
        html! {
            nav class="actions" aria-label="Pages of the list" {
                @if *page > 1 { a class="button" rel="prev" href=(scope.url(page - 1)) { "Previous page" } }
                span class="quiet" { "Page " (page) " of " (pages) }
                @if *page < pages { a class="button" rel="next" href=(scope.url(page + 1)) { "Next page" } }
            }
        }
    }
}
