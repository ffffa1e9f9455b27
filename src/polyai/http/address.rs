//! The addresses that a redirect may lead to.
//!
//! A redirect must not make polyhook send requests to its own machine or to the network behind it. An address is checked
//! when it is connected to ([`GuardedResolver`]), so a name that resolves to another address a moment later does not
//! help an attacker.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::net::lookup_host;
use url::{Host, Url};

/// The networks that a redirect may lead to. Each value includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The public internet.
    Public,
    /// Also this machine and private networks: loopback, private, unique-local and shared (carrier-grade NAT) addresses.
    Private,
    /// Also link-local addresses, where clouds serve the credentials of a machine.
    LinkLocal,
}

/// A host has no address that a redirect may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("its address is a loopback, private, link-local or multicast address")]
pub(super) struct ForbiddenAddress;

/// Resolves names to addresses within a [`Reach`].
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardedResolver(pub(super) Reach);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let addresses = resolve(name.as_str(), reach).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Reach {
    /// Returns the reach of an API's host: a redirect may lead to the kind of network in which the API itself is. A host
    /// that cannot be resolved here is public.
    pub(super) async fn of_host(url: &Url) -> Self {
        let reach = match url.host() {
            Some(Host::Ipv4(ip)) => Self::of(ip.into()),
            Some(Host::Ipv6(ip)) => Self::of(ip.into()),
            Some(Host::Domain(name)) => {
                let addresses = lookup_host((name, 0)).await;
                addresses.into_iter().flatten().filter_map(|address| Self::of(address.ip())).max()
            }
            None => None,
        };
        reach.unwrap_or(Self::Public)
    }

    /// Checks the address of a URL, or the addresses to which its name resolves on this machine. A name that cannot be
    /// resolved is not an error.
    pub(super) async fn check(self, url: &Url) -> Result<(), ForbiddenAddress> {
        let includes = |ip: IpAddr| if self.includes(ip) { Ok(()) } else { Err(ForbiddenAddress) };
        match url.host() {
            Some(Host::Ipv4(ip)) => includes(ip.into()),
            Some(Host::Ipv6(ip)) => includes(ip.into()),
            Some(Host::Domain(name)) => match resolve(name, self).await {
                Err(error) if error.is::<ForbiddenAddress>() => Err(ForbiddenAddress),
                _ => Ok(()),
            },
            None => Err(ForbiddenAddress),
        }
    }

    fn includes(self, ip: IpAddr) -> bool {
        Self::of(ip).is_some_and(|reach| reach <= self)
    }

    /// Returns the smallest reach that includes an address, or `None` if no server can have the address.
    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => embedded_v4(ip).map_or_else(|| Self::of_v6(ip), Self::of_v4),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Option<Self> {
        match ip.octets() {
            // Multicast, reserved, broadcast.
            [224..=255, ..] => None,
            [169, 254, ..] => Some(Self::LinkLocal),
            // Linux connects to itself for 0.0.0.0.
            [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0, _]
            | [192, 168, ..] => Some(Self::Private),
            _ => Some(Self::Public),
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Option<Self> {
        match ip.segments()[0] {
            0xff00.. => None,
            0xfe80..=0xfebf => Some(Self::LinkLocal),
            // Unique-local, and its predecessor site-local.
            0xfc00..=0xfdff | 0xfec0..=0xfeff => Some(Self::Private),
            _ => Some(Self::Public),
        }
    }
}

/// Returns the IPv4 address to which an IPv6 address leads: mapped, translated, NAT64, 6to4, and the old compatible form,
/// which includes `::` and `::1` as 0.0.0.0 and 0.0.0.1.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

async fn resolve(name: &str, reach: Reach) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
    let all: Vec<_> = lookup_host((name, 0)).await?.collect();
    if all.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound).into());
    }
    let allowed: Vec<_> = all.into_iter().filter(|address| reach.includes(address.ip())).collect();
    if allowed.is_empty() { Err(ForbiddenAddress.into()) } else { Ok(allowed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(url: &str) -> Option<Reach> {
        match Url::parse(url).unwrap().host().unwrap() {
            Host::Ipv4(ip) => Reach::of(ip.into()),
            Host::Ipv6(ip) => Reach::of(ip.into()),
            Host::Domain(name) => panic!("{name} is a name"),
        }
    }

    #[test]
    fn knows_internal_addresses_in_every_spelling() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://017700000001/",
            "http://0/",
            "http://0.0.0.0/",
            "http://10.1.2.3/",
            "http://100.64.0.1/",
            "http://100.127.255.254/",
            "http://172.16.0.1/",
            "http://172.31.255.1/",
            "http://192.168.1.1/",
            "http://192.0.0.192/",
            "http://[::]/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a00:1]/",
            "http://[::127.0.0.1]/",
            "http://[::ffff:0:127.0.0.1]/",
            "http://[64:ff9b::10.0.0.1]/",
            "http://[2002:7f00:1::]/",
            "http://[fd00:ec2::254]/",
            "http://[fec0::1]/",
            "http://①②⑦.⓪.⓪.①/",
        ] {
            assert_eq!(reach(url), Some(Reach::Private), "{url}");
        }
        for url in [
            "http://169.254.169.254/",
            "http://0xa9fea9fe/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
        ] {
            assert_eq!(reach(url), Some(Reach::LinkLocal), "{url}");
        }
        for url in [
            "http://224.0.0.1/",
            "http://240.0.0.1/",
            "http://255.255.255.255/",
            "http://[ff02::1]/",
            "http://[::ffff:224.0.0.1]/",
        ] {
            assert_eq!(reach(url), None, "{url}");
        }
        for url in [
            "http://1.1.1.1/",
            "http://100.63.0.1/",
            "http://100.128.0.1/",
            "http://172.15.0.1/",
            "http://172.32.0.1/",
            "http://192.167.0.1/",
            "http://223.255.255.1/",
            "http://[2606:4700::1]/",
            "http://[64:ff9b::1.1.1.1]/",
        ] {
            assert_eq!(reach(url), Some(Reach::Public), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_counts_as_its_address() {
        let url = |url: &str| Url::parse(url).unwrap();
        for name in ["https://localhost/", "https://LOCALHOST/"] {
            assert_eq!(Reach::Public.check(&url(name)).await, Err(ForbiddenAddress), "{name}");
            assert_eq!(Reach::Private.check(&url(name)).await, Ok(()), "{name}");
            assert_eq!(Reach::of_host(&url(name)).await, Reach::Private, "{name}");
        }
        let resolver = GuardedResolver(Reach::Public);
        let refused = resolver.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(refused.is::<ForbiddenAddress>(), "{refused}");
        assert!(GuardedResolver(Reach::Private).resolve("localhost".parse().unwrap()).await.is_ok());
        assert_eq!(Reach::of_host(&url("https://no-such-host.invalid/")).await, Reach::Public);
    }
}
