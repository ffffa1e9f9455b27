//! What this machine alone tells: the configuration, the embedded queue's file, the spool.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::{
    report::{Finding, Subject},
    space,
};
use crate::{
    config::{Config, ConfigError, Roles},
    disk,
    queue::{spool, sqlite},
};

/// With less, SQLite's log alone may fill the disk.
const LEAST: ByteSize = ByteSize::mib(64);
const ENOUGH: ByteSize = ByteSize::gib(1);

/// Nothing else can be looked at.
pub(super) fn unreadable(error: &ConfigError) -> Vec<Finding> {
    problems(error, "correct it; `polyhook config schema` and config/polyhook.example.toml have every key")
}

fn problems(error: &ConfigError, next: &str) -> Vec<Finding> {
    let subject = Subject::new("configuration", "all layers");
    error.to_string().lines().map(|problem| subject.fail(problem, next)).collect()
}

/// What `polyhook config check` says.
pub(super) fn configuration(config: &Config, roles: Roles) -> Vec<Finding> {
    match config.check(roles) {
        Ok(()) => vec![Subject::new("configuration", "all layers").ok("can be read and makes sense")],
        Err(error) => problems(&error, "polyhook does not start before that is corrected"),
    }
}

/// The embedded queue.
pub(super) async fn queue(subject: Subject, path: PathBuf) -> Vec<Finding> {
    blocking(subject.clone(), move || {
        vec![file(&subject, &path, "queue.url"), space::check("queue", &path, LEAST, ENOUGH)]
    })
    .await
}

/// Where deliveries wait for RabbitMQ.
pub(super) async fn spool(config: &Config) -> Vec<Finding> {
    let (path, max) = (config.spool.path.clone(), config.spool.max_bytes);
    if path.as_os_str().is_empty() {
        return vec![Subject::new("spool", "spool.path").warn(
            "there is none, so while the broker is away deliveries are answered 503 and PolyAI gives up after six tries",
            "set spool.path to a file on a local disk that outlives the process",
        )];
    }
    let subject = Subject::new("spool", path.display().to_string());
    blocking(subject.clone(), move || {
        let mut findings = vec![file(&subject, &path, "spool.path")];
        let used = spool::read_usage(&path).ok();
        if let Some(used) = used.filter(|used| used.messages > 0) {
            findings.push(subject.warn(
                format!("{} deliveries wait, {} of {max} in use", used.messages, ByteSize(used.bytes)),
                "they are handed on when the broker is back; `polyhook spool status` counts them",
            ));
        }
        // It must be able to become as large as it may.
        let left = max.as_u64().saturating_sub(used.map_or(0, |used| used.bytes));
        findings.push(space::check("spool", &path, LEAST, ByteSize(left).max(LEAST)));
        findings
    })
    .await
}

async fn blocking(subject: Subject, look: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Vec<Finding> {
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| {
        vec![subject.fail("looking at it failed", "report this: it is polyhook's own fault")]
    })
}

fn file(subject: &Subject, path: &Path, key: &str) -> Finding {
    let folder = disk::nearest_existing_folder(path.parent().unwrap_or(path));
    if let Err(error) = space::writable(&folder) {
        return subject.fail(
            format!("nothing can be written in {}: {error}", folder.display()),
            format!("give folder and file to the user polyhook runs as, or point {key} elsewhere"),
        );
    }
    if !path.exists() {
        return subject.ok("not there yet; it can be made");
    }
    match sqlite::check_file(path) {
        Ok(()) => subject.ok("can be read and written, and is in order"),
        Err(problem) => {
            subject.fail(problem, "mend that; polyhook goes on by itself as soon as it can use the file")
        }
    }
}
