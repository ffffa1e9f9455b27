//! Tests over the router, without a socket.

mod actions;
mod audio;
mod fixture;
mod pages;
