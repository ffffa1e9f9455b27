//! The queue on RabbitMQ, tested against real nodes.
//!
//! Most tests share one node, and each takes a prefix of its own. Tests that kill, freeze or block a node use the exclusive
//! one, one test at a time.

mod broker_failures;
mod confirms;
mod connecting;
mod contract;
mod dead_letters;
mod harness;
mod jobs;
mod permissions;
mod publishing;
mod topology;

pub(crate) use self::harness::{
    Depths, EMPTY, PlainClient, TEST_TIMEOUT, TestQueue, config, headers, join_all_tasks, message, try_open,
};
