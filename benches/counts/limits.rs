//! `benches/limits.toml`: the limits of each case, by target.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, process::Command};

use serde::Deserialize;

use crate::{COMMAND, Case, Counts};

/// The comment at the top of the file.
const HEADER: &str = "\
# Limits of instructions and allocations: see CONTRIBUTING.md.
# Written by `cargo test --bench counts -- --write`; a commit that raises a limit says why.
";
/// Default tolerance for instructions, in percent.
const TOLERANCE_PERCENT: f64 = 3.0;
/// Tolerance for allocations. Tenths come from buffers that grow only in some repetitions.
const ALLOCATION_TOLERANCE: f64 = 0.5;

/// The compiler, on which the counts depend.
#[derive(Debug)]
pub(crate) struct Build {
    /// The compiler's version.
    pub(crate) rustc: String,
    /// The target triple.
    pub(crate) target: String,
}

impl Build {
    /// Asks the compiler on the path.
    pub(crate) fn of_this_machine() -> Result<Self, String> {
        let output = Command::new("rustc")
            .arg("-vV")
            .output()
            .map_err(|error| format!("cannot ask rustc for its version: {error}"))?;
        let version = String::from_utf8_lossy(&output.stdout);
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .ok_or_else(|| format!("rustc -vV does not name its {name}"))
        };
        Ok(Self { rustc: field("release:")?, target: field("host:")? })
    }
}

/// The content of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// How far instructions may be above their limit, or below it without a finding.
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

/// The limit of a case.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    /// Instructions, within [`Limits::tolerance_percent`].
    pub(crate) instructions: u64,
    /// Allocations, within [`ALLOCATION_TOLERANCE`].
    pub(crate) allocations: f64,
}

impl Limit {
    /// Returns the difference of instructions from the limit, in percent; negative below it.
    #[expect(clippy::cast_precision_loss, reason = "counts of instructions are far below 2^52")]
    pub(crate) fn change_percent(self, counts: Counts) -> f64 {
        (counts.instructions as f64 / self.instructions as f64 - 1.0) * 100.0
    }

    fn more_allocations(self, counts: Counts) -> f64 {
        counts.allocations - self.allocations
    }
}

impl Limits {
    /// Reads the file. Without a file there are no limits.
    pub(crate) fn read() -> Result<Self, String> {
        match fs::read_to_string(path()) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("benches/limits.toml: {error}")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("cannot read benches/limits.toml: {error}")),
        }
    }

    /// Returns an error, with the next step, if these limits are for another compiler or target than `build`.
    pub(crate) fn check_build(&self, build: &Build) -> Result<(), String> {
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
            "{why}: counts of different compilers cannot be compared.\n  \
             Run this with the last commit whose counts were within the limits: {COMMAND} -- --write\n  \
             Then return to this commit with that benches/limits.toml, and run: {COMMAND}"
        ))
    }

    /// Returns the limit of a case, if it has one.
    pub(crate) fn of(&self, build: &Build, case: &Case) -> Option<Limit> {
        self.targets.get(&build.target)?.cases.get(case.name).copied()
    }

    /// Returns true if `counts` exceeds the limit of the case.
    pub(crate) fn are_exceeded_by(&self, build: &Build, case: &Case, counts: Counts) -> bool {
        self.of(build, case).is_some_and(|limit| {
            limit.change_percent(counts) > self.tolerance_percent
                || limit.more_allocations(counts) > ALLOCATION_TOLERANCE
        })
    }

    /// Returns true if `counts` is so far below the limit that the limit would hide a regression.
    pub(crate) fn are_undercut_by(&self, build: &Build, case: &Case, counts: Counts) -> bool {
        self.of(build, case).is_some_and(|limit| {
            limit.change_percent(counts) < -self.tolerance_percent
                || limit.more_allocations(counts) < -ALLOCATION_TOLERANCE
        })
    }

    /// Replaces the limits by the counts. If `everything` was counted, removes cases that no longer exist.
    pub(crate) fn update(&mut self, build: &Build, counted: &[(&Case, Counts)], everything: bool) {
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

/// Writes one line per case, for readable diffs.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}tolerance_percent = {:?}", self.tolerance_percent)?;
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
