//! What the tests share: private servers that end with the test, whatever its end.

pub(crate) mod cluster;
pub(crate) mod otlp;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod rabbit;
pub(crate) mod seaweed;
pub(crate) mod small_disk;
