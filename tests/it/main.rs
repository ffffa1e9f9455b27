//! Everything that needs more than one module: real processes, real brokers, a real object store.

#![expect(clippy::unwrap_used, reason = "a helper of tests may fail as loudly as a test")]

mod queue_contract;
mod rabbitmq;
mod rabbitmq_contract;
mod rabbitmq_faults;
mod support;
