//! Everything that is written to disk is private, whatever the umask of the process.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::support::process::{Installation, SimulatedPolyAi, deliver, eventually};

/// Returns all files and folders below `folder` with their modes.
fn modes(folder: &Path) -> Vec<(PathBuf, bool, u32)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            // SQLite removes its log when the last process closes the file.
            let Ok(metadata) = entry.metadata() else { continue };
            found.push((entry.path(), metadata.is_dir(), metadata.permissions().mode() & 0o7777));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn queue_archive_and_reports_are_private_under_any_umask() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 1);
    let id = polyai.ids().remove(0);
    for (umask, setting, file, folder) in [
        ("000", "", 0o600, 0o700),
        ("022", "", 0o600, 0o700),
        ("027", "archive.file_mode = \"0644\"", 0o644, 0o755),
    ] {
        let site = Installation::new(&polyai.access, setting);
        let mut run = site.polyhook(["run"]).umask(umask).start();
        run.wait_until_ready();
        assert_eq!(deliver(run.receiver_address(), &site.secret, "evt-1", &polyai.event(&id)), Some(204));
        eventually("archived", || site.manifests().len() == 1);
        site.polyhook(["audit", "--date", "2026-11-03", "--json"]).umask(umask).run();
        let data = site.path().join("polyhook-data");
        let found = modes(&data);
        for (path, is_folder, mode) in &found {
            let in_archive = path.starts_with(data.join("archive"));
            let private = !in_archive || path.components().any(|part| part.as_os_str() == ".polyhook");
            let expected = match (private, is_folder) {
                (true, true) => 0o700,
                (true, false) => 0o600,
                (false, true) => folder,
                (false, false) => file,
            };
            assert_eq!(*mode, expected, "umask {umask}: {} has {mode:o}", path.display());
        }
        for name in [
            "queue.db",
            "queue.db-wal",
            "audio.wav",
            "conversation.json",
            "manifest.json",
            "date=2026-11-03.json",
        ] {
            assert!(found.iter().any(|(path, ..)| path.ends_with(name)), "{name} is not in {found:?}");
        }
        run.stop();
    }
}

#[test]
fn spool_and_new_secrets_are_private_under_any_umask() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let settings = "queue = { url = \"amqp://127.0.0.1:1\", publish_timeout = \"100ms\" }\nspool.path = \"spool/spool.db\"";
    let site = Installation::new(&polyai.access, settings);
    let mut receive = site.polyhook(["receive"]).umask("000").start();
    let to = receive.receiver_address();
    eventually("spooled", || deliver(to, &site.secret, "evt-1", b"{}") == Some(204));
    let found = modes(&site.path().join("spool"));
    assert!(found.iter().all(|(.., mode)| *mode == 0o600) && found.len() >= 2, "{found:?}");
    let folder = site.path().join("spool").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(folder, 0o700);
    receive.stop();

    std::fs::remove_file(site.path().join("secrets")).unwrap();
    let url = "https://hooks.example.com/polyai-events";
    let create = ["endpoint", "create", "--name", "of the tests", "--wait", "2s", "--url", url];
    site.polyhook(create).umask("000").run().expect_exit_code(0);
    let mode = site.path().join("secrets").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}
