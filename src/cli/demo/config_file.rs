//! A configuration file for commands that look at the queue and the archive of a demo.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use polyhook_simulator::Simulator;
use serde_json::json;

use crate::{app::App, config::Config, private_file};

/// The first line, by which a later demo recognises the file.
const HEADER: &str = "# `polyhook demo` writes this file.";

/// Returns the path of the file in the folder of a demo.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("polyhook.toml")
}

/// Writes the file and returns its path. Paths in it are absolute. Its secret and its key are the simulator's. Replaces only the
/// file of an earlier demo.
pub(super) fn write(dir: &Path, config: &Config, app: &App, simulator: &Simulator) -> io::Result<PathBuf> {
    let path = path(dir);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.starts_with(HEADER) => std::fs::remove_file(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(_) | Err(_) => {
            let text = format!("{}: it is not of a demo; name another folder with --dir", path.display());
            return Err(io::Error::other(text));
        }
    }
    let text = text(&std::path::absolute(dir)?, config, app, simulator)?;
    let mut file = private_file::options().create_new(true).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

fn text(dir: &Path, config: &Config, app: &App, simulator: &Simulator) -> io::Result<String> {
    let values = json!({
        "server": { "listen": app.public_address() },
        "admin": { "listen": app.admin_address() },
        "signature": { "secrets": [simulator.signing_secret()] },
        "queue": { "url": format!("sqlite:{}", dir.join("queue.db").display()) },
        "archive": { "url": format!("file:{}", dir.join("archive").display()) },
        "polyai": { "base_url": simulator.url(), "platform_url": simulator.url() },
        "worker": { "environments": config.worker.environments },
        "retry": { "delays": config.retry.delays.iter().map(|delay| format!("{delay:?}")).collect::<Vec<_>>() },
        "reconcile": { "every": format!("{:?}", config.reconcile.every) },
        "index": { "every": format!("{:?}", config.index.every) },
        "projects": [{
            "account_id": simulator.account_id(),
            "project_id": simulator.project_id(),
            "api_key": simulator.api_key(),
        }],
    });
    let values = toml::to_string(&values).map_err(io::Error::other)?;
    Ok(format!("{HEADER}\n# The simulated PolyAI ends with the demo. Queue and archive stay.\n\n{values}"))
}
