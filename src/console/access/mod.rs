//! Who may look, and who may change something.
//!
//! | request | answer |
//! |---|---|
//! | the console listens on a loopback address, and `Host` names another one | 403: see [`host`] |
//! | it has the header of a proxy, but is not from `console.trusted_proxies` | 403 |
//! | it has that header, from there | the person whom it names may look |
//! | it has the cookie of a session, or a token as `Authorization: Bearer` | may look |
//! | neither a token nor a proxy is configured (then the address is a loopback one) | may look |
//! | anything else | 303 to the login for pages, 401 for everything else |
//!
//! Without all that only the login, `/livez` and the assets are served. [`check`] surrounds all other routes, so a new page
//! cannot forget it. A change needs what [`csrf`] describes.

mod csrf;
mod host;
mod keys;
mod log;
mod login;
mod proxy;
mod session;
mod tokens;

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    Extensions, HeaderMap, HeaderValue, Method, StatusCode,
    header::{self, ORIGIN},
    request::Parts,
};

pub use self::proxy::ProxyNetwork;
use self::{
    keys::SigningKey,
    log::{AccessLog, Asked},
    login::WrongTokens,
    proxy::{ProxyError, TrustedProxies},
    session::{EndedSessions, Session},
};
use super::{config::ConsoleConfig, error::PageError};
use crate::{
    clock::Clock,
    health::Health,
    web::{ReloadedSecrets, TokenError},
};

/// The name of everyone where neither a token nor a proxy is configured.
const LOCAL: &str = "local";

/// The address of a client, in the extensions of its requests. A test may have none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client(pub(super) Option<IpAddr>);

impl Client {
    fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(None))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.to_canonical().fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

/// The rules of access, and the sessions.
#[derive(Debug)]
pub(super) struct Access {
    is_loopback: bool,
    has_token: bool,
    tokens: ReloadedSecrets<ConsoleConfig>,
    proxies: Option<TrustedProxies>,
    /// Signs the tokens of forms for those who have no session.
    process_key: SigningKey,
    ended: EndedSessions,
    wrong_tokens: WrongTokens,
    log: AccessLog,
    clock: Clock,
}

/// A person who may look.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    /// The name for the log: what the proxy says, `token-1`, or `local`.
    pub(super) name: String,
    /// The token that each form must send back.
    pub(super) csrf: String,
    session: Option<Session>,
}

impl Viewer {
    /// Returns whether the person needs no login, because the console is open on a loopback address.
    pub(super) fn is_local(&self) -> bool {
        !self.has_session() && self.name == LOCAL
    }

    /// Returns whether the person has logged in here, and can log out.
    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }
}

tokio::task_local! {
    static VIEWER: Viewer;
}

/// Returns the person whose request the task answers.
pub(super) fn current_viewer() -> Option<Viewer> {
    VIEWER.try_with(Viewer::clone).ok()
}

impl Access {
    pub(super) fn new(config: &ConsoleConfig, clock: Clock, health: Health) -> Self {
        Self {
            is_loopback: config.listens_on_loopback(),
            has_token: config.has_token(),
            tokens: ReloadedSecrets::new(config, clock.clone(), health),
            proxies: TrustedProxies::new(config),
            process_key: SigningKey::random(),
            ended: EndedSessions::default(),
            wrong_tokens: WrongTokens::default(),
            log: AccessLog::new(clock.clone()),
            clock,
        }
    }

    /// Reads the file of tokens again.
    pub(super) async fn reload(&self) {
        self.tokens.reload().await;
    }

    /// Returns the person of a request, unless a bearer token names them.
    pub(super) fn person(&self, client: Client, headers: &HeaderMap) -> Result<Option<Viewer>, ProxyError> {
        if let Some(proxies) = &self.proxies
            && let Some(name) = proxies.person(client.0, headers)?
        {
            return Ok(Some(self.without_session(name)));
        }
        if !self.has_token {
            let is_open = self.proxies.is_none() && self.is_loopback;
            return Ok(is_open.then(|| self.without_session(LOCAL.to_owned())));
        }
        let keys = &self.tokens.active().keys;
        let session = session::of_request(headers, keys, &self.ended, self.clock.now());
        Ok(session.and_then(|session| {
            let csrf = keys.get(session.token)?.sign("form", &[&session.id]);
            Some(Viewer { name: login::token_name(session.token), csrf, session: Some(session) })
        }))
    }

    fn without_session(&self, name: String) -> Viewer {
        Viewer { csrf: self.process_key.sign("form", &[&name]), name, session: None }
    }

    /// Returns the holder of a bearer token.
    async fn bearer(&self, client: Client, headers: &HeaderMap) -> Result<Option<Viewer>, PageError> {
        if !self.has_token {
            return Ok(None);
        }
        let active = self.tokens.active();
        match active.tokens.verify(headers.get_all(header::AUTHORIZATION).into_iter()) {
            Ok(position) => Ok(active.keys.get(position).map(|key| {
                let csrf = key.sign("form", &["bearer"]);
                Viewer { name: login::token_name(position), csrf, session: None }
            })),
            // A proxy may send what is meant for itself.
            Err(TokenError::Missing | TokenError::Malformed) => Ok(None),
            Err(TokenError::Mismatch) => {
                let status = self.wrong_tokens.wait(client).await;
                Err(PageError::new(
                    status,
                    "The bearer token is not the token of this console.",
                    "Send another one.",
                ))
            }
        }
    }

    /// Returns whether a browser uses HTTPS. The proxy that ends it may say so, and the browser itself does so for a form.
    fn is_https(&self, client: Client, headers: &HeaderMap) -> bool {
        let is_proxy = self.proxies.as_ref().is_some_and(|proxies| proxies.is_trusted(client.0));
        let forwarded = headers.get("x-forwarded-proto").filter(|_| is_proxy).map(HeaderValue::as_bytes);
        let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
        forwarded.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"))
            || origin.is_some_and(|origin| origin.starts_with(b"https://"))
    }

    /// The error of a request from a person without a name, for whom there is no login.
    fn not_named(&self) -> PageError {
        let (what, next) = if self.has_token {
            ("You are not logged in.", "Log in, or send the token as Authorization: Bearer.")
        } else {
            (
                "No proxy says who you are.",
                "Open the console through its authenticating proxy. If you did, the proxy must send the header that \
                 console.user_header names.",
            )
        };
        PageError::new(StatusCode::UNAUTHORIZED, what, next)
    }

    /// Returns the answer to someone who may not look.
    fn unknown_person(&self, request: &Request) -> Response {
        let is_read = [Method::GET, Method::HEAD].contains(request.method());
        if self.has_token && is_read && is_page(request.uri().path(), request.headers()) {
            return login::redirect(request.uri());
        }
        let mut response = self.not_named().into_response();
        if self.has_token {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Returns whether a person sees the answer as a page, rather than a script or a player.
fn is_page(path: &str, headers: &HeaderMap) -> bool {
    let mut accept = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut parts = path.trim_matches('/').split('/');
    let is_known = matches!(
        (parts.next(), parts.next(), parts.next()),
        (Some("" | "live" | "conversations" | "dead"), None, _)
            | (Some("conversations" | "dead"), Some(_), None)
    );
    is_known || accept.any(|types| types.contains("text/html"))
}

/// Refuses what must not reach any route, and notes who sends the request.
pub(super) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    if access.is_loopback && !host::is_loopback(&request) {
        let what = "The console listens on a loopback address, so it answers only requests for localhost, 127.0.0.1 or [::1].";
        let next = "Open it by such an address. A proxy on the same machine must set the Host header to the console's address.";
        return PageError::new(StatusCode::FORBIDDEN, what, next).into_response();
    }
    let client = Client::of(request.extensions());
    match access.person(client, request.headers()) {
        Ok(person) => {
            if let Some(viewer) = person {
                request.extensions_mut().insert(viewer);
            }
            next.run(request).await
        }
        Err(error) => {
            tracing::warn!(target: log::TARGET, %client, ?error, "refused the header of a proxy");
            refused_header(error).into_response()
        }
    }
}

fn refused_header(error: ProxyError) -> PageError {
    let (what, next) = match error {
        ProxyError::NotTrusted => (
            "The request has the header of an authenticating proxy, but it does not come from one.",
            "Open the console through its proxy. If you did, add the address of the proxy to console.trusted_proxies.",
        ),
        ProxyError::NotOneName => (
            "The header of the authenticating proxy is not the name of one person.",
            "Check the configuration of the proxy.",
        ),
    };
    PageError::new(StatusCode::FORBIDDEN, what, next)
}

/// Answers a request only if its sender may look, and a change only if a page of the console asks for it.
pub(super) async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let known = request.extensions_mut().remove::<Viewer>();
    let client = Client::of(request.extensions());
    let viewer = match known {
        Some(viewer) => viewer,
        None => match access.bearer(client, request.headers()).await {
            Ok(Some(viewer)) => viewer,
            Ok(None) => return access.unknown_person(&request),
            Err(error) => return error.into_response(),
        },
    };
    let asked = Asked::new(request.method(), request.uri().path(), request.headers());
    let response = VIEWER.scope(viewer.clone(), answer(viewer.clone(), request, next)).await;
    access.log.record(&viewer, &asked, response.status());
    response
}

async fn answer(viewer: Viewer, mut request: Request, next: Next) -> Response {
    if csrf::is_embedded_elsewhere(request.headers()) {
        return PageError::forbidden("Another site asked for a part of the console.").into_response();
    }
    if !request.method().is_safe() {
        request = match csrf::checked(&viewer, request).await {
            Ok(request) => request,
            Err(error) => return error.into_response(),
        };
    }
    request.extensions_mut().insert(viewer);
    next.run(request).await
}

/// Returns the routes of the login, which need no session.
pub(super) fn login_routes<S: Clone + Send + Sync + 'static>(access: &Arc<Access>) -> Router<S> {
    login::routes().with_state(Arc::clone(access))
}

/// Returns the route of the logout, which [`check`] must surround.
pub(super) fn logout_route<S: Clone + Send + Sync + 'static>(access: &Arc<Access>) -> Router<S> {
    login::logout_route().with_state(Arc::clone(access))
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PageError> {
        let viewer = parts.extensions.get::<Self>().cloned();
        viewer.ok_or_else(|| PageError::forbidden("You are not logged in."))
    }
}

#[cfg(test)]
mod tests;
