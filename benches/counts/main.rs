//! The guard against what makes polyhook slower or hungrier unnoticed: `cargo test --bench counts`.
//!
//! Times on a shared machine say little; how many instructions a piece of work takes, and how often it asks for
//! memory, says the same on every run. Each case runs twice under callgrind, a few times and many times over; the
//! difference, divided, is the work itself on all threads, without the start of a process. It must not exceed what
//! stands in `benches/limits.toml`.
//!
//! Built as the tests are, so that it costs no build of its own; the counts are those of that build, and of a
//! processor as valgrind shows it. They compare versions of polyhook and are no measure of its speed.

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

/// How to run it.
const COMMAND: &str = "cargo test --bench counts";
/// How often what exceeds its limit is counted again; the least counts.
const AGAIN: usize = 2;

/// Counts instructions and allocations, and compares them with benches/limits.toml.
#[derive(Debug, Parser)]
#[command(name = COMMAND)]
struct Args {
    /// Only this case.
    #[arg(long)]
    case: Option<String>,
    /// Take what is counted as the new limits.
    #[arg(long)]
    write: bool,
    /// Under callgrind: do the work of `--case` so many times.
    #[arg(long, hide = true, requires = "case")]
    times: Option<usize>,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[expect(clippy::print_stderr, reason = "a program for people")]
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

/// Whether all is within its limits; an error says what kept it from being counted.
#[expect(clippy::print_stdout, reason = "a program for people")]
fn run(args: &Args) -> Result<bool, String> {
    let wanted: Vec<&Case> =
        CASES.iter().filter(|case| args.case.as_ref().is_none_or(|name| name == case.name)).collect();
    if wanted.is_empty() {
        let names = CASES.map(|case| case.name).join(", ");
        return Err(format!("no case has that name; there are {names}"));
    }
    if let Some(times) = args.times {
        for case in wanted {
            (case.work)(times);
        }
        return Ok(true);
    }
    if cfg!(not(debug_assertions)) {
        return Err(format!("limits are those of the build that the tests run in: {COMMAND}"));
    }

    let build = Build::of_this_machine()?;
    let mut limits = Limits::read()?;
    if !args.write {
        limits.are_for(&build)?;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("counts");
    println!("counts: rustc {} for {}", build.rustc, build.target);
    let mut counted = Vec::new();
    for case in wanted {
        let mut counts = callgrind::count(case, &folder)?;
        // Timers and wake-ups add a hundredth, now more, now less. A regression is there every time.
        for _ in 0..AGAIN {
            if args.write || !limits.are_exceeded_by(&build, case, counts) {
                break;
            }
            counts = counts.least(callgrind::count(case, &folder)?);
        }
        println!(
            "  {:<16} {:>10} instructions {:>8.1} allocations  {}",
            case.name, counts.instructions, counts.allocations, case.what
        );
        counted.push((case, counts));
    }
    if args.write {
        limits.take(&build, &counted, args.case.is_none());
        limits.write()?;
        println!("counts: these are the limits now; the commit says why");
        return Ok(true);
    }
    let findings = verdict::judge(&limits, &build, &counted, &folder);
    for finding in &findings {
        println!("{finding}");
    }
    let failed = findings.iter().filter(|finding| finding.fails()).count();
    println!("counts: {} of {} within their limits", counted.len().saturating_sub(failed), counted.len());
    Ok(failed == 0)
}
