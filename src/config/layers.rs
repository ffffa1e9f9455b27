//! Merges the layers into one configuration.

use std::{ffi::OsString, fmt::Write, path::PathBuf};

use config::{Config as Merged, ConfigError as MergeError, Map, Source, Value, ValueKind};

use super::{Config, ConfigError, keys::Keys, quickstart::Quickstart, setting::Setting};
use crate::{bounded_file, secret};

/// The sources of a configuration, in addition to the built-in defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config` or `POLYHOOK_CONFIG`.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub env: Vec<(String, String)>,
    /// `--set section.key=value`, in order.
    pub set: Vec<(String, String)>,
}

impl Sources {
    /// Uses the process's environment, a file, and settings from the command line.
    pub fn new(file: Option<PathBuf>, set: Vec<(String, String)>) -> Self {
        // Text that is not UTF-8 is reported where it matters.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, env, set }
    }
}

/// Prefix of polyhook's own variables.
const PREFIX: &str = "POLYHOOK__";

pub(super) fn merge(sources: &Sources) -> Result<Config, ConfigError> {
    let keys = Keys::new();
    let mut problems = Vec::new();
    let own = sources.env.iter().filter_map(|(name, value)| {
        Some(Setting { source: name.clone(), path: path_of(name)?, text: secret::unwrapped(value) })
    });
    let own = Pairs::new(&keys, own, &mut problems);
    let set = sources.set.iter().map(|(path, value)| {
        let text = secret::unwrapped(value);
        Setting { source: format!("--set {path}"), path: path.clone(), text }
    });
    let set = Pairs::new(&keys, set, &mut problems);
    let file = sources.file.as_deref().map(read_toml).transpose();
    let table = file.as_ref().ok().and_then(Option::as_ref);
    let is_set_later = |key: &str| {
        own.sets_for_first_project(key) || set.sets_for_first_project(key) || file_sets(table, key)
    };
    let quickstart = Quickstart::new(&sources.env, is_set_later);
    let names_no_webhook = quickstart.names_no_webhook;
    let quickstart = Pairs::new(&keys, quickstart.settings.into_iter(), &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }

    let mut builder = Merged::builder().add_source(quickstart);
    if let Some(table) = file? {
        builder = builder
            .add_source(Merged::try_from(&table).map_err(|error| ConfigError::Value(error.to_string()))?)
            .add_source(Pairs::of_empty_lists(&table));
    }
    let value_error = |error: MergeError| ConfigError::Value(explain(&error, &keys));
    let merged = builder.add_source(own).add_source(set).build().map_err(value_error)?;

    let tree: serde_json::Value = merged.clone().try_deserialize().map_err(value_error)?;
    if let Some(unknown) = keys.unknown(&tree) {
        return Err(ConfigError::UnknownKey(unknown));
    }
    let config: Config = merged.try_deserialize().map_err(value_error)?;
    Ok(Config { names_no_webhook, ..config })
}

/// Returns whether the file sets `key`, or the file of it, for its first project.
fn file_sets(file: Option<&toml::Table>, key: &str) -> bool {
    let project = file.and_then(|file| file.get("projects")?.as_array()?.first()?.as_table());
    project.is_some_and(|project| project.contains_key(key) || project.contains_key(&format!("{key}_file")))
}

/// `POLYHOOK__SERVER__ACK_BUDGET` is `server.ack_budget`, `POLYHOOK__PROJECTS__0__API_KEY` is
/// `projects[0].api_key`.
fn path_of(name: &str) -> Option<String> {
    let mut path = String::new();
    for part in name.strip_prefix(PREFIX)?.split("__") {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
            let _ = write!(path, "[{part}]");
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part.to_lowercase());
        }
    }
    Some(path)
}

fn read_toml(path: &std::path::Path) -> Result<toml::Table, ConfigError> {
    let text = bounded_file::read_text_or_pipe(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text[..text.floor_char_boundary(start)].matches('\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, message: error.message().to_owned() }
    })
}

/// Describes an invalid value without showing it: it may be a secret in the wrong place.
fn explain(error: &MergeError, keys: &Keys) -> String {
    match error {
        MergeError::Type { expected, key, .. } => {
            format!("{}: this is not {expected}", key.as_deref().unwrap_or("a value"))
        }
        MergeError::At { error, key: Some(key), .. } => match keys.choices(key).as_slice() {
            // The library's message would repeat the unknown word.
            choices @ [_, ..] => format!("{key}: this is not one of {}", choices.join(", ")),
            [] => format!("{key}: {}", explain(error, keys).trim_start_matches("a value: ")),
        },
        MergeError::At { error, key: None, .. } => explain(error, keys),
        MergeError::NotFound(key) => format!("{key} is missing"),
        other => unquoted(&other.to_string()),
    }
}

/// Replaces text between double quotes, which is how serde shows a value.
fn unquoted(text: &str) -> String {
    if text.contains("variant") {
        return "this word is not allowed here".to_owned();
    }
    if text.contains("relative URL without a base") {
        return "this is not a whole URL; write https://HOST".to_owned();
    }
    text.split('"').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "…" }).collect()
}

/// Dotted paths and their values, from variables or flags.
#[derive(Clone, Debug)]
struct Pairs(Vec<(String, Value)>);

impl Pairs {
    /// Converts the settings and adds what is wrong with them to `problems`.
    fn new<'a>(keys: &Keys, settings: impl Iterator<Item = Setting<'a>>, problems: &mut Vec<String>) -> Self {
        let pairs = settings.map(|setting| {
            let value = value(keys, &setting.path, setting.text);
            problems.extend(setting.problem(&value));
            (setting.path, value)
        });
        Self(pairs.collect())
    }

    /// Returns whether `key`, or the file of it, is set for the first project.
    fn sets_for_first_project(&self, key: &str) -> bool {
        let own = format!("projects[0].{key}");
        self.0.iter().any(|(path, _)| path.strip_suffix("_file").unwrap_or(path) == own)
    }

    /// Returns the empty lists of a file. The library merges a list item by item, so an empty one would change nothing.
    fn of_empty_lists(file: &toml::Table) -> Self {
        let sections = file.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?)));
        let keys =
            sections.flat_map(|(section, keys)| keys.iter().map(move |(key, value)| (section, key, value)));
        let is_empty_list = |value: &toml::Value| value.as_array().is_some_and(Vec::is_empty);
        let empty = || Value::new(None, ValueKind::Array(Vec::new()));
        Self(
            keys.filter(|(.., value)| is_empty_list(value))
                .map(|(section, key, _)| (format!("{section}.{key}"), empty()))
                .collect(),
        )
    }
}

/// Converts text to a value. Text stays text: the typed configuration parses numbers and durations from it. A list is
/// written `a,b` or, if an item contains a comma, `["a", "b"]`.
fn value(keys: &Keys, path: &str, text: &str) -> Value {
    let list = |items: Vec<&str>| {
        let item = |item: &str| Value::new(None, ValueKind::String(item.to_owned()));
        let items = items.into_iter().map(item).collect();
        Value::new(None, ValueKind::Array(items))
    };
    if text.starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<String>>(text)
    {
        return list(items.iter().map(|item| secret::unwrapped(item)).collect());
    }
    let several_urls = path == "queue.url" && text.contains(",amqp");
    if keys.is_list(path) || several_urls {
        return list(text.split(',').map(secret::unwrapped).filter(|item| !item.is_empty()).collect());
    }
    Value::new(None, ValueKind::String(text.to_owned()))
}

impl Source for Pairs {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, MergeError> {
        Ok(self.0.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::secret::Secret;

    fn load(file: &str, env: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        Config::load(&Sources { file: Some(path.path().to_owned()), env: own(env), set: own(set) })
    }

    #[test]
    fn later_layers_override_earlier_ones() {
        let file = "[server]\nack_budget = \"3s\"\nbody_limit = \"2MiB\"\n[worker]\nconcurrency = 2\n";
        let env =
            [("POLYHOOK__WORKER__CONCURRENCY", "3"), ("POLYHOOK__WORKER__ENVIRONMENTS", "live, sandbox")];
        let config = load(file, &env, &[("worker.concurrency", "4")]).unwrap();
        assert_eq!(config.server.ack_budget, Duration::from_secs(3));
        assert_eq!(config.server.body_limit.as_u64(), 2 << 20);
        assert_eq!(config.worker.concurrency, 4);
        assert_eq!(config.worker.environments, ["live", "sandbox"]);
        assert_eq!(config.server.max_in_flight, 1024, "a key that is not set has its default");
    }

    #[test]
    fn an_empty_list_in_the_file_replaces_the_default() {
        let config = load("[retry]\ndelays = []\n[worker]\nenvironments = []\n", &[], &[]).unwrap();
        assert_eq!(config.retry.delays, [Duration::ZERO; 0]);
        let problem = config.check(super::super::Roles::ALL).unwrap_err().to_string();
        assert!(problem.contains("worker.environments is empty"), "{problem}");
        let env = [("POLYHOOK__RETRY__DELAYS", "1s")];
        assert_eq!(load("[retry]\ndelays = []\n", &env, &[]).unwrap().retry.delays, [Duration::from_secs(1)]);
    }

    #[test]
    fn quickstart_variables_are_sufficient() {
        let env = [
            ("POLYAI_API_KEY", "1234567890123456789012"),
            ("POLYAI_BASE_URL", "https://api.uk-1.platform.polyai.app"),
            ("POLYAI_ACCOUNT_ID", "ws-12345678"),
            ("POLYAI_PROJECT_ID", "PROJECT-1"),
            ("POLYAI_WEBHOOK_SECRET", "0123456789abcdef0123"),
        ];
        let config = load("", &env, &[]).unwrap();
        config.check(super::super::Roles::ALL).unwrap();
        assert_eq!(config.projects[0].api_key, Secret::new("1234567890123456789012"), "digits stay text");
        assert_eq!(config.signature.secrets, [Secret::new("0123456789abcdef0123")]);
    }

    #[test]
    fn variables_set_projects_and_lists() {
        let env = [
            ("POLYHOOK__PROJECTS__0__ACCOUNT_ID", "a"),
            ("POLYHOOK__PROJECTS__0__PROJECT_ID", "p"),
            ("POLYHOOK__PROJECTS__0__API_KEY", "k"),
            ("POLYHOOK__SIGNATURE__SECRETS", r#"["with,comma,0123456789", "other"]"#),
            ("POLYHOOK__QUEUE__URL", "amqp://a,amqp://b"),
            ("POLYHOOK__RETRY__DELAYS", "1s,2s"),
        ];
        let config = load("", &env, &[]).unwrap();
        assert_eq!(config.projects[0].project_id, "p");
        assert_eq!(config.signature.secrets[0], Secret::new("with,comma,0123456789"));
        assert_eq!(config.queue.url.as_slice().len(), 2);
        assert_eq!(config.retry.delays, [Duration::from_secs(1), Duration::from_secs(2)]);
    }

    /// `docker --env-file` keeps quotes, and a Kubernetes secret often ends with a line break.
    #[test]
    fn variables_may_have_quotes_and_white_space_around_them() {
        for (before, after) in
            [("\"", "\""), ("'", "'"), ("", "\n"), (" \t", "\r\n"), ("\"", "\"\n"), ("\u{feff}", "")]
        {
            let wrap = |text: &str| format!("{before}{text}{after}");
            let env = [
                ("POLYAI_API_KEY", wrap("1234567890123456789012")),
                ("POLYAI_BASE_URL", wrap("https://api.uk-1.platform.polyai.app")),
                ("POLYAI_ACCOUNT_ID", wrap("ws-12345678")),
                ("POLYAI_PROJECT_ID", wrap("PROJECT-1")),
                ("POLYAI_WEBHOOK_SECRET", wrap("0123456789abcdef0123,another-secret-of-tests")),
                ("POLYHOOK__SERVER__ACK_BUDGET", wrap("3s")),
                ("POLYHOOK__RETRY__DELAYS", wrap("1s,2s")),
                ("POLYHOOK__ARCHIVE__SECRET_ACCESS_KEY", wrap("a pass phrase")),
                ("POLYHOOK__QUEUE__URL", wrap("amqp://user:pass@host")),
            ];
            let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let config = load("", &env, &[]).unwrap();
            config.check(super::super::Roles::ALL).unwrap();
            assert_eq!(config.projects[0].api_key, Secret::new("1234567890123456789012"));
            assert_eq!(
                (&*config.projects[0].account_id, &*config.projects[0].project_id),
                ("ws-12345678", "PROJECT-1")
            );
            let secrets = ["0123456789abcdef0123", "another-secret-of-tests"].map(Secret::new);
            assert_eq!(config.signature.secrets, secrets);
            assert_eq!(config.server.ack_budget, Duration::from_secs(3));
            assert_eq!(config.retry.delays.len(), 2);
            assert_eq!(config.archive.secret_access_key, Some(Secret::new("a pass phrase")));
            assert_eq!(config.queue.url.as_slice(), [Secret::new("amqp://user:pass@host")]);
        }
    }

    #[test]
    fn secrets_of_the_file_may_have_quotes_and_white_space_around_them() {
        let file = "signature.secrets = [\" '0123456789abcdef'\\n\"]\nqueue.url = \"'sqlite:q.db'\"\n\
                    archive.secret_access_key = \"k\\r\\n\"\n[[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\n\
                    api_key = \"\\\"key\\\"\"\ndata_api_key = \" key \"\n";
        let config = load(file, &[], &[]).unwrap();
        assert_eq!(config.signature.secrets, [Secret::new("0123456789abcdef")]);
        assert_eq!(config.queue.url.as_slice(), [Secret::new("sqlite:q.db")]);
        assert_eq!(config.archive.secret_access_key, Some(Secret::new("k")));
        assert_eq!(config.projects[0].api_key, Secret::new("key"));
        assert_eq!(config.projects[0].data_api_key, Some(Secret::new("key")));
    }

    #[test]
    fn a_variable_that_cannot_be_right_is_named() {
        for (name, value) in [
            ("POLYAI_WEBHOOK_SECRET", "\"hunter2-hunter2-hunter2"),
            ("POLYAI_WEBHOOK_SECRET", "hunter2-hunter2'"),
            ("POLYAI_WEBHOOK_SECRET", "hunter2-hunter2 hunter2"),
            ("POLYAI_WEBHOOK_SECRET", "hunter2-hunter2\nhunter2"),
            ("POLYAI_WEBHOOK_SECRET", "\"hunter2-hunter2\" # old"),
            ("POLYAI_WEBHOOK_SECRET", "hunter2-hunter2\u{7}hunter2"),
            ("POLYAI_WEBHOOK_SECRET", "hunter2-hunter2-hunter2,'hunter2-hunter2-hunter2"),
            ("POLYAI_API_KEY", "Bearer hunter2"),
            ("POLYAI_ACCOUNT_ID", "\"hunter2"),
            ("POLYHOOK__SIGNATURE__SECRETS", "[\"hunter2-hunter2 hunter2\"]"),
            ("POLYHOOK__PROJECTS__0__API_KEY", "hunter2 hunter2"),
            ("POLYHOOK__PROJECTS__0__DATA_API_KEY", "'hunter2"),
            ("POLYHOOK__QUEUE__URL", "\"amqp://hunter2:hunter2@host"),
            ("POLYHOOK__SERVER__PATH", "/hunter2\""),
        ] {
            let message = load("", &[(name, value)], &[]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: ")), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let both = [("POLYAI_WEBHOOK_SECRET", "a b"), ("POLYAI_API_KEY", "a b")];
        assert_eq!(
            load("", &both, &[]).unwrap_err().to_string().lines().count(),
            2,
            "all are reported at once"
        );
        let message = load("", &[], &[("signature.secrets", "hunter2 hunter2")]).unwrap_err().to_string();
        assert!(message.starts_with("--set signature.secrets: "), "{message}");
    }

    #[test]
    fn errors_name_the_key_and_hide_the_value() {
        for (file, names) in [
            ("[server]\nack_budgets = \"4s\"", "server.ack_budget?"),
            ("[signature]\nsecrets = \"hunter2-hunter2\"", "signature.secrets"),
            ("[signature]\nsecrets = [\"hunter2-hunter2\" x]", "line 2"),
            ("[server]\nack_budget = \"hunter2-hunter2\"", "ack_budget"),
            ("[signature]\nscheme = \"hunter2-hunter2\"", "scheme"),
            (
                "[polyai]\nbase_url = \"hunter2.poly.ai\"",
                "polyai.base_url: this is not a whole URL; write https://HOST",
            ),
            ("[[projects]]\nproject_id = \"p\"\naccount_id = { hunter2-hunter2 = 1 }\n", ""),
        ] {
            let message = load(file, &[], &[]).unwrap_err().to_string();
            assert!(message.contains(names), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
