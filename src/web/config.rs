//! `[server]`, `[admin]` and `[signature]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secrets_file::SecretsFile;
use crate::{
    clock::Clock,
    secret::Secret,
    signature::{MIN_SECRET_LENGTH, Scheme},
};

/// `[server]`: the public listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where PolyAI's deliveries come in, behind the HTTPS ingress. HTTP/1.1 and cleartext HTTP/2.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// The path of the endpoint registered with PolyAI.
    pub path: String,
    /// Every request is answered within this time; PolyAI waits 5 s by default.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ack_budget: Duration,
    /// The largest body taken; a larger one is a 413.
    #[schemars(with = "String")]
    pub body_limit: ByteSize,
    /// How many deliveries are made durable at the same time; beyond them a 503.
    #[schemars(range(min = 1))]
    pub max_in_flight: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            path: "/polyai-events".to_owned(),
            ack_budget: Duration::from_secs(4),
            body_limit: ByteSize::mib(1),
            max_in_flight: 1024,
        }
    }
}

/// `[admin]`: liveness, readiness, metrics. Never public.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

/// `[signature]`: how a delivery proves that it is PolyAI's.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignatureConfig {
    /// The active signing secrets, each of at least 16 characters. Several at a time, for rotations.
    pub secrets: Vec<Secret>,
    /// A file with more secrets, one a line; read again when it changes.
    pub secrets_file: Option<PathBuf>,
    /// What was read from `secrets_file` at the start.
    #[serde(skip)]
    pub file_secrets: SecretsFile,
    /// Which signed form to accept. Pin it to `timestamped` once PolyAI sends you timestamps.
    pub scheme: Scheme,
    /// How far a signed timestamp may be from our clock.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub tolerance: Duration,
    /// What a well-formed signature gets that no secret explains: `reject` is a 401, which PolyAI never
    /// retries; `retry` is a 503, so that the delivery comes again after a secret rotation.
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
    /// Why the receiver must not start with these secrets, if it must not.
    pub fn problem(&self) -> Option<String> {
        if self.valid(Clock::System.now()).is_empty() {
            return Some(
                "there is no signing secret, so nothing could be verified: set signature.secrets_file (one secret a \
                 line) or POLYAI_WEBHOOK_SECRET to the signing_secret that PolyAI showed when the endpoint was created"
                    .to_owned(),
            );
        }
        self.short_secret()
    }

    /// The secrets that are valid at `now`: those given here, then the file's.
    pub fn valid(&self, now: Timestamp) -> Vec<Secret> {
        self.secrets.iter().chain(self.file_secrets.valid(now)).cloned().collect()
    }

    /// Says which secret is none.
    pub(super) fn short_secret(&self) -> Option<String> {
        let in_file = self.file_secrets.entries().map(|entry| &entry.secret);
        let short = |secret: &Secret| secret.expose().trim().chars().count() < MIN_SECRET_LENGTH;
        self.secrets.iter().chain(in_file).position(short).map(|index| {
            format!(
                "signing secret number {} is shorter than {MIN_SECRET_LENGTH} characters: it is not PolyAI's, or was cut off",
                index + 1
            )
        })
    }
}

/// The answer to a well-formed signature that no active secret explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// 401: refused for good.
    #[default]
    Reject,
    /// 503: PolyAI tries again later.
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
    fn only_secrets_that_could_be_polyais_will_do() {
        assert_eq!(problem(&["0123456789abcdef", "whsec_0123456789abcdef"]), None);
        for bad in
            [&[][..], &[""], &["0123456789abcde"], &["                    "], &["0123456789abcdef", "x"]]
        {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
        assert!(problem(&["0123456789abcdef", "short"]).unwrap().contains("number 2"));
    }
}
