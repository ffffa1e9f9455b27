//! Runs this program under callgrind and reads the counts.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::cases::Case;

/// The C functions that allocate memory. Rust's allocator calls no others.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"];

/// The cost of one repetition of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Instructions, on all threads.
    pub(crate) instructions: u64,
    /// Allocations, to a tenth: some happen only in some repetitions.
    pub(crate) allocations: f64,
}

impl Counts {
    /// Returns the lower of each count.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.min(other.instructions),
            allocations: self.allocations.min(other.allocations),
        }
    }
}

/// The counts of a whole process.
#[derive(Debug, Default)]
struct Totals {
    instructions: u64,
    allocations: u64,
}

/// Returns the path of the profile of the longer run, for `callgrind_annotate`.
pub(crate) fn profile_path(folder: &Path, case: &Case) -> PathBuf {
    folder.join(format!("{}.callgrind", case.name))
}

/// Runs `case` with few and with many repetitions, both at the same time, and returns the difference for one repetition.
#[expect(clippy::cast_precision_loss, reason = "counts of allocations are far below 2^52")]
pub(crate) fn count(case: &Case, folder: &Path) -> Result<Counts, String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let few = Run::start(case, case.few, folder.join(format!("{}.few.callgrind", case.name)))?;
    let many = Run::start(case, case.many, profile_path(folder, case))?;
    // Waits for both even if the first failed.
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
    profile: PathBuf,
    log: PathBuf,
}

impl Run {
    fn start(case: &Case, times: usize, profile: PathBuf) -> Result<Self, String> {
        let log = profile.with_extension("log");
        let file = |path: &Path| {
            File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        let program = std::env::current_exe()
            .map_err(|error| format!("cannot find the path of this program: {error}"))?;
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", profile.display()))
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
        Ok(Self { child, profile, log })
    }

    fn end(mut self) -> Result<Totals, String> {
        let status = self.child.wait().map_err(|error| format!("cannot wait for valgrind: {error}"))?;
        if !status.success() {
            return Err(format!("the work failed under callgrind ({status}): see {}", self.log.display()));
        }
        let unreadable = |error| format!("cannot read {}: {error}", self.profile.display());
        let file = File::open(&self.profile).map_err(unreadable)?;
        read(BufReader::new(file)).map_err(unreadable)
    }
}

/// Reads the callgrind profile format: `fn=`/`cfn=` name a function by a number, the first time with its name;
/// `calls=` after a `cfn=` says how often it was called; `totals:` sums up.
fn read(profile: impl BufRead) -> io::Result<Totals> {
    let mut totals = Totals::default();
    let mut allocators = HashSet::new();
    let mut called = String::new();
    let mut complete = false;
    for line in profile.lines() {
        let line = line?;
        let function = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn="));
        if let Some((number, name)) =
            function.map(|function| function.split_once(' ').unwrap_or((function, "")))
        {
            // A number after an apostrophe is the depth of a recursion.
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
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the profile has no totals"));
    }
    if allocators.is_empty() {
        return Err(io::Error::other(
            "the profile names no allocator: was the symbol table of the C library removed?",
        ));
    }
    Ok(totals)
}

fn number(text: &str) -> io::Result<u64> {
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is not a number")))
}
