//! Checks secrets, keys and their files: common copy mistakes, and file permissions.

use std::path::Path;

use super::report::{Finding, Subject};
use crate::{
    bounded_file,
    clock::Clock,
    config::{Config, Roles},
    secret::Secret,
    signature::MIN_SECRET_LENGTH,
};

pub(super) fn check(config: &Config, roles: Roles, file: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if roles.receive {
        findings.extend(signing_secrets(config, roles));
    }
    if roles.work || roles.reconcile {
        findings.extend(api_keys(config));
    }
    findings.extend(file_modes(config, roles, file));
    findings
}

fn signing_secrets(config: &Config, roles: Roles) -> Vec<Finding> {
    let signature = &config.signature;
    let name = |place: &str, number: usize| format!("signature.{place} number {}", number + 1);
    let inline = signature.secrets.iter().enumerate().map(|(at, secret)| (name("secrets", at), secret));
    let in_file = signature.file_secrets.entries().enumerate();
    let in_file = in_file.map(|(at, entry)| (name("secrets_file", at), &entry.secret));
    let mut findings = Vec::new();
    let mut count = 0;
    for (name, secret) in inline.chain(in_file) {
        count += 1;
        let subject = Subject::new("secret", name);
        let length = secret.expose().chars().count();
        if length < MIN_SECRET_LENGTH {
            findings.push(subject.fail(
                format!("{length} characters are too few for a PolyAI signing secret"),
                "copy the whole signing_secret that PolyAI showed when the endpoint was created",
            ));
        }
        findings.extend(
            secret
                .token_problem()
                .map(|mistake| subject.fail(mistake, "store only the signing_secret, as PolyAI showed it")),
        );
        let is_key = |key: &Secret| !key.is_empty() && key == secret;
        if config
            .projects
            .iter()
            .any(|project| is_key(&project.api_key) || project.data_api_key.as_ref().is_some_and(is_key))
        {
            findings.push(subject.fail(
                "it is an API key of [[projects]]",
                "store the signing secret instead, which PolyAI shows once, when the endpoint is created; create a new one with `polyhook endpoint rotate-secret`",
            ));
        }
    }
    if config.works_without_webhook(roles) {
        findings.push(Subject::new("secret", "signature").skipped(
            "there is no signing secret, so deliveries are answered 503, and conversations are found by reconciliation and the trigger alone",
            "set POLYAI_WEBHOOK_SECRET (or signature.secrets_file) if you register a webhook endpoint",
        ));
    }
    let valid = signature.valid(Clock::System.now()).len();
    if findings.is_empty() && count > 0 {
        findings.push(Subject::new("secret", "signature").ok(format!("{valid} of {count} are valid now")));
    }
    findings
}

fn api_keys(config: &Config) -> Vec<Finding> {
    let keys = config.projects.iter().flat_map(|project| {
        let name = |key: &str| format!("{} of {}", key, project.project_id);
        let data = project.data_api_key.as_ref().map(|key| (name("data_api_key"), key));
        [(name("api_key"), &project.api_key)].into_iter().chain(data)
    });
    keys.filter(|(_, key)| !key.is_empty())
        .map(|(name, key)| {
            let subject = Subject::new("secret", name);
            match key.token_problem() {
                Some(mistake) => subject.fail(mistake, "store only the key, as PolyAI gave it to you"),
                None => subject.ok("looks like a key"),
            }
        })
        .collect()
}

/// Checks the permissions of the files that contain secrets.
fn file_modes(config: &Config, roles: Roles, file: Option<&Path>) -> Vec<Finding> {
    let mut files = vec![
        ("queue.url_file", config.queue.url_file.as_deref()),
        ("queue.client_key_file", config.queue.client_key_file.as_deref()),
    ];
    if roles.receive {
        files.push(("signature.secrets_file", config.signature.secrets_file.as_deref()));
        files.push(("trigger.token_file", config.trigger.token_file.as_deref()));
    }
    if config.serves_console(roles) {
        files.push(("console.token_file", config.console.token_file.as_deref()));
    }
    let archives = roles.work || roles.reconcile;
    if archives || config.serves_console(roles) {
        let archive = &config.archive;
        files.push(("archive.secret_access_key_file", archive.secret_access_key_file.as_deref()));
        files.push(("archive.service_account_file", archive.service_account_file.as_deref()));
        files.push(("index.numbers_key_file", config.index.numbers_key_file.as_deref()));
    }
    if archives {
        for project in &config.projects {
            files.push(("projects.api_key_file", project.api_key_file.as_deref()));
            files.push(("projects.data_api_key_file", project.data_api_key_file.as_deref()));
        }
    }
    files.push((
        "the configuration file, which contains secrets,",
        file.filter(|path| contains_secrets(path)),
    ));
    // Projects may share a file.
    files.dedup();
    files.into_iter().filter_map(|(key, path)| file_mode(key, path?)).collect()
}

#[cfg(unix)]
fn file_mode(key: &str, path: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    /// Any permission of others, and write and execute permissions of the group.
    const FORBIDDEN_BITS: u32 = 0o037;
    let subject = Subject::new("file_mode", path.display().to_string());
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    Some(if mode & FORBIDDEN_BITS == 0 {
        subject.ok(format!("{mode:04o}"))
    } else {
        subject.warn(
            format!("{key} has mode {mode:04o}, so other users of this machine can read or change it"),
            "run chmod 600 (or 640); in Kubernetes set defaultMode of the volume to 0400 or 0440",
        )
    })
}

#[cfg(not(unix))]
fn file_mode(_: &str, _: &Path) -> Option<Finding> {
    None
}

/// Returns whether the configuration file itself contains a secret.
fn contains_secrets(path: &Path) -> bool {
    let Some(table) =
        bounded_file::read_text_or_pipe(path).ok().and_then(|text| text.parse::<toml::Table>().ok())
    else {
        return false;
    };
    let key = |section: &str, name: &str| table.get(section).and_then(|section| section.get(name));
    let has_password = |url: &toml::Value| url.to_string().contains('@');
    let has_key =
        |project: &toml::Value| ["api_key", "data_api_key"].iter().any(|key| project.get(key).is_some());
    key("signature", "secrets").is_some()
        || key("trigger", "token").is_some()
        || key("console", "token").is_some()
        || key("archive", "secret_access_key").is_some()
        || key("queue", "url").is_some_and(has_password)
        || table.get("projects").and_then(toml::Value::as_array).is_some_and(|all| all.iter().any(has_key))
}
