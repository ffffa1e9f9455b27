//! Everything that needs more than one module: real processes, real brokers, a real object store.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics, and so do its helpers")]

mod queue_contract;
mod sqlite;
