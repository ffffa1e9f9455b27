//! Watches a process's system calls and kills it right before one of them.
//!
//! Calls that change something outside of the process are counted over all its threads, in the order in which they
//! are made. (`strace -e inject` counts each call of each thread for itself, and so can name no such order.)
//!
//! A tracer is a thread. While it is at work nobody may wait for the process's end: they would take its news.

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
    /// What is written to, where it is a file or a socket.
    pub(super) target: String,
}

impl Call {
    /// The call and the kind of thing it is made on.
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

/// See the module.
#[derive(Debug)]
pub(super) struct Tracer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Call>>,
}

impl Tracer {
    /// Follows the process from now on and kills it before the first call that `is_the_end`.
    pub(super) fn of(pid: Pid, is_the_end: impl FnMut(&Call) -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (tell, attached) = channel();
        let thread = thread::spawn(move || {
            attach(pid);
            tell.send(()).unwrap();
            follow(pid, &stopped, is_the_end)
        });
        attached.recv().expect("the process can be traced: as root, or its parent");
        Self { stop, thread }
    }

    /// Whether the process was killed, or has ended.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets go of the process, and tells what calls there were; the last is the one it was killed before.
    pub(super) fn end(self) -> Vec<Call> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn attach(pid: Pid) {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    let mut seized = BTreeSet::new();
    // Until a look finds no thread that is new.
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
            // One that has just ended, or came as a clone and is ours already, is no error.
            if ptrace::seize(thread, options).is_ok() {
                let _ = ptrace::interrupt(thread);
            }
        }
    }
}

fn follow(pid: Pid, stop: &AtomicBool, mut is_the_end: impl FnMut(&Call) -> bool) -> Vec<Call> {
    let mut calls = Vec::new();
    // Ours alone: other threads of the tests have children too.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
    // The end of this thread lets everybody go on.
    while !stop.load(Ordering::SeqCst) {
        let (thread, signal) = match waitpid(Pid::from_raw(-1), Some(flags)) {
            Ok(WaitStatus::StillAlive) => {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                if let Some((name, target)) = entered(pid, thread) {
                    calls.push(Call { number: calls.len() + 1, name, target });
                    if is_the_end(calls.last().unwrap()) {
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

/// The call that a stopped thread enters, if it is one that counts.
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
    // Wake-ups of its own threads, and its log, which is a pipe to us.
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
