//! The public and the admin listener over real sockets: what a sender, a stranger and an operator see.
//!
//! `harness` starts the receiver in this process on a port of its own, `wire` speaks HTTP/1.1 byte by byte
//! (a real client would hide what these tests are about), `queues` holds queues that misbehave on demand.

mod contract;
mod durable;
mod harness;
mod headers;
mod in_time;
mod limits;
mod noise;
mod operated;
mod protocol;
mod queues;
mod refused;
mod secrets;
mod strangers;
mod wire;
