//! The `polyhook` binary: parses arguments and returns an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One TLS provider for RabbitMQ, PolyAI and object storage.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(polyhook::cli::main(std::env::args_os()));
            // A blocking call that hangs, for example on a disk that does not answer, must not delay the exit.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            code
        }
        Err(error) => {
            polyhook::cli::output::error(&format!("cannot start the runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}
