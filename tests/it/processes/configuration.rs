//! Configuration errors are reported before anything starts, and the shipped configuration files are valid.

use std::{collections::BTreeSet, net::TcpListener, path::Path};

use serde_json::{Map, Value, json};

use crate::support::process::{CommandOutput, PolyhookCommand};

const EXAMPLE: &str = include_str!("../../../config/polyhook.example.toml");
const PRODUCTION: &str = include_str!("../../../config/production.toml");
const SECRET: &str = "a-signing-secret-of-tests";

/// Runs the receiver on ports that are taken: whatever ends it with 78 has come before a socket was bound.
fn refused(file: &str, more: &[&str]) -> CommandOutput {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("server.listen={}", taken.local_addr().unwrap());
    std::fs::write(folder.path().join("polyhook.toml"), file).unwrap();
    let arguments =
        ["receive", "--config", "polyhook.toml", "--set", &listen, "--set", "admin.listen=127.0.0.1:0"];
    let said =
        PolyhookCommand::new(folder.path(), arguments.iter().chain(more)).must_not_print("hunter2").run();
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    if said.code == Some(78) {
        assert_eq!(left.len(), 1, "it left something behind: {left:?}");
    }
    said
}

#[test]
fn does_not_start_without_a_secret() {
    for (file, says) in [
        ("", "signature.secrets_file"),
        ("signature.secrets = []", "signature.secrets_file"),
        ("signature.secrets = [\"\"]", "secret"),
        ("signature.secrets = [\"hunter2-hunter2\"]", "16"),
        ("signature.secrets = [\"hunter2-hunter2-hunter2\", \"hunter2\"]", "16"),
    ] {
        let said = refused(file, &[]).expect_exit_code(78);
        assert!(said.stderr.contains(says), "{file}: {}", said.stderr);
        assert!(said.stdout.is_empty());
    }
    for role in ["run", "work"] {
        let folder = tempfile::tempdir().unwrap();
        PolyhookCommand::new(folder.path(), [role]).run().expect_exit_code(78);
    }
}

#[test]
fn exits_with_1_and_names_the_key_of_a_taken_port() {
    let said = refused(&format!("signature.secrets = [\"{SECRET}\"]"), &[]).expect_exit_code(1);
    assert!(said.stderr.contains("server.listen: cannot listen on 127.0.0.1:"), "{}", said.stderr);
}

/// The port is taken, so an attempt to listen would end with 1.
#[test]
fn a_console_that_anyone_could_read_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let listen = format!("console.listen={}", taken.local_addr().unwrap());
    for (more, code, says) in [
        (&[][..], 78, "console.listen: everyone who can connect"),
        (
            &["--set", "console.token=hunter2-hunter2"],
            78,
            "console.token: console token number 1 is shorter than 16",
        ),
        (&["--set", "console.token=hunter2-hunter2-hunter2"], 1, "console.listen: cannot listen"),
    ] {
        let arguments = [&["console", "--set", &listen], more].concat();
        let said = PolyhookCommand::new(folder.path(), arguments).must_not_print("hunter2").run();
        assert!(said.stderr.contains(says), "{more:?}: {}", said.stderr);
        said.expect_exit_code(code);
    }
}

#[test]
fn errors_name_the_place_and_never_show_a_value() {
    for (file, more, says) in [
        (
            "[server]\nack_bugdet = \"4s\"",
            &[][..],
            "there is no key server.ack_bugdet; did you mean server.ack_budget?",
        ),
        ("", &["--set", "worker.concurency=3"], "did you mean worker.concurrency?"),
        ("signature.secrets_file = \"not/there\"", &[], "not/there"),
        ("[queue]\nurl_file = \"gone\"", &[], "gone"),
        ("[server]\n\nlisten = = \"hunter2\"", &[], "polyhook.toml, line 3"),
        ("[signature]\nsecrets = [\"hunter2-hunter2\" \"x\"]", &[], "polyhook.toml, line 2"),
        ("a = \"hunter2\nb = 1", &[], "polyhook.toml, line 1"),
        ("[signature]\nsecrets = \"hunter2-hunter2-hunter2\"", &[], "signature.secrets"),
        (
            "[signature]\nscheme = \"hunter2\"",
            &[],
            "signature.scheme: this is not one of auto, timestamped, body",
        ),
        (
            "[worker]\naudio = \"hunter2\"",
            &[],
            "worker.audio: this is not one of combined, user, agent, both, off",
        ),
        ("[polyai]\nregion = \"hunter2\"", &[], "polyai.region: this is not one of us, uk, eu, studio"),
        ("", &["--set", "log.format=hunter2"], "log.format: this is not one of pretty, json"),
        ("[queue]\nurl = \"http://hunter2:hunter2@rabbit\"", &[], "queue.url"),
        ("[log]\nlevel = \"polyhook=hunter2\"", &[], "log.level"),
        ("[log]\nlevel = \"hunter2\"", &[], "log.level: use error, warn"),
        ("", &["--set", "server.listen=hunter2"], "server.listen"),
        ("[server]\nack_budget = \"hunter2\"", &[], "server.ack_budget"),
        ("[server]\nbody_limit = \"hunter2\"", &[], "server.body_limit"),
        ("[worker]\nconcurrency = \"hunter2\"", &[], "worker.concurrency"),
        ("[server]\npath = \"no-slash\"", &[], "server.path"),
        ("[retry]\njitter = 3.0", &[], "retry.jitter"),
    ] {
        // A valid secret, unless the file has its own section.
        let secret = format!("signature.secrets={SECRET}");
        let secret_args = if file.contains("signature") { vec![] } else { vec!["--set", &secret] };
        let said = refused(file, &[&secret_args, more].concat()).expect_exit_code(78);
        assert!(said.stderr.contains(says), "{file}: {}", said.stderr);
        assert!(said.stderr.starts_with("error: "), "{}", said.stderr);
    }
    let folder = tempfile::tempdir().unwrap();
    let missing =
        PolyhookCommand::new(folder.path(), ["run", "--config", "none.toml"]).run().expect_exit_code(78);
    assert!(missing.stderr.contains("none.toml"), "{}", missing.stderr);
    let variable = PolyhookCommand::new(folder.path(), ["run"])
        .env("POLYHOOK__SERVER__LISTN", "x")
        .run()
        .expect_exit_code(78);
    assert!(variable.stderr.contains("server.listen?"), "{}", variable.stderr);
}

/// Returns the shipped example with its secrets moved from `/run/secrets` to `folder`.
fn example(folder: &Path, text: &str) -> String {
    let secrets = folder.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    for (name, content) in [
        ("polyai-webhook", SECRET),
        ("polyai-api-key", "hunter2-hunter2"),
        ("amqp-url", "amqp://polyhook:hunter2@127.0.0.1:1/calls"),
    ] {
        std::fs::write(secrets.join(name), content).unwrap();
    }
    assert!(text.contains("/run/secrets/"));
    let data = format!("{}/", folder.display());
    text.replace("/run/secrets/", &format!("{}/", secrets.display())).replace("/var/lib/polyhook/", &data)
}

#[test]
fn the_shipped_files_are_valid() {
    for text in [EXAMPLE, PRODUCTION] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("polyhook.toml"), example(folder.path(), text)).unwrap();
        let run = |arguments: &[&str]| {
            let config = ["--config", "polyhook.toml"];
            PolyhookCommand::new(folder.path(), arguments.iter().chain(&config))
                .must_not_print(SECRET)
                .must_not_print("hunter2")
                .run()
        };
        // The default ports may be in use.
        let ports = ["--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"];
        let check = |more: &[&str]| run(&[&["config", "check"], &ports[..], more].concat());
        assert_eq!(check(&[]).expect_exit_code(0).stdout, "the configuration is good for the role run\n");
        assert_eq!(check(&["--json"]).expect_exit_code(0).json(), json!({ "ok": true, "problems": [] }));
        // The merged configuration is shown without secrets: `must_not_print` searches the output for them.
        let shown = run(&["config", "show"]).expect_exit_code(0).stdout;
        assert!(shown.contains("[redacted]"), "{shown}");
        let shown: toml::Table = toml::from_str(&shown).unwrap();
        assert_eq!(shown["projects"][0]["project_id"].as_str(), Some("acme-front-desk"));
        let shown = run(&["config", "show", "--json"]).expect_exit_code(0).json();
        assert_eq!(shown["projects"][0]["api_key"], "[redacted]");
        assert_eq!(shown["signature"]["secrets"], json!([]), "secrets of the file are not copied");
    }
    let folder = tempfile::tempdir().unwrap();
    let bad =
        PolyhookCommand::new(folder.path(), ["config", "check", "--json"]).run().expect_exit_code(78).json();
    assert_eq!(bad["ok"], false);
    assert_eq!(bad["problems"].as_array().unwrap().len(), 2, "all errors are reported at once: {bad}");
}

#[test]
fn redacts_secrets_in_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        signature.secrets = ["hunter2-hunter2-hunter2"]
        queue.url = ["amqp://polyhook:hunter2@a:5672/v", "amqp://polyhook:hunter2@b:5672/v"]
        archive.url = "s3://bucket/prefix"
        archive.secret_access_key = "hunter2"
        trigger.token = "hunter2-hunter2-hunter2"
        console.token = "hunter2-hunter2-hunter2"
        [[projects]]
        account_id = "a"
        project_id = "p"
        api_key = "hunter2"
        data_api_key = "hunter2"
    "#;
    std::fs::write(folder.path().join("polyhook.toml"), text).unwrap();
    for more in [None, Some("--json")] {
        let arguments = ["config", "show", "--config", "polyhook.toml"].into_iter().chain(more);
        let shown = PolyhookCommand::new(folder.path(), arguments)
            .must_not_print("hunter2")
            .run()
            .expect_exit_code(0)
            .stdout;
        assert_eq!(shown.matches("[redacted]").count(), 8, "{shown}");
    }
}

#[test]
fn the_example_contains_every_key_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let run =
        |arguments: &[&str]| PolyhookCommand::new(folder.path(), arguments).run().expect_exit_code(0).json();
    let schema = run(&["config", "schema"]);

    // Every key, set or commented out.
    let known = keys_of_schema(&schema);
    let written = keys_of_text(EXAMPLE);
    assert_eq!(
        known.difference(&written).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "missing in the example"
    );
    assert_eq!(written.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "no such keys");

    // Keys that are set have their default, except keys without a default that every process needs.
    std::fs::write(folder.path().join("polyhook.toml"), example(folder.path(), EXAMPLE)).unwrap();
    let mut shown = without_layers(run(&["config", "show", "--json", "--config", "polyhook.toml"]));
    let defaults = without_layers(run(&["config", "show", "--json"]));
    assert_eq!(shown["projects"].as_array().unwrap().len(), 1);
    shown["projects"] = json!([]);
    shown["signature"]["secrets"] = json!([]);
    let secrets_file = shown["signature"].as_object_mut().unwrap().remove("secrets_file");
    assert!(secrets_file.is_some_and(|path| path.as_str().unwrap().ends_with("/polyai-webhook")));
    let mut defaults = defaults;
    defaults["signature"].as_object_mut().unwrap().remove("secrets_file");
    assert_eq!(shown, defaults);

    // A key without a default value (null) is not set.
    let set: toml::Table = toml::from_str(EXAMPLE).unwrap();
    for (section, keys) in set.iter().filter_map(|(name, keys)| Some((name, keys.as_table()?))) {
        for key in keys.keys().filter(|key| *key != "secrets_file") {
            assert!(!defaults[section][key].is_null(), "{section}.{key} has no default");
        }
    }
}

/// Returns the output of `config show --json` in the form of the file.
fn without_layers(mut shown: Value) -> Value {
    for added in ["layers", "hosts"] {
        assert!(shown.as_object_mut().unwrap().remove(added).is_some(), "{added}");
    }
    shown
}

fn keys_of_schema(schema: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (section, of) in schema["properties"].as_object().unwrap() {
        let of = resolved(schema, of);
        let of = of.get("items").map_or(of, |items| resolved(schema, items));
        keys.extend(of["properties"].as_object().unwrap().keys().map(|key| format!("{section}.{key}")));
    }
    keys
}

fn keys_of_text(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
        }
        let line = line.trim_start_matches("# ");
        let Some((key, _)) = line.split_once(" = ") else { continue };
        if key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn the_schema_accepts_the_example_and_rejects_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let schema = PolyhookCommand::new(folder.path(), ["config", "schema"]).run().expect_exit_code(0).json();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_well_formed(&schema, &schema);
    for text in [EXAMPLE, PRODUCTION] {
        let value: Value = toml::from_str(text).unwrap();
        assert_eq!(problem(&schema, &schema, &value), None);
    }
    let defaults = PolyhookCommand::new(folder.path(), ["config", "show", "--json"]).run().json();
    let defaults = without_layers(defaults);
    assert_eq!(problem(&schema, &schema, &defaults), None);
    for wrong in [
        json!({ "server": { "listn": "0.0.0.0:1" } }),
        json!({ "server": [] }),
        json!({ "worker": { "audio": "loud" } }),
        json!({ "worker": { "concurrency": 0 } }),
        json!({ "projects": [{ "account_id": "a" }] }),
        json!({ "retry": { "delays": "10s" } }),
    ] {
        assert!(problem(&schema, &schema, &wrong).is_some(), "{wrong}");
    }
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(target) => root.pointer(target.strip_prefix('#').unwrap()).expect(target),
        None => schema,
    }
}

const KEYWORDS: [&str; 18] = [
    "$schema",
    "$defs",
    "$ref",
    "title",
    "description",
    "default",
    "format",
    "writeOnly",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "const",
    "enum",
    "anyOf",
    "oneOf",
    "minimum",
];

/// Checks that the schema uses only keywords that [`problem`] implements, with the right types, and only valid references.
fn assert_well_formed(root: &Value, schema: &Value) {
    let fields = schema.as_object().expect("a schema is an object");
    resolved(root, schema);
    for (word, value) in fields {
        assert!(KEYWORDS.contains(&word.as_str()) || word == "maximum", "{word}");
        match word.as_str() {
            "properties" | "$defs" => {
                value.as_object().unwrap().values().for_each(|of| assert_well_formed(root, of));
            }
            "items" => assert_well_formed(root, value),
            "anyOf" | "oneOf" => value.as_array().unwrap().iter().for_each(|of| assert_well_formed(root, of)),
            "title" | "description" | "format" | "$ref" | "$schema" => assert!(value.is_string()),
            "additionalProperties" | "writeOnly" => assert!(value.is_boolean()),
            "minimum" | "maximum" => assert!(value.is_number()),
            _ => {}
        }
    }
}

/// Validates `value` and returns the first problem.
fn problem(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let matches = |of: &Value| problem(root, of, value).is_none();
    let none = Map::new();
    for (keyword, expected) in schema.as_object().unwrap_or(&none) {
        let list = || expected.as_array().unwrap();
        let valid = match keyword.as_str() {
            "$ref" => match problem(root, resolved(root, schema), value) {
                None => true,
                problem => return problem,
            },
            "type" => match expected {
                Value::Array(kinds) => kinds.iter().any(|kind| has_type(kind, value)),
                kind => has_type(kind, value),
            },
            "const" => expected == value,
            "enum" => list().contains(value),
            "anyOf" => list().iter().any(matches),
            "oneOf" => list().iter().filter(|of| matches(of)).count() == 1,
            "minimum" => value.as_f64().is_none_or(|value| value >= expected.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|value| value <= expected.as_f64().unwrap()),
            "required" => value
                .as_object()
                .is_none_or(|fields| list().iter().all(|name| fields.contains_key(name.as_str().unwrap()))),
            "items" => {
                match value.as_array().into_iter().flatten().find_map(|item| problem(root, expected, item)) {
                    None => true,
                    problem => return problem,
                }
            }
            "properties" => {
                for (name, of) in value.as_object().into_iter().flatten() {
                    match expected.get(name).map(|schema| problem(root, schema, of)) {
                        Some(None) => {}
                        None if schema["additionalProperties"] != false => {}
                        None => return Some(format!("{name} is unknown")),
                        Some(Some(problem)) => return Some(format!("{name}: {problem}")),
                    }
                }
                true
            }
            _ => true,
        };
        if !valid {
            return Some(format!("{value} does not match {keyword}: {expected}"));
        }
    }
    None
}

fn has_type(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}
