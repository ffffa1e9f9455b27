//! Merges the layers into one configuration, and finds everything that is wrong with their values.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};

use config::{Map, Value, ValueKind};

use super::{
    Config, environment,
    error::LocatedProblem,
    file::{self, FileLayer},
    keys::{Key, Keys, Section},
    origin::Origin,
    quickstart::Quickstart,
    value_check::{explain, wrong_value},
};
use crate::secret;

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
    /// Uses the process's environment, a file, and settings from the command line. Without a file, uses the one that
    /// `POLYHOOK_CONFIG` names.
    pub fn new(file: Option<PathBuf>, set: Vec<(String, String)>) -> Self {
        let named = || std::env::var_os("POLYHOOK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = file.or_else(named);
        // Text that is not UTF-8 is reported where it matters.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, env, set }
    }
}

/// The merged layers.
#[derive(Debug)]
pub(super) struct Layers {
    /// The configuration of all usable values.
    pub(super) config: Config,
    pub(super) problems: Vec<LocatedProblem>,
    /// The keys whose values are not usable, so that the configuration has their defaults.
    pub(super) broken: BTreeSet<String>,
    /// True if a part of the file could not be read, so that a missing key may be there.
    pub(super) is_partial: bool,
}

/// The effect of a variable or a flag.
#[derive(Debug)]
enum Setting {
    Value(Key, Value, Origin),
    /// Adds an entry to a list of tables. It may set no key.
    Entry(String, usize, Origin),
    /// Removes the entries of a list of tables that earlier layers set.
    Clear(String),
}

/// The values that are set. Later layers replace those of earlier ones.
pub(super) type Values = BTreeMap<Key, (Value, Origin)>;

impl Layers {
    pub(super) fn merge(sources: &Sources) -> Self {
        let keys = Keys::new();
        let mut problems = Vec::new();
        let FileLayer {
            values: file,
            entries: file_entries,
            problems: file_problems,
            mut broken,
            is_partial,
        } = sources.file.as_deref().map(|path| FileLayer::read(&keys, path)).unwrap_or_default();
        problems.extend(file_problems);
        let own = variables(&keys, &sources.env, &mut problems);
        let set = flags(&keys, &sources.set, &mut problems);

        let entries =
            file_entries.into_iter().map(|(section, entry, origin)| Setting::Entry(section, entry, origin));
        let file = file.into_iter().map(|(key, value, origin)| Setting::Value(key, value, origin));
        let file = entries.chain(file);
        let later: Vec<_> = file.chain(own).chain(set).collect();
        let is_set_later = |name: &str| {
            let file = format!("{name}_file");
            later.iter().any(|setting| match setting {
                Setting::Value(key, ..) => {
                    key.section == "projects"
                        && key.entry == Some(0)
                        && (key.name == name || key.name == file)
                }
                Setting::Entry(..) | Setting::Clear(_) => false,
            })
        };
        let quickstart = Quickstart::new(&sources.env, is_set_later);
        let first = quickstart.settings.into_iter().filter_map(|setting| {
            let key = keys.parse(setting.path)?;
            let value = value(&keys, &key, setting.text);
            Some(Setting::Value(key, value, Origin::Variable(setting.variable.to_owned())))
        });
        let mut values = Values::new();
        let mut entries: BTreeMap<(String, usize), Origin> = BTreeMap::new();
        for setting in first.chain(later) {
            match setting {
                Setting::Value(key, value, origin) => drop(values.insert(key, (value, origin))),
                Setting::Entry(section, entry, origin) => drop(entries.insert((section, entry), origin)),
                Setting::Clear(section) => {
                    values.retain(|key, _| key.section != section);
                    entries.retain(|(other, _), _| *other != section);
                }
            }
        }

        for (key, (_, origin)) in &values {
            if let Some(entry) = key.entry {
                entries.entry((key.section.clone(), entry)).or_insert_with(|| origin.clone());
            }
        }
        values.retain(|key, (value, origin)| {
            let Some(message) = wrong_value(&keys, key, value, origin) else { return true };
            problems.push(LocatedProblem::new(origin.clone(), Some(key.to_string()), message));
            broken.insert(key.to_string());
            false
        });
        complete_entries(&keys, entries, &mut values, &mut problems, &mut broken);
        let origins = values.iter().map(|(key, (_, origin))| (key.to_string(), origin.clone())).collect();
        let config = match tree(&values).try_deserialize::<Config>() {
            Ok(config) => config,
            // Each value was checked alone, so this cannot happen.
            Err(error) => {
                problems.push(LocatedProblem::new(Origin::Default, None, explain(&error, &[])));
                Config::default()
            }
        };
        let config = Config { names_no_webhook: quickstart.names_no_webhook, origins, ..config };
        Self { config, problems, broken, is_partial }
    }
}

fn variables(keys: &Keys, env: &[(String, String)], problems: &mut Vec<LocatedProblem>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, text) in env {
        let text = secret::unwrapped(text);
        let section = name.strip_prefix("POLYHOOK__").map(str::to_lowercase).unwrap_or_default();
        match environment::key_of(keys, name, text) {
            Some(Ok(key)) => {
                let value = value(keys, &key, text);
                settings.push(Setting::Value(key, value, Origin::Variable(name.clone())));
            }
            Some(Err(_)) if clears(keys, &section, text) => settings.push(Setting::Clear(section)),
            Some(Err(problem)) => problems.push(problem),
            None => {}
        }
    }
    settings
}

fn flags(keys: &Keys, set: &[(String, String)], problems: &mut Vec<LocatedProblem>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (path, text) in set {
        let (origin, text) = (Origin::Flag(path.clone()), secret::unwrapped(text));
        if let Some(key) = keys.parse(path) {
            let value = value(keys, &key, text);
            settings.push(Setting::Value(key, value, origin));
        } else if clears(keys, path, text) {
            settings.push(Setting::Clear(path.clone()));
        } else {
            let nearest = keys.nearest(path).map(|key| key.to_string());
            let message = file::unknown_key(path, nearest.as_deref());
            problems.push(LocatedProblem::new(origin, None, message).suggesting(nearest));
        }
    }
    settings
}

/// Returns whether this sets a list of tables to an empty one.
fn clears(keys: &Keys, section: &str, text: &str) -> bool {
    keys.section(section).is_some_and(|section| section.is_list) && matches!(text, "" | "[]")
}

/// Checks that the entries of lists are numbered without gaps and have the keys that they need.
fn complete_entries(
    keys: &Keys,
    entries: BTreeMap<(String, usize), Origin>,
    values: &mut Values,
    problems: &mut Vec<LocatedProblem>,
    broken: &mut BTreeSet<String>,
) {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut gaps: BTreeMap<String, usize> = BTreeMap::new();
    for ((section, entry), origin) in entries {
        let expected = next.entry(section.clone()).or_default();
        if entry != *expected {
            let message =
                format!("there is no {section}[{expected}]; number the entries from 0, without gaps");
            problems.push(LocatedProblem::new(origin.clone(), Some(format!("{section}[{entry}]")), message));
            broken.insert(format!("{section}[{entry}]"));
            gaps.entry(section.clone()).or_insert(entry);
        }
        *expected = entry + 1;
        for name in keys.section(&section).into_iter().flat_map(Section::required) {
            let key = Key { section: section.clone(), entry: Some(entry), name: name.to_owned() };
            let (path, variable) = (key.to_string(), key.variable());
            values.entry(key).or_insert_with(|| {
                if broken.insert(path.clone()) {
                    let message = format!("this entry has no {name}; set it here or as {variable}");
                    problems.push(LocatedProblem::new(origin.clone(), Some(path), message));
                }
                (text_value(""), origin.clone())
            });
        }
    }
    // The entries of the configuration have no gaps.
    values.retain(|key, _| gaps.get(&key.section).is_none_or(|gap| key.entry < Some(*gap)));
}

/// Returns the values as a tree. The entries of lists are in order.
pub(super) fn tree(values: &Values) -> Value {
    let mut root: Map<String, Value> = Map::new();
    let table = |value: &mut Value, name: &str, field: &Value| {
        if let ValueKind::Table(table) = &mut value.kind {
            table.insert(name.to_owned(), field.clone());
        }
    };
    let new_table = || Value::new(None, ValueKind::Table(Map::new()));
    for (key, (value, _)) in values {
        let section = root.entry(key.section.clone());
        match key.entry {
            None => table(section.or_insert_with(new_table), &key.name, value),
            Some(entry) => {
                let list = section.or_insert_with(|| Value::new(None, ValueKind::Array(Vec::new())));
                if let ValueKind::Array(entries) = &mut list.kind {
                    if entries.len() <= entry {
                        entries.push(new_table());
                    }
                    entries.iter_mut().last().into_iter().for_each(|last| table(last, &key.name, value));
                }
            }
        }
    }
    Value::new(None, ValueKind::Table(root))
}

/// Converts text to a value. Text stays text: the typed configuration parses numbers and durations from it. A list is
/// written `a,b` or, if an item contains a comma, `["a", "b"]`.
fn value(keys: &Keys, key: &Key, text: &str) -> Value {
    let list = |items: Vec<&str>| {
        let items = items.into_iter().map(text_value).collect();
        Value::new(None, ValueKind::Array(items))
    };
    if text.starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<String>>(text)
    {
        return list(items.iter().map(|item| secret::unwrapped(item)).collect());
    }
    let several_urls = key.section == "queue"
        && key.name == "url"
        && text.split(',').skip(1).any(|part| part.trim_start().starts_with("amqp"));
    if keys.is_list(key) || several_urls {
        return list(text.split(',').map(secret::unwrapped).filter(|item| !item.is_empty()).collect());
    }
    text_value(text)
}

pub(super) fn text_value(text: &str) -> Value {
    Value::new(None, ValueKind::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{ConfigError, Roles},
        *,
    };
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
        let problem = config.check(Roles::ALL).unwrap_err().to_string();
        assert!(problem.contains("worker.environments: it is empty"), "{problem}");
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
        config.check(Roles::ALL).unwrap();
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
            config.check(Roles::ALL).unwrap();
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
            3,
            "both, and the missing project_id"
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
            ("[[projects]]\nproject_id = \"p\"\naccount_id = { hunter2-hunter2 = 1 }\n", "line 3"),
            ("server = \"hunter2\"", "server is a section; write [server]"),
            ("projects = \"hunter2\"", "write [[projects]]"),
            ("projects = [\"hunter2\"]", "write [[projects]]"),
            ("[projects]\napi_key = \"hunter2\"", "write [[projects]]"),
            ("[[server]]\nlisten = \"hunter2\"", "write [server]"),
            ("ack_budget = \"hunter2\"", "did you mean server.ack_budget?"),
        ] {
            let message = load(file, &[], &[]).unwrap_err().to_string();
            assert!(message.contains(names), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    /// Returns the errors of a check for all roles, with the name of the file as FILE.
    fn errors(file: &str, env: &[(&str, &str)], set: &[(&str, &str)]) -> Vec<String> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let sources = Sources { file: Some(path.path().to_owned()), env: own(env), set: own(set) };
        let error = super::super::Reading::new(&sources).check(Roles::ALL).finish().unwrap_err().to_string();
        error.lines().map(|line| line.replace(&*path.path().to_string_lossy(), "FILE")).collect()
    }

    #[test]
    fn all_errors_of_all_layers_are_reported_at_once_with_their_places() {
        let file = "\
            [server]\nlisten = \"nowhere\"\nack_bugdet = \"4s\"\nmax_in_flight = 0\nbody_limit = true\n\
            [signature]\nsecrets_file = \"not/there\"\nscheme = \"both\"\n\
            [querty]\na = 1\nb = 2\n\
            [[projects]]\naccount_id = \"a\"\napi_key_file = \"no/key\"\n\
            [[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\napikey = \"k\"\n\
            [archive]\nurl = \"ftp://x\"\nendpoint = \"minio\"\n";
        let env = [
            ("POLYHOOK__WORKER__CONCURRENCY", "many"),
            ("POLYHOOK_WORKER_AUDIO", "off"),
            ("POLYHOOK__RETRY__JITTER", "3"),
            ("POLYHOOK__PROJECTS__3__PROJECT_ID", "p"),
            ("POLYHOOK_SERVICE_HOST", "10.0.0.1"),
        ];
        let set =
            [("worker.audo", "off"), ("refresh.after", "x"), ("tracing.sample_ratio", "7"), ("log", "debug")];
        let found = errors(file, &env, &set);
        let expected = [
            "FILE, line 2: server.listen: ",
            "FILE, line 3: there is no key server.ack_bugdet; did you mean server.ack_budget?",
            "FILE, line 4: server.max_in_flight: it is 0",
            "FILE, line 5: server.body_limit: ",
            "FILE, line 7: signature.secrets_file: not/there: cannot be read: No such file",
            "FILE, line 8: signature.scheme: this is not one of auto, timestamped, body",
            "FILE, line 9: there is no key querty",
            "FILE, line 12: projects[0].project_id: this entry has no project_id",
            "FILE, line 14: projects[0].api_key_file: no/key: cannot be read: No such file",
            "FILE, line 18: there is no key projects.apikey; did you mean projects.api_key?",
            "FILE, line 20: archive.url: it begins with ftp:",
            "FILE, line 21: archive.endpoint: it must be https://",
            "POLYHOOK_WORKER_AUDIO: this variable has no effect",
            "POLYHOOK__PROJECTS__3__PROJECT_ID: projects[3]: there is no projects[2]",
            "POLYHOOK__RETRY__JITTER: retry.jitter: it must be between 0 and 0.9",
            "POLYHOOK__WORKER__CONCURRENCY: worker.concurrency: ",
            "--set log: there is no key log",
            "--set refresh.after: refresh.after: ",
            "--set tracing.sample_ratio: tracing.sample_ratio: it must be between 0 and 1",
            "--set worker.audo: there is no key worker.audo; did you mean worker.audio?",
        ];
        assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\ninstead of {expected}");
        }
    }

    #[test]
    fn an_error_is_not_the_consequence_of_another_one() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        for (file, only) in [
            (
                "[signature]\nsecrets = 3\n[[projects]]\naccount_id=\"a\"\nproject_id=\"p\"\napi_key=\"k\"\n",
                "signature.secrets: ",
            ),
            (
                "[signature]\nsecrets_file = \"none\"\n[[projects]]\naccount_id=\"a\"\nproject_id=\"p\"\napi_key=\"k\"\n",
                "none: cannot be read",
            ),
            ("signature.secrets = [\"0123456789abcdef\"]\nprojects = 3", "write [[projects]]"),
            (
                "[signature]\nsecret_file = \"secrets\"\n[[projects]]\naccount_id=\"a\"\nproject_id=\"p\"\napi_key=\"k\"\n",
                "did you mean signature.secrets_file?",
            ),
            (
                "[signature]\nsecrets = [\"0123456789abcdef\"]\n[[projects]]\naccount_id=\"a\"\nproject_id=\"p\"\napi_kee=\"k\"\n",
                "did you mean projects.api_key?",
            ),
            ("signature.secrets = [\"0123456789abcdef\"]\nworker.concurrency = = 3", "FILE, line 2: "),
            (
                "[signature]\nsecrets = [\"0123456789abcdef\"]\n[[projects]]\naccount_id=\"a\"\nproject_id=\"p\"\napi_key_file=\"EMPTY\"\n",
                ": it is empty; write the API key into it",
            ),
        ] {
            let found = errors(&file.replace("EMPTY", &empty.path().to_string_lossy()), &[], &[]);
            assert!(found.len() == 1 && found[0].contains(only), "{found:?}");
        }
    }

    #[test]
    fn every_syntax_error_is_reported_and_the_rest_of_the_file_is_checked() {
        let file = "[server]\nlisten = = \"hunter2\"\nack_budget = \"9s\"\n[worker\nconcurrency = 0\n[log]\nlevel = x\n";
        let found = errors(file, &[("POLYHOOK__LOG__LEVL", "info")], &[]);
        assert!(found.iter().all(|error| !error.contains("hunter2")), "{found:?}");
        for place in [
            "FILE, line 2: ",
            "FILE, line 3: server.ack_budget: ",
            "FILE, line 4: ",
            "FILE, line 7: ",
            "POLYHOOK__LOG__LEVL: ",
        ] {
            assert_eq!(found.iter().filter(|error| error.starts_with(place)).count(), 1, "{place} {found:?}");
        }
        let unreadable = Sources {
            file: Some("none.toml".into()),
            env: vec![("POLYHOOK__LOG__LEVL".into(), String::new())],
            ..Sources::default()
        };
        let found =
            super::super::Reading::new(&unreadable).check(Roles::ALL).finish().unwrap_err().to_string();
        assert!(
            found.starts_with("none.toml: the configuration file cannot be read: No such file"),
            "{found}"
        );
        assert_eq!(found.lines().count(), 2, "{found}");
    }

    #[test]
    fn no_error_hides_those_beside_it() {
        let project = "[[projects]]\naccount_id=\"a\"\nproject_id=\"p\"\napi_key=\"k\"\n";
        let secrets = "[signature]\nsecrets = [\"0123456789abcdef\"]\n";
        for (file, env, expected) in [
            (
                format!(
                    "[server]\nmax_in_flight = 0\n[server]\nack_budget = \"9s\"\n[worker]\nconcurrency = 0\n{secrets}{project}"
                ),
                &[][..],
                &[
                    "FILE, line 2: server.max_in_flight: it is 0",
                    "FILE, line 3: server is there twice",
                    "FILE, line 4: server.ack_budget: ",
                    "FILE, line 6: worker.concurrency: ",
                ][..],
            ),
            (
                format!("[worker]\nconcurrency = 0\nconcurrency = 3\n{secrets}{project}"),
                &[],
                &[
                    "FILE, line 2: worker.concurrency: ",
                    "FILE, line 3: concurrency is set twice in this section",
                ],
            ),
            (
                format!("{secrets}[[projects]]\n[[projects]]\naccount_id=\"a\"\n"),
                &[("POLYHOOK__PROJECTS__5__ACCOUNT_ID", "x")],
                &[
                    "FILE, line 3: projects[0].account_id: a project has an empty account_id",
                    "FILE, line 3: projects[0].api_key: project without an id: there is no api_key",
                    "FILE, line 3: projects[0].project_id: this entry has no project_id",
                    "FILE, line 4: projects[1].project_id: this entry has no project_id",
                    "FILE, line 5: projects[1].api_key: ",
                    "POLYHOOK__PROJECTS__5__ACCOUNT_ID: projects[5]: there is no projects[2]",
                    "POLYHOOK__PROJECTS__5__ACCOUNT_ID: projects[5].project_id: this entry has no project_id",
                ],
            ),
            (
                format!("[signature]\nsecrets = [\"short\"]\nsecrets_file = \"none\"\n{project}"),
                &[],
                &[
                    "FILE, line 2: signature.secrets: ",
                    "FILE, line 3: signature.secrets_file: none: cannot be read",
                ],
            ),
            (
                format!(
                    "[polyai]\nmax_requests_per_second = 0\nbase_url = \"https://user:hunter2@api.us.poly.ai\"\n[reconcile]\nlookback = \"5s\"\n[archive]\nendpoint = \"https://u:hunter2@h\"\nurl = \"s3://b\"\n{secrets}{project}"
                ),
                &[],
                &[
                    "FILE, line 2: polyai.max_requests_per_second: it is 0",
                    "FILE, line 3: polyai.base_url: it contains a user or a password",
                    "FILE, line 5: reconcile.lookback: it is below reconcile.settle",
                    "FILE, line 7: archive.endpoint: it contains a user or a password",
                ],
            ),
        ] {
            let found = errors(&file, env, &[]);
            let is_expected = |(found, expected): (&String, &&str)| found.starts_with(expected);
            assert!(
                found.len() == expected.len() && found.iter().zip(expected).all(is_expected),
                "{}",
                found.join("\n")
            );
        }
    }

    #[test]
    fn only_the_value_that_has_an_effect_must_be_right() {
        let file =
            "[worker]\nconcurrency = \"many\"\nenvironments = [\"live\", \"sandbox\", \"pre-release\"]\n";
        let env = [("POLYHOOK__WORKER__CONCURRENCY", "3"), ("POLYHOOK__WORKER__ENVIRONMENTS", "sandbox")];
        let config = load(file, &env, &[]).unwrap();
        assert_eq!((config.worker.concurrency, config.worker.environments), (3, vec!["sandbox".to_owned()]));
        let project = "[[projects]]\nproject_id = \"p\"\n";
        assert_eq!(load(project, &[], &[]).unwrap().projects.len(), 1);
        assert!(load(project, &[], &[("projects", "[]")]).unwrap().projects.is_empty());
        assert!(load(project, &[("POLYHOOK__PROJECTS", "[]")], &[]).unwrap().projects.is_empty());
    }
}
