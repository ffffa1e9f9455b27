//! A terminal of which the test holds the other end.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
};

/// The key with which a person stops a terminal.
const CTRL_S: &[u8] = b"\x13";
/// The key with which it continues.
const CTRL_Q: &[u8] = b"\x11";

/// A terminal. It exists until [`Terminal::close`], as a window does that shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Terminal(Arc<Requests>);

/// What the test wants of a window.
#[derive(Debug, Default)]
struct Requests {
    close: AtomicBool,
    resume: AtomicBool,
}

impl Terminal {
    /// Opens a terminal with this number of columns. One that `is_stopped` takes no text. Returns what a process has printed on it, and the process's end.
    pub(super) fn open(columns: u16, is_stopped: bool) -> (Self, impl Read + Send + 'static, OwnedFd) {
        // No process may inherit it, and no read may block: both would keep the terminal open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let mut master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname_r(&master).unwrap();
        let end = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(&path)
            .unwrap();
        let size = ["-F", &path, "cols", &columns.to_string(), "rows", "40"];
        assert!(Command::new("stty").args(size).status().unwrap().success());
        if is_stopped {
            master.write_all(CTRL_S).unwrap();
        }
        let terminal = Self::default();
        let window = Window { master, requests: Arc::clone(&terminal.0) };
        (terminal, window, end.into())
    }

    /// Closes the terminal, so that the system sends SIGHUP to the process that it controls.
    pub(super) fn close(&self) {
        self.0.close.store(true, Ordering::Relaxed);
    }

    /// Continues a stopped terminal.
    pub(super) fn resume(&self) {
        self.0.resume.store(true, Ordering::Relaxed);
    }
}

/// The side of a terminal that a person sees.
struct Window {
    master: PtyMaster,
    requests: Arc<Requests>,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while !self.requests.close.load(Ordering::Relaxed) {
            if self.requests.resume.swap(false, Ordering::Relaxed) {
                self.master.write_all(CTRL_Q)?;
            }
            match self.master.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // Linux returns an error once no process has the terminal open.
                Err(_) => return Ok(0),
                read => return read,
            }
        }
        Ok(0)
    }
}

/// Returns a copy of the process's end for one of its streams.
pub(super) fn stream(end: &OwnedFd) -> Stdio {
    end.try_clone().unwrap().into()
}
