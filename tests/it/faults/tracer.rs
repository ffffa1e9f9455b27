//! Watches a process's system calls and kills it right before one of them.
//!
//! Counts the calls that change something outside of the process, over all its threads, in the order in which they are
//! made. (`strace -e inject` counts the calls of each thread separately, so it cannot express such an order.)
//!
//! A tracer is a thread. While it runs, no other thread may wait for the end of the process, because it would take the
//! tracer's notifications.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// A system call that is about to be made.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) name: &'static str,
    /// The file or socket that is written to; empty for calls with a path.
    pub(super) target: String,
}

impl Call {
    /// Returns the name of the call and the kind of its target.
    pub(super) fn describe(&self) -> String {
        let file = self.target.rsplit('/').next().unwrap_or_default();
        let known =
            ["queue.db-wal", "queue.db", "spool.db-wal", "spool.db", "conversation.json", "manifest.json"];
        let what = known.into_iter().find(|name| file.starts_with(name)).unwrap_or(match &*self.target {
            "" => "a path",
            target if target.starts_with("socket:") => "a socket",
            _ => "another file",
        });
        format!("{} {what}", self.name)
    }
}

/// A thread that traces a process; see the [module](self).
#[derive(Debug)]
pub(super) struct Tracer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Call>>,
}

impl Tracer {
    /// Traces the process and kills it before the first call for which `kills_before` returns true.
    pub(super) fn attach(pid: Pid, kills_before: impl FnMut(&Call) -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (attached_sender, attached) = channel();
        let thread = thread::spawn(move || {
            attach_to_threads(pid);
            attached_sender.send(()).unwrap();
            follow(pid, &stopped, kills_before)
        });
        attached.recv().expect("the process can be traced: as root, or its parent");
        Self { stop, thread }
    }

    /// Returns whether the process was killed or has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops tracing and returns the calls. If the process was killed, it was before the last one.
    pub(super) fn detach(self) -> Vec<Call> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn attach_to_threads(pid: Pid) {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    let mut seized = BTreeSet::new();
    // Until there is no new thread.
    loop {
        let threads: BTreeSet<_> = fs::read_dir(format!("/proc/{pid}/task"))
            .expect("it runs")
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        let new: Vec<i32> = threads.difference(&seized).copied().collect();
        if new.is_empty() {
            return;
        }
        for thread in new {
            seized.insert(thread);
            let thread = Pid::from_raw(thread);
            // A thread that has just ended, or is already traced as a clone, is not an error.
            if ptrace::seize(thread, options).is_ok() {
                let _ = ptrace::interrupt(thread);
            }
        }
    }
}

fn follow(pid: Pid, stop: &AtomicBool, mut kills_before: impl FnMut(&Call) -> bool) -> Vec<Call> {
    let mut calls = Vec::new();
    // Only children of this thread: other threads of the test process have children, too.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
    // When this thread ends, the kernel detaches it, and the process continues.
    while !stop.load(Ordering::SeqCst) {
        let (thread, signal) = match waitpid(Pid::from_raw(-1), Some(flags)) {
            Ok(WaitStatus::StillAlive) => {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                if let Some((name, target)) = entered(pid, thread) {
                    calls.push(Call { number: calls.len() + 1, name, target });
                    if kills_before(calls.last().unwrap()) {
                        kill(pid, Signal::SIGKILL).expect("it runs");
                        break;
                    }
                }
                (thread, None)
            }
            Ok(WaitStatus::PtraceEvent(thread, _, _)) => (thread, None),
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, _, _)) if ended == pid => break,
            Ok(_) => continue,
            Err(_) => break,
        };
        let _ = ptrace::syscall(thread, signal);
    }
    calls
}

/// Returns the call that a stopped thread enters, if it changes something outside of the process.
fn entered(pid: Pid, thread: Pid) -> Option<(&'static str, String)> {
    if ptrace::syscall_info(thread).ok()?.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let registers = ptrace::getregs(thread).ok()?;
    #[cfg(target_arch = "x86_64")]
    let (number, first) = (registers.orig_rax, registers.rdi);
    #[cfg(target_arch = "aarch64")]
    let (number, first) = (registers.regs[8], registers.regs[0]);
    let number = libc::c_long::try_from(number).ok()?;
    if let Some((_, name)) = BY_PATH.iter().find(|(known, _)| *known == number) {
        return Some((name, String::new()));
    }
    let (_, name) = BY_DESCRIPTOR.iter().find(|(known, _)| *known == number)?;
    let target = fs::read_link(format!("/proc/{pid}/fd/{first}")).unwrap_or_default();
    let target = target.to_string_lossy();
    // Excludes wake-ups of its own threads and its log, which is a pipe to the test.
    let counts = !target.starts_with("anon_inode:") && !target.starts_with("pipe:");
    counts.then(|| (*name, target.into_owned()))
}

const BY_DESCRIPTOR: [(libc::c_long, &str); 9] = [
    (libc::SYS_write, "write"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwritev, "pwritev"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_ftruncate, "ftruncate"),
];

#[cfg(target_arch = "x86_64")]
const BY_PATH: [(libc::c_long, &str); 8] = [
    (libc::SYS_rename, "rename"),
    (libc::SYS_link, "link"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_mkdirat, "mkdirat"),
];
#[cfg(not(target_arch = "x86_64"))]
const BY_PATH: [(libc::c_long, &str); 4] = [
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_mkdirat, "mkdirat"),
];
