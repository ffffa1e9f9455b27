//! Cleaning up what a test started, even if this process is killed.

use std::{
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
};

/// A shell that waits until its standard input ends, and then kills and removes what a test has started.
///
/// The input ends when this value is dropped, or when this process ends for any reason. So it also works for a value in a
/// `static`, which is never dropped.
#[derive(Debug)]
pub(crate) struct CleanupShell(Child);

impl CleanupShell {
    /// Starts `sh` with a script, its name and its arguments. A terminal's signals do not reach the shell.
    pub(crate) fn start(script: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script, "cleanup"]).process_group(0).stdin(Stdio::piped());
        configure(&mut command);
        Self(command.spawn().expect("`sh` starts"))
    }

    /// Returns the output of the shell, if `configure` made it a pipe.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("standard output is a pipe")
    }
}

impl Drop for CleanupShell {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
