#![doc = include_str!("../docs/architecture.md")]

pub mod archive;
pub mod clock;
pub mod event;
pub mod lifecycle;
pub mod queue;
pub mod retry;
pub mod secret;
pub mod signature;
pub mod simulator;
pub mod wav;
