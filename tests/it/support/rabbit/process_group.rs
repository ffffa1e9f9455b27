//! The processes of a node: a process group that is killed when this process ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::LazyLock,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::support::cleanup::CleanupShell;

/// Runs the program `$3 …` as the leader of a process group, because RabbitMQ's program is a script that starts the server.
/// Prints the id of the group, and kills the group when standard input ends.
const RUN_PROCESS_GROUP: &str = r#"
    folder=$1 remove=$2; shift 2
    setsid "$@" </dev/null >>"$folder/output" 2>&1 &
    echo $!
    exec >&-
    cat >/dev/null
    # epmd ends last. Otherwise a server would start another epmd that is never killed.
    if [ "$remove" = true ]; then sleep 1; fi
    kill -9 -$! 2>/dev/null
    wait $! 2>/dev/null
    if [ "$remove" = true ]; then rm -rf "$folder"; fi
"#;

/// The root folder of the system whose RabbitMQ is used, as `scripts/rabbitmq-versions` sets it. Without it, this machine's is used.
pub(super) static SYSTEM_ROOT: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("TEST_RABBITMQ_ROOT").map(PathBuf::from));

/// A program of RabbitMQ's system, in the network namespace of a node, if it has one.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
}

impl Program {
    pub(super) fn new(namespace: Option<&str>, name: &str, arguments: &[&str]) -> Self {
        let enter = namespace.map(|namespace| ["ip", "netns", "exec", namespace]);
        let root = SYSTEM_ROOT.as_deref().map(|root| ["chroot", root.to_str().expect("a path in UTF-8")]);
        let words = enter.into_iter().flatten().chain(root.into_iter().flatten());
        let mut words = words.chain([name]).chain(arguments.iter().copied()).map(str::to_owned);
        let name = words.next().expect("a name");
        Self { name, arguments: words.collect() }
    }
}

/// A process group that is killed when this value is dropped or this process ends.
#[derive(Debug)]
pub(super) struct ProcessGroup {
    _cleanup: CleanupShell,
    id: Pid,
}

impl ProcessGroup {
    /// Starts a program, with its output in `folder`. If `remove_folder` is set, the folder is removed at the end.
    pub(super) fn start(
        program: &Program,
        environment: &[(&'static str, String)],
        folder: &Path,
        remove_folder: bool,
    ) -> Self {
        let mut cleanup = CleanupShell::start(RUN_PROCESS_GROUP, |command| {
            command
                .arg(folder)
                .arg(remove_folder.to_string())
                .arg(&program.name)
                .args(&program.arguments)
                .envs(environment.iter().map(|(key, value)| (*key, value.as_str())))
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
        });
        let mut line = String::new();
        BufReader::new(cleanup.take_stdout()).read_line(&mut line).expect("the shell prints a process id");
        let id = Pid::from_raw(line.trim().parse().expect("the shell prints a process id"));
        Self { _cleanup: cleanup, id }
    }

    pub(super) fn signal(&self, signal: Signal) {
        killpg(self.id, signal).expect("the process group exists");
    }

    /// Returns true once every thread of every process of the group is stopped.
    pub(super) fn is_frozen(&self) -> bool {
        let group = self.id.to_string();
        let entries =
            |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries("/proc".into()).flat_map(|process| entries(process.join("task"))).all(|thread| {
            let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            // The fields after the name are: state, parent, group; see proc(5).
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            fields.get(2) != Some(&group.as_str()) || matches!(fields[0], "T" | "Z" | "X")
        })
    }
}
