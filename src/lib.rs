#![doc = include_str!("../docs/architecture.md")]

pub mod app;
pub mod archive;
pub mod bounded_file;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod event;
pub mod health;
pub mod index;
mod json;
pub mod lifecycle;
pub mod polyai;
pub mod private_file;
pub mod problem;
pub mod queue;
pub mod reconcile;
pub mod retry;
pub mod secret;
pub mod signature;
pub mod status;
pub mod telemetry;
pub mod terminal;
pub mod wav;
pub mod web;
pub mod worker;
