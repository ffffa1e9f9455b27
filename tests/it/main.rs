//! Everything that needs more than one module: real processes, real brokers, a real object store.

mod archive;
mod processes;
mod queue_contract;
mod sqlite;
mod support;
