//! The nodes of the broker, and how a connection to one of them is opened.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError},
    tcp::{AsyncTcpStream, RustlsConnector},
    uri::{AMQPScheme, AMQPUri},
};
use url::{Host, Url};

use super::{
    error::{ConnectError, OpenError},
    server_version, tls,
};
use crate::{
    queue::QueueConfig,
    secret::{self, Secret},
};

/// Bounds name resolution, TCP, TLS and the AMQP handshake together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds the reading of a node's version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Heartbeat interval. lapin sends and checks every half of it and treats a peer as dead after twice the interval, so a
/// dead peer is noticed within ten seconds. A URL's own `?heartbeat=` has priority.
const HEARTBEAT_SECONDS: u16 = 4;

/// One node of the cluster.
#[derive(Clone)]
struct BrokerNode {
    uri: AMQPUri,
    /// The URL without user and password.
    display_url: String,
}

/// All nodes of the cluster, which are tried in turn.
pub(super) struct Broker {
    nodes: Vec<BrokerNode>,
    tls: Option<RustlsConnector>,
    next_node: AtomicUsize,
    /// The number of refused connections since the last other outcome.
    refused: AtomicUsize,
    all_refused: AtomicBool,
}

impl Broker {
    /// Reads URLs and TLS files without connecting. `frame_max` applies to URLs without a `frame_max` of their own.
    pub(super) fn new(config: &QueueConfig, frame_max: Option<u32>) -> Result<Self, OpenError> {
        Self::new_or_errors(config, frame_max).map_err(|mut errors| errors.swap_remove(0))
    }

    /// Does the same, but returns all errors (at least one).
    pub(super) fn new_or_errors(
        config: &QueueConfig,
        frame_max: Option<u32>,
    ) -> Result<Self, Vec<OpenError>> {
        let from_file = match &config.url_file {
            Some(path) => Some(Secret::read_lines(path).map_err(|source| {
                vec![OpenError::File { key: "queue.url_file", path: path.clone(), source }]
            })?),
            None => None,
        };
        let urls = from_file.as_deref().unwrap_or_else(|| config.url.as_slice());
        let (mut nodes, mut errors) = (Vec::new(), Vec::new());
        for (n, url) in urls.iter().enumerate() {
            match BrokerNode::parse(url) {
                Ok(mut node) => {
                    node.uri.query.frame_max = node.uri.query.frame_max.or(frame_max);
                    nodes.push(node);
                }
                Err(reason) => errors.push(OpenError::Url { number: n + 1, reason }),
            }
        }
        if urls.is_empty() {
            errors.push(OpenError::NoUrl);
        }
        let is_encrypted = nodes.iter().any(|node| node.uri.scheme == AMQPScheme::AMQPS);
        let tls_files = [
            ("queue.ca_file", &config.ca_file),
            ("queue.client_cert_file", &config.client_cert_file),
            ("queue.client_key_file", &config.client_key_file),
        ];
        let useless = tls_files.iter().find(|(_, file)| file.is_some() && !is_encrypted && errors.is_empty());
        if let Some((key, _)) = useless {
            let message = "it is for amqps:// URLs, and none is configured: nothing would be encrypted";
            errors.push(OpenError::tls(key, message));
        }
        let has_files = tls_files.iter().any(|(_, file)| file.is_some());
        // If the URLs are wrong, the files may be wrong, too.
        let needs_tls = is_encrypted || has_files && !errors.is_empty();
        let tls = match needs_tls.then(|| tls::connector(config)).transpose() {
            Ok(tls) => tls,
            Err(more) => {
                errors.extend(more);
                None
            }
        };
        if errors.is_empty() {
            Ok(Self {
                nodes,
                tls,
                next_node: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
                all_refused: AtomicBool::new(false),
            })
        } else {
            Err(errors)
        }
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns true if every node has just refused the connection, so that none of them runs.
    pub(super) fn refuses_connections(&self) -> bool {
        self.all_refused.load(Ordering::Acquire)
    }

    /// Updates [`Self::refuses_connections`] after the keeper has published the reason of a failure.
    pub(super) fn failure_is_published(&self) {
        self.all_refused.store(self.refused.load(Ordering::Relaxed) >= self.nodes.len(), Ordering::Release);
    }

    /// Returns the URLs of all nodes in order, without user and password.
    pub(super) fn display_urls(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.display_url.as_str())
    }

    /// Returns the version of the node with this URL without user and password ([`Broker::connect`] returns it), if the node
    /// reports it within [`VERSION_TIMEOUT`].
    pub(super) async fn server_version(&self, display_url: &str) -> Option<String> {
        let node = self.nodes.iter().find(|node| node.display_url == display_url)?;
        let read = read_server_version(&node.uri, self.tls_for(node));
        tokio::time::timeout(VERSION_TIMEOUT, read).await.ok()?.ok()?
    }

    fn tls_for(&self, node: &BrokerNode) -> Option<RustlsConnector> {
        match node.uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => self.tls.clone(),
        }
    }

    /// Connects to the next node in turn. Returns the connection, its socket and the node's URL. The error names the
    /// node, the cause and what to do.
    pub(super) async fn connect(
        &self,
        role: &str,
    ) -> Result<(Connection, SocketHandle, String), ConnectError> {
        let index = self.next_node.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
        let node = &self.nodes[index];
        let tls = self.tls_for(node);
        let socket = SocketHandle::default();
        let guard = ShutDownUnlessConnected { socket: socket.clone(), connected: false };
        let connected = tokio::time::timeout(
            CONNECT_TIMEOUT,
            open(node.uri.clone(), tls, socket.clone(), format!("polyhook {role}")),
        )
        .await;
        let is_refused = matches!(&connected, Ok(Err(error)) if is_refused(error));
        let refused = if is_refused { self.refused.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.refused.store(refused, Ordering::Relaxed);
        if refused == 0 {
            self.all_refused.store(false, Ordering::Release);
        }
        match connected {
            Ok(Ok(connection)) => {
                guard.mark_connected();
                Ok((connection, socket, node.display_url.clone()))
            }
            Ok(Err(error)) => Err(explain_connect_error(&error, node)),
            Err(_) => Err(ConnectError {
                reason: format!("{} does not answer within {CONNECT_TIMEOUT:?}", node.display_url),
                fix: Some("is it frozen, starting, or is this not its port?"),
            }),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs hold passwords.
        f.debug_list().entries(self.display_urls()).finish()
    }
}

async fn open(
    uri: AMQPUri,
    tls: Option<RustlsConnector>,
    socket: SocketHandle,
    name: String,
) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "polyhook".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    // The closure must be inline: its stream type is inferred from this call.
    Connection::connector(
        uri,
        lapin::runtime::default_runtime()?,
        async move |uri: AMQPUri, runtime| {
            // lapin logs a returned message with its body, from the thread that runs this closure. polyhook logs
            // connection events itself, so this thread gets no subscriber.
            std::mem::forget(tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new()));
            let host = uri.authority.host.as_str();
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, async {
                let addresses: Vec<_> = tokio::net::lookup_host((host, uri.authority.port)).await?.collect();
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    socket.attach(plain.get_ref());
                }
                match &tls {
                    None => Ok(stream),
                    Some(tls) => stream.into_rustls(tls, host).await,
                }
            });
            Ok(stream.await.map_err(std::io::Error::from).flatten()?)
        },
        properties,
    )
    .await
}

/// Opens a connection of its own to a node and returns the version that the node reports, such as `RabbitMQ 4.0.5`.
///
/// lapin does not show the properties of the server, so this reads them from the first frame that a server sends. The
/// node logs that the client ended the connection.
async fn read_server_version(uri: &AMQPUri, tls: Option<RustlsConnector>) -> std::io::Result<Option<String>> {
    let runtime = lapin::runtime::default_runtime().map_err(std::io::Error::other)?;
    let host = uri.authority.host.as_str();
    let addresses: Vec<_> = tokio::net::lookup_host((host, uri.authority.port)).await?.collect();
    let mut stream = AsyncTcpStream::connect(&runtime, addresses).await?;
    if let Some(tls) = &tls {
        stream = stream.into_rustls(tls, host).await?;
    }
    stream.write_all(server_version::PROTOCOL_HEADER).await?;
    let mut header = [0; server_version::FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let Some(length) = server_version::payload_length(header) else { return Ok(None) };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(server_version::parse(&payload))
}

impl BrokerNode {
    fn parse(url: &Secret) -> Result<Self, String> {
        let text = url.expose();
        let parsed = Url::parse(text).map_err(|error| error.to_string())?;
        if !matches!(parsed.scheme(), "amqp" | "amqps") {
            return Err("it begins with neither amqp:// nor amqps://".to_owned());
        }
        let mut uri: AMQPUri = match parsed.host() {
            Some(Host::Domain("")) | None => return Err("it names no host".to_owned()),
            Some(Host::Domain(name)) if !name.bytes().all(is_of_host_name) => {
                return Err(
                    "its host has characters that no host name has; write several URLs as a list, each \
                            with its own amqp:// and with a comma between them"
                        .to_owned(),
                );
            }
            Some(_) => text.parse()?,
        };
        if uri.vhost.contains('@') || uri.vhost.contains("://") {
            return Err(
                "its virtual host contains @ or ://, so a part of the password or another URL is in it"
                    .to_owned(),
            );
        }
        // lapin reads only names here and would use its default, localhost, for an IPv6 address.
        if let Some(Host::Ipv6(address)) = parsed.host() {
            uri.authority.host = address.to_string();
        }
        // A trailing slash means the default virtual host, not one with an empty name.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let host = parsed.host_str().unwrap_or_default();
        let vhost = if uri.vhost == "/" { "" } else { &uri.vhost };
        let address = format!("{}://{host}:{}/{vhost}", uri.scheme, uri.authority.port);
        let display_url = secret::url_address(&address).unwrap_or_default();
        Ok(Self { uri, display_url })
    }
}

fn is_of_host_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// Explains an error of a connection attempt without showing the password.
fn is_refused(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn explain_connect_error(error: &lapin::Error, node: &BrokerNode) -> ConnectError {
    let url = &node.display_url;
    let (reason, fix) = match error.kind() {
        ErrorKind::ProtocolError(said) => {
            let text = said.get_message();
            match said.kind() {
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => (
                    format!("{url} does not let us in ({text})"),
                    Some("create the virtual host, or grant the user permissions on it"),
                ),
                _ if said.get_id() == 403 => (
                    format!("{url} refused the login ({text})"),
                    Some("check user and password in queue.url"),
                ),
                _ => (format!("{url} ended the handshake: {text}"), None),
            }
        }
        ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::TimedOut => {
            (format!("{url} cannot be reached within {CONNECT_TIMEOUT:?}"), None)
        }
        ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::InvalidData => (
            format!("no trusted TLS connection to {url} ({io})"),
            Some("check queue.ca_file, the host name, and that the port is the TLS one"),
        ),
        ErrorKind::IOError(io) => (format!("{url} cannot be reached: {io}"), None),
        _ => (format!("{url}: {error}"), None),
    };
    ConnectError { reason, fix }
}

/// A second handle on a connection's socket, which can shut the socket down.
///
/// lapin gives each connection a thread that lives as long as its socket. A peer that freezes during the handshake, or
/// never answers a close, would otherwise keep the socket and the thread for ever.
#[derive(Clone, Default)]
pub(super) struct SocketHandle(Arc<Mutex<Option<std::net::TcpStream>>>);

impl SocketHandle {
    #[cfg(unix)]
    fn attach(&self, stream: &tokio::net::TcpStream) {
        use std::os::fd::AsFd;
        let handle = stream.as_fd().try_clone_to_owned().ok().map(std::net::TcpStream::from);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    #[cfg(not(unix))]
    fn attach(&self, _: &tokio::net::TcpStream) {}

    /// Shuts the socket down. Everything that still waits for it fails.
    pub(super) fn shut_down(&self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only if the peer has closed it first.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Shuts down the socket of a connection attempt that failed or was cancelled.
struct ShutDownUnlessConnected {
    socket: SocketHandle,
    connected: bool,
}

impl ShutDownUnlessConnected {
    fn mark_connected(mut self) {
        self.connected = true;
    }
}

impl Drop for ShutDownUnlessConnected {
    fn drop(&mut self) {
        if !self.connected {
            self.socket.shut_down();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueUrls;

    fn config(urls: &[&str]) -> QueueConfig {
        QueueConfig {
            url: QueueUrls::Many(urls.iter().copied().map(Secret::new).collect()),
            ..QueueConfig::default()
        }
    }

    fn node(url: &str) -> BrokerNode {
        BrokerNode::parse(&Secret::new(url)).unwrap()
    }

    #[test]
    fn parses_urls_with_defaults_for_port_vhost_and_heartbeat() {
        let plain = node("amqp://me:s%2Fecret@mq.example");
        assert_eq!(plain.display_url, "amqp://mq.example:5672/");
        assert_eq!((plain.uri.vhost.as_str(), plain.uri.query.heartbeat), ("/", Some(HEARTBEAT_SECONDS)));
        assert_eq!(plain.uri.authority.userinfo.password, "s/ecret");
        assert_eq!(node("amqp://mq.example/").uri.vhost, "/");
        assert_eq!(node("amqp://mq.example/prod?heartbeat=30").uri.query.heartbeat, Some(30));
        let ipv6 = node("amqps://[::1]/prod");
        assert_eq!(
            (ipv6.uri.authority.host.as_str(), ipv6.display_url.as_str()),
            ("::1", "amqps://[::1]:5671/prod")
        );
    }

    #[test]
    fn an_error_names_the_url_by_number_without_the_password() {
        for bad in [
            "https://me:hunter2@mq",
            "amqp://",
            "hunter2",
            "amqp://me:hunter2@mq?heartbeat=x",
            "amqp:hunter2",
            "amqp://u:hunter2@h1;amqp://u:hunter2@h2",
            "amqp://u:hunter2@h1,amqp://u:hunter2@h2",
            "amqp://u:hunter2@h1\namqp://u:hunter2@h2",
            "amqp://u:hunter2@h1/v;amqp://u:hunter2@h2",
            "amqp://u:hunter2@h1/%2f,u:hunter2%40h2",
            "amqp://h1|h2",
            "amqp://u:12/hunter2@h1",
            "amqp://h1/v,amqp://h2",
        ] {
            let error = Broker::new(&config(&["amqp://mq", bad]), None).err().unwrap();
            let text = format!("{error} {error:?}");
            assert!(text.contains('2'), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert!(matches!(Broker::new(&config(&[]), None), Err(OpenError::NoUrl)));
    }

    #[test]
    fn rejects_tls_files_without_an_amqps_url() {
        let with_ca = QueueConfig { ca_file: Some("ca.pem".into()), ..config(&["amqp://mq"]) };
        assert!(
            Broker::new(&with_ca, None).err().unwrap().to_string().contains("nothing would be encrypted")
        );
    }

    #[test]
    fn checks_tls_files_when_opened() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent.pem");
        let with_ca = |path| QueueConfig { ca_file: Some(path), ..config(&["amqps://mq"]) };
        assert!(matches!(
            Broker::new(&with_ca(absent), None),
            Err(OpenError::File { key: "queue.ca_file", .. })
        ));
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        assert!(
            Broker::new(&with_ca(empty.clone()), None).err().unwrap().to_string().contains("no certificate")
        );
        let half = QueueConfig { client_cert_file: Some(empty), ..config(&["amqps://mq"]) };
        assert!(matches!(Broker::new(&half, None), Err(OpenError::Tls { .. })));
    }
}
