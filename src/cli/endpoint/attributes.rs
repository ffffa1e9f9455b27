//! Validation of an endpoint's attributes before the request to PolyAI.

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

/// Returns true if only this machine can reach the URL.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Parses a URL that PolyAI can deliver to: `https`, or `http` to this machine, where the simulator delivers.
pub(super) fn url(text: &str) -> Result<Url, CliError> {
    let url: Url = text.parse().map_err(|error| usage(format!("--url: {error}")))?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        _ => {
            return Err(usage(
                "--url: PolyAI delivers to https:// only, because deliveries are about private conversations; give the URL of \
                 the ingress that terminates TLS before the receiver",
            ));
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            "--url: the URL contains a user or password, which logs and lists show; use --header Authorization=@FILE \
             instead",
        ));
    }
    if url.fragment().is_some() {
        return Err(usage("--url: the part after # is never sent to a server; remove it"));
    }
    Ok(url)
}

pub(super) fn name(text: &str) -> Result<String, CliError> {
    let length = text.chars().count();
    if (1..=MAX_NAME_CHARS).contains(&length) {
        return Ok(text.to_owned());
    }
    Err(usage(format!("--name: the name has {length} characters; PolyAI accepts 1 to {MAX_NAME_CHARS}")))
}

/// Returns the event types without duplicates. An argument may list several, separated by commas.
pub(super) fn events(given: &[String]) -> Result<Vec<String>, CliError> {
    let mut events: Vec<String> = Vec::new();
    for event in given.iter().flat_map(|event| event.split(',')).map(str::trim) {
        if event.is_empty() {
            return Err(usage("--event: an event type is empty; give one such as conversation.completed"));
        }
        if !events.iter().any(|known| known == event) {
            events.push(event.to_owned());
        }
    }
    Ok(events)
}

/// Parses `NAME=VALUE`, or `NAME=@FILE` for a secret value. Errors do not contain the value.
pub(super) fn headers(given: &[String]) -> Result<BTreeMap<String, Secret>, CliError> {
    let mut headers = BTreeMap::new();
    for (number, text) in given.iter().enumerate() {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            usage(format!("--header: number {} has no `=`; write NAME=VALUE or NAME=@FILE", number + 1))
        })?;
        let name = name.trim();
        let parsed: HeaderName = name.parse().map_err(|_| {
            usage(format!("--header: the text before the `=` of number {} is not a header name", number + 1))
        })?;
        if parsed.as_str().starts_with("x-polyai-") {
            return Err(usage(format!("--header {name}: PolyAI reserves names that begin with x-polyai-")));
        }
        let value = match value.strip_prefix('@') {
            Some(path) => Secret::read(Path::new(path))
                .map_err(|error| usage(format!("--header {name}: {path}: {error}")))?,
            None => Secret::new(value),
        };
        if HeaderValue::from_str(value.expose()).is_err() {
            return Err(usage(format!(
                "--header {name}: the value is not valid in an HTTP header; it must be one line of visible ASCII characters"
            )));
        }
        if headers.insert(name.to_owned(), value).is_some() {
            return Err(usage(format!("--header {name}: the header is given twice")));
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_https_and_loopback_urls() {
        for good in [
            "https://hooks.example.com/polyai-events",
            "http://127.0.0.1:8080/x",
            "http://[::1]/",
            "http://localhost/",
        ] {
            url(good).unwrap();
        }
        for (bad, words) in [
            ("http://hooks.example.com/", "https:// only"),
            ("ftp://hooks.example.com/", "https:// only"),
            ("hooks.example.com", "--url"),
            ("https://me:hunter2@hooks.example.com/", "Authorization=@FILE"),
            ("https://hooks.example.com/#x", "#"),
        ] {
            let error = url(bad).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("hunter2"), "{bad}: {error}");
        }
    }

    #[test]
    fn reads_headers_from_files_and_hides_values_in_errors() {
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
            let error = headers(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("--header") && !error.contains("hunter2"), "{error}");
        }
        assert!(headers(&["X-A=1".to_owned(), "X-A=2".to_owned()]).is_err());
    }

    #[test]
    fn removes_duplicate_events_and_limits_names() {
        let given = ["a.b,c.d".to_owned(), " a.b".to_owned()];
        assert_eq!(events(&given).unwrap(), ["a.b", "c.d"]);
        assert!(events(&["a,".to_owned()]).is_err());
        assert!(name(&"ü".repeat(255)).is_ok() && name(&"ü".repeat(256)).is_err() && name("").is_err());
    }
}
