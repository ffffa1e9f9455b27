//! Runs this program under callgrind, and reads what callgrind has counted.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::cases::Case;

/// What asks for memory; Rust's allocator calls nothing else.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"];

/// What doing a piece of work once takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Instructions, on all threads.
    pub(crate) instructions: u64,
    /// How often memory was asked for, to a tenth: some is asked for now and then only.
    pub(crate) allocations: f64,
}

impl Counts {
    /// The lower of each.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.min(other.instructions),
            allocations: self.allocations.min(other.allocations),
        }
    }
}

/// What a whole process took.
#[derive(Debug, Default)]
struct Totals {
    instructions: u64,
    allocations: u64,
}

/// Where callgrind's account of the longer run is kept, for `callgrind_annotate`.
pub(crate) fn account(folder: &Path, case: &Case) -> PathBuf {
    folder.join(format!("{}.callgrind", case.name))
}

/// Does the work of `case` a few and many times, at once, and takes the difference.
#[expect(clippy::cast_precision_loss, reason = "counts of allocations are far below 2^52")]
pub(crate) fn count(case: &Case, folder: &Path) -> Result<Counts, String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let few = Run::start(case, case.few, folder.join(format!("{}.few.callgrind", case.name)))?;
    let many = Run::start(case, case.many, account(folder, case))?;
    // Both are waited for, whatever became of the first.
    let (few, many) = (few.end(), many.end());
    let (few, many) = (few?, many?);
    let times = (case.many - case.few) as u64;
    let tenths = (many.allocations.saturating_sub(few.allocations) * 10 + times / 2) / times;
    Ok(Counts {
        instructions: many.instructions.saturating_sub(few.instructions) / times,
        allocations: tenths as f64 / 10.0,
    })
}

struct Run {
    child: Child,
    account: PathBuf,
    log: PathBuf,
}

impl Run {
    fn start(case: &Case, times: usize, account: PathBuf) -> Result<Self, String> {
        let log = account.with_extension("log");
        let file = |path: &Path| {
            File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", account.display()))
            .arg(program)
            .args(["--case", case.name, "--times", &times.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file(&log)?)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    "valgrind is missing: scripts/install-test-tools installs it".to_owned()
                }
                _ => format!("cannot start valgrind: {error}"),
            })?;
        Ok(Self { child, account, log })
    }

    fn end(mut self) -> Result<Totals, String> {
        let status = self.child.wait().map_err(|error| format!("valgrind is gone: {error}"))?;
        if !status.success() {
            return Err(format!("the work failed under callgrind ({status}): see {}", self.log.display()));
        }
        let unreadable = |error| format!("cannot read {}: {error}", self.account.display());
        let file = File::open(&self.account).map_err(unreadable)?;
        read(BufReader::new(file)).map_err(unreadable)
    }
}

/// Reads the callgrind profile format: `fn=`/`cfn=` name a function by a number, the first time with its name;
/// `calls=` after a `cfn=` says how often it was called; `totals:` sums up.
fn read(account: impl BufRead) -> io::Result<Totals> {
    let mut totals = Totals::default();
    let mut allocators = HashSet::new();
    let mut called = String::new();
    let mut complete = false;
    for line in account.lines() {
        let line = line?;
        let function = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn="));
        if let Some((number, name)) =
            function.map(|function| function.split_once(' ').unwrap_or((function, "")))
        {
            // A number after an apostrophe tells the levels of a recursion apart.
            if ALLOCATORS.contains(&name.split('\'').next().unwrap_or_default()) {
                allocators.insert(number.to_owned());
            }
            if line.starts_with('c') {
                number.clone_into(&mut called);
            }
        } else if let Some(calls) = line.strip_prefix("calls=") {
            if allocators.contains(&called) {
                totals.allocations += number(calls.split(' ').next().unwrap_or_default())?;
            }
        } else if let Some(all) = line.strip_prefix("totals: ") {
            totals.instructions = number(all)?;
            complete = true;
        }
    }
    if !complete {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has no totals"));
    }
    if allocators.is_empty() {
        return Err(io::Error::other("it names no allocator: was the C library's table of symbols removed?"));
    }
    Ok(totals)
}

fn number(text: &str) -> io::Result<u64> {
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no number")))
}
