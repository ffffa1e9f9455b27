//! Private RabbitMQ nodes: own name, ports, data and epmd, on loopback only; or as a cluster in namespaces of their own.
//!
//! Everything is on a leash: a shell that waits for its standard input to end, as it does when this process
//! dies in whatever way, and then kills what it started and removes the data. So nothing is left behind,
//! even by a node in a `static`, which is never dropped.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{sync::MutexGuard, task::block_in_place};

use super::ports;

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// Nobody else is in a namespace.
const EPMD_PORT: u16 = 4369;
const PATIENCE: Duration = Duration::from_secs(90);

/// A node that all tests may use, as long as they leave it in peace: each takes a prefix of its own.
pub(crate) static SHARED_NODE: LazyLock<Node> = LazyLock::new(|| Node::start(ClientCertificate::Optional));

/// A node for one test at a time, which may kill, freeze or block it. It requires client certificates.
static EXCLUSIVE_NODE: LazyLock<tokio::sync::Mutex<Node>> =
    LazyLock::new(|| tokio::sync::Mutex::new(Node::start(ClientCertificate::Required)));

/// Waits for the exclusive node and returns it running.
pub(crate) async fn exclusive_node() -> MutexGuard<'static, Node> {
    let node = block_in_place(|| LazyLock::force(&EXCLUSIVE_NODE)).lock().await;
    block_in_place(|| node.revive());
    node
}

/// Returns the exclusive node to a test that is not asynchronous.
pub(crate) fn exclusive_node_blocking() -> MutexGuard<'static, Node> {
    let node = EXCLUSIVE_NODE.blocking_lock();
    node.revive();
    node
}

/// Returns a prefix that no other test uses.
pub(crate) fn unique_prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether the TLS port lets in those who have no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    Optional,
    Required,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    folder: PathBuf,
    /// Where it listens.
    host: IpAddr,
    /// The network namespace it lives in, if not ours.
    namespace: Option<String>,
    port: u16,
    tls_port: u16,
    dist_port: u16,
    epmd_port: u16,
    server: Mutex<Option<Leashed>>,
    _epmd: Leashed,
}

impl Node {
    /// Starts a node and waits until it takes connections.
    pub(crate) fn start(client_certificate: ClientCertificate) -> Self {
        Self::launch(client_certificate, Ipv4Addr::LOCALHOST.into(), None, fastrand::u64(..), "")
    }

    /// The same at `host`, which may be of another namespace, for a cluster that shares `cookie`.
    pub(crate) fn launch(
        client_certificate: ClientCertificate,
        host: IpAddr,
        namespace: Option<String>,
        cookie: u64,
        more: &str,
    ) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        assert!(
            Path::new(SERVER).exists(),
            "these tests run against a real RabbitMQ, and {SERVER} is missing: apt-get install rabbitmq-server (its own service need not run)"
        );
        let folder = tempfile::Builder::new().prefix("polyhook-rabbit-").tempdir().unwrap().keep();
        let [port, tls_port, dist_port, free_port] = ports::free();
        // The members of a cluster look for each other's where their own is.
        let epmd_port = if namespace.is_some() { EPMD_PORT } else { free_port };
        make_certificates(&folder);
        let shown = folder.display();
        let required = client_certificate == ClientCertificate::Required;
        let config = format!(
            "listeners.tcp.1 = {host}:{port}\n\
             listeners.ssl.1 = {host}:{tls_port}\n\
             ssl_options.cacertfile = {shown}/ca.pem\n\
             ssl_options.certfile = {shown}/server.pem\n\
             ssl_options.keyfile = {shown}/server.key\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = {required}\n\
             disk_free_limit.absolute = 1MB\n\
             log.file.level = info\n\
             {more}"
        );
        fs::write(folder.join("rabbitmq.conf"), config).unwrap();
        fs::write(folder.join("enabled_plugins"), "[].\n").unwrap();
        let cookie_file = folder.join(".erlang.cookie");
        fs::write(&cookie_file, format!("polyhook{cookie}")).unwrap();
        fs::set_permissions(&cookie_file, fs::Permissions::from_mode(0o400)).unwrap();
        let (epmd_name, epmd_address) = (epmd_port.to_string(), host.to_string());
        let (program, arguments) =
            within(namespace.as_deref(), "epmd", &["-port", &epmd_name, "-address", &epmd_address]);
        let epmd = Leashed::start(&program, &arguments, &[], &folder, true);
        wait_for_port(host, epmd_port, &folder);
        let own_name = if namespace.is_some() { host.to_string() } else { "localhost".to_owned() };
        let node = Self {
            name: format!(
                "polyhook{}-{}@{own_name}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
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

    /// `amqp://…`, as the user that may do everything.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@{}:{}/%2f", self.host, self.port)
    }

    /// `amqps://…`
    pub(crate) fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls_port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A file of this node's: `ca.pem`, `client.pem`, `client.key`, `stranger.pem` (another authority).
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts the server, again if need be, on the same ports and data, and waits for it.
    pub(crate) fn restart(&self) {
        let mut server = self.server.lock().unwrap();
        *server = None;
        let (program, arguments) = within(self.namespace.as_deref(), SERVER, &[]);
        *server = Some(Leashed::start(&program, &arguments, &self.environment(), &self.folder, false));
        wait_for_port(self.host, self.port, &self.folder);
        wait_for_port(self.host, self.tls_port, &self.folder);
    }

    /// `name@host`, as it is called among its like.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes it a member of the cluster that `other` is in. It forgets what it had.
    pub(crate) fn join(&self, other: &Self) {
        self.ctl(&["stop_app"]);
        self.ctl(&["join_cluster", &other.name]);
        self.ctl(&["start_app"]);
    }

    /// Brings it back to how a test expects to find it, whatever became of the one before.
    pub(crate) fn revive(&self) {
        let running = self.server.lock().unwrap().is_some();
        if running {
            self.resume();
        } else {
            self.restart();
        }
    }

    /// `kill -9`
    pub(crate) fn kill(&self) {
        *self.server.lock().unwrap() = None;
        // The script that started it is gone; a server with much memory takes a moment longer.
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((self.host, self.port)).is_ok() {
            assert!(Instant::now() < deadline, "{} outlives a kill", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An orderly end.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        // Its listeners go first, its data is put in order last.
        while self.server.lock().unwrap().as_ref().is_some_and(Leashed::is_running) {
            assert!(Instant::now() < deadline, "the node does not stop");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.kill();
    }

    /// Freezes the server: its sockets stay open, and nobody is there.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        // On a busy machine a thread stops only when it gets its turn, and may confirm something until then.
        super::process::eventually("frozen", || {
            self.server.lock().unwrap().as_ref().is_some_and(Leashed::is_frozen)
        });
    }

    /// Lets a frozen server go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Runs `rabbitmqctl` and returns what it printed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.run_ctl(arguments);
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same of a node that may not be well: nothing if it says no.
    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Option<String> {
        let output = self.run_ctl(arguments);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn run_ctl(&self, arguments: &[&str]) -> Output {
        let (program, first) = within(self.namespace.as_deref(), CTL, &["-q", "-n", &self.name]);
        Command::new(program)
            .args(first)
            .args(arguments)
            .envs(self.environment())
            .output()
            .expect("rabbitmqctl runs")
    }

    fn signal(&self, signal: Signal) {
        let server = self.server.lock().unwrap();
        killpg(server.as_ref().expect("the server runs").group, signal).expect("the server is there");
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let interface = format!("{{{}}}", self.host.to_string().replace('.', ","));
        // A partition is noticed after about a tick.
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

/// A test that fails shows what the node said last.
impl Drop for Node {
    fn drop(&mut self) {
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
}

/// A process that ends with this one, or when dropped.
#[derive(Debug)]
struct Leashed {
    leash: Child,
    group: Pid,
}

impl Leashed {
    fn start(
        program: &str,
        arguments: &[String],
        environment: &[(&'static str, String)],
        folder: &Path,
        remove_folder: bool,
    ) -> Self {
        // The end of the input is the end of whoever holds the leash. The program leads a process group,
        // because RabbitMQ's is a script that starts the server.
        const LEASH: &str = r#"
            folder=$1 remove=$2; shift 2
            setsid "$@" </dev/null >>"$folder/output" 2>&1 &
            echo $!
            exec >&-
            cat >/dev/null
            # epmd goes last, or the server would start another that nobody holds.
            if [ "$remove" = true ]; then sleep 1; fi
            kill -9 -$! 2>/dev/null
            wait $! 2>/dev/null
            if [ "$remove" = true ]; then rm -rf "$folder"; fi
        "#;
        let mut leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(folder)
            .arg(remove_folder.to_string())
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (*key, value.as_str())))
            // A terminal's signals are for us; the leash is told by our end.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let output = leash.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a process id");
        let group = Pid::from_raw(line.trim().parse().expect("a process id"));
        Self { leash, group }
    }
}

impl Leashed {
    /// Until the leash is let go, one that ended is a zombie.
    fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.group)).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    /// Whether all threads of all its processes have stopped.
    fn is_frozen(&self) -> bool {
        let group = self.group.to_string();
        let entries =
            |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries("/proc".into()).flat_map(|process| entries(process.join("task"))).all(|thread| {
            let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            // State, parent, group: proc(5).
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            fields.get(2) != Some(&group.as_str()) || matches!(fields[0], "T" | "Z" | "X")
        })
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}

/// How a program is run in a namespace.
fn within(namespace: Option<&str>, program: &str, arguments: &[&str]) -> (String, Vec<String>) {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    match namespace {
        None => (program.to_owned(), arguments.collect()),
        Some(namespace) => {
            let enter = ["netns", "exec", namespace, program].map(str::to_owned);
            ("ip".to_owned(), enter.into_iter().chain(arguments).collect())
        }
    }
}

fn wait_for_port(host: IpAddr, port: u16, folder: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect((host, port)).is_err() {
        if Instant::now() > deadline {
            let output = fs::read_to_string(folder.join("output")).unwrap_or_default();
            panic!("nobody listens on port {port} after {PATIENCE:?}:\n{output}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn make_certificates(folder: &Path) {
    let authority = || {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, stranger) = (authority(), authority());
    let write = |name: &str, content: String| fs::write(folder.join(name), content).unwrap();
    write("ca.pem", ours.as_ref().pem());
    write("stranger.pem", stranger.as_ref().pem());
    for (name, subject) in [("server", "localhost"), ("client", "polyhook")] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([subject.to_owned()]).unwrap();
        write(&format!("{name}.pem"), params.signed_by(&key, &ours).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
