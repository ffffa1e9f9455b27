//! A private S3 server: SeaweedFS on free loopback ports, with a folder and keys of its own.
//!
//! It checks signatures and conditional writes as S3 does. When this process ends, the server is killed and its folder is
//! removed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder};
use polyhook::{archive::ArchiveConfig, secret::Secret};
use tokio::sync::OnceCell;

use super::{cleanup::CleanupShell, ports};

pub(crate) const BUCKET: &str = "conversations";
const ACCESS_KEY: &str = "polyhook-test";
const SECRET_KEY: &str = "a key that is as secret as this file";

/// Runs a server in the folder `$1` until standard input ends, and removes the folder.
const RUN_SERVER: &str =
    r#"folder=$1; shift; "$@" >"$folder/log" 2>&1 & read -r _; kill -9 $!; wait; rm -rf "$folder""#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Seaweed {
    port: u16,
    filer_port: u16,
    folder: PathBuf,
    _process: CleanupShell,
}

impl Seaweed {
    /// Returns the server that all tests of this process share. Each test uses a prefix of its own.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: LazyLock<OnceCell<Arc<Seaweed>>> = LazyLock::new(OnceCell::new);
        Arc::clone(SHARED.get_or_init(async || Arc::new(Self::start().await)).await)
    }

    /// Starts a server and waits until it stores objects.
    pub(crate) async fn start() -> Self {
        for _ in 0..3 {
            let server = Self::launch();
            if server.stores_objects().await {
                return server;
            }
            // Most likely another process uses one of the ports: try again with others.
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
        let process = CleanupShell::start(RUN_SERVER, |command| {
            command.current_dir(&folder).arg(&folder).arg(weed_program()).arg("server");
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
        });
        Self { port: ports[6], filer_port: ports[4], folder, _process: process }
    }

    /// Returns the port of the S3 API.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    async fn stores_objects(&self) -> bool {
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

    /// Returns a client that does not use the code under test.
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

    /// Returns an `[archive]` section for this server.
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

    /// Returns the keys of multipart uploads that are neither completed nor aborted, as the server itself lists them.
    pub(crate) fn unfinished_uploads(&self) -> Vec<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.filer_port)).unwrap();
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
        let key = |entry: serde_json::Value| decode_base64(entry["Extended"]["key"].as_str().unwrap());
        entries.into_iter().map(key).collect()
    }
}

fn decode_base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = text.bytes().filter_map(|byte| ALPHABET.iter().position(|letter| *letter == byte));
    let (mut bits, mut bit_count, mut bytes) = (0usize, 0, Vec::new());
    for sextet in sextets {
        bits = bits << 6 | sextet;
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            bytes.push(u8::try_from(bits >> bit_count & 0xFF).unwrap());
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn weed_program() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/weed");
    if installed.exists() {
        return installed;
    }
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("weed")).find(|weed| weed.exists())
    });
    found.expect("`weed` is missing; run scripts/install-test-tools")
}
