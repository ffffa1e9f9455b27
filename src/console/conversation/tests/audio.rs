//! Recordings, documents and waveforms.

use serde_json::{Value, json};

use super::fixture::{TestConsole, wav};
use crate::console::ConsoleConfig;

fn console_with_recording() -> (TestConsole, Vec<u8>) {
    let console = TestConsole::open(ConsoleConfig::default());
    let recording = wav(&(0..2000).collect::<Vec<_>>());
    console.archive("CA1", &json!({ "turns": [] }), &[("combined", recording.clone())]);
    (console, recording)
}

#[tokio::test]
async fn a_recording_is_served_whole_or_in_ranges() {
    let (console, recording) = console_with_recording();
    let size = recording.len();
    let url = "/conversations/CA1/audio/combined";
    let whole = console.get(url).await;
    assert_eq!((whole.status, &whole.body), (200, &recording));
    assert_eq!((whole.header("content-type"), whole.header("accept-ranges")), ("audio/wav", "bytes"));
    assert_eq!((whole.header("content-length"), whole.header("cache-control")), ("4044", "no-store"));
    let etag = whole.header("etag").to_owned();
    assert_eq!(etag.len(), 66);

    for (headers, status, content_range, expected) in [
        (vec![("range", "bytes=0-3")], 206, "bytes 0-3/4044", &recording[..4]),
        (vec![("range", "bytes=-2")], 206, "bytes 4042-4043/4044", &recording[size - 2..]),
        (vec![("range", "bytes=4000-")], 206, "bytes 4000-4043/4044", &recording[4000..]),
        (vec![("range", "bytes=4044-")], 416, "bytes */4044", &[]),
        (vec![("range", "bytes=5-1")], 200, "", &recording),
        (vec![("range", "bytes=0-3"), ("if-range", &etag)], 206, "bytes 0-3/4044", &recording[..4]),
        (vec![("range", "bytes=0-3"), ("if-range", "\"old\"")], 200, "", &recording),
        (vec![("if-none-match", &etag)], 304, "", &[]),
        (vec![("if-match", "\"old\"")], 412, "", &[]),
    ] {
        let answer = console.request("GET", url, &headers).await;
        assert_eq!((answer.status, answer.header("content-range")), (status, content_range), "{headers:?}");
        assert_eq!(answer.body, expected, "{headers:?}");
    }

    let head = console.request("HEAD", url, &[("range", "bytes=0-3")]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "4044", 0));
    assert_eq!((head.header("etag"), head.header("content-range")), (&*etag, ""));

    let download = console.get(&format!("{url}?download")).await;
    assert_eq!(download.header("content-disposition"), "attachment; filename=\"CA1.wav\"");
    for path in
        ["/conversations/CA1/audio/user", "/conversations/CA1/audio/x", "/conversations/CA2/audio/combined"]
    {
        assert_eq!(console.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_recording_that_is_not_the_one_of_the_manifest_has_no_tag() {
    let (console, recording) = console_with_recording();
    let url = "/conversations/CA1/audio/combined";
    let etag = console.get(url).await.header("etag").to_owned();
    std::fs::write(console.folder_of("CA1").join("audio.wav"), &recording[..1000]).unwrap();
    let range = ("range", "bytes=500-2000");
    let answer = console.request("GET", url, &[range]).await;
    assert_eq!((answer.status, answer.header("content-range")), (206, "bytes 500-999/1000"));
    assert_eq!((answer.header("etag"), &*answer.body), ("", &recording[500..1000]));
    let answer = console.request("GET", url, &[range, ("if-range", &etag)]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 1000));
    let answer = console.request("GET", url, &[("range", "bytes=1500-")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */1000"));

    std::fs::remove_file(console.folder_of("CA1").join("audio.wav")).unwrap();
    let gone = console.get(url).await;
    assert_eq!(gone.status, 404);
    gone.assert_has(&["audio.wav", "polyhook audit"]);
}

#[tokio::test]
async fn opens_a_huge_recording_without_reading_it() {
    const SIZE: u64 = 2 << 30;
    let (console, recording) = console_with_recording();
    let folder = console.folder_of("CA1");
    // The file is sparse, and larger than any test may read.
    std::fs::File::options().write(true).open(folder.join("audio.wav")).unwrap().set_len(SIZE).unwrap();
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest =
        manifest.replace(&format!("\"size_bytes\":{}", recording.len()), &format!("\"size_bytes\":{SIZE}"));
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();

    console.get("/conversations/CA1").await.assert_has(&["2.0 GiB", "/conversations/CA1/audio/combined"]);
    let url = "/conversations/CA1/audio/combined";
    let head = console.request("HEAD", url, &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, "2147483648"));
    let end = console.request("GET", url, &[("range", "bytes=-10")]).await;
    assert_eq!((end.status, end.header("content-range")), (206, "bytes 2147483638-2147483647/2147483648"));
    assert_eq!(end.body, [0; 10]);
}

#[tokio::test]
async fn a_waveform_is_computed_once() {
    let (console, _) = console_with_recording();
    let url = "/conversations/CA1/waveform/combined";
    let answer = console.get(url).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let peaks: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(peaks["seconds"], 0.25);
    let max = peaks["channels"][0]["max"].as_array().unwrap();
    assert_eq!((max.len(), &max[0], &max[999]), (1000, &json!(1), &json!(1999)));
    // The recording is not read again.
    std::fs::write(console.folder_of("CA1").join("audio.wav"), b"").unwrap();
    assert_eq!(console.get(url).await.body, answer.body);

    console.archive("CA2", &json!({}), &[("user", b"<html>no recording".to_vec()), ("agent", wav(&[1]))]);
    let failed = console.get("/conversations/CA2/waveform/user").await;
    assert_eq!(failed.status, 422);
    failed.assert_has(&["\"error\"", "not a WAV file but HTML or XML"]);
    std::fs::remove_file(console.folder_of("CA2").join("audio.agent.wav")).unwrap();
    assert_eq!(console.get("/conversations/CA2/waveform/agent").await.status, 404);
}

#[tokio::test]
async fn documents_are_served_as_they_are() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive_with("C/A 1", b"{\"x\": NaN}", &[("user", wav(&[1]))], "ready", &[]);
    let url = "/conversations/C%2FA%201";
    let document = console.get(&format!("{url}/conversation.json?download")).await;
    assert_eq!((document.status, &*document.body), (200, &b"{\"x\": NaN}"[..]));
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.header("content-disposition"), "attachment; filename=\"C_A_1.conversation.json\"");
    let manifest = console.get(&format!("{url}/manifest.json")).await;
    let stored = std::fs::read(console.folder_of("C/A 1").join("manifest.json")).unwrap();
    assert_eq!((manifest.status, &manifest.body), (200, &stored));
    assert_eq!(manifest.header("etag").len(), 66);
    for name in ["audio.user.wav", "..%2Fmanifest.json", "other.json", "conversation.1.json"] {
        assert_eq!(console.get(&format!("{url}/{name}")).await.status, 404, "{name}");
    }
}
