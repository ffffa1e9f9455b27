//! Where the broker is and how a connection to it is made.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError},
    tcp::{AsyncTcpStream, RustlsConnector},
    uri::{AMQPScheme, AMQPUri},
};
use url::{Host, Url};

use super::{OpenError, tls};
use crate::{queue::QueueConfig, secret::Secret};

/// How long connecting may take: name, TCP, TLS and the AMQP handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds of the heartbeat. lapin sends and looks every half of it and calls a peer dead that was silent for
/// twice as long, so one is noticed within ten seconds. A URL's own `?heartbeat=` wins.
const HEARTBEAT: u16 = 4;

/// One node of the cluster.
#[derive(Clone)]
struct Endpoint {
    uri: AMQPUri,
    /// The URL without user and password.
    shown: String,
}

/// All nodes of the cluster, tried in turn.
pub(super) struct Broker {
    endpoints: Vec<Endpoint>,
    tls: Option<RustlsConnector>,
    turn: AtomicUsize,
}

impl Broker {
    /// Reads URLs and TLS files. Nothing is connected to. `frame_max` holds where a URL has none of its own.
    pub(super) fn new(config: &QueueConfig, frame_max: Option<u32>) -> Result<Self, OpenError> {
        let from_file = match &config.url_file {
            Some(path) => Some(Secret::read_lines(path).map_err(|source| OpenError::File {
                key: "url_file",
                path: path.clone(),
                source,
            })?),
            None => None,
        };
        let urls = from_file.as_deref().unwrap_or_else(|| config.url.as_slice());
        let endpoints = urls
            .iter()
            .enumerate()
            .map(|(n, url)| {
                let mut endpoint =
                    Endpoint::parse(url).map_err(|reason| OpenError::Url { number: n + 1, reason })?;
                endpoint.uri.query.frame_max = endpoint.uri.query.frame_max.or(frame_max);
                Ok(endpoint)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(OpenError::NoUrl);
        }
        let encrypted = endpoints.iter().filter(|node| node.uri.scheme == AMQPScheme::AMQPS).count();
        let tls_files = [&config.ca_file, &config.client_cert_file, &config.client_key_file];
        if encrypted == 0 && tls_files.iter().any(|file| file.is_some()) {
            return Err(OpenError::Tls(
                "queue.ca_file, queue.client_cert_file and queue.client_key_file are for amqps:// URLs, and none is configured: nothing would be encrypted"
                    .to_owned(),
            ));
        }
        let tls = if encrypted > 0 { Some(tls::connector(config)?) } else { None };
        Ok(Self { endpoints, tls, turn: AtomicUsize::new(0) })
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.endpoints.len()
    }

    /// All nodes in order, without user and password.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| endpoint.shown.as_str())
    }

    /// Connects to the node whose turn it is. The error says what is wrong, with whom, and what to do.
    pub(super) async fn connect(&self, role: &str) -> Result<(Connection, Plug, String), String> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let endpoint = &self.endpoints[turn];
        let tls = match endpoint.uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => self.tls.clone(),
        };
        let plug = Plug::default();
        let guard = PullUnless { plug: plug.clone(), connected: false };
        let connected = tokio::time::timeout(
            CONNECT_TIMEOUT,
            open(endpoint.uri.clone(), tls, plug.clone(), format!("polyhook {role}")),
        )
        .await;
        match connected {
            Ok(Ok(connection)) => {
                guard.keep();
                Ok((connection, plug, endpoint.shown.clone()))
            }
            Ok(Err(error)) => Err(explain(&error, endpoint)),
            Err(_) => Err(format!(
                "{} does not answer within {CONNECT_TIMEOUT:?}: is it frozen, starting, or is this not its port?",
                endpoint.shown
            )),
        }
    }
}

async fn open(
    uri: AMQPUri,
    tls: Option<RustlsConnector>,
    plug: Plug,
    name: String,
) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "polyhook".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    // The closure is written where it is used, or the runtime's stream type is not known in it.
    Connection::connector(
        uri,
        lapin::runtime::default_runtime()?,
        async move |uri: AMQPUri, runtime| {
            // lapin logs a returned message whole, with its body, from the thread this runs on. What happens
            // to a connection is told by us, so that thread gets no subscriber at all.
            std::mem::forget(tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new()));
            let host = uri.authority.host.as_str();
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, async {
                let addresses: Vec<_> = tokio::net::lookup_host((host, uri.authority.port)).await?.collect();
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    plug.attach(plain.get_ref());
                }
                match &tls {
                    None => Ok(stream),
                    Some(tls) => stream.into_rustls(tls, host).await,
                }
            });
            Ok(dialled.await.map_err(std::io::Error::from).flatten()?)
        },
        properties,
    )
    .await
}

impl Endpoint {
    fn parse(url: &Secret) -> Result<Self, String> {
        let text = url.expose();
        let parsed = Url::parse(text).map_err(|error| error.to_string())?;
        if !matches!(parsed.scheme(), "amqp" | "amqps") {
            return Err("it begins with neither amqp:// nor amqps://".to_owned());
        }
        let mut uri: AMQPUri = match parsed.host() {
            Some(Host::Domain("")) | None => return Err("it names no host".to_owned()),
            Some(_) => text.parse()?,
        };
        // lapin knows names only, and would take the default, localhost, for an address like this.
        if let Some(Host::Ipv6(address)) = parsed.host() {
            uri.authority.host = address.to_string();
        }
        // A slash at the end is meant as nothing, not as the virtual host whose name is empty.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let shown = format!(
            "{}://{}:{}/{}",
            uri.scheme,
            parsed.host_str().unwrap_or_default(),
            uri.authority.port,
            if uri.vhost == "/" { "" } else { &uri.vhost }
        );
        Ok(Self { uri, shown })
    }
}

/// What an error while connecting means, without the password.
fn explain(error: &lapin::Error, endpoint: &Endpoint) -> String {
    let place = &endpoint.shown;
    match error.kind() {
        ErrorKind::ProtocolError(said) => {
            let text = said.get_message();
            match said.kind() {
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => format!(
                    "{place} does not let us in ({text}): create the virtual host, or grant the user permissions on it"
                ),
                _ if said.get_id() == 403 => {
                    format!("{place} refused the login ({text}): check user and password in queue.url")
                }
                _ => format!("{place} ended the handshake: {text}"),
            }
        }
        ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::TimedOut => {
            format!("{place} cannot be reached within {CONNECT_TIMEOUT:?}")
        }
        ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::InvalidData => format!(
            "no trusted TLS connection to {place} ({io}): check queue.ca_file, the host name, and that the port is the TLS one"
        ),
        ErrorKind::IOError(io) => format!("{place} cannot be reached: {io}"),
        _ => format!("{place}: {error}"),
    }
}

/// A second handle on a connection's socket, to shut it.
///
/// lapin gives each connection a thread that lives as long as its socket; a peer that is frozen in the
/// middle of a handshake, or a close that is never answered, would keep both for ever.
#[derive(Clone, Default)]
pub(super) struct Plug(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Plug {
    #[cfg(unix)]
    fn attach(&self, stream: &tokio::net::TcpStream) {
        use std::os::fd::AsFd;
        let handle = stream.as_fd().try_clone_to_owned().ok().map(std::net::TcpStream::from);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    #[cfg(not(unix))]
    fn attach(&self, _: &tokio::net::TcpStream) {}

    /// Shuts the socket; what still waits for it fails.
    pub(super) fn pull(&self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It fails only where the peer was faster.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Pulls the plug on an attempt that failed or was given up.
struct PullUnless {
    plug: Plug,
    connected: bool,
}

impl PullUnless {
    fn keep(mut self) {
        self.connected = true;
    }
}

impl Drop for PullUnless {
    fn drop(&mut self) {
        if !self.connected {
            self.plug.pull();
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

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(&Secret::new(url)).unwrap()
    }

    #[test]
    fn reads_urls_as_people_mean_them() {
        let plain = endpoint("amqp://me:s%2Fecret@mq.example");
        assert_eq!(plain.shown, "amqp://mq.example:5672/");
        assert_eq!((plain.uri.vhost.as_str(), plain.uri.query.heartbeat), ("/", Some(HEARTBEAT)));
        assert_eq!(plain.uri.authority.userinfo.password, "s/ecret");
        assert_eq!(endpoint("amqp://mq.example/").uri.vhost, "/");
        assert_eq!(endpoint("amqp://mq.example/prod?heartbeat=30").uri.query.heartbeat, Some(30));
        let six = endpoint("amqps://[::1]/prod");
        assert_eq!((six.uri.authority.host.as_str(), six.shown.as_str()), ("::1", "amqps://[::1]:5671/prod"));
    }

    #[test]
    fn an_error_says_which_url_and_never_shows_the_password() {
        for bad in [
            "https://me:hunter2@mq",
            "amqp://",
            "hunter2",
            "amqp://me:hunter2@mq?heartbeat=x",
            "amqp:hunter2",
        ] {
            let error = Broker::new(&config(&["amqp://mq", bad]), None).err().unwrap();
            let told = format!("{error} {error:?}");
            assert!(told.contains('2'), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        assert!(matches!(Broker::new(&config(&[]), None), Err(OpenError::NoUrl)));
    }

    #[test]
    fn tls_files_without_tls_are_an_error() {
        let with_ca = QueueConfig { ca_file: Some("ca.pem".into()), ..config(&["amqp://mq"]) };
        assert!(
            Broker::new(&with_ca, None).err().unwrap().to_string().contains("nothing would be encrypted")
        );
    }

    #[test]
    fn tls_files_are_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent.pem");
        let with_ca = |path| QueueConfig { ca_file: Some(path), ..config(&["amqps://mq"]) };
        assert!(matches!(Broker::new(&with_ca(absent), None), Err(OpenError::File { key: "ca_file", .. })));
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        assert!(
            Broker::new(&with_ca(empty.clone()), None).err().unwrap().to_string().contains("no certificate")
        );
        let half = QueueConfig { client_cert_file: Some(empty), ..config(&["amqps://mq"]) };
        assert!(matches!(Broker::new(&half, None), Err(OpenError::Tls(_))));
    }
}
