//! `polyhook`: parses arguments, returns an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One provider for all TLS: RabbitMQ, PolyAI, object storage.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(polyhook::cli::main(std::env::args_os())),
        Err(error) => {
            polyhook::cli::output::error(&format!("the runtime cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}
