//! The `[console]` section.

use std::{net::SocketAddr, path::PathBuf};

use http::{HeaderName, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::ProxyNetwork;
use crate::{
    problem::Problem,
    secret::Secret,
    web::{self, ConfiguredSecrets, SecretKind, SecretsFile},
};

const LISTEN: &str = "console.listen";
const TOKEN: &str = "console.token";
const TOKEN_FILE: &str = "console.token_file";
const TRUSTED_PROXIES: &str = "console.trusted_proxies";
const USER_HEADER: &str = "console.user_header";

/// Headers that never hold the name of a person, or that hold a secret, which would be in the log.
const NOT_NAMES: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::ORIGIN,
    header::USER_AGENT,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// `[console]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// Serve the console in `polyhook run`. `polyhook console` always serves it.
    pub enabled: bool,
    /// Address of the console. It shows conversations: an address that is not a loopback one needs a token or a proxy.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Token of at least 16 characters, with which people log in.
    pub token: Option<Secret>,
    /// File with more tokens, one per line. It is read again when it changes. At most 8 may be active.
    pub token_file: Option<PathBuf>,
    /// Content of `token_file` at the start.
    #[serde(skip)]
    pub file_tokens: SecretsFile,
    /// Addresses or networks of the authenticating proxies whose `user_header` counts.
    pub trusted_proxies: Vec<ProxyNetwork>,
    /// Header in which these proxies put the name of the person who is logged in.
    pub user_header: Option<String>,
    /// Allow people to fetch conversations again, and to replay and drop dead letters.
    pub allow_replay: bool,
    /// Show phone numbers whole. By default all but the last digits are masked.
    pub show_numbers: bool,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 8090)),
            token: None,
            token_file: None,
            file_tokens: SecretsFile::default(),
            trusted_proxies: Vec::new(),
            user_header: None,
            allow_replay: false,
            show_numbers: false,
        }
    }
}

const CONSOLE_TOKENS: SecretKind = SecretKind {
    name: "console token",
    condition: "console_tokens",
    key: TOKEN,
    file_key: TOKEN_FILE,
    too_short: "anyone could guess it; use a random one (`openssl rand -hex 32`)",
    store_only: "store only the token",
    write: "write the token into the file",
    removable: "those that no one uses",
    excess: "people with other tokens cannot log in",
    problem: web::token_problem,
    is_repetition_wrong: true,
};

impl ConsoleConfig {
    /// Returns whether people log in with a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    /// Returns whether people come through an authenticating proxy.
    pub fn has_proxy(&self) -> bool {
        !self.trusted_proxies.is_empty() && self.user_header.is_some()
    }

    /// Returns all tokens, including expired ones.
    pub fn tokens(&self) -> impl Iterator<Item = &Secret> {
        let inline = self.configured_tokens().inline.iter();
        inline.chain(self.file_tokens.entries().map(|entry| &entry.secret))
    }

    pub(super) fn configured_tokens(&self) -> ConfiguredSecrets<'_> {
        ConfiguredSecrets { kind: &CONSOLE_TOKENS, inline: self.token.as_slice(), file: &self.file_tokens }
    }

    /// Returns whether only programs on this machine can connect.
    pub(super) fn listens_on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// Returns the header in which a proxy names a person.
    pub(super) fn user_header(&self) -> Option<HeaderName> {
        self.user_header.as_ref()?.parse().ok()
    }

    /// Returns the reasons why the console must not be served. `others` are the other listeners of the process.
    pub fn problems(&self, others: &[(&'static str, SocketAddr)]) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.has_token() {
            let none = "it contains no token that is valid now, so no one could log in: write a random one into it \
                        (`openssl rand -hex 32`), or remove console.token_file and console.token";
            problems.extend(self.configured_tokens().problems(none));
        }
        let proxy = self.proxy_problem();
        let is_open =
            proxy.is_none() && !(self.listens_on_loopback() || self.has_token() || self.has_proxy());
        problems.extend(proxy);
        if is_open {
            let message = format!(
                "everyone who can connect to {} could read and hear conversations, because there is neither a token nor a proxy",
                self.listen
            );
            let fix = "listen on 127.0.0.1, set console.token_file to a file with a random token (`openssl rand -hex 32`), or set \
                       console.trusted_proxies and console.user_header for a proxy that authenticates people";
            problems.push(Problem::new(LISTEN, message).with(TOKEN_FILE).with(TRUSTED_PROXIES).fix(fix));
        }
        for (key, address) in others {
            if web::addresses_overlap(self.listen, *address) {
                let message = format!("{LISTEN} {} and {key} {address} need the same port", self.listen);
                problems.push(Problem::new(LISTEN, message).with(key).fix("set another one"));
            }
        }
        problems
    }

    fn proxy_problem(&self) -> Option<Problem> {
        let name = self.user_header.as_deref();
        let Some(name) = name else {
            let message = "there is no console.user_header, so the proxies could not say who is logged in";
            let fix = "set it to the header in which the proxy puts the name, such as X-Forwarded-User";
            let problem = Problem::new(TRUSTED_PROXIES, message).with(USER_HEADER).fix(fix);
            return (!self.trusted_proxies.is_empty()).then_some(problem);
        };
        let Ok(header) = name.parse::<HeaderName>() else {
            let message = "it is not the name of a header";
            return Some(Problem::new(USER_HEADER, message).fix("write it as X-Forwarded-User"));
        };
        if NOT_NAMES.contains(&header) {
            let message = "this header does not hold the name of a person";
            let fix = "set the header in which the proxy puts the name, such as X-Forwarded-User";
            return Some(Problem::new(USER_HEADER, message).fix(fix));
        }
        if self.trusted_proxies.is_empty() {
            let message = "there are no console.trusted_proxies, so everyone could send this header";
            let fix =
                "set console.trusted_proxies to the addresses of the proxy, or remove console.user_header";
            return Some(Problem::new(USER_HEADER, message).with(TRUSTED_PROXIES).fix(fix));
        }
        let whole = self.trusted_proxies.iter().position(ProxyNetwork::is_everyone)?;
        let message =
            format!("entry {} contains every address, so everyone could send console.user_header", whole + 1);
        Some(Problem::new(TRUSTED_PROXIES, message).fix("name the addresses of the proxy alone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN_TEXT: &str = "hunter2-hunter2-hunter2";

    fn config(listen: &str, token: &str, proxies: &[&str], header: &str) -> ConsoleConfig {
        ConsoleConfig {
            listen: listen.parse().unwrap(),
            token: (!token.is_empty()).then(|| Secret::new(token)),
            trusted_proxies: proxies.iter().map(|proxy| (*proxy).to_owned().try_into().unwrap()).collect(),
            user_header: (!header.is_empty()).then(|| header.to_owned()),
            ..ConsoleConfig::default()
        }
    }

    fn problems(config: &ConsoleConfig) -> Vec<String> {
        let others = [("server.listen", "0.0.0.0:8080".parse().unwrap())];
        config.problems(&others).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_a_loopback_address_needs_neither_a_token_nor_a_proxy() {
        for listen in ["127.0.0.1:8090", "127.8.9.1:8090", "[::1]:8090", "[::ffff:127.0.0.1]:8090"] {
            assert_eq!(problems(&config(listen, "", &[], "")), [""; 0], "{listen}");
        }
        for listen in
            ["0.0.0.0:8090", "10.0.0.1:8090", "[::]:8090", "[fe80::1]:8090", "[::ffff:10.0.0.1]:8090"]
        {
            let found = problems(&config(listen, "", &[], ""));
            assert!(found.len() == 1 && found[0].starts_with("console.listen: everyone"), "{found:?}");
            assert!(found[0].contains("token_file") && found[0].contains("trusted_proxies"), "{found:?}");
            assert_eq!(problems(&config(listen, TOKEN_TEXT, &[], "")), [""; 0], "{listen}");
            assert_eq!(problems(&config(listen, "", &["10.0.0.7"], "X-User")), [""; 0], "{listen}");
        }
    }

    #[test]
    fn rejects_tokens_and_proxies_that_protect_nothing() {
        let any = "0.0.0.0:8090";
        for (config, start) in [
            (config(any, "hunter2-hunter2", &[], ""), "console.token: console token number 1 is shorter"),
            (config(any, "Bearer hunter2-hunter2-hunter2", &[], ""), "console.token: console token number 1"),
            (config(any, "", &["10.0.0.7"], ""), "console.trusted_proxies: there is no console.user_header"),
            (config(any, "", &[], "X-User"), "console.user_header: there are no console.trusted_proxies"),
            (
                config(any, TOKEN_TEXT, &["10.0.0.7"], "X User"),
                "console.user_header: it is not the name of a header",
            ),
            (
                config(any, "", &["10.0.0.7"], "Authorization"),
                "console.user_header: this header does not hold",
            ),
            (
                config(any, "", &["10.0.0.7"], "x-forwarded-for"),
                "console.user_header: this header does not hold",
            ),
            (
                config(any, "", &["10.0.0.7", "0.0.0.0/0"], "X-User"),
                "console.trusted_proxies: entry 2 contains every address",
            ),
            (config(any, "", &["::/0"], "X-User"), "console.trusted_proxies: entry 1 contains every address"),
            (config("0.0.0.0:8080", TOKEN_TEXT, &[], ""), "console.listen: console.listen 0.0.0.0:8080 and"),
        ] {
            let found = problems(&config);
            let text = found.join("\n");
            assert!(found.iter().any(|problem| problem.starts_with(start)), "{start}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
