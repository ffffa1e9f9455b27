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
    let env = [("POLYHOOK__WORKER__CONCURRENCY", "3"), ("POLYHOOK__WORKER__ENVIRONMENTS", "live, sandbox")];
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
            ("POLYHOOK__INDEX__NUMBERS", wrap("hash")),
            ("POLYHOOK__INDEX__NUMBERS_KEY", wrap("0123456789abcdef")),
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
        assert_eq!(config.index.numbers_key, Some(Secret::new("0123456789abcdef")));
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
    let file =
        "[server]\nlisten = = \"hunter2\"\nack_budget = \"9s\"\n[worker\nconcurrency = 0\n[log]\nlevel = x\n";
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
    let found = super::super::Reading::new(&unreadable).check(Roles::ALL).finish().unwrap_err().to_string();
    assert!(found.starts_with("none.toml: the configuration file cannot be read: No such file"), "{found}");
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
            &["FILE, line 2: worker.concurrency: ", "FILE, line 3: concurrency is set twice in this section"],
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
    let file = "[worker]\nconcurrency = \"many\"\nenvironments = [\"live\", \"sandbox\", \"pre-release\"]\n";
    let env = [("POLYHOOK__WORKER__CONCURRENCY", "3"), ("POLYHOOK__WORKER__ENVIRONMENTS", "sandbox")];
    let config = load(file, &env, &[]).unwrap();
    assert_eq!((config.worker.concurrency, config.worker.environments), (3, vec!["sandbox".to_owned()]));
    let project = "[[projects]]\nproject_id = \"p\"\n";
    assert_eq!(load(project, &[], &[]).unwrap().projects.len(), 1);
    assert!(load(project, &[], &[("projects", "[]")]).unwrap().projects.is_empty());
    assert!(load(project, &[("POLYHOOK__PROJECTS", "[]")], &[]).unwrap().projects.is_empty());
}

#[test]
fn a_console_that_anyone_could_read_is_an_error_at_its_place() {
    let check = |console: &str, roles: Roles| {
        let file = format!("[console]\n{console}");
        load(&file, &[], &[]).and_then(|config| config.check(roles)).map_err(|error| error.to_string())
    };
    let any = "listen = \"0.0.0.0:8090\"\n";
    for (console, start) in [
        (any.to_owned(), "line 2: console.listen: everyone who can connect"),
        (format!("{any}token = \"hunter2\""), "line 3: console.token: console token number 1 is shorter"),
        (
            format!("{any}trusted_proxies = [\"10.0.0.0/40\"]"),
            "line 3: console.trusted_proxies: this is not an address",
        ),
        (
            format!("{any}trusted_proxies = \"10.0.0.7\""),
            "line 3: console.trusted_proxies: this must be a list",
        ),
        (
            format!("{any}trusted_proxies = [\"10.0.0.7\"]"),
            "line 3: console.trusted_proxies: there is no console.user_header",
        ),
        (
            "user_header = \"X-User\"".to_owned(),
            "line 2: console.user_header: there are no console.trusted_proxies",
        ),
        ("listen = \"localhost\"".to_owned(), "line 2: console.listen: this is not an address with a port"),
    ] {
        let error = check(&console, Roles::CONSOLE).expect_err(&console);
        assert!(error.contains(start) && error.lines().count() == 1, "{console}: {error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    let right = format!(
        "{any}token = \"0123456789abcdef\"\ntrusted_proxies = [\"10.0.0.7\", \"fd00::/8\"]\nuser_header = \"X-User\""
    );
    check(&right, Roles::CONSOLE).unwrap();
    // A process without a console does not need it to be right.
    check(any, Roles::RECONCILE).expect_err("there is no project");
    assert!(!check(any, Roles::ALL).unwrap_err().contains("console"));
    assert!(
        check(&format!("enabled = true\n{any}"), Roles::ALL)
            .unwrap_err()
            .contains("console.listen: everyone")
    );
}

#[test]
fn a_token_of_the_console_is_no_other_secret() {
    let secret = "hunter2-hunter2-hunter2";
    for other in [
        format!("[signature]\nsecrets = [\"{secret}\"]"),
        format!("[trigger]\npath = \"/trigger\"\ntoken = \"{secret}\""),
        format!("[index]\nnumbers = \"hash\"\nnumbers_key = \"{secret}\""),
        format!("[archive]\nsecret_access_key = \"{secret}\""),
        format!("[[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\napi_key = \"{secret}\""),
        format!(
            "[[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\napi_key = \"k\"\ndata_api_key = \"{secret}\""
        ),
    ] {
        let file = format!("{other}\n[console]\ntoken = \"{secret}\"\n");
        let error = load(&file, &[], &[]).unwrap().check(Roles::CONSOLE).expect_err(&other).to_string();
        assert!(
            error.contains("a token of the console is another secret") && !error.contains("hunter"),
            "{error}"
        );
    }
}
