//! URLs as they may be printed: without what may be secret in them.
//!
//! People forget to encode special characters of a password, and write several URLs into one. Therefore everything up to
//! the last `@` counts as user and password, and text that is not clearly a URL is not shown.

use url::Url;

use super::REDACTED;

/// The parameters of an AMQP URL whose values are not secret.
const PUBLIC_PARAMETERS: [&str; 12] = [
    "auth_mechanism",
    "cacertfile",
    "certfile",
    "channel_max",
    "connection_timeout",
    "depth",
    "fail_if_no_peer_cert",
    "frame_max",
    "heartbeat",
    "keyfile",
    "server_name_indication",
    "verify",
];

/// The parts of `scheme://user@place?query#fragment`.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    /// Host, port and path.
    place: &'a str,
    query: Option<&'a str>,
    has_fragment: bool,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(is_scheme) {
            return None;
        }
        let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
        let (rest, has_fragment) = rest.split_once('#').map_or((rest, false), |(rest, _)| (rest, true));
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        Some(Self { scheme, user, place, query, has_fragment })
    }
}

/// Returns a URL without passwords, users that may be tokens, fragments, and the values of unknown parameters. It can be
/// recognised by the person who wrote it. Text that is not a URL is not shown. The path of `sqlite:` and `file:` is.
pub fn redact_url(text: &str) -> String {
    if text.is_empty() || text.starts_with("sqlite:") || text.starts_with("file:") {
        return text.to_owned();
    }
    let Some(Parts { scheme, user, place, query, has_fragment }) = Parts::split(text) else {
        return REDACTED.to_owned();
    };
    // Of AMQP the user is a name. Of other protocols it may be a token.
    let user = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => String::new(),
        Some((name, password)) if scheme.starts_with("amqp") && !name.contains(['/', '@']) => {
            let password = if password.is_empty() { String::new() } else { format!(":{REDACTED}") };
            format!("{name}{password}@")
        }
        Some(_) => format!("{REDACTED}@"),
    };
    let parameter = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if PUBLIC_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None => REDACTED.to_owned(),
    };
    let query = query.map(|query| query.split('&').map(parameter).collect::<Vec<_>>().join("&"));
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let fragment = if has_fragment { format!("#{REDACTED}") } else { String::new() };
    format!("{scheme}://{user}{place}{query}{fragment}")
}

/// Returns scheme, host, port and path of a URL that a request is sent to, so that the host is the one that gets it.
pub fn shown_address(url: &Url) -> String {
    let mut shown = url.clone();
    // A URL without a host has no user either.
    let _ = (shown.set_username(""), shown.set_password(None));
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

/// Returns scheme, host, port and path of a URL: for logs, errors and screens. `None`: the text is not a URL.
pub fn url_address(text: &str) -> Option<String> {
    Parts::split(text).map(|Parts { scheme, place, .. }| format!("{scheme}://{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_request_names_the_host_that_gets_it() {
        for (url, shown) in [
            ("https://me:secret@h.example:8443/in?token=secret#x", "https://h.example:8443/in"),
            ("https://h.example/a@b.example/c?to=x@d.example", "https://h.example/a@b.example/c"),
            ("https://h.example?mail=secret@evil.example", "https://h.example/"),
            ("http://[::1]:80/#@evil.example", "http://[::1]/"),
            ("mailto:someone", "mailto:someone"),
        ] {
            assert_eq!(shown_address(&Url::parse(url).unwrap()), shown);
        }
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, shown) in [
            ("", ""),
            ("sqlite:data/queue.db", "sqlite:data/queue.db"),
            ("sqlite:///var/lib/a@b:c/queue.db", "sqlite:///var/lib/a@b:c/queue.db"),
            ("amqp://rabbit:5672/calls", "amqp://rabbit:5672/calls"),
            ("amqps://polyhook@rabbit", "amqps://polyhook@rabbit"),
            ("amqps://polyhook:hunter2@rabbit:5671/v%2f", "amqps://polyhook:[redacted]@rabbit:5671/v%2f"),
            ("amqp://polyhook:hunter2/@h?unter2#@rabbit", "amqp://polyhook:[redacted]@rabbit"),
            ("amqp://:hunter2@rabbit", "amqp://:[redacted]@rabbit"),
            ("amqp://u:hunter2@h1;amqp://u:hunter2@h2", "amqp://u:[redacted]@h2"),
            ("amqp:/u:hunter2@rabbit", "[redacted]"),
            ("amqp://rabbit/%2f#hunter2", "amqp://rabbit/%2f#[redacted]"),
            ("amqp://rabbit?x=hunter2#hunter2", "amqp://rabbit?x=[redacted]#[redacted]"),
            (
                "amqp://polyhook:hunter2@r/v?heartbeat=9&x=hunter2&password=123",
                "amqp://polyhook:[redacted]@r/v?heartbeat=9&x=[redacted]&password=[redacted]",
            ),
            (
                "amqps://r/v?cacertfile=/ca.pem&keyfile=/key.pem&auth_mechanism=external",
                "amqps://r/v?cacertfile=/ca.pem&keyfile=/key.pem&auth_mechanism=external",
            ),
            ("https://hunter2@host/path", "https://[redacted]@host/path"),
            ("https://user:hunter2@host?key=hunter2", "https://[redacted]@host?key=[redacted]"),
            ("hunter2", "[redacted]"),
            ("hunter2@host", "[redacted]"),
        ] {
            assert_eq!(redact_url(url), shown, "{url}");
            assert_eq!(redact_url(shown), shown, "a shown URL stays the same");
            assert!(!url_address(url).unwrap_or_default().contains("hunter2"), "{url}");
        }
        assert_eq!(url_address("amqps://u:p@[::1]:5671/v?x=y#z").as_deref(), Some("amqps://[::1]:5671/v"));
    }
}
