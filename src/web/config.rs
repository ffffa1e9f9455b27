//! `[server]`, `[admin]`, `[signature]` and `[trigger]`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bearer,
    configured_secrets::{ConfiguredSecrets, SecretKind},
    secrets_file::SecretsFile,
    server::{ConnectionLimits, MAX_HEADER_BYTES, max_connections},
};
use crate::{problem::Problem, secret::Secret, signature::Scheme};

/// PolyAI's own limit for an answer, unless the endpoint's `timeout_ms` sets another.
pub const POLYAI_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest `server.ack_budget`. The rest of [`POLYAI_TIMEOUT`] is left to the network and the ingress.
pub const MAX_ACK_BUDGET: Duration = Duration::from_millis(4500);
/// The smallest `server.ack_budget`. With less, no delivery becomes durable in time.
pub const MIN_ACK_BUDGET: Duration = Duration::from_millis(200);

/// `[server]`: the public listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address for PolyAI's deliveries, behind the HTTPS ingress. HTTP/1.1 and cleartext HTTP/2.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Path of the endpoint registered with PolyAI.
    pub path: String,
    /// Time within which every request is answered. PolyAI waits 5 s by default, so at most 4.5 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ack_budget: Duration,
    /// Maximum size of a body; larger ones are answered 413.
    #[schemars(with = "String", extend("type" = ["string", "integer"]))]
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
    /// Returns what keeps a receiver from accepting deliveries. `admin` is the other listener of the process.
    pub fn problems(&self, admin: &AdminConfig) -> Vec<Problem> {
        let checks = [
            (
                !is_plain_path(&self.path),
                Problem::new("server.path", "it must start with a slash and be a plain path"),
            ),
            (
                self.ack_budget < MIN_ACK_BUDGET,
                Problem::new(
                    "server.ack_budget",
                    "it is below 200ms, which is too short to make a delivery durable",
                ),
            ),
            (self.ack_budget > MAX_ACK_BUDGET, ack_budget_too_long()),
            (
                self.max_in_flight == 0,
                Problem::new("server.max_in_flight", "it is 0, so every delivery would be rejected"),
            ),
            (
                self.max_connections == Some(0),
                Problem::new("server.max_connections", "it is 0, so every delivery would be rejected"),
            ),
            (
                self.idle_timeout < Duration::from_secs(1),
                Problem::new(
                    "server.idle_timeout",
                    "it is below 1s, so almost no connection could be used twice",
                )
                .fix("set it above the idle timeout of the load balancer"),
            ),
        ];
        let problems = checks.into_iter().filter_map(|(is_wrong, problem)| is_wrong.then_some(problem));
        let mut problems: Vec<_> = problems.collect();
        if addresses_overlap(self.listen, admin.listen) {
            let message =
                format!("server.listen {} and admin.listen {} need the same port", self.listen, admin.listen);
            problems.push(Problem::new("admin.listen", message).with("server.listen").fix("set another one"));
        }
        problems
    }

    /// Returns the limits of the listener's connections if the process may have `open_files` open files.
    pub fn connection_limits(&self, open_files: u64) -> ConnectionLimits {
        ConnectionLimits {
            transfer_timeout: self.ack_budget,
            idle_timeout: self.idle_timeout,
            max_connections: max_connections(self.max_connections, open_files),
            max_header_bytes: MAX_HEADER_BYTES,
            half_close: true,
        }
    }
}

fn ack_budget_too_long() -> Problem {
    let max_ms = MAX_ACK_BUDGET.as_millis();
    let message = format!(
        "it is above {max_ms}ms, but PolyAI waits {} for an answer by default, and the network needs a part of that",
        humantime::format_duration(POLYAI_TIMEOUT)
    );
    Problem::new("server.ack_budget", message)
        .fix(format!("set {max_ms}ms or less, such as the default of 4s"))
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

impl AdminConfig {
    /// Returns the address at which this machine reaches it. An unspecified one (0.0.0.0) becomes a loopback address.
    pub fn local_address(&self) -> SocketAddr {
        let mut address = self.listen;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        address
    }

    /// Returns the URL of a path at [`AdminConfig::local_address`].
    pub fn local_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.local_address())
    }
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

    /// Returns the reasons why the receiver must not start with these secrets.
    pub fn problems(&self) -> Vec<Problem> {
        self.configured_secrets().problems(
            "no signing secret is configured, so no delivery could be verified: set signature.secrets_file (one secret a \
             line) or POLYAI_WEBHOOK_SECRET to the signing_secret that PolyAI showed when the endpoint was created",
        )
    }

    /// Returns the different secrets that are valid at `now`: those of the configuration, then those of the file.
    pub fn valid(&self, now: Timestamp) -> Vec<Secret> {
        self.configured_secrets().valid(now)
    }

    pub(super) fn configured_secrets(&self) -> ConfiguredSecrets<'_> {
        ConfiguredSecrets { kind: &SIGNING_SECRETS, inline: &self.secrets, file: &self.file_secrets }
    }
}

const SIGNING_SECRETS: SecretKind = SecretKind {
    name: "signing secret",
    condition: "secrets",
    key: "signature.secrets",
    file_key: "signature.secrets_file",
    too_short: "it is not PolyAI's, or was cut off",
    store_only: "store only the signing_secret, as PolyAI showed it",
    write: "write the endpoint's signing_secret into the file",
    removable: "those of endpoints that no longer exist (`polyhook endpoint list`)",
    excess: "other deliveries are answered 503, so that PolyAI sends them again",
    problem: Secret::token_problem,
    is_repetition_wrong: false,
};

/// `[trigger]`: a second path, on which your own code names a conversation to fetch, with a bearer token.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerConfig {
    /// Path of the trigger on the public listener. Empty: no trigger.
    pub path: String,
    /// Token of at least 16 characters, sent as `Authorization: Bearer TOKEN`.
    pub token: Option<Secret>,
    /// File with more tokens, one per line. It is read again when it changes. A rotation needs two at the same time; at most
    /// 8 may be active.
    pub token_file: Option<PathBuf>,
    /// Content of `token_file` at the start.
    #[serde(skip)]
    pub file_tokens: SecretsFile,
}

const TRIGGER_TOKENS: SecretKind = SecretKind {
    name: "trigger token",
    condition: "trigger_tokens",
    key: "trigger.token",
    file_key: "trigger.token_file",
    too_short: "anyone could guess it; use a random one (`openssl rand -hex 32`)",
    store_only: "store only the token",
    write: "write the token into the file",
    removable: "those that are no longer sent",
    excess: "requests with other tokens are answered 401",
    problem: bearer::token_problem,
    is_repetition_wrong: true,
};

impl TriggerConfig {
    /// Returns whether there is a trigger.
    pub fn is_on(&self) -> bool {
        !self.path.is_empty()
    }

    /// Returns the reasons why the receiver must not start with this trigger. `server_path` is the path of deliveries.
    pub fn problems(&self, server_path: &str) -> Vec<Problem> {
        if !self.is_on() {
            return Vec::new();
        }
        let mut problems = self.configured_tokens().problems(
            "trigger.path is set, but there is no token, so anyone could use it: set trigger.token_file (one token a line) or \
             trigger.token, or remove trigger.path",
        );
        if !is_plain_path(&self.path) {
            problems.push(Problem::new("trigger.path", "it must start with a slash and be a plain path"));
        } else if self.path.trim_end_matches('/') == server_path.trim_end_matches('/') {
            let message = "it is the same as server.path, where deliveries need a signature";
            problems
                .push(Problem::new("trigger.path", message).with("server.path").fix("choose another path"));
        }
        problems
    }

    /// Returns all tokens, including expired ones.
    pub fn tokens(&self) -> impl Iterator<Item = &Secret> {
        let inline = self.configured_tokens().inline.iter();
        inline.chain(self.file_tokens.entries().map(|entry| &entry.secret))
    }

    pub(super) fn configured_tokens(&self) -> ConfiguredSecrets<'_> {
        ConfiguredSecrets { kind: &TRIGGER_TOKENS, inline: self.token.as_slice(), file: &self.file_tokens }
    }
}

/// Returns whether a path of the configuration can be compared with that of a request.
fn is_plain_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains(['{', '}', '*', '?', '#'])
}

/// Returns whether two listeners cannot be open at the same time. Port 0 stands for any free one.
pub(crate) fn addresses_overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    // By default a socket of [::] accepts IPv4, too.
    let accepts_all = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (a == b || accepts_all(a, b) || accepts_all(b, a))
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

    fn problems(secrets: &[&str]) -> Vec<String> {
        let secrets = secrets.iter().copied().map(Secret::new).collect();
        let problems = SignatureConfig { secrets, ..SignatureConfig::default() }.problems();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rejects_missing_and_wrong_secrets() {
        assert!(problems(&["0123456789abcdef", "whsec_0123456789abcdef"]).is_empty());
        for bad in
            [&[][..], &[""], &["0123456789abcde"], &["                    "], &["0123456789abcdef", "x"]]
        {
            assert_eq!(problems(bad).len(), 1, "{bad:?}");
        }
        let many: Vec<_> = (0..9).map(|n| format!("whsec_0123456789{n}")).collect();
        let mut many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(problems(&many)[0].contains("9 signing secrets are valid, but at most 8"));
        many[8] = many[7];
        assert!(problems(&many).is_empty(), "a secret that is configured twice counts once");
        for wrong in ["short", "\"0123456789abcdef", "0123456789abcdef # old", "whe_0123456789abcdef"] {
            let problems = problems(&["0123456789abcdef", wrong]);
            assert!(problems[0].contains("number 2") && !problems[0].contains("789"), "{problems:?}");
        }
        let both = problems(&["short", "whe_0123456789abcdef"]);
        assert!(both[0].contains("number 1") && both[1].contains("number 2"), "{both:?}");
    }

    #[test]
    fn the_ack_budget_ends_before_polyais_patience() {
        let is_wrong = |budget: &str| {
            let server: ServerConfig = toml::from_str(&format!("ack_budget = {budget:?}")).unwrap();
            server
                .problems(&AdminConfig::default())
                .iter()
                .any(|problem| problem.key() == "server.ack_budget")
        };
        for wrong in ["199ms", "4501ms", "5s", "5001ms", "6s", "1h"] {
            assert!(is_wrong(wrong), "{wrong}");
        }
        assert!(!is_wrong("200ms") && !is_wrong("4s") && !is_wrong("4500ms"));
    }

    #[test]
    fn both_listeners_need_ports_of_their_own() {
        let overlap =
            |one: &str, other: &str| addresses_overlap(one.parse().unwrap(), other.parse().unwrap());
        for (one, other) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("127.0.0.1:9090", "[::]:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("[::ffff:127.0.0.1]:9090", "127.0.0.1:9090"),
        ] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("127.0.0.1:9090", "127.0.0.1:8080"),
            ("127.0.0.1:9090", "127.0.0.2:9090"),
            ("0.0.0.0:9090", "[::1]:9090"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }
}
