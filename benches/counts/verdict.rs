//! Compares what was counted with its limits, and says what to do.

use std::{fmt, path::Path};

use crate::{
    COMMAND, Case, Counts, callgrind,
    limits::{Build, Limits},
};

/// Something worth telling.
#[derive(Debug)]
pub(crate) enum Finding {
    /// More than the limit.
    Above(String),
    /// Nobody has set a limit yet.
    Unlimited(&'static str),
    /// So far below the limit that it would hide a regression.
    Below(String),
}

impl Finding {
    /// Whether it is a failure.
    pub(crate) fn fails(&self) -> bool {
        !matches!(self, Self::Below(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above(text) | Self::Below(text) => f.write_str(text),
            Self::Unlimited(name) => {
                write!(f, "{name}: has no limit. Give it one: {COMMAND} -- --write --case {name}")
            }
        }
    }
}

/// What there is to say of `counted`, case by case.
pub(crate) fn judge(
    limits: &Limits,
    build: &Build,
    counted: &[(&Case, Counts)],
    folder: &Path,
) -> Vec<Finding> {
    let judge_one = |(case, counts): &(&Case, Counts)| {
        let name = case.name;
        let Some(limit) = limits.of(build, case) else { return Some(Finding::Unlimited(name)) };
        let told = format!(
            "{name}: {} instructions and {:.1} allocations, where {} and {:.1} are the limit ({:+.1} %)",
            counts.instructions,
            counts.allocations,
            limit.instructions,
            limit.allocations,
            limit.change_percent(*counts)
        );
        let write = format!("{COMMAND} -- --write --case {name}");
        if limits.are_exceeded_by(build, case, *counts) {
            return Some(Finding::Above(format!(
                "{told}\n  \
                 A regression? See where they go, here and in the commit before: callgrind_annotate {}\n  \
                 Meant to be? Take them as the limit, and say why in the commit: {write}",
                callgrind::account(folder, case).display()
            )));
        }
        limits.are_undercut_by(build, case, *counts).then(|| {
            Finding::Below(format!(
                "{told}\n  Well done. Lower the limit, or the gain can be lost unseen: {write}"
            ))
        })
    };
    counted.iter().filter_map(judge_one).collect()
}
