//! Private RabbitMQ nodes.
//!
//! Each node has a name, ports, data and an epmd of its own. A single node listens on loopback only; the nodes of a cluster
//! are in network namespaces of their own. When this process ends, a shell kills the node and removes its data.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, TcpStream},
    ops::Deref,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{sync::MutexGuard, task::block_in_place};

use self::{
    certificates::write_certificates,
    process_group::{ProcessGroup, Program, SYSTEM_ROOT},
};
use super::{ports, process::eventually};

mod certificates;
mod process_group;

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// The port of epmd in a namespace, where no other program uses it.
const EPMD_PORT: u16 = 4369;
/// Bounds the wait for a node that starts or ends.
const NODE_TIMEOUT: Duration = Duration::from_secs(90);

/// A node that all tests may use as long as they do not disturb it. Each test takes a prefix of its own.
pub(crate) static SHARED_NODE: LazyLock<Node> = LazyLock::new(|| Node::start(ClientCertificate::Optional));

/// Nodes for tests that kill, freeze or block theirs. Each belongs to one test at a time and requires client certificates.
/// There are as many as tests that usually run at the same time.
static EXCLUSIVE_NODES: [LazyLock<tokio::sync::Mutex<Node>>; 3] =
    [const { LazyLock::new(|| tokio::sync::Mutex::new(Node::start(ClientCertificate::Required))) }; 3];

/// A node that no other test uses. If the test fails, the end of the node's logs is printed.
#[derive(Debug)]
pub(crate) struct ExclusiveNode(MutexGuard<'static, Node>);

impl Deref for ExclusiveNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl Drop for ExclusiveNode {
    fn drop(&mut self) {
        self.print_logs_of_failed_test();
    }
}

/// Waits for an exclusive node and returns it running.
pub(crate) async fn exclusive_node() -> ExclusiveNode {
    let node = match block_in_place(unused_node) {
        Some(node) => node,
        None => EXCLUSIVE_NODES[0].lock().await,
    };
    block_in_place(|| node.ensure_running());
    ExclusiveNode(node)
}

/// Returns an exclusive node to a test that is not asynchronous.
pub(crate) fn exclusive_node_blocking() -> ExclusiveNode {
    let node = unused_node().unwrap_or_else(|| EXCLUSIVE_NODES[0].blocking_lock());
    node.ensure_running();
    ExclusiveNode(node)
}

/// Returns the first node that no test uses. It starts now if all before it were always enough.
fn unused_node() -> Option<MutexGuard<'static, Node>> {
    EXCLUSIVE_NODES.iter().find_map(|node| node.try_lock().ok())
}

/// Returns a prefix that no other test uses.
pub(crate) fn unique_prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The policy of the TLS port for clients without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    Optional,
    Required,
}

/// A node; see the [module](self).
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    folder: PathBuf,
    /// The address it listens on.
    host: IpAddr,
    /// Its network namespace, if it has one of its own.
    namespace: Option<String>,
    port: u16,
    tls_port: u16,
    dist_port: u16,
    epmd_port: u16,
    server: Mutex<Option<ProcessGroup>>,
    _epmd: ProcessGroup,
}

impl Node {
    /// Starts a node on loopback and waits until it accepts connections.
    pub(crate) fn start(client_certificate: ClientCertificate) -> Self {
        Self::start_at(client_certificate, Ipv4Addr::LOCALHOST.into(), None, fastrand::u64(..), "")
    }

    /// Starts a node that listens on `host`, in `namespace`, and waits until it accepts connections. The nodes of a cluster
    /// have the same `cookie`. `more_config` is appended to its configuration.
    pub(crate) fn start_at(
        client_certificate: ClientCertificate,
        host: IpAddr,
        namespace: Option<String>,
        cookie: u64,
        more_config: &str,
    ) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let root = SYSTEM_ROOT.as_deref().unwrap_or(Path::new("/"));
        assert!(
            root.join(SERVER.trim_start_matches('/')).exists(),
            "these tests need a real RabbitMQ, and {SERVER} is missing in {}: apt-get install rabbitmq-server (its service need not run)",
            root.display()
        );
        let folder = tempfile::Builder::new().prefix("polyhook-rabbit-").tempdir().unwrap().keep();
        let [port, tls_port, dist_port, free_port] = ports::free();
        // A node looks for the epmd of another cluster member on the port of its own.
        let epmd_port = if namespace.is_some() { EPMD_PORT } else { free_port };
        write_certificates(&folder);
        write_config(&folder, host, [port, tls_port], client_certificate, more_config);
        write_cookie(&folder, cookie);
        let epmd = ["-port", &epmd_port.to_string(), "-address", &host.to_string()];
        let epmd = Program::new(namespace.as_deref(), "epmd", &epmd);
        let epmd = ProcessGroup::start(&epmd, &[], &folder, true);
        wait_for_port(host, epmd_port, &folder);
        let host_name = if namespace.is_some() { host.to_string() } else { "localhost".to_owned() };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let node = Self {
            name: format!("polyhook{}-{number}@{host_name}", std::process::id()),
            folder,
            host,
            namespace,
            port,
            tls_port,
            dist_port,
            epmd_port,
            server: Mutex::new(None),
            _epmd: epmd,
        };
        node.restart();
        node
    }

    /// Returns the `amqp://` URL of a user with all permissions.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@{}:{}/%2f", self.host, self.port)
    }

    /// Returns the `amqps://` URL of the same user.
    pub(crate) fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls_port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path of a file of this node: `ca.pem`, `client.pem`, `client.key`, or `other-ca.pem`, which is another
    /// authority.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts the server again after [`Self::kill`] or [`Self::stop`], with the same ports and data, and waits until it accepts
    /// connections.
    pub(crate) fn restart(&self) {
        let mut server = self.server.lock().unwrap();
        if server.is_some() {
            self.start_app();
        } else {
            let program = Program::new(self.namespace.as_deref(), SERVER, &[]);
            *server = Some(ProcessGroup::start(&program, &self.environment(), &self.folder, false));
        }
        wait_for_port(self.host, self.port, &self.folder);
        wait_for_port(self.host, self.tls_port, &self.folder);
    }

    /// Returns its name in the cluster, `name@host`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes this node a member of the cluster of `other`. It loses its data.
    pub(crate) fn join(&self, other: &Self) {
        self.ctl(&["stop_app"]);
        self.ctl(&["join_cluster", &other.name]);
        self.ctl(&["start_app"]);
    }

    /// Starts or resumes the server if an earlier test left it stopped or frozen.
    fn ensure_running(&self) {
        if self.server.lock().unwrap().is_some() {
            self.resume();
        }
        self.restart();
    }

    /// Starts RabbitMQ in a running Erlang, unless it has started.
    fn start_app(&self) {
        assert_eq!(self.eval("rabbit:start()").as_deref(), Some("ok"), "{} does not start", self.name);
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&self) {
        *self.server.lock().unwrap() = None;
        // The script that started the server has ended. A server with much memory ends a moment later.
        let deadline = Instant::now() + NODE_TIMEOUT;
        while TcpStream::connect((self.host, self.port)).is_ok() {
            assert!(Instant::now() < deadline, "{} still listens after it was killed", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server as SIGTERM does, and waits until it has ended. Its Erlang goes on, so that a restart costs little.
    pub(crate) fn stop(&self) {
        assert_eq!(self.eval("rabbit:stop()").as_deref(), Some("ok"), "{} does not stop", self.name);
    }

    /// Freezes the server: its sockets stay open, but it does nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        // On a busy machine, a thread stops only when it is scheduled. It may confirm a message before.
        eventually("frozen", || self.server.lock().unwrap().as_ref().is_some_and(ProcessGroup::is_frozen));
    }

    /// Lets a frozen server continue.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Runs `rabbitmqctl` and returns its output.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let program = Program::new(self.namespace.as_deref(), CTL, &["-q", "-n", &self.name]);
        let output = Command::new(program.name)
            .args(program.arguments)
            .args(arguments)
            .envs(self.environment())
            .output()
            .expect("rabbitmqctl starts");
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a program that calls `rabbitmqctl` for this node. Like Debian's, it works in a folder of its own.
    pub(crate) fn write_ctl(&self, path: &Path) {
        let quote = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
        let program = Program::new(self.namespace.as_deref(), CTL, &["-q", "-n", &self.name]);
        let variables = self.environment().into_iter().map(|(name, value)| quote(&format!("{name}={value}")));
        let words =
            variables.chain(std::iter::once(&program.name).chain(&program.arguments).map(|word| quote(word)));
        let words: Vec<_> = words.collect();
        fs::write(path, format!("#!/bin/sh\ncd / && exec env {} \"$@\"\n", words.join(" "))).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// Evaluates Erlang expressions on this node and returns the result as text, or `None` if the node does not run or they
    /// fail. `erl_call` is a small C program, while each `rabbitmqctl` takes half a second of processor time.
    pub(crate) fn eval(&self, expressions: &str) -> Option<String> {
        let name = if self.namespace.is_some() { "-name" } else { "-sname" };
        let program = Program::new(self.namespace.as_deref(), "erl_call", &["-R", "-e", name, &self.name]);
        let mut call = Command::new(program.name)
            .args(program.arguments)
            .envs(self.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("erl_call starts");
        // Fails if the node does not run.
        let _ = writeln!(call.stdin.take().expect("a pipe"), "{expressions}.");
        let output = call.wait_with_output().expect("erl_call ends");
        let output = String::from_utf8(output.stdout).expect("UTF-8");
        Some(output.trim().strip_prefix("{ok, ")?.strip_suffix('}')?.to_owned())
    }

    /// Prints the end of the logs if the current thread panics.
    fn print_logs_of_failed_test(&self) {
        if !std::thread::panicking() {
            return;
        }
        let logs = fs::read_dir(self.folder.join("log")).into_iter().flatten().flatten();
        for log in logs {
            let text = fs::read(log.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the end of {} ---\n{}", log.path().display(), tail.join("\n"));
        }
    }

    fn signal(&self, signal: Signal) {
        let server = self.server.lock().unwrap();
        server.as_ref().expect("the server runs").signal(signal);
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let interface = format!("{{{}}}", self.host.to_string().replace('.', ","));
        // A partition is noticed after about one tick.
        let network = format!("-kernel inet_dist_use_interface {interface} -kernel net_ticktime 8");
        vec![
            ("HOME", self.folder.display().to_string()),
            ("RABBITMQ_NODENAME", self.name.clone()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", network.clone()),
            ("RABBITMQ_CTL_ERL_ARGS", network),
            ("RABBITMQ_USE_LONGNAME", self.namespace.is_some().to_string()),
            ("ERL_CRASH_DUMP", path("crash")),
            ("ERL_EPMD_PORT", self.epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", self.host.to_string()),
        ]
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.print_logs_of_failed_test();
    }
}

fn wait_for_port(host: IpAddr, port: u16, folder: &Path) {
    let deadline = Instant::now() + NODE_TIMEOUT;
    while TcpStream::connect((host, port)).is_err() {
        if Instant::now() > deadline {
            let output = fs::read_to_string(folder.join("output")).unwrap_or_default();
            panic!("no program listens on port {port} after {NODE_TIMEOUT:?}:\n{output}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn write_config(
    folder: &Path,
    host: IpAddr,
    [port, tls_port]: [u16; 2],
    client_certificate: ClientCertificate,
    more_config: &str,
) {
    let required = client_certificate == ClientCertificate::Required;
    let path = folder.display();
    let config = format!(
        "listeners.tcp.1 = {host}:{port}\n\
         listeners.ssl.1 = {host}:{tls_port}\n\
         ssl_options.cacertfile = {path}/ca.pem\n\
         ssl_options.certfile = {path}/server.pem\n\
         ssl_options.keyfile = {path}/server.key\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = {required}\n\
         disk_free_limit.absolute = 1MB\n\
         log.file.level = info\n\
         {more_config}"
    );
    fs::write(folder.join("rabbitmq.conf"), config).unwrap();
    fs::write(folder.join("enabled_plugins"), "[].\n").unwrap();
}

fn write_cookie(folder: &Path, cookie: u64) {
    let file = folder.join(".erlang.cookie");
    fs::write(&file, format!("polyhook{cookie}")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
}
