//! Protection of forms against requests that another site makes a browser send.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Viewer;
use crate::console::error::PageError;

/// The name of the field in a form.
pub(in crate::console) const CSRF_FIELD: &str = "csrf";

/// The key of the tokens, which a process makes at its start.
#[derive(Clone)]
pub(in crate::console) struct CsrfKey([u8; 32]);

impl std::fmt::Debug for CsrfKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CsrfKey")
    }
}

impl CsrfKey {
    pub(super) fn random() -> Self {
        let (one, other) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let mut key = [0; 32];
        key[..16].copy_from_slice(one.as_bytes());
        key[16..].copy_from_slice(other.as_bytes());
        Self(key)
    }

    /// Returns the token of a viewer.
    pub(super) fn token(&self, viewer: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key may have any length");
        mac.update(viewer.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

impl Viewer {
    /// Returns the field that each form must have.
    pub(in crate::console) fn csrf_field(&self) -> maud::Markup {
        maud::html! { input type="hidden" name=(CSRF_FIELD) value=(self.csrf); }
    }

    /// Rejects a form without the token of this viewer. Call it before every change.
    pub(in crate::console) fn check_csrf(&self, sent: &str) -> Result<(), PageError> {
        if bool::from(sent.as_bytes().ct_eq(self.csrf.as_bytes())) {
            Ok(())
        } else {
            Err(PageError::forbidden("The form is too old."))
        }
    }
}

/// Returns false if the browser says that another site sent the request.
pub(super) fn is_same_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    site.is_none_or(|site| site == b"same-origin" || site == b"none")
}
