//! Tests of the public and the admin listener over real sockets, from the view of a sender, an attacker and an operator.
//!
//! `harness` starts the receiver in this process on a free port. `wire` speaks HTTP/1.1 byte by byte, because a real
//! client would hide the details that these tests check; `http2` speaks HTTP/2 frame by frame. `queues` has queues that
//! fail on demand.

mod arbitrary_input;
mod connections;
mod contract;
mod durable;
mod framing;
mod harness;
mod headers;
mod http2;
mod in_time;
mod limits;
mod operations;
mod other_requests;
mod protocol;
mod queues;
mod rejected;
mod secrets;
mod trigger;
mod wire;
