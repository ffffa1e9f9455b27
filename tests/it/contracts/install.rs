//! Runs every command block of docs/install.md in order, and then the import of deploy/rabbitmq/README.md, against a broker, a
//! bucket, a simulated PolyAI and the files of `config`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::root;
use crate::support::{
    ports,
    process::{PolyhookCommand, Process, SimulatedPolyAi, eventually},
    rabbit::SHARED_NODE,
    seaweed::Seaweed,
};

/// A PolyAI with the ids of the files in `config`.
const POLYAI: &str = r#"
    mix = { webchat = 0.0, chat = 0.0, min_turns = 1, max_turns = 2, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    [[projects]]
    account_id = "acme-us"
    account_slug = "acme-us"
    project_id = "acme-front-desk"
    project_slug = "acme-front-desk"
"#;
/// Calls S3 with the arguments of Amazon's command line, which the tests do not install.
const AWS: &str = r#"
import json, os, sys, boto3
service, operation, *rest = sys.argv[1:]
name = lambda flag: "".join(part.title() for part in flag.lstrip("-").split("-"))
value = lambda text: json.loads(text) if text.startswith("{") else text
client = boto3.client({"s3api": "s3"}[service], endpoint_url=os.environ["S3"], region_name="us-east-1")
getattr(client, operation.replace("-", "_"))(**{name(flag): value(text) for flag, text in zip(rest[::2], rest[1::2], strict=True)})
"#;

/// A machine on which a person follows the page. Paths and addresses that only exist in production are replaced.
struct Machine {
    folder: tempfile::TempDir,
    replacements: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    fn new(polyai: &SimulatedPolyAi, s3: &Seaweed, [receiver, admin]: [u16; 2]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path).display().to_string();
        for path in ["bin", "secrets", "data"] {
            fs::create_dir(folder.path().join(path)).unwrap();
        }
        let archive = s3.config("");
        let (key, endpoint) = (archive.secret_access_key.unwrap(), archive.endpoint.unwrap());
        let url = &polyai.access.url;
        let path = format!("{}:{}", at("bin"), std::env::var_os("PATH").unwrap_or_default().display());
        let variables = vec![
            ("PATH", path),
            ("S3", endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", archive.access_key_id.unwrap()),
            ("AWS_SECRET_ACCESS_KEY", key.expose().to_owned()),
            ("POLYHOOK__ARCHIVE__ENDPOINT", endpoint),
            ("POLYHOOK__ARCHIVE__ALLOW_HTTP", "true".to_owned()),
            ("POLYHOOK__POLYAI__BASE_URL", url.clone()),
            ("POLYHOOK__POLYAI__PLATFORM_URL", url.clone()),
            ("POLYHOOK__SERVER__LISTEN", format!("127.0.0.1:{receiver}")),
        ];
        let replacements = vec![
            ("https://hooks.example.com", format!("http://127.0.0.1:{receiver}")),
            ("amqps://", "amqp://".to_owned()),
            ("rabbitmq.example.com:5671", format!("127.0.0.1:{}", SHARED_NODE.port())),
            ("/run/secrets", at("secrets")),
            ("/tmp/definitions.json", at("definitions.json")),
            ("/var/lib/polyhook", at("data")),
            ("0.0.0.0:9090", format!("127.0.0.1:{admin}")),
        ];
        let machine = Self { folder, replacements, variables };
        machine.install_programs();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn install_programs(&self) {
        symlink(env!("CARGO_BIN_EXE_polyhook"), self.path("bin/polyhook")).unwrap();
        SHARED_NODE.write_ctl(&self.path("bin/rabbitmqctl"));
        let python = root().join(".tools/examples/venv/bin/python");
        fs::write(self.path("bin/aws"), format!("#!{}{AWS}", python.display())).unwrap();
        fs::set_permissions(self.path("bin/aws"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink(root().join("deploy"), self.path("deploy")).unwrap();
        symlink(root().join("config"), self.path("config")).unwrap();
        fs::write(self.path("exported"), "").unwrap();
    }

    fn replaced(&self, text: &str) -> String {
        self.replacements.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// Edits the files that a block has copied from `config`.
    fn adapt(&self, files: &[&str]) {
        for file in files {
            let path = self.path(file);
            fs::write(&path, self.replaced(&fs::read_to_string(&path).unwrap())).unwrap();
        }
    }

    /// Runs a block in a shell that has what earlier blocks exported. Every command must succeed.
    fn run(&self, block: &str) {
        let script =
            format!("set -euo pipefail; . ./exported\n{}\nexport -p >exported", self.replaced(block));
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(&self.folder).env_clear().envs(self.variables.clone());
        let output = shell.output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{}:\n{block}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }

    fn polyhook(&self, arguments: &[&str]) -> PolyhookCommand {
        let command = PolyhookCommand::new(self.folder.path(), arguments);
        self.variables.iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    fn start(&self, arguments: &[&str]) -> Process {
        let process = self.polyhook(arguments).start();
        process.wait_until_ready();
        process
    }
}

/// Returns the fenced blocks of a document, each with its language.
fn blocks(document: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(document).unwrap();
    let fenced = text.split("\n```").skip(1).step_by(2);
    fenced
        .map(|block| block.split_once('\n').unwrap())
        .map(|(language, block)| (language.into(), block.into()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_installation_work_in_their_order() {
    let s3 = Seaweed::shared().await;
    tokio::task::block_in_place(|| follow_the_page(&s3));
}

fn follow_the_page(s3: &Seaweed) {
    let polyai = SimulatedPolyAi::start(POLYAI, 1);
    let [receiver, receiver_admin, worker_admin] = ports::free();
    let machine = Machine::new(&polyai, s3, [receiver, receiver_admin]);
    machine.run("aws s3api create-bucket --bucket acme-calls");
    fs::write(machine.path("secrets/polyai-api-key"), &polyai.access.api_key).unwrap();
    let mut services = Vec::new();
    let mut archived = false;
    for (language, block) in blocks(&root().join("docs/install.md")) {
        if language == "json" {
            serde_json::from_str::<serde_json::Value>(&block).unwrap();
            continue;
        }
        assert_eq!(language, "sh", "this test runs blocks of the language sh, not this one:\n{block}");
        if block.contains("--role receive --url") {
            // The page says: start receivers and workers.
            let admin = format!("admin.listen=127.0.0.1:{worker_admin}");
            services.push(machine.start(&["receive", "--config", "receiver.toml"]));
            services.push(machine.start(&["work", "--config", "worker.toml", "--set", &admin]));
        }
        if block.contains("polyhook backfill") {
            // The page says: call the agent and hang up.
            polyai.control("POST", "deliver", &json!({ "sender": {} }));
            let show = ["show", &polyai.ids()[0], "--config", "operator.toml"];
            eventually("the call is archived", || machine.polyhook(&show).run().code == Some(0));
            archived = true;
        }
        machine.run(&block);
        if block.contains("operator.toml .") {
            machine.adapt(&["receiver.toml", "worker.toml", "operator.toml"]);
        }
    }
    assert!(services.len() == 2 && archived, "the page does not start the services, or archives no call");

    // The other way to set up the broker: one user for each role.
    let (_, import) = blocks(&root().join("deploy/rabbitmq/README.md")).remove(0);
    machine.run(&import);
    machine.run("echo \"amqps://polyhook-receiver:$(cat passwords/polyhook-receiver)@rabbitmq.example.com:5671/polyhook\" >/run/secrets/amqp-url");
    machine.run("polyhook doctor --config receiver.toml --role receive");
}
