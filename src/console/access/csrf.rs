//! Protection against requests that another site makes a browser send.
//!
//! A browser says which site a request comes from (`Sec-Fetch-Site`, or `Origin` in clear text). In addition, each change
//! needs a token that only the console's own pages hold. Both are checked before a handler runs, so no handler can forget it.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::Request,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    header::{self, HOST, ORIGIN},
    request::Parts,
};
use subtle::ConstantTimeEq;
use url::form_urlencoded;

use super::Viewer;
use crate::console::error::PageError;

/// The name of the field in a form.
const FIELD: &str = "csrf";
/// The header that a script sends instead of the field.
const HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const FORM: &[u8] = b"application/x-www-form-urlencoded";
/// The largest form: the ids of a long list of dead letters.
const MAX_FORM_BYTES: usize = 1 << 20;
/// Time that a client has to send a form.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);

impl Viewer {
    /// Returns the field that each form must have.
    pub(in crate::console) fn csrf_field(&self) -> maud::Markup {
        maud::html! { input type="hidden" name=(FIELD) value=(self.csrf); }
    }

    /// Returns whether a form or a script has sent the token of this viewer.
    fn has_sent(&self, token: &[u8]) -> bool {
        bool::from(token.ct_eq(self.csrf.as_bytes()))
    }
}

/// Returns a request that changes something, with its whole body, if it comes from a page of this viewer.
pub(super) async fn checked(viewer: &Viewer, request: Request) -> Result<Request, PageError> {
    let (parts, body) = request.into_parts();
    check_origin(&parts)?;
    let body = read_form(body, MAX_FORM_BYTES).await?;
    let is_form = parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(FORM)
    });
    let is_sent = match parts.headers.get(&HEADER) {
        Some(token) => viewer.has_sent(token.as_bytes()),
        None if is_form => field(&body, FIELD).is_some_and(|token| viewer.has_sent(token.as_bytes())),
        None => false,
    };
    if is_sent {
        Ok(Request::from_parts(parts, Body::from(body)))
    } else {
        Err(PageError::forbidden("The form is too old, or it is not one of the console."))
    }
}

/// Reads the body of a form.
pub(super) async fn read_form(body: Body, limit: usize) -> Result<Bytes, PageError> {
    match tokio::time::timeout(FORM_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(PageError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The form is too large, or it ended early.",
            "Select less, and try again.",
        )),
        Err(_) => {
            Err(PageError::new(StatusCode::REQUEST_TIMEOUT, "The form did not arrive in time.", "Try again."))
        }
    }
}

/// Returns the value of a field.
pub(super) fn field(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Returns an error if the browser says that another site sent the request.
pub(super) fn check_origin(parts: &Parts) -> Result<(), PageError> {
    if is_same_origin(&parts.headers, &parts.uri) {
        Ok(())
    } else {
        Err(PageError::forbidden("The form comes from another site."))
    }
}

/// A proxy may replace `Host`, so what the browser itself says has priority over a comparison with it.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    if let Some(site) = headers.get(&SEC_FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Some(origin) = origin.to_str().ok().and_then(|origin| origin.parse::<url::Url>().ok()) else {
        return false;
    };
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str().as_bytes()));
    let Some(host) = host.and_then(|host| std::str::from_utf8(host).ok()) else { return false };
    // With the scheme of the origin, so that its default port may be missing.
    let own = format!("{}://{host}", origin.scheme()).parse::<url::Url>();
    own.is_ok_and(|own| origin.origin().is_tuple() && own.origin() == origin.origin())
}

/// Returns whether another site embeds the answer, for example as an image or a recording, instead of linking to it.
pub(super) fn is_embedded_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, words: &[&str]| {
        headers.get(name).is_some_and(|value| words.iter().any(|word| value == word))
    };
    let is_link = is(&SEC_FETCH_MODE, &["navigate"])
        && (is(&SEC_FETCH_DEST, &["document"]) || !headers.contains_key(&SEC_FETCH_DEST));
    is(&SEC_FETCH_SITE, &["cross-site", "same-site"]) && !is_link
}

/// Returns whether a link on another site leads here. Then the browser does not send the cookie.
pub(super) fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    headers.get(&SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn knows_requests_of_other_sites() {
        for (pairs, expected) in [
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://calls.example"),
                    ("host", "127.0.0.1"),
                ][..],
                true,
            ),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site"), ("origin", "http://a"), ("host", "a")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("host", "a:8090")], true),
            (&[("origin", "http://a:8090"), ("host", "A:8090")], true),
            (&[("origin", "http://a"), ("host", "a:80")], true),
            (&[("origin", "https://a"), ("host", "a")], true),
            (&[("origin", "http://a:8091"), ("host", "a:8090")], false),
            (&[("origin", "http://b:8090"), ("host", "a:8090")], false),
            (&[("origin", "http://a:8090"), ("host", "b@a:8090")], true),
            (&[("origin", "http://a.evil.example"), ("host", "a")], false),
            (&[("origin", "null"), ("host", "a")], false),
            (&[("origin", ""), ("host", "a")], false),
            (&[("origin", "file://"), ("host", "")], false),
            (&[("origin", "http://a")], false),
        ] {
            assert_eq!(is_same_origin(&headers(pairs), &Uri::from_static("/")), expected, "{pairs:?}");
        }
        let h2 = Uri::from_static("http://a:8090/dead");
        assert!(is_same_origin(&headers(&[("origin", "http://a:8090")]), &h2));
        assert!(!is_same_origin(&headers(&[("origin", "http://b:8090")]), &h2));
    }

    #[test]
    fn other_sites_may_link_but_not_embed() {
        for (site, mode, dest, expected) in [
            ("cross-site", "navigate", "document", false),
            ("cross-site", "navigate", "iframe", true),
            ("cross-site", "no-cors", "audio", true),
            ("same-site", "cors", "empty", true),
            ("same-origin", "no-cors", "audio", false),
            ("none", "navigate", "document", false),
        ] {
            let headers =
                headers(&[("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]);
            assert_eq!(is_embedded_elsewhere(&headers), expected, "{site} {mode} {dest}");
        }
        assert!(!is_embedded_elsewhere(&HeaderMap::new()));
    }
}
