//! Secrets, keys, and the files that hold them: what people get wrong when they copy one, and who else can read it.

use std::path::Path;

use super::report::{Finding, Subject};
use crate::{
    clock::Clock,
    config::{Config, Roles},
    secret::Secret,
    signature::MIN_SECRET_LENGTH,
};

pub(super) fn check(config: &Config, roles: Roles, file: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if roles.receive {
        findings.extend(signing(config));
    }
    if roles.work {
        findings.extend(keys(config));
    }
    findings.extend(modes(config, roles, file));
    findings
}

/// The signing secrets.
fn signing(config: &Config) -> Vec<Finding> {
    let signature = &config.signature;
    let named = |place: &str, number: usize| format!("signature.{place} number {}", number + 1);
    let given = signature.secrets.iter().enumerate().map(|(at, secret)| (named("secrets", at), secret));
    let in_file = signature.file_secrets.entries().enumerate();
    let in_file = in_file.map(|(at, entry)| (named("secrets_file", at), &entry.secret));
    let mut findings = Vec::new();
    let mut count = 0;
    for (name, secret) in given.chain(in_file) {
        count += 1;
        let subject = Subject::new("secret", name);
        let length = secret.expose().trim().chars().count();
        if length < MIN_SECRET_LENGTH {
            findings.push(subject.fail(
                format!("{length} characters are too few for a secret of PolyAI's"),
                "copy it again, whole: it is the signing_secret that PolyAI showed when the endpoint was created",
            ));
        }
        findings.extend(
            mistake(secret)
                .map(|said| subject.fail(said, "keep the signing_secret alone, as PolyAI showed it")),
        );
        let is_key = |key: &Secret| !key.is_empty() && key == secret;
        if config
            .projects
            .iter()
            .any(|project| is_key(&project.api_key) || project.data_api_key.as_ref().is_some_and(is_key))
        {
            findings.push(subject.fail(
                "it is an API key of [[projects]]",
                "the signing secret is another thing: PolyAI shows it once, when the endpoint is created; `polyhook endpoint rotate-secret` makes a new one",
            ));
        }
    }
    let valid = signature.valid(Clock::System.now()).len();
    if findings.is_empty() && count > 0 {
        findings.push(Subject::new("secret", "signature").ok(format!("{valid} of {count} are valid now")));
    }
    findings
}

/// The API keys.
fn keys(config: &Config) -> Vec<Finding> {
    let keys = config.projects.iter().flat_map(|project| {
        let name = |key: &str| format!("{} of {}", key, project.project_id);
        let data = project.data_api_key.as_ref().map(|key| (name("data_api_key"), key));
        [(name("api_key"), &project.api_key)].into_iter().chain(data)
    });
    keys.filter(|(_, key)| !key.is_empty())
        .map(|(name, key)| {
            let subject = Subject::new("secret", name);
            match mistake(key) {
                Some(said) => subject.fail(said, "keep the key alone, as PolyAI gave it"),
                None => subject.ok("looks like a key"),
            }
        })
        .collect()
}

/// What was copied along with it, or instead of it.
fn mistake(secret: &Secret) -> Option<&'static str> {
    let text = secret.expose();
    let begins = |with: &str| text.trim_start().to_ascii_lowercase().starts_with(with);
    let quoted = |quote: char| text.trim().starts_with(quote) || text.trim().ends_with(quote);
    Some(match text {
        _ if ['"', '\'', '`'].into_iter().any(quoted) => "it has quotes around it, which are part of it here",
        _ if begins("bearer ") => "it begins with \"Bearer \", which is no part of it",
        _ if begins("x-api-key") || begins("x-polyai-") => "it begins with a header's name",
        _ if begins("whe_") => "it is the id of an endpoint, not a secret",
        _ if begins("{") || begins("signing_secret") => "it is PolyAI's whole answer, not the secret in it",
        _ if begins("polyai_") && text.contains('=') => "it is a whole line of a .env file",
        _ if text.ends_with("\\n") => "it ends with a backslash and an n, where a line end was meant",
        _ if text.trim() != text => "it has white space around it, which is part of it here",
        _ if text.contains(char::is_whitespace) => "there is white space in it",
        _ => return None,
    })
}

/// Files that others can read.
fn modes(config: &Config, roles: Roles, file: Option<&Path>) -> Vec<Finding> {
    let mut files = vec![
        ("queue.url_file", config.queue.url_file.as_deref()),
        ("queue.client_key_file", config.queue.client_key_file.as_deref()),
    ];
    if roles.receive {
        files.push(("signature.secrets_file", config.signature.secrets_file.as_deref()));
    }
    if roles.work {
        let archive = &config.archive;
        files.push(("archive.secret_access_key_file", archive.secret_access_key_file.as_deref()));
        files.push(("archive.service_account_file", archive.service_account_file.as_deref()));
        for project in &config.projects {
            files.push(("projects.api_key_file", project.api_key_file.as_deref()));
            files.push(("projects.data_api_key_file", project.data_api_key_file.as_deref()));
        }
    }
    files.push(("the configuration, which holds secrets,", file.filter(|path| holds_secrets(path))));
    // Projects may share a file.
    files.dedup();
    files.into_iter().filter_map(|(key, path)| mode(key, path?)).collect()
}

#[cfg(unix)]
fn mode(key: &str, path: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    /// What others than owner and group may do, and what the group may do beyond reading.
    const TOO_MUCH: u32 = 0o037;
    let subject = Subject::new("file_mode", path.display().to_string());
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    Some(if mode & TOO_MUCH == 0 {
        subject.ok(format!("{mode:04o}"))
    } else {
        subject.warn(
            format!("{key} has mode {mode:04o}: others on this machine can read or change it"),
            "chmod 600 (or 640); in Kubernetes set the volume's defaultMode to 0400 or 0440",
        )
    })
}

#[cfg(not(unix))]
fn mode(_: &str, _: &Path) -> Option<Finding> {
    None
}

/// Whether a secret stands in the configuration file itself.
fn holds_secrets(path: &Path) -> bool {
    let Some(table) = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok())
    else {
        return false;
    };
    let key = |section: &str, name: &str| table.get(section).and_then(|section| section.get(name));
    let has_password = |url: &toml::Value| url.to_string().contains('@');
    let has_key =
        |project: &toml::Value| ["api_key", "data_api_key"].iter().any(|key| project.get(key).is_some());
    key("signature", "secrets").is_some()
        || key("archive", "secret_access_key").is_some()
        || key("queue", "url").is_some_and(has_password)
        || table.get("projects").and_then(toml::Value::as_array).is_some_and(|all| all.iter().any(has_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_copy_along() {
        for wrong in [
            "\"whsec_0123456789abcdef\"",
            "'whsec_0123456789abcdef'",
            "Bearer 0123456789abcdef",
            "x-api-key: 0123456789abcdef",
            "whe_0123456789abcdef",
            "{\"signing_secret\":\"0123456789abcdef\"}",
            "signing_secret=0123456789abcdef",
            "POLYAI_WEBHOOK_SECRET=0123456789abcdef",
            "0123456789abcdef\\n",
            "0123456789abcdef\n",
            " 0123456789abcdef",
            "01234567 89abcdef",
        ] {
            assert!(mistake(&Secret::new(wrong)).is_some(), "{wrong:?}");
        }
        for right in ["whsec_0123456789abcdef", "0123456789abcdef", "a-b_c.d/e+f=="] {
            assert_eq!(mistake(&Secret::new(right)), None, "{right:?}");
        }
    }
}
