//! Compares the counts with the limits and says what to do.

use std::{fmt, path::Path};

use crate::{
    COMMAND, Case, Counts, callgrind,
    limits::{Build, Limits},
};

/// A case whose counts differ from its limit.
#[derive(Debug)]
pub(crate) enum Finding {
    /// Exceeds its limit.
    Above(String),
    /// Has no limit yet.
    Unlimited(&'static str),
    /// Is so far below its limit that the limit would hide a regression.
    Below(String),
}

impl Finding {
    /// Returns true if the check must fail.
    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self, Self::Below(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above(text) | Self::Below(text) => f.write_str(text),
            Self::Unlimited(name) => {
                write!(f, "{name} has no limit. Write one: {COMMAND} -- --write --case {name}")
            }
        }
    }
}

/// Returns the findings for `counted`.
pub(crate) fn judge(
    limits: &Limits,
    build: &Build,
    counted: &[(&Case, Counts)],
    folder: &Path,
) -> Vec<Finding> {
    let judge_one = |(case, counts): &(&Case, Counts)| {
        let name = case.name;
        let Some(limit) = limits.of(build, case) else { return Some(Finding::Unlimited(name)) };
        let message = format!(
            "{name}: {} instructions and {:.1} allocations; the limit is {} and {:.1} ({:+.1} %)",
            counts.instructions,
            counts.allocations,
            limit.instructions,
            limit.allocations,
            limit.change_percent(*counts)
        );
        let write = format!("{COMMAND} -- --write --case {name}");
        if limits.are_exceeded_by(build, case, *counts) {
            return Some(Finding::Above(format!(
                "{message}\n  \
                 Find the cause, here and in the previous commit: callgrind_annotate {}\n  \
                 If the cost is intended, write the new limit and give the reason in the commit: {write}",
                callgrind::profile_path(folder, case).display()
            )));
        }
        limits.are_undercut_by(build, case, *counts).then(|| {
            Finding::Below(format!(
                "{message}\n  Lower the limit, so that the gain is not lost unnoticed: {write}"
            ))
        })
    };
    counted.iter().filter_map(judge_one).collect()
}
