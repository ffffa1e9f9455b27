//! `polyhook healthcheck`: checks whether a running polyhook is ready.

use std::time::Duration;

use url::Url;

use super::{CliError, GlobalArgs, output};
use crate::{polyai::http, secret::shown_address};

const TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook healthcheck --config polyhook.toml
  polyhook healthcheck --url http://127.0.0.1:9090/readyz

Exit code 1 if polyhook is not ready or does not answer.")]
pub(super) struct Args {
    /// URL to request [default: /readyz of the configured admin listener]
    #[arg(long)]
    url: Option<Url>,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let (url, shown) = if let Some(url) = args.url {
        (url.to_string(), shown_address(&url))
    } else {
        let url = global.load()?.admin.local_url("/readyz");
        (url.clone(), url)
    };
    let failed = |reason: &str| CliError::Failed(format!("{shown}: {reason}"));
    let client = http::local_client()
        .map_err(|_| failed(&format!("cannot create an HTTP client: {}", http::CLIENT_SETUP_HINT)))?;
    let response = client.get(&url).timeout(TIMEOUT).send().await.map_err(|error| {
        failed(if error.is_timeout() {
            "no answer within 4 s; the process hangs, or the machine is overloaded"
        } else {
            "no answer; is polyhook running?"
        })
    })?;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    if !status.is_success() {
        return Err(failed(text.trim()));
    }
    output::line(text.trim());
    Ok(())
}
