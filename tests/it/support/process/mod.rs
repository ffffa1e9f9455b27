//! The real program in processes of its own.
//!
//! Each process has a watchdog that reads from a pipe of the test process. The pipe closes when the test process
//! ends, however it ends, and the watchdog then kills the process. The output of every process is searched for
//! secrets, phone numbers and bodies.

mod command;
mod http;
mod installation;
mod log_fields;
mod private_text;
mod running;
mod simulated_polyai;
mod terminal;
mod vocabulary;
mod wait;

pub(crate) use self::{
    command::{CommandOutput, PolyhookCommand, interpreter},
    http::{deliver, get, http_exchange, http_request, metric, post},
    installation::{Installation, manifests},
    running::{Process, peak_allocated_kib},
    simulated_polyai::{SimulatedPolyAi, SimulatorAccess},
    wait::{TEST_TIMEOUT, eventually, eventually_within},
};
