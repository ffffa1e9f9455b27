//! Checks of this machine: the configuration, the file of the embedded queue, the spool.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::{
    disk as disk_check,
    report::{Finding, Subject},
};
use crate::{
    app::Place,
    cli::{output, role::Role},
    config::{Config, ConfigError, LocatedProblem},
    disk,
    queue::{
        spool,
        sqlite::{self, FileUsage},
    },
};

/// With less, SQLite's write-ahead log alone may fill the disk.
const MIN_FREE: ByteSize = disk::RESERVE;
const RECOMMENDED_FREE: ByteSize = ByteSize::gib(1);
/// The part of `spool.max_bytes` from which the spool counts as full: it keeps a few percent for forwarding.
const FULL_PERCENT: u64 = 95;

/// Reports the same errors as `polyhook config check`.
pub(super) fn configuration(checked: &Result<(), ConfigError>, role: Role) -> Vec<Finding> {
    let subject = Subject::new("configuration", "all layers");
    let Err(error) = checked else { return vec![subject.ok("valid")] };
    let finding = |problem: &LocatedProblem| {
        let (reason, fix) = problem.reason_and_fix();
        if role == Role::Run && problem.is_missing() {
            let fix = fix.unwrap_or("set it");
            return subject
                .fail(reason, format!("{fix}, or name the role of this configuration with --role"));
        }
        subject.fail(reason, fix.unwrap_or("correct it"))
    };
    error.problems().iter().map(finding).collect()
}

/// Checks the file of the embedded queue.
pub(super) async fn queue(subject: Subject, path: PathBuf) -> Vec<Finding> {
    blocking(subject.clone(), move || {
        vec![
            check_file(&subject, &path, "queue.url"),
            disk_check::check("queue", &path, MIN_FREE, RECOMMENDED_FREE),
        ]
    })
    .await
}

/// Checks the spool.
pub(super) async fn spool(config: &Config) -> Vec<Finding> {
    let (path, max) = (config.spool.path.clone(), config.spool.max_bytes);
    if path.as_os_str().is_empty() {
        return vec![Subject::new("spool", "spool.path").warn(
            "there is no spool, so deliveries are answered with 503 while the broker is unavailable, and PolyAI gives up after six attempts",
            "set spool.path to a file on a persistent local disk",
        )];
    }
    let subject = Subject::new("spool", path.display().to_string());
    blocking(subject.clone(), move || {
        let mut findings = vec![check_file(&subject, &path, "spool.path")];
        let used = spool::read_usage(&path).ok();
        findings.extend(used.and_then(|used| spool_use(&subject, used, max)));
        // The file must be able to grow to its maximum size.
        let remaining = max.as_u64().saturating_sub(used.map_or(0, |used| used.bytes));
        findings.push(disk_check::check("spool", &path, MIN_FREE, ByteSize(remaining).max(MIN_FREE)));
        findings
    })
    .await
}

/// Reports the deliveries that wait in the spool, and a spool that takes no more of them.
fn spool_use(subject: &Subject, used: FileUsage, max: ByteSize) -> Option<Finding> {
    let FileUsage { messages, bytes, .. } = used;
    let wait = output::plural(messages, "1 delivery waits", "{} deliveries wait");
    let text = format!("{wait}, {} of {max} in use", ByteSize(bytes));
    if bytes >= max.as_u64() / 100 * FULL_PERCENT {
        return Some(subject.fail(
            format!("full: {text}; without the broker, further ones are answered 503"),
            "bring the broker back: the spool then empties by itself; or raise spool.max_bytes and restart the receiver",
        ));
    }
    (messages > 0).then(|| {
        subject.warn(
            text,
            "nothing to do if the broker is back soon, because they are then published; follow them with `polyhook spool status`",
        )
    })
}

async fn blocking(subject: Subject, check: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Vec<Finding> {
    tokio::task::spawn_blocking(check).await.unwrap_or_else(|_| {
        vec![
            subject.fail("the check failed because of an internal error", "report this as a bug of polyhook"),
        ]
    })
}

fn check_file(subject: &Subject, path: &Path, key: &str) -> Finding {
    if let Some(failure) = disk_check::unwritable(subject, &Place::File(path.to_owned()), key) {
        return failure;
    }
    if !path.exists() {
        return subject.ok("does not exist yet; polyhook can create it");
    }
    match sqlite::check_file(path) {
        Ok(()) => subject.ok("readable, writable and not damaged"),
        Err(problem) => subject
            .fail(problem, "fix that; a running polyhook continues by itself as soon as it can use the file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Roles;

    #[test]
    fn the_next_step_is_that_of_the_error_whatever_its_text() {
        let mut config = Config::default();
        config.spool.path = "polyhook-data/queue.db".into();
        config.server.max_in_flight = 0;
        let findings = configuration(&config.check(Roles::RECEIVE), Role::Receive);
        let findings: Vec<_> =
            findings.iter().map(|finding| serde_json::to_value(finding).unwrap()).collect();
        let about = |key: &str| {
            let of_key =
                findings.iter().find(|finding| finding["message"].as_str().unwrap().contains(key)).unwrap();
            (of_key["message"].as_str().unwrap(), of_key["next"].as_str().unwrap())
        };
        let (message, next) = about("spool.path: ");
        assert!(message.ends_with("; the spool is for RabbitMQ") && next == "leave it empty", "{message}");
        assert_eq!(about("server.max_in_flight: ").1, "correct it");
    }

    #[test]
    fn a_spool_that_is_nearly_full_is_a_failure() {
        let found = |messages, bytes| {
            let used = FileUsage { messages, oldest: None, bytes };
            spool_use(&Subject::new("spool", "spool.db"), used, ByteSize::mib(2))
        };
        assert!(found(0, 90_000).is_none());
        let waiting = found(10, 1 << 20).unwrap();
        assert!(!waiting.is_failure() && !waiting.is_ok());
        assert!(found(5000, 2_000_000).unwrap().is_failure());
        assert!(found(0, 2 << 20).unwrap().is_failure(), "finished deliveries take space, too");
    }
}
