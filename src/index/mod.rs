//! The index: Parquet tables of calls and turns beside the archive, for people who ask questions about thousands of calls.
//!
//! ```text
//! index/calls/account_id=<a>/project_id=<p>/date=<YYYY-MM-DD>/calls.parquet     one row per conversation
//! index/turns/account_id=<a>/project_id=<p>/date=<YYYY-MM-DD>/turns.parquet     one row per turn
//! ```
//! The index is derived from the archive. It can be removed at any time and is built again from nothing.

mod config;
mod conversation;
mod rows;
#[cfg_attr(not(test), expect(dead_code, reason = "the rest of the index calls it"))]
mod table;

pub use self::{
    config::{IndexConfig, NumberMode},
    conversation::{Numbers, read_rows},
    rows::{CallRow, ConversationRows, TurnRow},
};
