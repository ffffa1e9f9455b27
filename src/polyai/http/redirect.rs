//! The redirects of one GET: which are followed, and what an error says about the others.

use http::{HeaderValue, StatusCode};
use url::Url;

/// The longest chain of redirects.
const MAX_REDIRECTS: usize = 5;

/// A chain of redirects.
#[derive(Debug)]
pub(super) struct Redirects {
    /// The URLs that were requested, the first of which is the API's.
    visited: Vec<Url>,
    /// True once the chain has led to another scheme, host or port.
    left_origin: bool,
}

impl Redirects {
    /// Begins with the URL of an API.
    pub(super) fn starting_at(url: Url) -> Self {
        Self { visited: vec![url], left_origin: false }
    }

    /// Returns the API's URL.
    pub(super) fn api(&self) -> &Url {
        &self.visited[0]
    }

    /// Returns the URL to request now.
    pub(super) fn current(&self) -> &Url {
        &self.visited[self.visited.len() - 1]
    }

    /// Returns the name of the other host to which the API redirects. The key is never sent to it, nor to the API again
    /// after that.
    pub(super) fn other_host(&self) -> Option<&str> {
        self.left_origin.then(|| self.current().host_str().unwrap_or("no host"))
    }

    /// Moves on to `location`. An error describes what the answering host does, without the URL, which may contain a
    /// signature.
    pub(super) fn follow(&mut self, location: Option<&HeaderValue>) -> Result<(), String> {
        let Some(location) = location else {
            return Err("it redirects without a Location".to_owned());
        };
        let next = str::from_utf8(location.as_bytes()).ok().and_then(|text| self.current().join(text).ok());
        let Some(mut next) = next.filter(Url::has_host) else {
            return Err("it redirects to a Location that is not an http(s) URL".to_owned());
        };
        next.set_fragment(None);
        let host = next.host_str().unwrap_or("no host");
        // Who has configured an http host accepts that answers can be read and changed on the way.
        let allowed = next.scheme() == "https" || next.scheme() == "http" && self.api().scheme() == "http";
        if !allowed {
            return Err(format!("it redirects to {}://{host}, but only https is followed", next.scheme()));
        }
        if self.visited.contains(&next) {
            return Err("it redirects in a circle".to_owned());
        }
        if self.visited.len() > MAX_REDIRECTS {
            return Err(format!("it redirects more than {MAX_REDIRECTS} times"));
        }
        self.left_origin |= next.origin() != self.api().origin();
        self.visited.push(next);
        Ok(())
    }
}

/// Returns whether the answer to a GET has this status if the client is to ask elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starting_at(url: &str) -> Redirects {
        Redirects::starting_at(Url::parse(url).unwrap())
    }

    fn follow(redirects: &mut Redirects, location: &str) -> Result<String, String> {
        let location = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        redirects.follow(Some(&location)).map(|()| redirects.current().to_string())
    }

    #[test]
    fn resolves_relative_locations_and_notices_another_host() {
        let mut chain = starting_at("https://api.example/v3/a/audio?direction=user");
        assert_eq!(follow(&mut chain, "../b?x=1#part").unwrap(), "https://api.example/v3/b?x=1");
        assert_eq!(follow(&mut chain, "HTTPS://API.example:443/c").unwrap(), "https://api.example/c");
        assert_eq!(follow(&mut chain, "?d").unwrap(), "https://api.example/c?d");
        assert_eq!(chain.other_host(), None);
        assert_eq!(follow(&mut chain, "//cdn.example/ä b").unwrap(), "https://cdn.example/%C3%A4%20b");
        assert_eq!(chain.other_host(), Some("cdn.example"));
        follow(&mut chain, "https://api.example/back").unwrap();
        assert_eq!(chain.other_host(), Some("api.example"), "the other host chose this URL");
    }

    #[test]
    fn another_port_or_scheme_is_another_host() {
        for location in ["https://api.example:8443/", "https://API.example./", "https://sub.api.example/"] {
            let mut chain = starting_at("https://api.example/");
            follow(&mut chain, location).unwrap();
            assert!(chain.other_host().is_some(), "{location}");
        }
        let mut chain = starting_at("http://api.example/");
        follow(&mut chain, "https://api.example/").unwrap();
        assert!(chain.other_host().is_some());
        follow(&mut chain, "http://other.example/").unwrap();
    }

    #[test]
    fn errors_have_words_but_no_url() {
        let mut none = starting_at("https://api.example/");
        assert_eq!(none.follow(None).unwrap_err(), "it redirects without a Location");
        for (location, words) in [
            ("http://h.example/?secret", "it redirects to http://h.example, but only https is followed"),
            ("ftp://h.example/secret", "it redirects to ftp://h.example, but only https is followed"),
            ("https:///", "not an http(s) URL"),
            ("https://h:99999/secret", "not an http(s) URL"),
            ("data:text/plain,secret", "not an http(s) URL"),
            ("javascript:secret()", "not an http(s) URL"),
            ("https://[secret", "not an http(s) URL"),
            ("https://api.example/#secret", "in a circle"),
            ("", "in a circle"),
        ] {
            let said = follow(&mut starting_at("https://api.example/"), location).unwrap_err();
            assert!(said.contains(words) && !said.contains("secret"), "{location}: {said}");
        }
    }

    #[test]
    fn follows_a_bounded_number() {
        let mut chain = starting_at("https://api.example/0");
        for hop in 1..=MAX_REDIRECTS {
            follow(&mut chain, &format!("/{hop}")).unwrap();
        }
        assert_eq!(follow(&mut chain, "/6").unwrap_err(), "it redirects more than 5 times");
    }
}
