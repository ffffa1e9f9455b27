//! The `polyhook` binary: parses arguments and returns an exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A delivery makes over a hundred small allocations, most of them in libraries. This allocator takes a third of the time
/// of the C library's, and does not keep a heap of freed memory for each thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // One TLS provider for RabbitMQ, PolyAI and object storage.
    let _ = rustls::crypto::ring::default_provider().install_default();
    polyhook::cli::main(std::env::args_os())
}
