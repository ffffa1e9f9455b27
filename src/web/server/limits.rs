//! The limits of a listener's connections.

use std::time::Duration;

/// Connections of the public listener if `server.max_connections` is not set. An idle one takes up to 30 KiB, so all of
/// them fit beside the bodies into 256 MiB.
const DEFAULT_MAX_CONNECTIONS: usize = 4096;
/// Open files that are left to the admin listener, the queue, the archive, PolyAI's API and the files of secrets.
const RESERVED_FILES: u64 = 256;
/// Bytes of one request's headers, decoded. PolyAI's headers take less than one KiB.
pub(in crate::web) const MAX_HEADER_BYTES: usize = 8 << 10;

/// The limits of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Time that a client has to send a request's header, and to take an answer.
    pub transfer_timeout: Duration,
    /// Time that a connection may stay open without a request, after its first one.
    pub idle_timeout: Duration,
    /// Connections that may be open at the same time.
    pub max_connections: usize,
    /// Bytes that one request's headers may have, decoded. At least 8 KiB.
    pub max_header_bytes: usize,
    /// True if a client that has closed its sending side still waits for its answers. Otherwise it has left, and its requests are
    /// cancelled.
    pub half_close: bool,
}

/// Returns how many connections may be open if the process may have `open_files` open files: at most `configured`, and
/// never so many that no descriptor is left for the rest of the process.
pub(in crate::web) fn max_connections(configured: Option<usize>, open_files: u64) -> usize {
    let reserved = RESERVED_FILES.min(open_files / 2);
    let descriptors = usize::try_from(open_files - reserved).unwrap_or(usize::MAX);
    configured.unwrap_or(DEFAULT_MAX_CONNECTIONS).min(descriptors).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_descriptors_to_the_rest_of_the_process() {
        for (configured, open_files, expected) in [
            (None, 1024, 768),
            (None, 256, 128),
            (None, 65_536, 4096),
            (Some(100), 1024, 100),
            (Some(100_000), 1024, 768),
            (Some(10_000), 65_536, 10_000),
            (None, u64::MAX, 4096),
            (Some(8), 0, 1),
        ] {
            assert_eq!(max_connections(configured, open_files), expected, "{configured:?}, {open_files}");
        }
    }
}
