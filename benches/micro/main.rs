//! Micro-benchmarks of the steps of a delivery and of a recording: `cargo bench --bench micro [FILTER]`.
//!
//! They show the cost of each step and compare two versions on one quiet machine. The instruction counts
//! (`benches/counts`) detect regressions.

mod archive;
mod delivery;
#[path = "../inputs.rs"]
mod inputs;
mod queue;

fn main() {
    divan::main();
}
