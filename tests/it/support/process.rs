//! The real program in processes of its own: a clean environment, a folder of its own, every line kept.
//!
//! Each process has a watcher that holds the reading end of a pipe of ours: when the test ends, however it
//! ends, the pipe closes and the watcher kills the process. When a [`Process`] is dropped, everything it said
//! is searched for what must never be said.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

const BINARY: &str = env!("CARGO_BIN_EXE_polyhook");

/// A call of the program that is still to be made.
#[derive(Debug)]
pub(crate) struct Polyhook {
    command: Command,
    private: Vec<String>,
    shows_secrets: bool,
    input: Vec<u8>,
}

impl Polyhook {
    /// With these arguments, in `folder`, and nothing but `PATH` in its environment.
    pub(crate) fn new<I>(folder: &Path, arguments: I) -> Self
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self { command, private: Vec::new(), shows_secrets: false, input: Vec::new() }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What comes in on its standard input.
    pub(crate) fn input(mut self, input: &[u8]) -> Self {
        input.clone_into(&mut self.input);
        self
    }

    /// A text that must never be printed by it.
    pub(crate) fn private(mut self, text: &str) -> Self {
        self.private.push(text.to_owned());
        self
    }

    /// It is there to tell its (made up) secrets on standard output.
    pub(crate) fn shows_secrets(mut self) -> Self {
        self.shows_secrets = true;
        self
    }

    /// Starts it and goes on.
    pub(crate) fn start(mut self) -> Process {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("polyhook runs");
        let watcher = Watcher::of(child.id());
        let said = Arc::new(Said::default());
        let readers = vec![
            said.follow(child.stdout.take().expect("a pipe"), false),
            said.follow(child.stderr.take().expect("a pipe"), true),
        ];
        Process {
            child,
            watcher,
            said,
            readers,
            private: self.private,
            shows_secrets: self.shows_secrets,
            ended: None,
        }
    }

    /// Runs it to its end, which has to come within [`PATIENCE`].
    pub(crate) fn run(mut self) -> Finished {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("polyhook runs");
        let watcher = Watcher::of(child.id());
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = std::mem::take(&mut self.input);
        let writer = std::thread::spawn(move || {
            // Who does not read it does not want it.
            let _ = stdin.write_all(&input);
        });
        let pid = pid(&child);
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let output = child.wait_with_output();
            let _ = tell.send(());
            output
        });
        let in_time = told.recv_timeout(PATIENCE).is_ok();
        if !in_time {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        let Output { status, stdout, stderr } = waiter.join().unwrap().unwrap();
        watcher.dismiss();
        writer.join().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let finished = Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
        assert!(in_time, "it does not end: {finished:?}");
        let stdout = if self.shows_secrets { "" } else { &finished.stdout };
        for text in [stdout, &finished.stderr] {
            assert_discreet(text, &self.private);
        }
        finished
    }
}

/// What became of a process that ended by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    /// None if a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The only value on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watcher: Watcher,
    said: Arc<Said>,
    readers: Vec<JoinHandle<()>>,
    private: Vec<String>,
    shows_secrets: bool,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn pid(&self) -> Pid {
        pid(&self.child)
    }

    /// Standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.said.so_far().stdout.clone()
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.said.so_far().stderr.clone()
    }

    /// The log so far; every line must be JSON.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<Value> {
        let lines = self.stderr();
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The first value that `find` makes of a line, as soon as there is one.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.said.lines.lock().unwrap();
        loop {
            if let Some(found) = lines.stdout.iter().chain(&lines.stderr).find_map(|line| find(line)) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && lines.open > 0, "{what} does not come: {lines:#?}");
            lines = self.said.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The address a service says it listens on.
    #[track_caller]
    pub(crate) fn address(&self, message: &str) -> SocketAddr {
        self.wait_for(message, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == message).then(|| line["address"].as_str()?.parse().ok())?
        })
    }

    /// Where deliveries come in.
    #[track_caller]
    pub(crate) fn receiver(&self) -> SocketAddr {
        self.address("receiving deliveries")
    }

    /// Where metrics are served, once it is ready.
    #[track_caller]
    pub(crate) fn ready(&self) -> SocketAddr {
        let admin = self.address("serving /livez, /readyz and /metrics");
        eventually("ready", || get(admin, "/readyz").is_some_and(|(status, _)| status == 200));
        admin
    }

    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("it runs");
    }

    /// `kill -9`, and it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait(PATIENCE).signal(), Some(9));
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.poll() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end within {within:?}: {:#?}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Ends it as an operator does, and it must end well.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(0), "{:#?}", self.stderr());
    }

    /// A number of the kernel's about it, such as `VmHWM`, in KiB.
    pub(crate) fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name);
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.watcher.end();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let stderr = self.stderr().join("\n");
        if std::thread::panicking() {
            let tail = stderr.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev();
            eprintln!("--- the end of what it logged ---\n{}", tail.collect::<Vec<_>>().join("\n"));
            return;
        }
        assert_discreet(&stderr, &self.private);
        if !self.shows_secrets {
            assert_discreet(&self.stdout().join("\n"), &self.private);
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Kills a process when this one dies.
#[derive(Debug)]
struct Watcher(Child);

impl Watcher {
    fn of(pid: u32) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", r#"read -r _; kill -9 "$1" 2>/dev/null"#, "watcher", &pid.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A terminal's signals are for us; the watcher is told by our end.
        Self(command.process_group(0).spawn().expect("a shell"))
    }

    /// The process is gone, and its number may be another's by now.
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn dismiss(mut self) {
        self.end();
    }
}

#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open: usize,
}

impl Said {
    /// Also for a test that failed while it looked at the lines: what was said is worth more than its poison.
    fn so_far(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static, errors: bool) -> JoinHandle<()> {
        self.lines.lock().unwrap().open += 1;
        let said = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let lines = &mut *said.lines.lock().unwrap();
                let stream = if errors { &mut lines.stderr } else { &mut lines.stdout };
                stream.push(line);
                said.changed.notify_all();
            }
            said.lines.lock().unwrap().open -= 1;
            said.changed.notify_all();
        })
    }
}

/// Nothing private was said: none of `private`, no phone number, no body.
#[track_caller]
fn assert_discreet(text: &str, private: &[String]) {
    let words = ["simulated-key", "whsec_", r#"\"data\":"#, r#""data":{"conversation_id""#];
    for secret in private.iter().map(String::as_str).chain(words) {
        assert!(!text.contains(secret), "a secret or a body was printed: {}", around(text, secret));
    }
    for (at, _) in text.match_indices('+') {
        let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        assert!(digits < 7, "a phone number was printed: {}", around(&text[at..], ""));
    }
}

fn around(text: &str, secret: &str) -> String {
    text.lines().find(|line| line.contains(secret)).unwrap_or_default().to_owned()
}

/// A service's configuration and its folder.
#[derive(Debug)]
pub(crate) struct Site {
    folder: tempfile::TempDir,
    /// Signs deliveries.
    pub(crate) secret: String,
}

impl Site {
    /// Everything in a folder of its own, on ports of the system's choice, with the archive and the queue in
    /// files, and nothing done but what is asked for; `more` is TOML and goes on top, a section of each name at most.
    pub(crate) fn new(polyai: &Access, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let Access { url, account_id, project_id, api_key, secret, .. } = polyai;
        let mut config: toml::Table = toml::from_str(&format!(
            r#"
            server.listen = "127.0.0.1:0"
            admin.listen = "127.0.0.1:0"
            signature.secrets_file = "secrets"
            polyai = {{ base_url = "{url}", platform_url = "{url}", max_requests_per_second = 1000000 }}
            retry.delays = ["1s", "1s", "2s", "4s", "4s"]
            reconcile.every = "0s"
            [[projects]]
            account_id = "{account_id}"
            project_id = "{project_id}"
            api_key_file = "key"
            "#
        ))
        .unwrap();
        for (section, keys) in toml::from_str::<toml::Table>(more).unwrap() {
            match (config.get_mut(&section), keys) {
                (Some(toml::Value::Table(known)), toml::Value::Table(keys)) => known.extend(keys),
                (_, keys) => drop(config.insert(section, keys)),
            }
        }
        let site = Self { folder, secret: secret.clone() };
        site.write("polyhook.toml", &config.to_string());
        site.write("secrets", &format!("# the one before\nan-older-secret-of-ours\n{secret}\n"));
        site.write("key", api_key);
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// A call of the program with this configuration.
    pub(crate) fn polyhook<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Polyhook {
        let config = ["--config", "polyhook.toml"];
        Polyhook::new(self.path(), arguments.into_iter().chain(config)).private(&self.secret)
    }

    /// The archive, where it is a folder.
    pub(crate) fn archive(&self) -> PathBuf {
        self.path().join("polyhook-data/archive")
    }

    /// The manifests in it.
    pub(crate) fn manifests(&self) -> Vec<PathBuf> {
        manifests(&self.archive())
    }
}

/// All manifests below a folder, sorted.
pub(crate) fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.map(Result::unwrap) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ if entry.file_name() == "manifest.json" => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// A running `polyhook simulate`.
#[derive(Debug)]
pub(crate) struct PolyAi {
    pub(crate) access: Access,
    _process: Process,
    _folder: tempfile::TempDir,
}

/// What a receiver needs to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) url: String,
    pub(crate) account_id: String,
    pub(crate) project_id: String,
    pub(crate) api_key: String,
    pub(crate) secret: String,
}

impl PolyAi {
    /// Conversations by chat of one turn: next to nothing to fetch.
    pub(crate) const CHATS: &str = "
        epoch = \"2026-11-03T12:00:00Z\"
        mix = { webchat = 1.0, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    ";
    /// Short calls that were recorded.
    pub(crate) const CALLS: &str = "
        epoch = \"2026-11-03T12:00:00Z\"
        mix = { webchat = 0.0, chat = 0.0, min_turns = 1, max_turns = 2, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    ";

    pub(crate) fn start(scenario: &str, calls: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("scenario.toml"), scenario).unwrap();
        let calls = calls.to_string();
        let arguments = [
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--json",
            "--scenario",
            "scenario.toml",
            "--calls",
            &calls,
        ];
        let process = Polyhook::new(folder.path(), arguments).shows_secrets().start();
        let about: Value = process.wait_for("access", |line| serde_json::from_str(line).ok());
        let text = |name: &str| about[name].as_str().expect(name).to_owned();
        let access = Access {
            url: text("url"),
            account_id: text("account_id"),
            project_id: text("project_id"),
            api_key: text("api_key"),
            secret: text("signing_secret"),
        };
        Self { access, _process: process, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.access.url.trim_start_matches("http://").parse().unwrap()
    }

    /// Scripts it, or asks it.
    pub(crate) fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = "content-type: application/json\r\n";
        let path = format!("/_simulator/{path}");
        let (status, body) =
            exchange(self.address(), method, &path, headers, body.to_string().as_bytes()).expect("an answer");
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Asks one of its APIs, with the key.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = format!("content-type: application/json\r\nx-api-key: {}\r\n", self.access.api_key);
        let (status, body) =
            exchange(self.address(), method, path, &headers, body.to_string().as_bytes()).expect("an answer");
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// The ids of all calls.
    pub(crate) fn ids(&self) -> Vec<String> {
        let calls = self.control("GET", "calls", &Value::Null);
        calls["calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| call["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The body of a delivery.
    pub(crate) fn event(&self, conversation_id: &str) -> Vec<u8> {
        let Access { account_id, project_id, .. } = &self.access;
        serde_json::json!({ "type": "conversation.completed", "data": {
            "conversation_id": conversation_id, "environment": "live",
            "account_id": account_id, "project_id": project_id,
        }})
        .to_string()
        .into_bytes()
    }
}

/// A request without any library; none if there is no whole answer.
pub(crate) fn exchange(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Option<(u16, String)> {
    let mut stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n{headers}");
    write!(head, "content-length: {}\r\n\r\n", body.len()).ok()?;
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) fn get(to: SocketAddr, path: &str) -> Option<(u16, String)> {
    exchange(to, "GET", path, "", b"")
}

/// Delivers a signed event; the status of the answer, if there was one.
pub(crate) fn deliver(to: SocketAddr, secret: &str, event_id: &str, body: &[u8]) -> Option<u16> {
    let now = polyhook::clock::Clock::System.now().as_second();
    let signature = polyhook::signature::sign(&polyhook::secret::Secret::new(secret), Some(now), body);
    post(to, event_id, &signature, u64::try_from(now).ok(), body)
}

/// Posts what somebody signed.
pub(crate) fn post(
    to: SocketAddr,
    event_id: &str,
    signature: &str,
    timestamp: Option<u64>,
    body: &[u8],
) -> Option<u16> {
    let mut headers = format!(
        "content-type: application/json\r\nx-polyai-signature: {signature}\r\nx-polyai-event-id: {event_id}\r\n"
    );
    if let Some(timestamp) = timestamp {
        write!(headers, "x-polyai-timestamp: {timestamp}\r\n").unwrap();
    }
    exchange(to, "POST", "/polyai-events", &headers, body).map(|(status, _)| status)
}

/// Looks again and again until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, look: impl FnMut() -> bool) {
    within(PATIENCE, what, look);
}

#[track_caller]
pub(crate) fn within(patience: Duration, what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !look() {
        assert!(Instant::now() < deadline, "not {what} within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The value of a metric that counts, labels as they are printed; 0 where it is not there yet.
pub(crate) fn metric(admin: SocketAddr, name: &str) -> usize {
    let (_, text) = get(admin, "/metrics").expect("metrics");
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or_default()
}

/// An interpreter of another language, which has to be there.
pub(crate) fn interpreter(name: &str) -> Command {
    let there = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(there, "there is no {name} here, and these tests need it: install it");
    Command::new(name)
}
