//! Ports that stay free while whoever is given them is away.
//!
//! A node that is restarted wants the port it had. One of those that the kernel gives to outgoing connections may be in use
//! by then, by anybody's connection to anywhere: so these are below that range, and none is given twice.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

/// Below it are the well-known ones.
const FIRST: u16 = 10_000;
/// Where the kernel's range begins, if it does not say.
const USUAL: u16 = 32_768;

/// Ports of 127.0.0.1 on which nobody listens, now and later.
pub(crate) fn free<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let end = kernels_first();
    assert!(
        end > FIRST + 2000,
        "net.ipv4.ip_local_port_range begins at {end}: it leaves no ports to servers"
    );
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    [(); N].map(|()| {
        loop {
            let port = fastrand::u16(FIRST..end);
            if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                given.insert(port);
                return port;
            }
        }
    })
}

fn kernels_first() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(USUAL)
}
