//! What the tests start and stop.

pub(crate) mod rabbit;
