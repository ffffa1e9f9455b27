//! Files and folders of a file archive: private by default, and as `archive.file_mode` says.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

/// The umask of this process is usually 022, and other tests run in it, too: it is not changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_and_folder_has_the_configured_mode() {
    for (setting, file_mode, folder_mode) in
        [("0600", 0o600, 0o700), ("0640", 0o640, 0o750), ("0666", 0o666, 0o777)]
    {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("new/archive");
        let url = format!("file:{}", root.display());
        let config = ArchiveConfig { url, file_mode: setting.parse().unwrap(), ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        // A recording that is staged in parts, and one that is not.
        let ready = draft(3, AudioStatus::Ready);
        for (id, samples) in [("long", 1_000_000), ("short", 8000)] {
            expect_written(
                commit(&archive, &location(id), &ready, "{}", Some(&wav(samples, 1))).await.unwrap(),
            );
        }
        let more = draft(4, AudioStatus::Absent);
        expect_written(commit(&archive, &location("short"), &more, "{\"turns\": 4}", None).await.unwrap());
        erase_objects(&archive, "acme-uk", "PROJECT-1", "none", None).await.unwrap();
        archive.save_audit_report("2026-11-22".parse().unwrap(), None, b"{}".to_vec()).await.unwrap();
        let table = "index/calls/account_id=acme-uk/calls.parquet";
        assert!(archive.replace_derived(table, None, b"PAR1".to_vec().into()).await.unwrap());
        archive.note_change(&location("short")).await.unwrap();
        let lease = archive.lease("sweep", |_| Ok(())).await.unwrap();
        lease.release(None).await.unwrap();
        let unfinished =
            stage(&archive, &location("unfinished"), Direction::Combined, &wav(1_000_000, 1)).await;

        let mut public = 0;
        for path in files(&root) {
            let inside = path.strip_prefix(&root).unwrap();
            if inside.starts_with(".polyhook") {
                // Unfinished recordings are protected by their folder.
                let staged = inside.starts_with(".polyhook/staging") && path.file_name().unwrap() != "lock";
                assert!(staged || mode(&path) == 0o600, "{}: {:o}", path.display(), mode(&path));
            } else {
                assert_eq!(mode(&path), file_mode, "{}", path.display());
                public += 1;
            }
            for parent in path.ancestors().skip(1).take_while(|parent| *parent != folder.path()) {
                let private = parent.strip_prefix(&root).is_ok_and(|inside| inside.starts_with(".polyhook"));
                let expected = if private { 0o700 } else { folder_mode };
                assert_eq!(mode(parent), expected, "{}", parent.display());
            }
        }
        assert_eq!(public, 10, "two conversations, a revision, an erasure, a report and a table");
        drop(unfinished);
    }
}

#[tokio::test]
async fn folders_that_exist_keep_their_mode_and_the_private_one_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    set(root, 0o755);
    std::fs::create_dir(root.join(".polyhook")).unwrap();
    set(&root.join(".polyhook"), 0o755);
    let config = ArchiveConfig { url: format!("file:{}", root.display()), ..ArchiveConfig::default() };
    let archive = Archive::open(&config, Clock::System).unwrap();
    expect_written(
        commit(&archive, &location("a"), &draft(1, AudioStatus::Absent), "{}", None).await.unwrap(),
    );
    assert_eq!((mode(root), mode(&root.join(".polyhook"))), (0o755, 0o700));
}
