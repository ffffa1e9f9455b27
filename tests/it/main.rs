//! Everything that needs more than one module: real processes, real brokers, a real object store.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a helper of tests may fail as loudly as a test"
)]

mod archive;
mod complete;
mod contracts;
mod faults;
mod fuzz;
mod index;
mod layering;
mod processes;
mod queue_contract;
mod rabbitmq;
mod receiver;
mod simulator_deliveries;
mod simulator_faithful;
mod spool;
mod sqlite;
mod support;
mod tail;
mod worker;
