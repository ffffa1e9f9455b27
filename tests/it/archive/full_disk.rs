//! A file archive on a disk without space.

use polyhook::disk::free_bytes;

use super::*;
use crate::support::small_disk::SmallDisk;

const MIB: usize = 1 << 20;

/// An archive on a disk of its own.
struct SmallArchive {
    archive: Archive,
    disk: SmallDisk,
    _folder: tempfile::TempDir,
}

impl SmallArchive {
    fn new(limits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount_with(folder.path().join("small"), limits);
        let config = ArchiveConfig {
            url: format!("file:{}", disk.file("archive").display()),
            ..ArchiveConfig::default()
        };
        Self { archive: Archive::open(&config, Clock::System).unwrap(), disk, _folder: folder }
    }

    fn free(&self) -> u64 {
        free_bytes(&self.disk.file("archive")).unwrap()
    }

    async fn writer(&self, expected: Option<u64>) -> Result<polyhook::archive::AudioWriter, ArchiveError> {
        self.archive.recording_writer(&location("CA1"), Direction::Combined, expected).await
    }
}

fn assert_no_space<T: std::fmt::Debug>(result: Result<T, impl Into<AudioError>>) {
    let error = result.map_err(Into::into).unwrap_err();
    assert!(matches!(error, AudioError::Archive(ArchiveError::NoSpace(_))), "{error}");
}

#[tokio::test]
async fn a_recording_that_does_not_fit_is_removed_at_once() {
    let small = SmallArchive::new("size=16m");
    let before = small.free();
    let mut writer = small.writer(None).await.unwrap();
    let recording = wav(16 << 20, 3);
    let mut written = Ok(());
    for part in recording.chunks(MIB / 2) {
        written = writer.write(Bytes::copy_from_slice(part)).await;
        if written.is_err() {
            break;
        }
        assert!(small.free() >= 4 << 20, "the reserve is in use");
    }
    assert_no_space(written);
    assert_eq!(small.free(), before, "although the writer still exists");
    tokio::time::timeout(Duration::from_secs(5), small.archive.write_failed()).await.unwrap();
    let error = writer.finish(StreamEnd::Marked).await.unwrap_err();
    assert!(!error.to_string().is_empty());

    // A document may use a part of the reserve, but not all of it.
    small.disk.fill();
    assert_no_space(small.writer(None).await);
    assert_no_space(small.archive.check().await);
    let error = small.archive.check_disk().await.unwrap_err();
    assert!(error.to_string().contains("free space on it"), "{error}");
    small.disk.free();
    small.archive.check_disk().await.unwrap();
    let audio = stage(&small.archive, &location("CA1"), Direction::Combined, &wav(1 << 20, 3)).await;
    let ready = draft(3, AudioStatus::Ready);
    expect_written(small.archive.commit(&location("CA1"), &ready, "{}".into(), vec![audio]).await.unwrap());
}

#[tokio::test]
async fn recordings_that_fit_only_one_by_one_do_not_start_together() {
    let small = SmallArchive::new("size=16m");
    let size = Some(7 << 20);
    let mut first = small.writer(size).await.unwrap();
    assert_no_space(small.writer(size).await);
    first.write(wav(1 << 20, 3)).await.unwrap();
    assert_no_space(small.writer(size).await);
    // It stays reported until so large a recording fits again.
    assert_no_space(small.archive.check_disk().await);
    drop(first);
    small.archive.check_disk().await.unwrap();
    small.writer(size).await.unwrap();
}

#[tokio::test]
async fn files_stay_free_for_the_queue() {
    let small = SmallArchive::new("size=16m,nr_inodes=60");
    let mut writers = Vec::new();
    let error = loop {
        match small.writer(None).await {
            Ok(writer) => writers.push(writer),
            Err(error) => break error,
        }
        assert!(writers.len() < 60);
    };
    assert!(error.to_string().contains("inodes"), "{error}");
    for n in 0..10 {
        std::fs::write(small.disk.file(&format!("queue-{n}")), "").unwrap();
    }
    drop(writers);
    small.archive.check_disk().await.unwrap();
}

#[tokio::test]
async fn an_archive_on_a_read_only_disk_opens_and_recovers() {
    let SmallArchive { archive, disk, _folder } = SmallArchive::new("size=16m");
    drop(archive);
    disk.make_read_only(true);
    let config =
        ArchiveConfig { url: format!("file:{}", disk.file("archive").display()), ..ArchiveConfig::default() };
    let archive = Archive::open(&config, Clock::System).unwrap();
    let error = archive.check_disk().await.unwrap_err();
    assert!(error.to_string().contains("mount it writable again"), "{error}");
    disk.make_read_only(false);
    archive.check_disk().await.unwrap();
    stage(&archive, &location("CA1"), Direction::Combined, &wav(1 << 10, 3)).await;
}
