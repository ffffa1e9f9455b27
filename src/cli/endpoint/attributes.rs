//! What is said of an endpoint on the command line, checked before PolyAI is asked.

use std::{collections::BTreeMap, path::Path};

use http::{HeaderName, HeaderValue};
use url::{Host, Url};

use super::super::CliError;
use crate::secret::Secret;

/// The longest name (reference of August 2026).
const MAX_NAME_CHARS: usize = 255;

fn usage(text: impl Into<String>) -> CliError {
    CliError::Usage(text.into())
}

/// Whether only this machine can reach it.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// A URL that PolyAI may deliver to. On this machine, where the simulator delivers, without a certificate too.
pub(super) fn url(text: &str) -> Result<Url, CliError> {
    let url: Url = text.parse().map_err(|error| usage(format!("--url: {error}")))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        _ => {
            return Err(usage(
                "--url: PolyAI delivers to https:// only, since a delivery is somebody's conversation: give the URL of \
                 the ingress that ends TLS before the receiver",
            ));
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            "--url: there is a user or password in it, which everybody sees who sees the URL: send it along with \
             --header Authorization=@FILE instead",
        ));
    }
    if url.fragment().is_some() {
        return Err(usage("--url: what follows # never reaches a server; leave it out"));
    }
    Ok(url)
}

pub(super) fn name(text: &str) -> Result<String, CliError> {
    let length = text.chars().count();
    if (1..=MAX_NAME_CHARS).contains(&length) {
        return Ok(text.to_owned());
    }
    Err(usage(format!("--name: PolyAI takes 1 to {MAX_NAME_CHARS} characters, and this is {length}")))
}

/// The event types, each once.
pub(super) fn events(given: &[String]) -> Result<Vec<String>, CliError> {
    let mut events: Vec<String> = Vec::new();
    for event in given.iter().flat_map(|event| event.split(',')).map(str::trim) {
        if event.is_empty() {
            return Err(usage("--event: an event type is missing, such as conversation.completed"));
        }
        if !events.iter().any(|known| known == event) {
            events.push(event.to_owned());
        }
    }
    Ok(events)
}

/// `NAME=VALUE`, or `NAME=@FILE` where the value is nobody's business. What is wrong is said without the value.
pub(super) fn headers(given: &[String]) -> Result<BTreeMap<String, Secret>, CliError> {
    let mut headers = BTreeMap::new();
    for (number, text) in given.iter().enumerate() {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            usage(format!(
                "--header: number {} has no `=` in it; write NAME=VALUE, or NAME=@FILE",
                number + 1
            ))
        })?;
        let name = name.trim();
        let parsed: HeaderName = name.parse().map_err(|_| {
            usage(format!("--header: the name before the `=` of number {} is none", number + 1))
        })?;
        if parsed.as_str().starts_with("x-polyai-") {
            return Err(usage(format!("--header {name}: x-polyai-… are PolyAI's own")));
        }
        let value = match value.strip_prefix('@') {
            Some(path) => Secret::read(Path::new(path))
                .map_err(|error| usage(format!("--header {name}: {path}: {error}")))?,
            None => Secret::new(value),
        };
        if HeaderValue::from_str(value.expose()).is_err() {
            return Err(usage(format!(
                "--header {name}: no HTTP header can carry the value: it must be one line of plain characters"
            )));
        }
        if headers.insert(name.to_owned(), value).is_some() {
            return Err(usage(format!("--header {name}: it is there twice")));
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_polyai_can_reach_privately_is_a_url() {
        for good in [
            "https://hooks.example.com/polyai-events",
            "http://127.0.0.1:8080/x",
            "http://[::1]/",
            "http://localhost/",
        ] {
            url(good).unwrap();
        }
        for (bad, word) in [
            ("http://hooks.example.com/", "https:// only"),
            ("ftp://hooks.example.com/", "https:// only"),
            ("hooks.example.com", "--url"),
            ("https://me:hunter2@hooks.example.com/", "Authorization=@FILE"),
            ("https://hooks.example.com/#x", "#"),
        ] {
            let said = url(bad).unwrap_err().to_string();
            assert!(said.contains(word) && !said.contains("hunter2"), "{bad}: {said}");
        }
    }

    #[test]
    fn headers_come_from_a_file_too_and_errors_keep_their_values() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Bearer hunter2\n").unwrap();
        let given = [format!("Authorization=@{}", file.path().display()), "X-Tenant=a=b".to_owned()];
        let read = headers(&given).unwrap();
        assert_eq!((read["Authorization"].expose(), read["X-Tenant"].expose()), ("Bearer hunter2", "a=b"));
        for bad in [
            "Bearer hunter2",
            "Bearer hunter2=x",
            "X-PolyAI-Signature=hunter2",
            "X-A=hunter2\nhunter2",
            "X-A=@/no/such",
        ] {
            let said = headers(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(said.contains("--header") && !said.contains("hunter2"), "{said}");
        }
        assert!(headers(&["X-A=1".to_owned(), "X-A=2".to_owned()]).is_err());
    }

    #[test]
    fn each_event_once_and_names_of_some_length() {
        let given = ["a.b,c.d".to_owned(), " a.b".to_owned()];
        assert_eq!(events(&given).unwrap(), ["a.b", "c.d"]);
        assert!(events(&["a,".to_owned()]).is_err());
        assert!(name(&"ü".repeat(255)).is_ok() && name(&"ü".repeat(256)).is_err() && name("").is_err());
    }
}
