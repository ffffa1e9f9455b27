//! The frame of every page: head, navigation and security headers.

use std::path::Path;

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use maud::{DOCTYPE, Markup, html};

use super::{
    access::{Viewer, current_viewer},
    assets::asset_url,
};

/// Everything comes from the console itself, and nothing is inline.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// No page needs a sensor, a device or a payment.
const PERMISSIONS_POLICY: &str =
    "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()";

/// The entries of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Live,
    Conversations,
    Dead,
}

impl Section {
    const ALL: [Self; 4] = [Self::Overview, Self::Live, Self::Conversations, Self::Dead];

    fn link(self) -> (&'static str, &'static str) {
        match self {
            Self::Overview => ("/", "Overview"),
            Self::Live => ("/live", "Live"),
            Self::Conversations => ("/conversations", "Conversations"),
            Self::Dead => ("/dead", "Dead letters"),
        }
    }
}

/// A page: what a handler returns.
#[derive(Debug)]
pub(super) struct Page {
    section: Section,
    title: String,
    body: Markup,
    /// The names of the page's own style sheets and scripts.
    assets: Vec<&'static str>,
}

impl Page {
    pub(super) fn new(section: Section, title: impl Into<String>, body: Markup) -> Self {
        Self { section, title: title.into(), body, assets: Vec::new() }
    }

    /// Adds a style sheet or a script of this page alone.
    pub(super) fn with_asset(mut self, name: &'static str) -> Self {
        self.assets.push(name);
        self
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        document_with(&self.title, Some(self.section), &self.body, &self.assets).into_response()
    }
}

/// Returns a line that names keys, each with what it does.
pub(super) fn keys(entries: &[(&str, &str)]) -> Markup {
    html! {
        p class="quiet keys" {
            @for (number, (keys, meaning)) in entries.iter().enumerate() {
                @if number > 0 { ", " }
                @for key in keys.split(' ') { kbd { (key) } " " }
                (meaning)
            }
        }
    }
}

/// Returns a whole document.
pub(super) fn document(title: &str, section: Option<Section>, body: &Markup) -> Html<String> {
    document_with(title, section, body, &[])
}

fn document_with(title: &str, section: Option<Section>, body: &Markup, assets: &[&str]) -> Html<String> {
    let is_style = |name: &&&str| Path::new(name).extension().is_some_and(|extension| extension == "css");
    let (styles, scripts): (Vec<&str>, Vec<&str>) = assets.iter().partition(is_style);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="same-origin";
                title { (title) " · polyhook" }
                link rel="icon" href=(asset_url("icon.svg")) type="image/svg+xml";
                @for name in std::iter::once("console.css").chain(styles) {
                    link rel="stylesheet" href=(asset_url(name));
                }
                @for name in std::iter::once("console.js").chain(scripts) {
                    script src=(asset_url(name)) defer {}
                }
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                header class="top" {
                    a class="brand" href="/" { "polyhook" }
                    nav aria-label="Pages" {
                        @for entry in Section::ALL {
                            @let (href, name) = entry.link();
                            a href=(href) aria-current=[(Some(entry) == section).then_some("page")] { (name) }
                        }
                    }
                    @if let Some(viewer) = current_viewer() { (account(&viewer)) }
                }
                main id="main" tabindex="-1" { (body) }
            }
        }
    };
    Html(page.into_string())
}

/// Returns the name of the person, and the end of their session.
fn account(viewer: &Viewer) -> Markup {
    html! {
        div class="account" {
            @if viewer.has_session() {
                form method="post" action="/logout" { (viewer.csrf_field()) button type="submit" { "Log out" } }
            } @else if !viewer.is_local() {
                span class="quiet" { bdi { (viewer.name) } }
            }
        }
    }
}

/// Adds the headers that every answer has.
pub(super) async fn add_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS_POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
