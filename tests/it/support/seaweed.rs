//! A private S3 server: SeaweedFS on free loopback ports, with a folder and keys of its own.
//!
//! It checks signatures and conditional writes as S3 does. A shell watches over it that holds the reading end
//! of a pipe of ours: when the test ends, however it ends, the pipe closes, and the shell kills the server and
//! removes its folder.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder};
use polyhook::{archive::ArchiveConfig, secret::Secret};
use tokio::sync::OnceCell;

use super::ports;

pub(crate) const BUCKET: &str = "conversations";
const ACCESS_KEY: &str = "polyhook-test";
const SECRET_KEY: &str = "a key that is as secret as this file";

const WATCH: &str = r#""$@" >"$0/log" 2>&1 & read -r _; kill -9 $!; wait; rm -rf "$0""#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Seaweed {
    port: u16,
    filer: u16,
    folder: PathBuf,
    pipe: Option<ChildStdin>,
    watch: Child,
}

impl Seaweed {
    /// One server for all tests of this process; each takes a prefix of its own.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: LazyLock<OnceCell<Arc<Seaweed>>> = LazyLock::new(OnceCell::new);
        Arc::clone(SHARED.get_or_init(async || Arc::new(Self::start().await)).await)
    }

    /// Starts a server and waits until it takes objects.
    pub(crate) async fn start() -> Self {
        for _ in 0..3 {
            let server = Self::launch();
            if server.takes_objects().await {
                return server;
            }
            // Most likely somebody took one of the ports.
            eprintln!("{}", std::fs::read_to_string(server.folder.join("log")).unwrap_or_default());
        }
        panic!("SeaweedFS does not start; its log is above");
    }

    fn launch() -> Self {
        let folder = tempfile::Builder::new().prefix("polyhook-s3-").tempdir().unwrap().keep();
        let keys = serde_json::json!({ "identities": [{
            "name": "test",
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }]});
        std::fs::write(folder.join("s3.json"), keys.to_string()).unwrap();
        std::fs::create_dir(folder.join("data")).unwrap();
        let ports = ports::free::<8>();
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCH).arg(&folder).arg(weed()).arg("server");
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"]);
        command.args(["-volume.max=64", "-master.volumeSizeLimitMB=64", "-volume.preStopSeconds=0"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(ports.chunks(2)) {
            command.arg(format!("-{name}.port={}", port[0]));
            command.arg(format!("-{name}.port.grpc={}", port[1]));
        }
        for (name, path) in [
            ("dir", "data"),
            ("s3.config", "s3.json"),
            ("filer.localSocket", "filer.sock"),
            ("s3.localSocket", "s3.sock"),
        ] {
            command.arg(format!("-{name}={}", folder.join(path).display()));
        }
        let mut watch = command.current_dir(&folder).stdin(Stdio::piped()).spawn().unwrap();
        Self { port: ports[6], filer: ports[4], folder, pipe: watch.stdin.take(), watch }
    }

    async fn takes_objects(&self) -> bool {
        let store = self.client();
        let start = Instant::now();
        while start.elapsed() < Duration::from_mins(1) {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && store.put(&"ready".into(), "ready".into()).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// A client that owes nothing to the code under test.
    pub(crate) fn client(&self) -> impl ObjectStore + use<> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_retry(object_store::RetryConfig { max_retries: 0, ..Default::default() })
            .build()
            .unwrap()
    }

    /// `[archive]` for this server.
    pub(crate) fn config(&self, prefix: &str) -> ArchiveConfig {
        ArchiveConfig {
            url: format!("s3://{BUCKET}/{prefix}"),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(Secret::new(SECRET_KEY)),
            allow_http: true,
            ..ArchiveConfig::default()
        }
    }

    /// The keys of uploads that are neither finished nor aborted, from the server's own view of its files.
    pub(crate) fn unfinished_uploads(&self) -> Vec<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.filer)).unwrap();
        let path = format!("/buckets/{BUCKET}/.uploads/?limit=1000");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.contains(" 404 ") {
            return Vec::new();
        }
        assert!(head.contains(" 200 "), "{head}");
        let listing: serde_json::Value = serde_json::from_str(body).unwrap();
        let entries = listing["Entries"].as_array().cloned().unwrap_or_default();
        let key = |entry: serde_json::Value| decoded(entry["Extended"]["key"].as_str().unwrap());
        entries.into_iter().map(key).collect()
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.watch.wait();
    }
}

/// Base64, of a text.
fn decoded(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = text.bytes().filter_map(|byte| ALPHABET.iter().position(|letter| *letter == byte));
    let (mut bits, mut held, mut bytes) = (0usize, 0, Vec::new());
    for sextet in sextets {
        bits = bits << 6 | sextet;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xFF).unwrap());
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn weed() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/weed");
    if ours.exists() {
        return ours;
    }
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("weed")).find(|weed| weed.exists())
    });
    found.expect("no `weed` here: run scripts/install-test-tools")
}
