//! `benches/limits.toml`: what each case may take, by target.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, process::Command};

use serde::Deserialize;

use crate::{COMMAND, Case, Counts};

/// Stands above the limits, for who opens the file.
const HEAD: &str = "\
# What a piece of work may take, in instructions and allocations: see CONTRIBUTING.md.
# Written by `cargo test --bench counts -- --write`; a commit that raises a limit says why.
";
/// By how much instructions may differ before anybody is told, in percent.
const TOLERANCE_PERCENT: f64 = 3.0;
/// Allocations are whole; tenths come from what grows now and then.
const ALLOCATIONS: f64 = 0.5;

/// What a count depends on beside the program.
#[derive(Debug)]
pub(crate) struct Build {
    /// The compiler's version.
    pub(crate) rustc: String,
    /// What it compiles for.
    pub(crate) target: String,
}

impl Build {
    /// As the compiler on the path says.
    pub(crate) fn of_this_machine() -> Result<Self, String> {
        let output = Command::new("rustc")
            .arg("-vV")
            .output()
            .map_err(|error| format!("cannot ask rustc for its version: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let field = |name: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .ok_or_else(|| format!("rustc -vV does not name its {name}"))
        };
        Ok(Self { rustc: field("release:")?, target: field("host:")? })
    }
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// By how much instructions may exceed their limit, and how far below it they may be unmentioned.
    pub(crate) tolerance_percent: f64,
    #[serde(rename = "target")]
    targets: BTreeMap<String, Target>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tolerance_percent: TOLERANCE_PERCENT, targets: BTreeMap::new() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    rustc: String,
    cases: BTreeMap<String, Limit>,
}

/// What one case may take.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    /// Give or take the tolerance.
    pub(crate) instructions: u64,
    /// Exact but for half a one.
    pub(crate) allocations: f64,
}

impl Limit {
    /// How many more instructions than the limit, or (negative) fewer.
    #[expect(clippy::cast_precision_loss, reason = "counts of instructions are far below 2^52")]
    pub(crate) fn change_percent(self, counts: Counts) -> f64 {
        (counts.instructions as f64 / self.instructions as f64 - 1.0) * 100.0
    }

    fn more_allocations(self, counts: Counts) -> f64 {
        counts.allocations - self.allocations
    }
}

impl Limits {
    /// Reads the file; none at all is without limits.
    pub(crate) fn read() -> Result<Self, String> {
        match fs::read_to_string(path()) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("benches/limits.toml: {error}")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("cannot read benches/limits.toml: {error}")),
        }
    }

    /// An error says why these are not the limits of `build`, and what to do.
    pub(crate) fn are_for(&self, build: &Build) -> Result<(), String> {
        let why = match self.targets.get(&build.target) {
            Some(target) if target.rustc == build.rustc => return Ok(()),
            Some(target) => {
                format!(
                    "benches/limits.toml has the limits of rustc {}, and this is {}",
                    target.rustc, build.rustc
                )
            }
            None => format!("benches/limits.toml has no limits for {}", build.target),
        };
        Err(format!(
            "{why}: counts of two compilers cannot be compared.\n  \
             With the last commit whose counts were in order, run: {COMMAND} -- --write\n  \
             keep benches/limits.toml, come back to this commit, and run: {COMMAND}"
        ))
    }

    /// The limit of a case, if it has one.
    pub(crate) fn of(&self, build: &Build, case: &Case) -> Option<Limit> {
        self.targets.get(&build.target)?.cases.get(case.name).copied()
    }

    /// Whether `counts` is too much, as far as there is a limit.
    pub(crate) fn are_exceeded_by(&self, build: &Build, case: &Case, counts: Counts) -> bool {
        self.of(build, case).is_some_and(|limit| {
            limit.change_percent(counts) > self.tolerance_percent
                || limit.more_allocations(counts) > ALLOCATIONS
        })
    }

    /// Whether `counts` is so far below its limit that this would hide a regression.
    pub(crate) fn are_undercut_by(&self, build: &Build, case: &Case, counts: Counts) -> bool {
        self.of(build, case).is_some_and(|limit| {
            limit.change_percent(counts) < -self.tolerance_percent
                || limit.more_allocations(counts) < -ALLOCATIONS
        })
    }

    /// Takes over what was counted; if that is `everything`, forgets what is no longer counted.
    pub(crate) fn take(&mut self, build: &Build, counted: &[(&Case, Counts)], everything: bool) {
        let target = self.targets.entry(build.target.clone()).or_default();
        if everything || target.rustc != build.rustc {
            target.cases.clear();
        }
        target.rustc.clone_from(&build.rustc);
        for (case, counts) in counted {
            let Counts { instructions, allocations } = *counts;
            target.cases.insert(case.name.to_owned(), Limit { instructions, allocations });
        }
    }

    /// Writes the file.
    pub(crate) fn write(&self) -> Result<(), String> {
        fs::write(path(), self.to_string())
            .map_err(|error| format!("cannot write benches/limits.toml: {error}"))
    }
}

/// One line a case, so that a change is easy to read.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}tolerance_percent = {:?}", self.tolerance_percent)?;
        for (name, Target { rustc, cases }) in &self.targets {
            writeln!(f, "\n[target.{name}]\nrustc = \"{rustc}\"\n\n[target.{name}.cases]")?;
            for (case, Limit { instructions, allocations }) in cases {
                writeln!(f, "{case} = {{ instructions = {instructions}, allocations = {allocations:?} }}")?;
            }
        }
        Ok(())
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/limits.toml")
}
