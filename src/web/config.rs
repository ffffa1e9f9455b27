//! `[server]`, `[admin]` and `[signature]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    secrets_file::SecretsFile,
    server::{ConnectionLimits, max_connections},
};
use crate::{
    clock::Clock,
    secret::Secret,
    signature::{MAX_ACTIVE_SECRETS, MIN_SECRET_LENGTH, Scheme},
};

/// `[server]`: the public listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address for PolyAI's deliveries, behind the HTTPS ingress. HTTP/1.1 and cleartext HTTP/2.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Path of the endpoint registered with PolyAI.
    pub path: String,
    /// Time within which every request is answered. PolyAI waits 5 s by default.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ack_budget: Duration,
    /// Maximum size of a body; larger ones are answered 413.
    #[schemars(with = "String")]
    pub body_limit: ByteSize,
    /// Maximum deliveries in flight; more are answered 503.
    #[schemars(range(min = 1))]
    pub max_in_flight: usize,
    /// Time that a connection may stay open between two requests. It must be longer than the idle timeout of the load
    /// balancer in front, which would otherwise send requests on connections that are being closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// Maximum open connections; the one that has been idle for the longest time is closed for a new one. By default 4096,
    /// or fewer if the limit of open files is low.
    #[schemars(range(min = 1))]
    pub max_connections: Option<usize>,
}

impl ServerConfig {
    /// Returns the limits of the listener's connections if the process may have `open_files` open files.
    pub fn connection_limits(&self, open_files: u64) -> ConnectionLimits {
        ConnectionLimits {
            transfer_timeout: self.ack_budget,
            idle_timeout: self.idle_timeout,
            max_connections: max_connections(self.max_connections, open_files),
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            path: "/polyai-events".to_owned(),
            ack_budget: Duration::from_secs(4),
            body_limit: ByteSize::mib(1),
            max_in_flight: 1024,
            idle_timeout: Duration::from_secs(650),
            max_connections: None,
        }
    }
}

/// `[admin]`: the listener for liveness, readiness and metrics. It must not be public.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address of `/livez`, `/readyz` and `/metrics`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

/// `[signature]`: the verification of deliveries.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignatureConfig {
    /// Active signing secrets, each of at least 16 characters. A rotation needs several at the same time; at most 8 may
    /// be active, those of `secrets_file` included.
    pub secrets: Vec<Secret>,
    /// File with more secrets, one per line. It is read again when it changes.
    pub secrets_file: Option<PathBuf>,
    /// Content of `secrets_file` at the start.
    #[serde(skip)]
    pub file_secrets: SecretsFile,
    /// Signed form to accept. Set it to `timestamped` once PolyAI sends you timestamps.
    pub scheme: Scheme,
    /// Maximum difference between a signed timestamp and our clock.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub tolerance: Duration,
    /// Answer to a well-formed signature that matches no secret: `reject` is 401, which PolyAI does not retry;
    /// `retry` is 503, so that PolyAI sends the delivery again after a secret rotation.
    pub on_mismatch: OnMismatch,
}

impl Default for SignatureConfig {
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            secrets_file: None,
            file_secrets: SecretsFile::default(),
            scheme: Scheme::Auto,
            tolerance: Duration::from_mins(5),
            on_mismatch: OnMismatch::Reject,
        }
    }
}

impl SignatureConfig {
    /// Returns whether neither a secret nor a file of secrets is configured.
    pub fn is_unset(&self) -> bool {
        self.secrets.is_empty() && self.secrets_file.is_none()
    }

    /// Returns the reason why the receiver must not start with these secrets, if there is one.
    pub fn problem(&self) -> Option<String> {
        let valid = self.valid(Clock::System.now()).len();
        if valid == 0 {
            return Some(
                "no signing secret is configured, so no delivery could be verified: set signature.secrets_file (one secret a \
                 line) or POLYAI_WEBHOOK_SECRET to the signing_secret that PolyAI showed when the endpoint was created"
                    .to_owned(),
            );
        }
        self.wrong_secret_problem().or_else(|| (valid > MAX_ACTIVE_SECRETS).then(|| too_many(valid)))
    }

    /// Returns the different secrets that are valid at `now`: those of the configuration, then those of the file.
    pub fn valid(&self, now: Timestamp) -> Vec<Secret> {
        let mut valid = Vec::new();
        for secret in self.secrets.iter().chain(self.file_secrets.valid(now)) {
            if !valid.contains(secret) {
                valid.push(secret.clone());
            }
        }
        valid
    }

    /// Returns an error text for the first secret that cannot be one of PolyAI's.
    pub(super) fn wrong_secret_problem(&self) -> Option<String> {
        let in_file = self.file_secrets.entries().map(|entry| &entry.secret);
        self.secrets.iter().chain(in_file).enumerate().find_map(|(index, secret)| {
            let number = index + 1;
            if secret.expose().chars().count() < MIN_SECRET_LENGTH {
                return Some(format!(
                    "signing secret number {number} is shorter than {MIN_SECRET_LENGTH} characters: it is not PolyAI's, or was cut off"
                ));
            }
            let problem = secret.token_problem()?;
            Some(format!(
                "signing secret number {number}: {problem}; store only the signing_secret, as PolyAI showed it"
            ))
        })
    }
}

/// Returns an error text for more secrets than [`MAX_ACTIVE_SECRETS`].
pub(super) fn too_many(secrets: usize) -> String {
    format!(
        "{secrets} signing secrets are valid, but at most {MAX_ACTIVE_SECRETS} may be active: each costs time for every \
         delivery, genuine or not. Remove those of endpoints that no longer exist (`polyhook endpoint list`) from \
         signature.secrets_file and signature.secrets"
    )
}

/// Answer to a well-formed signature that matches no active secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// 401: PolyAI does not send the delivery again.
    #[default]
    Reject,
    /// 503: PolyAI sends the delivery again later.
    Retry,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(secrets: &[&str]) -> Option<String> {
        let secrets = secrets.iter().copied().map(Secret::new).collect();
        SignatureConfig { secrets, ..SignatureConfig::default() }.problem()
    }

    #[test]
    fn rejects_missing_and_wrong_secrets() {
        assert_eq!(problem(&["0123456789abcdef", "whsec_0123456789abcdef"]), None);
        for bad in
            [&[][..], &[""], &["0123456789abcde"], &["                    "], &["0123456789abcdef", "x"]]
        {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
        let many: Vec<_> = (0..9).map(|n| format!("whsec_0123456789{n}")).collect();
        let mut many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(problem(&many).unwrap().starts_with("9 signing secrets are valid, but at most 8"));
        many[8] = many[7];
        assert_eq!(problem(&many), None, "a secret that is configured twice counts once");
        for wrong in ["short", "\"0123456789abcdef", "0123456789abcdef # old", "whe_0123456789abcdef"] {
            let problem = problem(&["0123456789abcdef", wrong]).unwrap();
            assert!(problem.contains("number 2") && !problem.contains("789"), "{problem}");
        }
    }
}
