//! The simulated calls: their facts, their words, and the store that holds them.

mod conversation;
mod dialogue;
mod phrases;
mod profile;
mod store;
mod turn;

pub(crate) use conversation::{Conversation, format_time};
#[cfg(test)]
pub(crate) use profile::Profile;
pub use profile::{Channel, Environment};
pub(crate) use store::{CallFilter, CallKey, CallStore, CallView};
pub use store::{CallInfo, NewCall};
pub(crate) use turn::Turn;
