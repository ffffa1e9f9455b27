//! The form with which a person logs in, and the end of a session.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderValue, StatusCode, Uri, header};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{sync::Semaphore, time::Instant};
use url::Url;

use super::{Access, Client, Viewer, csrf, log, session};
use crate::console::{error::PageError, layout};

/// The path of the form.
pub(super) const PATH: &str = "/login";
/// The largest form: a token, and the path of a page.
const MAX_FORM_BYTES: usize = 16 << 10;
/// The longest path that a person returns to.
const MAX_NEXT_BYTES: usize = 2048;
/// Time until a wrong token is answered.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);
/// Wrong tokens whose answers wait at the same time. Further ones are answered at once.
const MAX_WAITING: usize = 32;
/// The time between two lines of the log about those.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Slows down those who guess. A right token is always accepted at once, so they cannot lock anyone out.
#[derive(Debug)]
pub(super) struct WrongTokens {
    waiting: Semaphore,
    /// Those that were answered at once since the last line of the log, and the time of that line.
    refused: Mutex<(u64, Option<Instant>)>,
}

impl Default for WrongTokens {
    fn default() -> Self {
        Self { waiting: Semaphore::new(MAX_WAITING), refused: Mutex::default() }
    }
}

impl WrongTokens {
    /// Waits before a wrong token is answered, and returns the status of the answer.
    pub(super) async fn wait(&self, client: Client) -> StatusCode {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            self.log_refused(client);
            return StatusCode::TOO_MANY_REQUESTS;
        };
        tracing::warn!(target: log::TARGET, %client, "a wrong token for the console");
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        StatusCode::UNAUTHORIZED
    }

    /// Logs how many were answered at once, at most once in [`REFUSED_LOG_INTERVAL`].
    fn log_refused(&self, client: Client) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, logged) = &mut *refused;
        *count += 1;
        if logged.is_none_or(|logged| logged.elapsed() >= REFUSED_LOG_INTERVAL) {
            tracing::warn!(target: log::TARGET, %client, count, "too many wrong tokens for the console");
            *refused = (0, Some(Instant::now()));
        }
    }
}

/// Returns the routes that need no session.
pub(super) fn routes() -> Router<Arc<Access>> {
    Router::new().route(PATH, get(show).post(log_in))
}

/// Returns the route that ends a session.
pub(super) fn logout_route() -> Router<Arc<Access>> {
    Router::new().route("/logout", post(log_out))
}

/// Returns the answer that sends a person to the form, and then to the page of `uri`.
pub(super) fn redirect(uri: &Uri) -> Response {
    let next = uri.path_and_query().map_or("/", |next| next.as_str());
    see_other(&form_address(next)).into_response()
}

fn form_address(next: &str) -> String {
    if next == "/" || next.len() > MAX_NEXT_BYTES {
        return PATH.to_owned();
    }
    format!("{PATH}?next={}", utf8_percent_encode(next, NON_ALPHANUMERIC))
}

fn see_other(address: &str) -> impl IntoResponse + use<> {
    let address = HeaderValue::from_str(address).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, address)])
}

/// Returns the page to return to: a path of the console itself. Browsers read some paths as addresses of other sites
/// (`//host`, `/\host`, `/.//host`), so the path is parsed as they do it.
fn page_after_login(next: &str) -> String {
    let home = || "/".to_owned();
    let base = Url::parse("http://console.invalid/").expect("it is a URL");
    let Ok(page) = base.join(next) else { return home() };
    let path = page.path();
    let is_own = next.starts_with('/') && next.len() <= MAX_NEXT_BYTES && page.origin() == base.origin();
    if !is_own || path.starts_with("//") || path == PATH || path == "/logout" || page.username() != "" {
        return home();
    }
    page.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

fn next_of(form: &[u8]) -> String {
    csrf::field(form, "next").map_or_else(|| "/".to_owned(), |next| page_after_login(&next))
}

async fn show(
    State(access): State<Arc<Access>>,
    viewer: Option<Extension<Viewer>>,
    request: Request,
) -> Response {
    let next = next_of(request.uri().query().unwrap_or_default().as_bytes());
    if viewer.is_some() {
        return see_other(&next).into_response();
    }
    if !access.has_token {
        return access.not_named().into_response();
    }
    // The browser keeps the cookie back if a link on another site led here. It sends it when the page loads itself again.
    let again = csrf::comes_from_elsewhere(request.headers()).then(|| form_address(&next));
    let mut response = form(&next, None).into_response();
    if let Some(again) = again.and_then(|again| HeaderValue::try_from(format!("0;url={again}")).ok()) {
        response.headers_mut().insert(header::REFRESH, again);
    }
    response
}

fn form(next: &str, error: Option<&str>) -> impl IntoResponse + use<> {
    let body: Markup = html! {
        h1 { "Log in" }
        @if let Some(error) = error { p class="notice bad" role="alert" { (error) } }
        form method="post" action=(PATH) class="login" {
            input type="hidden" name="next" value=(next);
            label { "Token" input type="password" name="token" autocomplete="current-password" required autofocus; }
            div class="actions" { button type="submit" class="primary" { "Log in" } }
        }
        p class="quiet" { "The token is in the file that " code { "console.token_file" } " names." }
    };
    layout::document("Log in", None, &body)
}

async fn log_in(State(access): State<Arc<Access>>, request: Request) -> Result<Response, PageError> {
    if !access.has_token {
        return Err(access.not_named());
    }
    let (parts, body) = request.into_parts();
    csrf::check_origin(&parts)?;
    let body = csrf::read_form(body, MAX_FORM_BYTES).await?;
    let next = next_of(&body);
    let token = csrf::field(&body, "token").unwrap_or_default();
    let client = Client::of(&parts.extensions);
    let active = access.tokens.active();
    let Some(position) = active.tokens.find(token.trim().as_bytes()) else {
        let status = access.wrong_tokens.wait(client).await;
        let error = if status == StatusCode::UNAUTHORIZED {
            "This is not the token of this console."
        } else {
            "Too many wrong tokens arrive at the moment. Try again with the right one."
        };
        return Ok((status, form(&next, Some(error))).into_response());
    };
    let key = active.keys.get(position).ok_or_else(|| access.not_named())?;
    tracing::info!(target: log::TARGET, viewer = token_name(position), %client, "a person logged in");
    let cookie = session::start(key, access.clock.now(), access.is_https(client, &parts.headers));
    Ok(([(header::SET_COOKIE, cookie)], see_other(&next)).into_response())
}

async fn log_out(State(access): State<Arc<Access>>, viewer: Viewer) -> Response {
    if let Some(session) = &viewer.session {
        access.ended.end(session, access.clock.now());
    }
    let mut response = see_other(PATH).into_response();
    for cookie in session::removal() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Returns the name of those who log in with a token.
pub(super) fn token_name(position: usize) -> String {
    format!("token-{}", position + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_only_to_pages_of_the_console() {
        for (next, page) in [
            ("/", "/"),
            ("/conversations?text=a%20b&page=2", "/conversations?text=a%20b&page=2"),
            ("/conversations/CA1#turn-3", "/conversations/CA1"),
            ("/conversations/\u{e9}", "/conversations/%C3%A9"),
            ("/a/../dead", "/dead"),
            ("", "/"),
            ("dead", "/"),
            ("//evil.example", "/"),
            ("///evil.example", "/"),
            ("/\\evil.example", "/"),
            ("\\/evil.example", "/"),
            ("/\t/evil.example", "/"),
            ("/.//evil.example", "/"),
            ("/a/..//evil.example", "/"),
            ("https://evil.example/", "/"),
            ("http://console.invalid/dead", "/"),
            ("javascript:alert(1)", "/"),
            ("@evil.example", "/"),
            ("/login?next=/login", "/"),
            ("/logout", "/"),
            ("/a\r\nset-cookie: x=1", "/aset-cookie:%20x=1"),
        ] {
            assert_eq!(page_after_login(next), page, "{next:?}");
            assert!(HeaderValue::from_str(&page_after_login(next)).is_ok(), "{next:?}");
        }
        assert_eq!(page_after_login(&format!("/{}", "a".repeat(MAX_NEXT_BYTES))), "/");
    }
}
