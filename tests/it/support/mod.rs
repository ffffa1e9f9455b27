//! Private servers that the tests share. They end with the test process, even if it is killed.

pub(crate) mod cleanup;
pub(crate) mod cluster;
pub(crate) mod erasure;
pub(crate) mod otlp;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod rabbit;
pub(crate) mod scripted_api;
pub(crate) mod seaweed;
pub(crate) mod small_disk;
pub(crate) mod store_proxy;
pub(crate) mod timing;
