//! Authenticating proxies in front of the console.
//!
//! A proxy puts the name of a person into a header. The header counts only if the connection comes from an address of
//! `console.trusted_proxies`. Headers that name addresses, such as `X-Forwarded-For`, never count: anyone can send them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::{console::ConsoleConfig, signature::only};

/// The longest name of a person, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// An address or a network of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyNetwork(IpNet);

impl ProxyNetwork {
    /// Returns whether every address is in it.
    pub fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl TryFrom<String> for ProxyNetwork {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = text.trim();
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network =
            network.map_err(|_| "this is not an address or a network, such as 10.0.0.7 or 10.0.0.0/8")?;
        // Clients with IPv4 addresses are compared as such.
        let IpNet::V6(net) = network else { return Ok(Self(network)) };
        let mapped = net.addr().to_ipv4_mapped().zip(net.prefix_len().checked_sub(96));
        let mapped = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
        Ok(Self(mapped.map_or(network, IpNet::V4)))
    }
}

impl From<ProxyNetwork> for String {
    fn from(network: ProxyNetwork) -> Self {
        if network.0.prefix_len() == network.0.max_prefix_len() {
            network.0.addr().to_string()
        } else {
            network.0.to_string()
        }
    }
}

impl JsonSchema for ProxyNetwork {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProxyNetwork".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// The proxies whose word counts.
#[derive(Debug)]
pub(super) struct TrustedProxies {
    networks: Vec<ProxyNetwork>,
    user_header: HeaderName,
}

/// The reason why the header of a proxy does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::console) enum ProxyError {
    /// The client is not one of the proxies.
    NotTrusted,
    /// The header holds no name, or different ones.
    NotOneName,
}

impl TrustedProxies {
    /// Returns the proxies of a configuration, if there are any.
    pub(super) fn new(config: &ConsoleConfig) -> Option<Self> {
        let user_header = config.user_header().filter(|_| config.has_proxy())?;
        Some(Self { networks: config.trusted_proxies.clone(), user_header })
    }

    /// Returns whether the client is one of the proxies.
    pub(super) fn is_trusted(&self, client: Option<IpAddr>) -> bool {
        client.is_some_and(|client| self.networks.iter().any(|network| network.contains(client)))
    }

    /// Returns the name of the person, if the request has one. The header from anyone else is an error: a proxy that is
    /// missing in the list should be noticed, and so should a person who pretends.
    pub(super) fn person(
        &self,
        client: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<Option<String>, ProxyError> {
        let values = headers.get_all(&self.user_header);
        if values.iter().next().is_none() {
            return Ok(None);
        }
        if !self.is_trusted(client) {
            return Err(ProxyError::NotTrusted);
        }
        let name = only(values.iter()).map_err(|_| ProxyError::NotOneName)?.and_then(name);
        name.map(Some).ok_or(ProxyError::NotOneName)
    }
}

fn name(value: &HeaderValue) -> Option<String> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?.trim();
    let is_name = (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.contains(char::is_control);
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<ProxyNetwork, &'static str> {
        text.to_owned().try_into()
    }

    #[test]
    fn reads_addresses_and_networks() {
        for (text, inside, outside) in [
            ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
            ("10.1.2.3/8", "10.9.9.9", "11.0.0.1"),
            (" 192.168.0.0/16 ", "::ffff:192.168.3.4", "192.169.0.1"),
            ("::1", "::1", "127.0.0.1"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("::ffff:10.0.0.0/104", "10.2.3.4", "11.0.0.1"),
            ("::ffff:10.0.0.7", "10.0.0.7", "::"),
        ] {
            let network = network(text).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
            assert_eq!(String::from(network).parse::<IpNet>().is_ok(), text.contains('/'), "{text}");
        }
        for text in ["", "proxy", "10.0.0", "10.0.0.0/33", "10.0.0.7:8080", "*", "10.0.0.1-10.0.0.9"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_counts_only_from_a_trusted_address() {
        let proxies = TrustedProxies {
            networks: vec![network("10.0.0.0/8").unwrap()],
            user_header: HeaderName::from_static("x-user"),
        };
        let person = |client: &str, names: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
            for name in names {
                headers.append("x-user", HeaderValue::from_bytes(name).unwrap());
            }
            proxies.person(client.parse().ok(), &headers)
        };
        let long = [b'a'; MAX_NAME_BYTES + 1];
        for (client, names, expected) in [
            ("10.0.0.1", &[b"ada@example.com".as_slice()][..], Ok(Some("ada@example.com"))),
            ("10.0.0.1", &[b"ada", b"ada"], Ok(Some("ada"))),
            ("10.0.0.1", &["Zoë".as_bytes()], Ok(Some("Zoë"))),
            ("10.0.0.1", &[], Ok(None)),
            ("192.0.2.1", &[], Ok(None)),
            ("192.0.2.1", &[b"ada"], Err(ProxyError::NotTrusted)),
            ("no address", &[b"ada"], Err(ProxyError::NotTrusted)),
            ("10.0.0.1", &[b""], Err(ProxyError::NotOneName)),
            ("10.0.0.1", &[b" "], Err(ProxyError::NotOneName)),
            ("10.0.0.1", &[b"ada", b"eve"], Err(ProxyError::NotOneName)),
            ("10.0.0.1", &[b"\xff"], Err(ProxyError::NotOneName)),
            ("10.0.0.1", &[&long], Err(ProxyError::NotOneName)),
        ] {
            assert_eq!(person(client, names), expected.map(|name| name.map(str::to_owned)), "{names:?}");
        }
    }
}
