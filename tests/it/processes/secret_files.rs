//! Files and variables of secrets as editors, shells and container runtimes leave them: either they work, or polyhook says
//! what is wrong. It never hangs, and it never accepts what no signature can match.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::process::{
    Installation, PolyhookCommand, Process, SimulatedPolyAi, deliver, eventually, get,
};

/// Far below what a read that hangs, or of a file that is too large, would take.
const SOON: Duration = Duration::from_secs(15);

fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

/// Makes something at a path.
type Make = fn(&Path);

/// Things that are unusable in the place of a file, with the words that name them.
const UNUSABLE: [(&str, Make); 6] = [
    ("a pipe", make_pipe),
    ("a folder", |path| fs::create_dir(path).unwrap()),
    ("a device", |path| symlink("/dev/zero", path).unwrap()),
    ("larger than", |path| File::create(path).unwrap().set_len(3 << 29).unwrap()),
    ("UTF-16", |path| fs::write(path, b"\xff\xfes\0e\0c\0r\0e\0t\0").unwrap()),
    ("NUL", |path| fs::write(path, b"secret-of-16-characters\0\0\0").unwrap()),
];

/// Replaces a file by renaming, as deployment tools do.
fn replace(path: &Path, make: impl Fn(&Path)) {
    let next = path.with_extension("next");
    make(&next);
    if path.is_dir() {
        fs::remove_dir(path).unwrap();
    }
    if next.is_dir() {
        fs::remove_file(path).unwrap();
    }
    fs::rename(next, path).unwrap();
}

fn readyz(process: &Process) -> String {
    get(process.wait_until_ready(), "/readyz").map(|(_, body)| body).unwrap_or_default()
}

#[test]
fn accepts_files_as_editors_and_shells_leave_them() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let (id, key) = (polyai.ids().remove(0), &polyai.access.api_key);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start();
    let to = run.receiver_address();
    run.wait_until_ready();
    let mut secrets = Vec::new();
    for (number, (start, end)) in [
        ("\u{feff}", ""),
        ("", "\r\n"),
        ("\u{feff}# of the endpoint\r\n\r\n", "\r\n"),
        ("# one\r", "\r"),
        ("  \"", "\" \t\n"),
        ("'", "'\n"),
        ("\u{a0}", "\u{200b}\n\n"),
        ("# by hand\n\u{feff}", "\n# the end\n"),
    ]
    .into_iter()
    .enumerate()
    {
        // At a reload, at the start, and for the check.
        let secret = format!("whsec_0123456789-{number}");
        site.write("secrets", &format!("{start}{secret}{end}"));
        site.write("key", &format!("{start}{key}{end}"));
        eventually("the secret is active", || deliver(to, &secret, "evt-1", b"{}") == Some(204));
        site.polyhook(["config", "check"]).run().expect_exit_code(0);
        site.polyhook(["fetch", &id]).run().expect_exit_code(0);
        secrets.push(secret);
    }
    assert_eq!(deliver(to, &secrets[0], "evt-1", b"{}"), Some(401), "only one is active");
    assert_eq!(readyz(&run), "ready\n");
    run.stop();
    let mut receive = site.polyhook(["receive"]).start();
    assert_eq!(deliver(receive.receiver_address(), secrets.last().unwrap(), "evt-2", b"{}"), Some(204));
    receive.stop();
}

#[test]
fn does_not_start_with_an_unusable_file_and_names_it() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "queue.url_file = \"url\"");
    site.write("url", "sqlite:polyhook-data/queue.db\r\n");
    for name in ["secrets", "key", "url"] {
        let path = site.path().join(name);
        let good = fs::read_to_string(&path).unwrap();
        for (word, make) in UNUSABLE {
            replace(&path, make);
            let commands: &[&[&str]] = match word {
                "a pipe" | "larger than" => &[&["config", "check"], &["doctor"], &["run"]],
                _ => &[&["config", "check"]],
            };
            for arguments in commands {
                let begun = Instant::now();
                let output = site.polyhook(arguments.iter().copied()).run().expect_exit_code(78);
                assert!(begun.elapsed() < SOON, "{name}, {word}, {arguments:?}: {:?}", begun.elapsed());
                assert!(output.stderr.contains(word) && output.stderr.contains(name), "{}", output.stderr);
            }
        }
        replace(&path, |path| fs::write(path, &good).unwrap());
        site.polyhook(["config", "check"]).run().expect_exit_code(0);
    }
}

#[test]
fn an_unusable_file_changes_nothing_and_a_good_one_is_picked_up() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    let (to, mut secret) = (run.receiver_address(), site.secret.clone());
    let (secrets, key) = (site.path().join("secrets"), site.path().join("key"));
    for (number, (word, make)) in UNUSABLE.into_iter().enumerate() {
        replace(&secrets, make);
        replace(&key, make);
        eventually("both are reported", || {
            let said = readyz(&run);
            let condition = |name: &str| {
                said.lines()
                    .any(|line| line.starts_with(&format!("degraded: {name}: ")) && line.contains(word))
            };
            condition("secrets") && condition("api_key")
        });
        assert_eq!(deliver(to, &secret, "evt-1", b"{}"), Some(204), "the old secret stays active");
        secret = format!("whsec_0123456789-{number}");
        replace(&key, |path| fs::write(path, &polyai.access.api_key).unwrap());
        replace(&secrets, |path| fs::write(path, &secret).unwrap());
        eventually("the new secret is active", || deliver(to, &secret, "evt-1", b"{}") == Some(204));
        eventually("nothing is reported", || readyz(&run) == "ready\n");
    }
    assert!(run.status_kib("VmHWM") < 300 << 10, "a large file is not read");
    let is_begun = |line: &&String| line.contains("degraded: ") && !line.contains("no longer degraded: ");
    let logged = run.stderr().iter().filter(is_begun).count();
    assert_eq!(logged, 2 * UNUSABLE.len(), "each is logged once");
    run.stop();
}

#[test]
fn variables_may_be_quoted() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let id = polyai.ids().remove(0);
    let access = &polyai.access;
    for (before, after) in [("\"", "\""), ("'", "'\n"), (" ", "\r\n")] {
        let folder = tempfile::tempdir().unwrap();
        let call = |arguments: &[&str]| {
            let wrap = |text: &str| format!("{before}{text}{after}");
            PolyhookCommand::new(folder.path(), arguments)
                .env("POLYAI_API_KEY", wrap(&access.api_key))
                .env("POLYAI_ACCOUNT_ID", wrap(&access.account_id))
                .env("POLYAI_PROJECT_ID", wrap(&access.project_id))
                .env("POLYAI_BASE_URL", wrap(&access.url))
                .env("POLYAI_PLATFORM_URL", wrap(&access.url))
                .env("POLYAI_WEBHOOK_SECRET", wrap(&access.secret))
                .env("POLYHOOK__SERVER__LISTEN", wrap("127.0.0.1:0"))
                .env("POLYHOOK__ADMIN__LISTEN", wrap("127.0.0.1:0"))
        };
        call(&["config", "check"]).run().expect_exit_code(0);
        call(&["fetch", &id]).run().expect_exit_code(0);
        let mut receive = call(&["receive"]).start();
        assert_eq!(deliver(receive.receiver_address(), &access.secret, "evt-1", b"{}"), Some(204));
        receive.stop();
    }
}

#[test]
fn a_wrong_secret_is_named_by_check_doctor_and_start() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    for wrong in [
        "\"hunter2-hunter2-hunter2",
        "hunter2-hunter2 # of today",
        "hunter2-hunter2\thunter2",
        "hunter2-hunter2\u{7}",
    ] {
        // A variable has a higher priority than the file.
        for name in ["POLYHOOK__SIGNATURE__SECRETS", "POLYHOOK__PROJECTS__0__DATA_API_KEY"] {
            for arguments in [&["config", "check"][..], &["doctor"], &["run"]] {
                let call =
                    site.polyhook(arguments.iter().copied()).env(name, wrong).must_not_print("hunter2");
                let output = call.run().expect_exit_code(78);
                assert!(output.stderr.contains(&format!("error: {name}: ")), "{}", output.stderr);
            }
        }
        site.write("secrets", wrong);
        let check = site.polyhook(["config", "check"]).must_not_print("hunter2").run().expect_exit_code(78);
        assert!(check.stderr.contains("signing secret number 1: "), "{}", check.stderr);
        site.polyhook(["run"]).must_not_print("hunter2").run().expect_exit_code(78);
        let doctor = site.polyhook(["doctor", "--json"]).must_not_print("hunter2").run().expect_exit_code(1);
        let findings = doctor.json()["findings"].clone();
        let failed = findings.as_array().unwrap().iter().filter(|finding| finding["state"] == "fail");
        assert!(failed.into_iter().any(|finding| finding["check"] == "configuration"), "{findings}");
        site.write("secrets", &site.secret);
    }
}
