//! A real OTLP receiver: the collector `rotel`, which prints the spans that it is given.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use super::{ports, process::eventually};

/// Ends with the test, however that ends: its shell reads a pipe of ours.
const WATCH: &str = r#""$@" & read -r _; kill -9 $!; wait"#;

/// A running collector.
#[derive(Debug)]
pub(crate) struct Collector {
    shell: Child,
    /// For `tracing.endpoint`.
    pub(crate) url: String,
    said: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

/// A span as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// The ids of the spans it is linked to.
    pub(crate) links: Vec<String>,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/rotel");
        assert!(program.exists(), "no `rotel` here: run scripts/install-test-tools");
        let folder = tempfile::tempdir().unwrap();
        let [http, grpc] = ports::free::<2>();
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(program)
            .args(["start", "--exporter", "blackhole", "--debug-log", "traces"])
            .args(["--debug-log-verbosity", "detailed", "--pid-file", "pid", "--log-file", "log"])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (stdout, lines) = (shell.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        eventually("a collector", || TcpStream::connect(("127.0.0.1", http)).is_ok());
        Self { shell, url: format!("http://127.0.0.1:{http}"), said, _folder: folder }
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut links = false;
        for line in &*self.said.lock().unwrap() {
            if line.starts_with("Span #") {
                spans.push(Span::default());
                links = false;
            }
            let Some(span) = spans.last_mut() else { continue };
            links |= line.starts_with("Links:");
            let Some((name, value)) = line.trim().trim_start_matches("-> ").split_once(':') else { continue };
            let value = value.trim();
            match name.trim() {
                "ID" if links => span.links.push(value.to_owned()),
                "Trace ID" if !links => value.clone_into(&mut span.trace_id),
                "Parent ID" => value.clone_into(&mut span.parent),
                "ID" => value.clone_into(&mut span.id),
                "Name" => value.clone_into(&mut span.name),
                "Kind" => value.trim_start_matches("SPAN_KIND_").clone_into(&mut span.kind),
                "Status code" => span.failed = value.ends_with("ERROR"),
                name if line.contains("-> ") && !links => {
                    let value = value.split_once('(').map_or(value, |(_, value)| value.trim_end_matches(')'));
                    span.attributes.insert(name.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
        spans
    }

    /// All that was printed.
    pub(crate) fn text(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
