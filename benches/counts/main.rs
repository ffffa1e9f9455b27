//! Detects changes that make polyhook use more instructions or allocations: `cargo test --bench counts`.
//!
//! Times on a shared machine vary, but the numbers of instructions and allocations hardly do. Each case runs twice under
//! callgrind, with few and with many repetitions. The difference, divided by the number of additional repetitions, is the cost of
//! the work on all threads, without the start of the process. It must not exceed the limit in `benches/limits.toml`.
//!
//! Uses the build of the tests, so it needs no build of its own. The counts hold for that build on valgrind's processor: they
//! compare versions of polyhook and do not measure its speed.

mod callgrind;
mod cases;
#[path = "../inputs.rs"]
mod inputs;
mod limits;
mod verdict;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use self::{
    callgrind::Counts,
    cases::{CASES, Case},
    limits::{Build, Limits},
};

/// The command that runs this program.
const COMMAND: &str = "cargo test --bench counts";
/// Number of repetitions for a case that exceeds its limit; the lowest count decides.
const MAX_RECOUNTS: usize = 2;

/// Counts instructions and allocations, and compares them with benches/limits.toml.
#[derive(Debug, Parser)]
#[command(name = COMMAND)]
struct Args {
    /// Count only this case
    #[arg(long)]
    case: Option<String>,
    /// Write the counts as the new limits
    #[arg(long)]
    write: bool,
    /// Under callgrind: repeat the work of `--case` N times
    #[arg(long, hide = true, requires = "case")]
    times: Option<usize>,
    /// Argument that `cargo bench` gives to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("counts: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Counts the cases and returns true if all are within their limits. An error says why a case could not be counted.
#[expect(clippy::print_stdout, reason = "a command-line program")]
fn run(args: &Args) -> Result<bool, String> {
    let wanted: Vec<&Case> =
        CASES.iter().filter(|case| args.case.as_ref().is_none_or(|name| name == case.name)).collect();
    if wanted.is_empty() {
        let names = CASES.map(|case| case.name).join(", ");
        return Err(format!("no case has that name; the cases are {names}"));
    }
    if let Some(times) = args.times {
        for case in wanted {
            (case.work)(times);
        }
        return Ok(true);
    }
    if cfg!(not(debug_assertions)) {
        return Err(format!("the limits are for the build of the tests: run {COMMAND}"));
    }

    let build = Build::of_this_machine()?;
    let mut limits = Limits::read()?;
    if !args.write {
        limits.check_build(&build)?;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("counts");
    println!("counts: rustc {} for {}", build.rustc, build.target);
    let mut counted = Vec::new();
    for case in wanted {
        let mut counts = callgrind::count(case, &folder)?;
        // Timers and wake-ups vary by about one percent. A regression appears in every run.
        for _ in 0..MAX_RECOUNTS {
            if args.write || !limits.are_exceeded_by(&build, case, counts) {
                break;
            }
            counts = counts.least(callgrind::count(case, &folder)?);
        }
        println!(
            "  {:<16} {:>10} instructions {:>8.1} allocations  {}",
            case.name, counts.instructions, counts.allocations, case.description
        );
        counted.push((case, counts));
    }
    if args.write {
        limits.update(&build, &counted, args.case.is_none());
        limits.write()?;
        println!("counts: wrote the new limits; give the reason in the commit");
        return Ok(true);
    }
    let findings = verdict::judge(&limits, &build, &counted, &folder);
    for finding in &findings {
        println!("{finding}");
    }
    let failed = findings.iter().filter(|finding| finding.is_failure()).count();
    println!("counts: {} of {} within their limits", counted.len().saturating_sub(failed), counted.len());
    Ok(failed == 0)
}
