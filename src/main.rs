//! The `polyhook` binary: parses arguments and returns an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One TLS provider for RabbitMQ, PolyAI and object storage.
    let _ = rustls::crypto::ring::default_provider().install_default();
    polyhook::cli::main(std::env::args_os())
}
