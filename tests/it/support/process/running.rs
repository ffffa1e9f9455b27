//! Running processes and the lines they print.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use super::{
    TEST_TIMEOUT, eventually, get, log_fields::assert_log_fields, private_text::assert_nothing_private,
    terminal::Terminal,
};

/// A running process. When it is dropped, it is killed, and its output is searched for private texts.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watchdog: Watchdog,
    output: Arc<CapturedOutput>,
    readers: Vec<JoinHandle<()>>,
    private: Vec<String>,
    may_print_secrets: bool,
    exit_status: Option<ExitStatus>,
    terminal: Option<Terminal>,
}

impl Process {
    /// Takes over a child whose standard output and error are pipes.
    pub(super) fn new(mut child: Child, private: Vec<String>, may_print_secrets: bool) -> Self {
        let watchdog = Watchdog::of(child.id());
        let output = Arc::new(CapturedOutput::default());
        let readers = vec![
            output.capture(child.stdout.take().expect("a pipe"), false),
            output.capture(child.stderr.take().expect("a pipe"), true),
        ];
        Self {
            child,
            watchdog,
            output,
            readers,
            private,
            may_print_secrets,
            exit_status: None,
            terminal: None,
        }
    }

    /// Takes over a child whose standard output is the terminal that `window` shows. Its errors go there, too, or to a
    /// pipe.
    pub(super) fn on_terminal(
        mut child: Child,
        (private, may_print_secrets): (Vec<String>, bool),
        terminal: Terminal,
        window: impl Read + Send + 'static,
    ) -> Self {
        let watchdog = Watchdog::of(child.id());
        let output = Arc::new(CapturedOutput::default());
        let mut readers = vec![output.capture(window, false)];
        readers.extend(child.stderr.take().map(|stderr| output.capture(stderr, true)));
        let terminal = Some(terminal);
        Self { child, watchdog, output, readers, private, may_print_secrets, exit_status: None, terminal }
    }

    /// Closes its terminal, as a person closes the window.
    pub(crate) fn close_terminal(&self) {
        self.terminal.as_ref().expect("a terminal").close();
    }

    /// Continues its stopped terminal, as Ctrl-Q does.
    pub(crate) fn resume_terminal(&self) {
        self.terminal.as_ref().expect("a terminal").resume();
    }

    pub(crate) fn pid(&self) -> Pid {
        process_id(&self.child)
    }

    /// Returns standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.output.lines().stdout.clone()
    }

    /// Returns standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.output.lines().stderr.clone()
    }

    /// Returns the log so far. Panics if a line is not JSON.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<Value> {
        let lines = self.stderr();
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Waits for a line from which `find` makes a value, and returns the value.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, expectation: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + TEST_TIMEOUT;
        let mut lines = self.output.lines.lock().unwrap();
        loop {
            if let Some(found) = lines.stdout.iter().chain(&lines.stderr).find_map(|line| find(line)) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && lines.open_streams > 0, "no {expectation} was printed: {lines:#?}");
            lines = self.output.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits for the log message `message` and returns its `address` field.
    #[track_caller]
    pub(crate) fn address(&self, message: &str) -> SocketAddr {
        self.wait_for(message, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == message).then(|| line["address"].as_str()?.parse().ok())?
        })
    }

    /// Returns the address for deliveries.
    #[track_caller]
    pub(crate) fn receiver_address(&self) -> SocketAddr {
        self.address("receiving deliveries")
    }

    /// Waits until `/readyz` is 200 and returns the address of the admin listener.
    #[track_caller]
    pub(crate) fn wait_until_ready(&self) -> SocketAddr {
        let admin = self.address("serving /livez, /readyz and /metrics");
        eventually("ready", || get(admin, "/readyz").is_some_and(|(status, _)| status == 200));
        admin
    }

    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("the process runs");
    }

    /// Kills the process with `kill -9` and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait(TEST_TIMEOUT).signal(), Some(9));
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.exit_status.is_none() {
            self.exit_status = self.child.try_wait().unwrap();
        }
        self.exit_status
    }

    /// Waits for the process to end by itself. Panics after `limit`.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.poll() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end within {limit:?}: {:#?}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Sends SIGTERM, as an operator does, and expects exit code 0.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(0), "{:#?}", self.stderr());
    }

    /// Returns a value of `/proc/PID/status` in KiB, such as `VmHWM`.
    pub(crate) fn status_kib(&self, name: &str) -> u64 {
        status_kib(self.pid(), name).expect(name)
    }

    /// Returns the largest memory that the process has allocated, in KiB; see [`peak_allocated_kib`].
    pub(crate) fn peak_allocated_kib(&self) -> u64 {
        peak_allocated_kib(self.pid()).expect("the process runs")
    }
}

/// Returns the largest memory that a running process has allocated, in KiB. The pages of the program itself do not count: those of a
/// debug build are most of its resident memory.
pub(crate) fn peak_allocated_kib(pid: impl Display) -> Option<u64> {
    status_kib(&pid, "VmHWM")?.checked_sub(status_kib(&pid, "RssFile")?)
}

fn status_kib(pid: impl Display, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.watchdog.end();
        if let Some(terminal) = &self.terminal {
            terminal.close();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let stderr = self.stderr().join("\n");
        if std::thread::panicking() {
            let tail = stderr.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev();
            eprintln!("--- the end of its log ---\n{}", tail.collect::<Vec<_>>().join("\n"));
            return;
        }
        assert_nothing_private(&stderr, &self.private);
        assert_log_fields(&stderr);
        if !self.may_print_secrets {
            assert_nothing_private(&self.stdout().join("\n"), &self.private);
        }
    }
}

pub(super) fn process_id(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Kills a process when this test process ends.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    pub(super) fn of(pid: u32) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", r#"read -r _; kill -9 "$1" 2>/dev/null"#, "watcher", &pid.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A process group of its own: Ctrl-C must end the test first. The watchdog sees that end on its input.
        Self(command.process_group(0).spawn().expect("a shell"))
    }

    /// Ends the watchdog. Call it once the process has ended: its id may soon belong to another process.
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub(super) fn dismiss(mut self) {
        self.end();
    }
}

/// All lines that a process has printed.
#[derive(Debug, Default)]
struct CapturedOutput {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open_streams: usize,
}

impl CapturedOutput {
    /// Locks the lines. Ignores poison, because a failed test still needs to show them.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn capture(self: &Arc<Self>, pipe: impl Read + Send + 'static, is_stderr: bool) -> JoinHandle<()> {
        self.lines.lock().unwrap().open_streams += 1;
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let lines = &mut *output.lines.lock().unwrap();
                let stream = if is_stderr { &mut lines.stderr } else { &mut lines.stdout };
                stream.push(line);
                output.changed.notify_all();
            }
            output.lines.lock().unwrap().open_streams -= 1;
            output.changed.notify_all();
        })
    }
}
