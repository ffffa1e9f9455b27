//! The secret of a sender, which can change while deliveries wait for a retry.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// The secret that the next attempt is signed with. Clones share it, so a rotation also applies to retries of older
/// deliveries. It does not print itself, because `polyhook send` signs with real secrets.
#[derive(Clone)]
pub struct SigningSecret(Arc<Mutex<String>>);

impl SigningSecret {
    pub(crate) fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, secret: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = secret;
    }
}

impl<S: Into<String>> From<S> for SigningSecret {
    fn from(secret: S) -> Self {
        Self(Arc::new(Mutex::new(secret.into())))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_print_itself() {
        assert_eq!(format!("{:?}", SigningSecret::from("hunter2hunter2hunter2")), "[redacted]");
    }
}
