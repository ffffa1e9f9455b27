//! A real OTLP receiver: the collector `rotel`, which prints the spans it receives.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use super::{cleanup::CleanupShell, ports, process::eventually};

/// Runs the program `$@` until standard input ends.
const RUN_COLLECTOR: &str = r#""$@" & read -r _; kill -9 $!; wait"#;

/// A running collector.
#[derive(Debug)]
pub(crate) struct Collector {
    /// The value for `tracing.endpoint`.
    pub(crate) url: String,
    /// The lines it has printed.
    output: Arc<Mutex<Vec<String>>>,
    _process: CleanupShell,
    _folder: tempfile::TempDir,
}

/// A span as the collector received it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// The ids of linked spans.
    pub(crate) links: Vec<String>,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Collector {
    /// Starts a collector and waits until it accepts connections.
    pub(crate) fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/rotel");
        assert!(program.exists(), "{} is missing; run scripts/install-test-tools", program.display());
        let folder = tempfile::tempdir().unwrap();
        let [http, grpc] = ports::free::<2>();
        let mut process = CleanupShell::start(RUN_COLLECTOR, |command| {
            command
                .arg(program)
                .args(["start", "--exporter", "blackhole", "--debug-log", "traces"])
                .args(["--debug-log-verbosity", "detailed", "--pid-file", "pid", "--log-file", "log"])
                .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
                .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
                .current_dir(folder.path())
                .stdout(Stdio::piped());
        });
        let output = Arc::new(Mutex::new(Vec::new()));
        let (stdout, lines) = (process.take_stdout(), Arc::clone(&output));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        eventually("the collector accepts connections", || TcpStream::connect(("127.0.0.1", http)).is_ok());
        Self { url: format!("http://127.0.0.1:{http}"), output, _process: process, _folder: folder }
    }

    /// Returns all spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut links = false;
        for line in &*self.output.lock().unwrap() {
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

    /// Returns the whole output.
    pub(crate) fn text(&self) -> String {
        self.output.lock().unwrap().join("\n")
    }
}
