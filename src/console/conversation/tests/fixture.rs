//! A console with conversations in its archive.

use std::{path::PathBuf, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    archive::{Archive, Location},
    console::{Client, ConsoleConfig, fixture},
    queue::Queue,
};

const START: Timestamp = Timestamp::constant(1_796_000_000, 0);

pub(super) struct TestConsole {
    console: fixture::TestConsole,
    pub(super) archive: Archive,
    pub(super) queue: Arc<dyn Queue>,
}

/// Returns the console of a person who may fetch again.
pub(super) fn with_replay() -> TestConsole {
    TestConsole::open(ConsoleConfig { allow_replay: true, ..ConsoleConfig::default() })
}

impl TestConsole {
    pub(super) fn open(config: ConsoleConfig) -> Self {
        let console = fixture::TestConsole::open(config);
        let (archive, queue) = (console.console.archive.clone(), Arc::clone(&console.console.queue));
        Self { console, archive, queue }
    }

    /// Returns the folder of a conversation.
    pub(super) fn folder_of(&self, id: &str) -> PathBuf {
        let archive = self.console.queue_file().with_file_name("archive");
        archive.join(Location::new("acme", "desk", id, START).folder())
    }

    /// Archives a conversation with recordings.
    pub(super) fn archive(&self, id: &str, conversation: &Value, recordings: &[(&str, Vec<u8>)]) {
        let status = if recordings.is_empty() { "absent" } else { "ready" };
        self.archive_with(id, conversation.to_string().as_bytes(), recordings, status, &[]);
    }

    pub(super) fn archive_with(
        &self,
        id: &str,
        conversation: &[u8],
        recordings: &[(&str, Vec<u8>)],
        audio_status: &str,
        warnings: &[&str],
    ) {
        let folder = self.folder_of(id);
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.join(name), bytes).unwrap();
            json!({
                "name": name, "kind": "conversation", "size_bytes": bytes.len(),
                "sha256": hex::encode(Sha256::digest(bytes)), "content_type": "application/json",
            })
        };
        let mut objects = vec![write("conversation.json", conversation)];
        for (direction, bytes) in recordings {
            let name = if *direction == "combined" {
                "audio.wav".to_owned()
            } else {
                format!("audio.{direction}.wav")
            };
            let mut object = write(&name, bytes);
            object["kind"] = "audio".into();
            object["direction"] = (*direction).into();
            objects.push(object);
        }
        let mut manifest: Value =
            serde_json::from_str(include_str!("../../../archive/fixtures/manifest.json")).unwrap();
        manifest["conversation_id"] = id.into();
        manifest["account_id"] = "acme".into();
        manifest["project_id"] = "desk".into();
        manifest["started_at"] = START.to_string().into();
        manifest["objects"] = objects.into();
        manifest["audio"] = json!({ "status": audio_status });
        manifest["warnings"] = warnings.into();
        std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    }

    pub(super) async fn send(&self, mut request: Request) -> Answer {
        request.extensions_mut().insert(Client("127.0.0.1".parse().ok()));
        let response = TowerToHyperService::new(self.console.router.clone()).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 64 << 20).await.unwrap().to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(super) async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8090");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[]).await
    }

    /// Sends the form of a page.
    pub(super) async fn post(&self, path: &str, csrf: &str) -> Answer {
        let request = Request::post(path)
            .header("host", "127.0.0.1:8090")
            .header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(Body::from(format!("csrf={csrf}"))).unwrap()).await
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: http::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Asserts that the page contains some texts.
    pub(super) fn assert_has(&self, texts: &[&str]) {
        let page = self.text();
        for text in texts {
            assert!(page.contains(text), "{text:?} is missing in {page}");
        }
    }

    /// Returns the token of the forms on the page.
    pub(super) fn csrf(&self) -> String {
        let page = self.text();
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").expect("the page has a form");
        rest.split('"').next().unwrap().to_owned()
    }
}

/// A recording of 16-bit samples, one channel of 8 kHz.
pub(super) fn wav(samples: &[i16]) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    for sample in samples {
        writer.write_sample(*sample).unwrap();
    }
    writer.finalize().unwrap();
    file.into_inner()
}
