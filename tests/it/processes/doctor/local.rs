//! Configuration, secrets, files, disks, archives.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use super::{Diagnosis, answer, call, doctor, fixed};
use crate::support::{
    process::{Installation, SimulatedPolyAi},
    small_disk::SmallDisk,
};

#[test]
fn a_configuration_that_cannot_be_read_is_78() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let said = call(&site, &["--set", "quue.url=x"]).run().expect_exit_code(78);
    Diagnosis { code: Some(1), ..Diagnosis::read(&said) }.says("configuration", "fail", "did you mean");
    let said = call(&site, &["--set", "signature.secrets_file=not-there"]).run().expect_exit_code(78);
    Diagnosis { code: Some(1), ..Diagnosis::read(&said) }.says("configuration", "fail", "not-there");
    // One that can be read but makes no sense hides nothing else.
    let found = doctor(&site, &["--set", "worker.concurrency=0"]);
    found
        .says("configuration", "fail", "worker.concurrency")
        .says("polyai.key", "ok", "")
        .only("configuration");
}

#[test]
fn secrets_that_were_copied_wrong() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let secret = &site.secret;
    for (text, words) in [
        (format!("\"{secret}\""), "quotes"),
        (format!("Bearer {secret}"), "Bearer"),
        ("whe_0123456789abcdef0123".to_owned(), "id of an endpoint"),
        (format!("{secret}\\n"), "backslash"),
        ("0123456789".to_owned(), "too few"),
        (polyai.access.api_key.clone(), "it is an API key"),
    ] {
        site.write("secrets", &text);
        doctor(&site, &["--role", "receive"]).says("secret", "fail", words);
    }
    site.write("secrets", secret);
    site.write("key", &format!("Bearer {}", polyai.access.api_key));
    doctor(&site, &[]).says("secret", "fail", "Bearer");
    site.write("key", &polyai.access.api_key);

    let mode = |name: &str, mode| {
        std::fs::set_permissions(site.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    for (secrets, key, status) in [(0o600, 0o640, "ok"), (0o644, 0o400, "warn"), (0o660, 0o600, "warn")] {
        mode("secrets", secrets);
        mode("key", key);
        doctor(&site, &[]).says("file_mode", status, "secrets").says("file_mode", "ok", "key");
    }
    let inline = Installation::new(&polyai.access, &format!("signature.secrets = [\"{secret}\"]"));
    doctor(&inline, &[]).says("file_mode", "warn", "the configuration file, which contains secrets,");
}

#[test]
fn files_and_disks() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    site.write("queue.db", "this is no database, however long it may be");
    let queue = ["--set", "queue.url=sqlite:queue.db"];
    doctor(&site, &queue).says("queue.file", "fail", "damaged").only("queue.file");
    site.polyhook(["fetch", &polyai.ids()[0]]).run().expect_exit_code(0);
    doctor(&site, &[]).green(&["queue.file", "archive", "disk"]);

    let file = site.path().join("polyhook-data/queue.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8192..].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    doctor(&site, &[]).says("queue.file", "fail", "it is damaged").only("queue.file");
    std::fs::remove_file(&file).unwrap();

    let disk = SmallDisk::mount(site.path().join("small"), 8);
    let at = |path: &str| disk.file(path).display().to_string();
    let there =
        [format!("queue.url=sqlite:{}", at("q/queue.db")), format!("archive.url=file:{}", at("archive"))];
    let there = ["--set", &there[0], "--set", &there[1]];
    let found = doctor(&site, &there);
    found.says("disk", "fail", "queue (").says("disk", "fail", "archive (").only("disk");
    disk.make_read_only(true);
    let found = doctor(&site, &there);
    found.says("queue.file", "fail", "Read-only").says("archive", "fail", "Read-only");
    disk.make_read_only(false);
    std::fs::create_dir(disk.file("archive")).unwrap();
    disk.fill();
    doctor(&site, &there).says("archive", "fail", "");
}

#[test]
fn buckets() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let bucket = |answer: String| {
        let archive = format!(
            "archive = {{ url = \"s3://bucket/x\", endpoint = \"http://{}\", allow_http = true, region = \"r\", access_key_id = \"id\", secret_access_key = \"hunter2-hunter2\" }}",
            fixed(answer)
        );
        let site = Installation::new(&polyai.access, &archive);
        Diagnosis::read(&call(&site, &[]).must_not_print("hunter2-hunter2").run())
    };
    let found = bucket(answer("200 OK", "etag: \"1\"\r\n", ""));
    found.says("archive", "fail", "ignores conditional writes").only("archive");
    let refusal = "<Error><Code>SignatureDoesNotMatch</Code></Error>";
    let found = bucket(answer("403 Forbidden", "", refusal));
    found.says("archive", "fail", "SignatureDoesNotMatch").only("archive");
    let absent = "<Error><Code>NoSuchBucket</Code></Error>";
    bucket(answer("404 Not Found", "", absent)).says("archive", "fail", "the bucket exists").only("archive");
}
