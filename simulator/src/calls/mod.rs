//! The simulated calls: their facts, their words, and the store that holds them.

mod conversation;
mod dialogue;
mod phrases;
mod profile;
mod store;

pub(crate) use conversation::{Conversation, Turn, format_time};
#[cfg(test)]
pub(crate) use profile::Profile;
pub use profile::{Channel, Environment};
pub(crate) use store::{CallFilter, CallKey, CallStore, CallView};
pub use store::{CallInfo, NewCall};
