//! Micro-benchmarks of the parts of a delivery's and a recording's way: `cargo bench --bench micro [FILTER]`.
//!
//! They tell which part costs how much and are for comparing two versions on one quiet machine; what must not
//! get worse unnoticed is guarded by the instruction counts (`benches/counts`).

mod archive;
mod delivery;
#[path = "../inputs.rs"]
mod inputs;
mod queue;

fn main() {
    divan::main();
}
