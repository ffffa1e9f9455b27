//! `polyhook`: parses arguments, returns an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One provider for all TLS: RabbitMQ, PolyAI, object storage.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(polyhook::cli::main(std::env::args_os()));
            // A blocking call that hangs (a disk that is gone) must not hold up the end.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            code
        }
        Err(error) => {
            polyhook::cli::output::error(&format!("the runtime cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}
