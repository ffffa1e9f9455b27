//! A cluster of three RabbitMQ nodes, each in a network namespace of its own. A test can cut the network between the nodes
//! while clients still reach each of them.
//!
//! Namespaces, links and addresses are removed when this process ends.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
};

use super::{
    cleanup::CleanupShell,
    rabbit::{ClientCertificate, Node},
};

const NODES: usize = 3;
/// The minority side of a partition stops by itself, so that it confirms nothing that the majority does not have.
const CONFIG: &str = "cluster_partition_handling = pause_minority\nloopback_users = none\n";

/// Removes the namespaces and the bridge of the network `$1`.
const REMOVE_NETWORK: &str = r#"
    cat >/dev/null
    for node in 0 1 2; do ip netns del "$1-$node"; done
    ip link del "$1"
"#;

/// A running cluster; see the [module](self).
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    network: Network,
}

impl Cluster {
    /// Starts the nodes and joins them.
    pub(crate) fn start() -> Self {
        let network = Network::create();
        let cookie = fastrand::u64(..);
        let nodes: Vec<_> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..NODES)
                .map(|number| {
                    let (host, namespace) = (network.host(number), network.namespace(number));
                    scope.spawn(move || {
                        Node::start_at(ClientCertificate::Optional, host, Some(namespace), cookie, CONFIG)
                    })
                })
                .collect();
            starting.into_iter().map(|node| node.join().unwrap()).collect()
        });
        for node in &nodes[1..] {
            node.join(&nodes[0]);
        }
        Self { nodes, network }
    }

    /// Returns the addresses of all nodes.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Returns the index of the node that leads `queue`.
    pub(crate) fn leader(&self, queue: &str) -> usize {
        let leader = (0..NODES).find_map(|node| self.leader_seen_by(node, queue));
        leader.unwrap_or_else(|| panic!("no node reports the leader of {queue}"))
    }

    /// Returns the index of the node that leads `queue` as far as `node` knows.
    pub(crate) fn leader_seen_by(&self, node: usize, queue: &str) -> Option<usize> {
        let leader = self.nodes[node].eval(&format!(
            r#"{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
            [{{leader, Leader}}] = rabbit_quorum_queue:info(Queue, [leader]), Leader"#
        ))?;
        self.nodes.iter().position(|node| leader.trim_matches('\'') == node.name())
    }

    /// Cuts one node off from the others, but not from clients.
    pub(crate) fn isolate(&self, node: usize) {
        self.change_routes(node, "add");
    }

    /// Connects an isolated node again.
    pub(crate) fn reconnect(&self, node: usize) {
        self.change_routes(node, "del");
    }

    /// Adds or deletes routes that drop the packets of a node for the others.
    fn change_routes(&self, node: usize, change: &str) {
        for other in (0..NODES).filter(|other| *other != node) {
            let to = format!("{}/32", self.network.host(other));
            ip(&["-n", &self.network.namespace(node), "route", change, "blackhole", &to]);
        }
    }
}

/// The namespaces of the nodes, connected by a bridge.
#[derive(Debug)]
struct Network {
    name: String,
    subnet: u8,
    _removal: CleanupShell,
}

impl Network {
    fn create() -> Self {
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "these tests create network namespaces: run them as root"
        );
        let name = format!("ph{:x}", std::process::id());
        // The shell that removes the network starts before the network is created.
        let removal = CleanupShell::start(REMOVE_NETWORK, |command| {
            command.arg(&name).stdout(Stdio::null()).stderr(Stdio::null());
        });
        let network = Self { name, subnet: fastrand::u8(1..=254), _removal: removal };
        let bridge = &network.name;
        ip(&["link", "add", bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}/24", network.address(254)), "dev", bridge]);
        ip(&["link", "set", bridge, "up"]);
        for number in 0..NODES {
            let (namespace, outer) = (network.namespace(number), format!("{bridge}v{number}"));
            ip(&["netns", "add", &namespace]);
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
            ip(&["link", "set", &outer, "master", bridge, "up"]);
            let address = format!("{}/24", network.host(number));
            ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"]);
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
            ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        }
        network
    }

    fn namespace(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn host(&self, number: usize) -> IpAddr {
        self.address(u8::try_from(number).unwrap() + 1)
    }

    fn address(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(10, 231, self.subnet, last).into()
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("`ip` is missing; run scripts/install-test-tools");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
