//! Everything that needs more than one module: real processes, real brokers, a real object store.

mod archive;
mod queue_contract;
mod receiver;
mod sqlite;
mod support;
