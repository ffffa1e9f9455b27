//! Bearer tokens (RFC 6750): what a request carries, compared in constant time with every active token.
//!
//! The SHA-256 digests are compared, so that not even the length of a token shows in the time taken. A token is checked
//! before the body is read.

use http::HeaderValue;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use thiserror::Error;

use crate::{secret::Secret, signature::only};

/// The longest token. A longer one is not hashed.
const MAX_TOKEN_BYTES: usize = 512;

/// The reason why a token is not accepted. It is logged, but never sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TokenError {
    /// No `Authorization` header.
    #[error("the bearer token is missing")]
    Missing,
    /// Another scheme, no token, or several headers with different tokens.
    #[error("the Authorization header is not one bearer token")]
    Malformed,
    /// No active token is equal.
    #[error("no active token is equal to this one")]
    Mismatch,
}

impl TokenError {
    /// Returns a constant word for logs and metric labels.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed => "token_malformed",
            Self::Mismatch => "token_mismatch",
        }
    }
}

/// The digests of the active tokens.
#[derive(Debug)]
pub(crate) struct ActiveTokens(Vec<[u8; 32]>);

impl ActiveTokens {
    /// Accepts these tokens.
    pub(crate) fn new(tokens: &[Secret]) -> Self {
        Self(tokens.iter().map(|token| digest(token.expose().as_bytes())).collect())
    }

    /// Checks all values of the `Authorization` header, and returns the position of the token. A header that a proxy has
    /// repeated counts once.
    pub(crate) fn verify<'a>(
        &self,
        headers: impl Iterator<Item = &'a HeaderValue>,
    ) -> Result<usize, TokenError> {
        let tokens = headers.map(|header| bearer_token(header.as_bytes()));
        let token = only(tokens).map_err(|_| TokenError::Malformed)?.ok_or(TokenError::Missing)?;
        self.find(token.ok_or(TokenError::Malformed)?).ok_or(TokenError::Mismatch)
    }

    /// Returns the position of an active token. Takes the same time for each.
    pub(crate) fn find(&self, token: &[u8]) -> Option<usize> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let given = digest(token);
        let mut found = u32::MAX;
        for (position, active) in (0..).zip(&self.0) {
            found.conditional_assign(&position, given.ct_eq(active));
        }
        usize::try_from(found).ok().filter(|found| *found < self.0.len())
    }
}

/// Returns the reason why this cannot be a bearer token, if it is recognisably not one.
pub(crate) fn token_problem(token: &Secret) -> Option<&'static str> {
    let text = token.expose();
    if text.len() > MAX_TOKEN_BYTES {
        return Some("it is longer than 512 bytes");
    }
    let not_ascii = "it has characters that a header cannot carry";
    token.token_problem().or_else(|| (!text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(not_ascii))
}

/// Returns the token of `Bearer TOKEN`. The scheme is case-insensitive.
fn bearer_token(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.trim_ascii().split_at_checked(b"bearer".len())?;
    let token = rest.trim_ascii_start();
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && token.len() < rest.len();
    let is_token = (1..=MAX_TOKEN_BYTES).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    (is_bearer && is_token).then_some(token)
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef-A";

    fn verify(headers: &[&str]) -> Result<usize, TokenError> {
        let tokens = ActiveTokens::new(&["another-token-of-ours", TOKEN].map(Secret::new));
        let headers: Vec<_> = headers.iter().map(|text| HeaderValue::from_str(text).unwrap()).collect();
        tokens.verify(headers.iter())
    }

    #[test]
    fn accepts_one_token_in_any_case_of_the_scheme() {
        for scheme in ["Bearer ", "bearer ", "BEARER  ", " bEaReR\t"] {
            assert_eq!(verify(&[&format!("{scheme}{TOKEN}")]), Ok(1), "{scheme:?}");
        }
        assert_eq!(verify(&["Bearer another-token-of-ours "]), Ok(0));
        assert_eq!(verify(&["Bearer 0123456789abcdef-A", "bearer 0123456789abcdef-A"]), Ok(1));
    }

    #[test]
    fn rejects_everything_else() {
        assert_eq!(verify(&[]), Err(TokenError::Missing));
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
        for malformed in [
            &["Bearer"][..],
            &["Bearer "],
            &[""],
            &[TOKEN],
            &["Basic MDEyMzQ1Njc4OWFiY2RlZi1B"],
            &["Bearer0123456789abcdef-A"],
            &["Bearer 0123456789abcdef-A x"],
            &["Bearer 0123456789abcdef-A, Bearer 0123456789abcdef-A"],
            &["Bearer 0123456789abcdef-A", "Bearer another-token-of-ours"],
            &["Bearer 0123456789abcdef-A", ""],
            &[&long],
        ] {
            assert_eq!(verify(malformed), Err(TokenError::Malformed), "{malformed:?}");
        }
        for wrong in
            ["0123456789abcdef-a", "0123456789abcdef-", "0123456789abcdef-AA", "\"0123456789abcdef-A\""]
        {
            assert_eq!(verify(&[&format!("Bearer {wrong}")]), Err(TokenError::Mismatch), "{wrong:?}");
        }
    }
}
