//! Three RabbitMQ nodes in one cluster, each in a network namespace of its own, so that the network between them can
//! be cut while everybody reaches each of them.
//!
//! Namespaces, links and addresses go when this process ends, however it ends: a shell waits for that.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use super::rabbit::{ClientCertificate, Node};

const NODES: usize = 3;
/// The minority of a partition stops by itself: nothing is confirmed that the majority does not know.
const CONFIG: &str = "cluster_partition_handling = pause_minority\nloopback_users = none\n";

/// See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    network: Network,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let network = Network::make();
        let cookie = fastrand::u64(..);
        let nodes: Vec<_> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..NODES)
                .map(|number| {
                    let (host, namespace) = (network.host(number), network.namespace(number));
                    scope.spawn(move || {
                        Node::launch(ClientCertificate::Optional, host, Some(namespace), cookie, CONFIG)
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

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// The node that leads `queue`.
    pub(crate) fn leader(&self, queue: &str) -> usize {
        for node in &self.nodes {
            let listed = node.try_ctl(&["list_queues", "name", "leader"]).unwrap_or_default();
            let line = listed.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
            if let Some(leader) =
                line.and_then(|leader| self.nodes.iter().position(|node| node.name() == leader))
            {
                return leader;
            }
        }
        panic!("nobody knows the leader of {queue}");
    }

    /// Cuts the network between one node and the others. The test can still reach the node.
    pub(crate) fn isolate(&self, node: usize) {
        self.route(node, "add");
    }

    /// Restores the network of an isolated node.
    pub(crate) fn reconnect(&self, node: usize) {
        self.route(node, "del");
    }

    fn route(&self, node: usize, change: &str) {
        for other in (0..NODES).filter(|other| *other != node) {
            let to = format!("{}/32", self.network.host(other));
            ip(&["-n", &self.network.namespace(node), "route", change, "blackhole", &to]);
        }
    }
}

#[derive(Debug)]
struct Network {
    name: String,
    subnet: u8,
    leash: Child,
}

impl Network {
    fn make() -> Self {
        // Whoever is asked to clean up must be there before there is anything.
        const LEASH: &str = r#"
            cat >/dev/null
            for node in 0 1 2; do ip netns del "$1-$node"; done
            ip link del "$1"
        "#;
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let name = format!("ph{:x}", std::process::id());
        let leash = Command::new("sh")
            .args(["-c", LEASH, "leash", &name])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let network = Self { name, subnet: fastrand::u8(1..=254), leash };
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

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("no `ip` here: run scripts/install-test-tools");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
