//! Ports for servers that may be restarted on the same port.
//!
//! The kernel may give any port of its ephemeral range to an outgoing connection while a server is stopped. So these ports
//! are below that range, and each is given out once.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

/// The lowest port that is given out.
const MIN_PORT: u16 = 10_000;
/// The first port of the ephemeral range, if the kernel does not report it.
const DEFAULT_EPHEMERAL_START: u16 = 32_768;

/// Returns ports of 127.0.0.1 that are free, and that no other caller in this process gets.
pub(crate) fn free<const N: usize>() -> [u16; N] {
    static GIVEN_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let end = ephemeral_start();
    assert!(
        end > MIN_PORT + 2000,
        "net.ipv4.ip_local_port_range begins at {end}, which leaves too few ports for test servers; raise it"
    );
    let mut given_out = GIVEN_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    [(); N].map(|()| {
        loop {
            let port = fastrand::u16(MIN_PORT..end);
            if !given_out.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                given_out.insert(port);
                return port;
            }
        }
    })
}

fn ephemeral_start() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(DEFAULT_EPHEMERAL_START)
}
