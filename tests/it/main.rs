//! Everything that needs more than one module: real processes, real brokers, a real object store.

mod queue_contract;
mod sqlite;
