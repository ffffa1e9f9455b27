//! The checks of configuration, secrets, files, disks and archives.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use super::{Diagnosis, answer, call, doctor, fixed_server};
use crate::support::{
    process::{Installation, SimulatedPolyAi},
    small_disk::SmallDisk,
};

#[test]
fn exits_with_78_if_the_configuration_cannot_be_read() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let said = call(&site, &["--set", "quue.url=x"]).run().expect_exit_code(78);
    Diagnosis { code: Some(1), ..Diagnosis::read(&said) }.has("configuration", "fail", "did you mean");
    let said = call(&site, &["--set", "signature.secrets_file=not-there"]).run().expect_exit_code(78);
    Diagnosis { code: Some(1), ..Diagnosis::read(&said) }.has("configuration", "fail", "not-there");
    // All errors, also those of the role, and each once.
    let wrong = ["--set", "quue.url=x", "--set", "worker.concurrency=0"];
    let said = call(&site, &wrong).run().expect_exit_code(78);
    assert_eq!((said.stdout.matches("nothing would be fetched").count(), &*said.stderr), (1, ""), "{said:?}");
    assert_eq!(Diagnosis { code: Some(1), ..Diagnosis::read(&said) }.findings.len(), 2, "{said:?}");
    let said = site.polyhook([&["doctor"][..], &wrong].concat()).run().expect_exit_code(78);
    let checked = site.polyhook([&["config", "check"][..], &wrong].concat()).run();
    assert_eq!((said.stdout, said.stderr), (String::new(), checked.stderr));
    // The configuration of a receiver has no project.
    doctor(&site, &["--set", "projects=[]"]).has("configuration", "fail", "--role");
    // An invalid value does not prevent the other checks.
    let found = doctor(&site, &["--set", "worker.concurrency=0"]);
    found
        .has("configuration", "fail", "worker.concurrency")
        .has("polyai.key", "ok", "")
        .fails_only("configuration");
}

#[test]
fn reports_copy_mistakes_and_file_modes() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let secret = &site.secret;
    for (text, words) in [
        (format!("\"{secret}"), "quote"),
        (format!("Bearer {secret}"), "Bearer"),
        ("whe_0123456789abcdef0123".to_owned(), "id of an endpoint"),
        (format!("{secret}\\n"), "backslash"),
        ("0123456789".to_owned(), "too few"),
        (polyai.access.api_key.clone(), "it is an API key"),
    ] {
        site.write("secrets", &text);
        doctor(&site, &["--role", "receive"]).has("secret", "fail", words);
    }
    site.write("secrets", secret);
    site.write("key", &format!("Bearer {}", polyai.access.api_key));
    doctor(&site, &[]).has("secret", "fail", "Bearer");
    site.write("key", &polyai.access.api_key);

    let mode = |name: &str, mode| {
        std::fs::set_permissions(site.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    for (secrets, key, status) in [(0o600, 0o640, "ok"), (0o644, 0o400, "warn"), (0o660, 0o600, "warn")] {
        mode("secrets", secrets);
        mode("key", key);
        doctor(&site, &[]).has("file_mode", status, "secrets").has("file_mode", "ok", "key");
    }
    let inline = Installation::new(&polyai.access, &format!("signature.secrets = [\"{secret}\"]"));
    doctor(&inline, &[]).has("file_mode", "warn", "the configuration file, which contains secrets,");
}

#[test]
fn reports_damaged_files_and_full_disks() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    site.write("queue.db", "this is not a database, whatever its length is");
    let queue = ["--set", "queue.url=sqlite:queue.db"];
    doctor(&site, &queue).has("queue.file", "fail", "damaged").fails_only("queue.file");
    site.polyhook(["fetch", &polyai.ids()[0]]).run().expect_exit_code(0);
    doctor(&site, &[]).is_ok(&["queue.file", "archive", "disk"]);

    let file = site.path().join("polyhook-data/queue.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8192..].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    doctor(&site, &[]).has("queue.file", "fail", "it is damaged").fails_only("queue.file");
    std::fs::remove_file(&file).unwrap();

    // A file where a folder must be. Files below it do not exist, and cannot be created.
    site.write("a-file", "");
    let below = ["--set", "queue.url=sqlite:a-file/queue.db", "--set", "archive.url=file:a-file/archive"];
    let found = doctor(&site, &below);
    found.has("queue.file", "fail", "move away the file").has("archive", "fail", "move away the file");

    let disk = SmallDisk::mount(site.path().join("small"), 8);
    let at = |path: &str| disk.file(path).display().to_string();
    let settings =
        [format!("queue.url=sqlite:{}", at("q/queue.db")), format!("archive.url=file:{}", at("archive"))];
    let small_disk_args = ["--set", &settings[0], "--set", &settings[1]];
    let found = doctor(&site, &small_disk_args);
    found.has("disk", "fail", "queue (").has("disk", "fail", "archive (").fails_only("disk");
    disk.make_read_only(true);
    let found = doctor(&site, &small_disk_args);
    found.has("queue.file", "fail", "Read-only").has("archive", "fail", "Read-only");
    disk.make_read_only(false);
    std::fs::create_dir(disk.file("archive")).unwrap();
    disk.fill();
    doctor(&site, &small_disk_args).has("archive", "fail", "");
}

#[test]
fn reports_unusable_buckets() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let bucket = |answer: String| {
        let archive = format!(
            "archive = {{ url = \"s3://bucket/x\", endpoint = \"http://{}\", allow_http = true, region = \"r\", access_key_id = \"id\", secret_access_key = \"hunter2-hunter2\" }}",
            fixed_server(answer)
        );
        let site = Installation::new(&polyai.access, &archive);
        Diagnosis::read(&call(&site, &[]).must_not_print("hunter2-hunter2").run())
    };
    let found = bucket(answer("200 OK", "etag: \"1\"\r\n", ""));
    found.has("archive", "fail", "ignores conditional writes").fails_only("archive");
    let refusal = "<Error><Code>SignatureDoesNotMatch</Code></Error>";
    let found = bucket(answer("403 Forbidden", "", refusal));
    found.has("archive", "fail", "SignatureDoesNotMatch").fails_only("archive");
    let absent = "<Error><Code>NoSuchBucket</Code></Error>";
    bucket(answer("404 Not Found", "", absent))
        .has("archive", "fail", "the bucket exists")
        .fails_only("archive");
}
