//! Calls of the program: a clean environment, a folder of its own, and a check of what it prints.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Process, TEST_TIMEOUT,
    log_fields::assert_log_fields,
    private_text::assert_nothing_private,
    running::{Watchdog, process_id},
    terminal::{Terminal, stream},
    vocabulary::assert_documented,
};

const BINARY: &str = env!("CARGO_BIN_EXE_polyhook");

/// A call of the program that has not started yet.
#[derive(Debug)]
pub(crate) struct PolyhookCommand {
    command: Command,
    private: Vec<String>,
    may_print_secrets: bool,
    input: Vec<u8>,
}

impl PolyhookCommand {
    /// Prepares a call with these arguments in `folder`. Its environment holds `PATH` and nothing else.
    pub(crate) fn new<I>(folder: &Path, arguments: I) -> Self
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self { command, private: Vec::new(), may_print_secrets: false, input: Vec::new() }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the program with this umask.
    pub(crate) fn umask(self, mask: &str) -> Self {
        self.after(r#"umask "$1""#, mask)
    }

    /// Starts the program with this limit of open files.
    pub(crate) fn open_files(self, limit: u32) -> Self {
        self.after(r#"ulimit -n "$1""#, &limit.to_string())
    }

    /// Starts the program from a shell that first runs a command with one argument.
    fn after(mut self, first: &str, argument: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"{first}; shift; exec "$@""#), "sh", argument]);
        command.arg(self.command.get_program()).args(self.command.get_args()).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.command.get_current_dir().expect("a folder"));
        self.command = command;
        self
    }

    /// Sets its standard input.
    pub(crate) fn input(mut self, input: &[u8]) -> Self {
        input.clone_into(&mut self.input);
        self
    }

    /// Adds a text that the program must never print.
    pub(crate) fn must_not_print(mut self, text: &str) -> Self {
        self.private.push(text.to_owned());
        self
    }

    /// Allows (simulated) secrets on standard output.
    pub(crate) fn may_print_secrets(mut self) -> Self {
        self.may_print_secrets = true;
        self
    }

    /// Starts the process and returns without waiting for it.
    pub(crate) fn start(mut self) -> Process {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.command.spawn().expect("polyhook starts");
        Process::new(child, self.private, self.may_print_secrets)
    }

    /// Starts the process on a terminal with this number of columns. `stderr` says whether its errors go there, too; if
    /// not, they go to a pipe, as with `2> file`.
    pub(crate) fn start_on_terminal(self, columns: u16, stderr: bool) -> Process {
        self.start_on(Terminal::open(columns, false), stderr)
    }

    /// Starts the process on a terminal that a person has stopped with Ctrl-S: it takes no text. Errors go to a pipe if
    /// `stderr` is false.
    pub(crate) fn start_on_stopped_terminal(self, stderr: bool) -> Process {
        self.start_on(Terminal::open(80, true), stderr)
    }

    fn start_on(
        self,
        (terminal, window, end): (Terminal, impl Read + Send + 'static, OwnedFd),
        stderr: bool,
    ) -> Process {
        // As a login shell does: a session whose terminal this is.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty".as_ref(), self.command.get_program()])
            .args(self.command.get_args())
            .env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TERM", "xterm").current_dir(self.command.get_current_dir().expect("a folder"));
        command.stdin(stream(&end)).stdout(stream(&end));
        command.stderr(if stderr { stream(&end) } else { Stdio::piped() });
        let child = command.spawn().expect("polyhook starts");
        Process::on_terminal(child, (self.private, self.may_print_secrets), terminal, window)
    }

    /// Runs the process to its end. Panics after [`TEST_TIMEOUT`].
    pub(crate) fn run(mut self) -> CommandOutput {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("polyhook starts");
        let watchdog = Watchdog::of(child.id());
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = std::mem::take(&mut self.input);
        let writer = std::thread::spawn(move || {
            // Fails if the process does not read its input; that is allowed.
            let _ = stdin.write_all(&input);
        });
        let pid = process_id(&child);
        let (ended_sender, ended) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let output = child.wait_with_output();
            let _ = ended_sender.send(());
            output
        });
        let in_time = ended.recv_timeout(TEST_TIMEOUT).is_ok();
        if !in_time {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        let Output { status, stdout, stderr } = waiter.join().unwrap().unwrap();
        watchdog.dismiss();
        writer.join().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let output = CommandOutput { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
        assert!(in_time, "it does not end: {output:?}");
        let stdout = if self.may_print_secrets { "" } else { &output.stdout };
        assert_log_fields(&output.stderr);
        for text in [stdout, &output.stderr] {
            assert_nothing_private(text, &self.private);
        }
        let arguments: Vec<_> =
            self.command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        assert_documented(&arguments, &output.stdout);
        output
    }
}

/// The exit code and the output of a process that ended by itself.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    /// `None` if a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    #[track_caller]
    pub(crate) fn expect_exit_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Parses standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Prepares a call of an interpreter of another language. Panics if it is not installed.
pub(crate) fn interpreter(name: &str) -> Command {
    let installed = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(installed, "{name} is not installed, and these tests need it: install it");
    Command::new(name)
}
