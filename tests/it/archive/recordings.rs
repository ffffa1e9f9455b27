//! Recordings: late, bad, dropped and long ones.

use super::*;

pub(super) async fn late_recordings_are_added_and_kept(fixture: ArchiveFixture) {
    let (archive, location) = (&fixture.archive, location("late-audio"));
    expect_written(commit(archive, &location, &draft(3, AudioStatus::Absent), "{}", None).await.unwrap());
    let ready = draft(3, AudioStatus::Ready);
    let manifest =
        expect_written(commit(archive, &location, &ready, "{}", Some(&wav(8000, 1))).await.unwrap());
    assert_eq!((manifest.revision, manifest.audio.status), (2, AudioStatus::Ready));
    // A recording of another direction is added.
    let agent = stage(archive, &location, Direction::Agent, &wav(4000, 2)).await;
    let manifest = expect_written(archive.commit(&location, &ready, "{}".into(), vec![agent]).await.unwrap());
    assert_eq!((manifest.revision, manifest.objects.len()), (3, 3));
    fixture.assert_consistent(&location).await;
}

pub(super) async fn bad_recordings_leave_no_objects(fixture: ArchiveFixture) {
    let location = location("bad");
    let recording = wav(6 << 20, 3);
    let cut = recording.slice(..recording.len() - 10);
    let announced = recording.len() as u64;
    for (bytes, end, label) in [
        (Bytes::from_static(b"<html><body>Bad gateway</body></html>"), StreamEnd::Marked, "not_wav"),
        (Bytes::new(), StreamEnd::Marked, "empty"),
        (recording.slice(..44), StreamEnd::Announced(44), "no_sound"),
        (cut.clone(), StreamEnd::Announced(announced), "wrong_length"),
        (cut, StreamEnd::Unmarked, "truncated"),
    ] {
        let mut writer =
            fixture.archive.recording_writer(&location, Direction::Combined, None).await.unwrap();
        let outcome = match writer.write(bytes).await {
            Ok(()) => writer.finish(end).await.map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Err(AudioError::Bad(bad)) => assert_eq!(bad.label(), label),
            other => panic!("{label}: {other:?}"),
        }
        assert!(fixture.objects().await.is_empty());
        fixture.assert_no_leftovers().await;
    }
}

pub(super) async fn dropped_recordings_leave_no_objects(fixture: ArchiveFixture) {
    let location = location("dropped");
    let recording = wav(6 << 20, 3);
    let mut writer = fixture.archive.recording_writer(&location, Direction::Combined, None).await.unwrap();
    writer.write(recording.clone()).await.unwrap();
    drop(writer);
    drop(stage(&fixture.archive, &location, Direction::Combined, &recording).await);
    if let Some(server) = &fixture.server {
        let ours = |key: &String| key.starts_with(&fixture.prefix);
        assert_eq!(server.unfinished_uploads().iter().filter(|key| ours(key)).count(), 1, "the view works");
    }
    fixture.archive.abort_dropped_uploads().await;
    assert!(fixture.objects().await.is_empty());
    fixture.assert_no_leftovers().await;
}

pub(super) async fn a_long_recording_needs_little_memory(fixture: ArchiveFixture) {
    let location = location("long");
    let recording = wav(32 << 20, 7);
    let mut writer = fixture.archive.recording_writer(&location, Direction::Combined, None).await.unwrap();
    for piece in recording.chunks(777_777) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert!(writer.peak_buffered() <= 5 << 20, "{}", writer.peak_buffered());
    let audio = writer.finish(StreamEnd::Announced(recording.len() as u64)).await.unwrap();
    let draft = draft(3, AudioStatus::Ready);
    expect_written(fixture.archive.commit(&location, &draft, "{}".into(), vec![audio]).await.unwrap());
    let manifest = fixture.assert_consistent(&location).await;
    assert_eq!(manifest.recording(Direction::Combined).unwrap().size_bytes, (64 << 20) + 44);
    fixture.assert_no_leftovers().await;
}

/// Returns a recording whose header states more sound than there is.
fn overstated(recording: &Bytes) -> Bytes {
    let mut bytes = recording.to_vec();
    bytes[40..44].copy_from_slice(&2_000_000_000u32.to_le_bytes());
    bytes.into()
}

pub(super) async fn whole_recordings_with_a_wrong_header_are_kept(fixture: ArchiveFixture) {
    for (id, samples) in [("short", 8000), ("long", 6 << 20)] {
        let location = location(id);
        let recording = overstated(&wav(samples, 3));
        let audio = stage(&fixture.archive, &location, Direction::Combined, &recording).await;
        assert!(matches!(audio.defects(), [WavDefect::Overstated { declared: 2_000_000_000, .. }]));
        let draft = draft(3, AudioStatus::Ready);
        expect_written(fixture.archive.commit(&location, &draft, "{}".into(), vec![audio]).await.unwrap());
        let manifest = fixture.assert_consistent(&location).await;
        let wav = manifest.recording(Direction::Combined).unwrap().wav.clone().unwrap();
        assert_eq!((wav.data_bytes, wav.open_ended), (u64::from(samples) * 2, true));
        assert_eq!(fixture.bytes(&location, "audio.wav").await, recording);
    }
}

pub(super) async fn a_short_recording_can_be_kept_outside_memory(fixture: ArchiveFixture) {
    let location = location("kept");
    let recording = wav(8000, 5);
    let audio = stage(&fixture.archive, &location, Direction::User, &recording).await;
    let audio = audio.store_invisibly().await.unwrap();
    assert!(fixture.objects().await.is_empty(), "no reader sees it yet");
    let draft = draft(3, AudioStatus::Failed);
    expect_written(fixture.archive.commit(&location, &draft, "{}".into(), vec![audio]).await.unwrap());
    assert_eq!(fixture.bytes(&location, "audio.user.wav").await, recording);
    fixture.assert_consistent(&location).await;

    let dropped = stage(&fixture.archive, &location, Direction::Agent, &recording).await;
    drop(dropped.store_invisibly().await.unwrap());
    fixture.archive.abort_dropped_uploads().await;
    fixture.assert_no_leftovers().await;
}
