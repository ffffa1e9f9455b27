//! Tests of the program as users and scripts see it: processes, exit codes, signals, files.

mod archive_commands;
mod arguments;
mod bounds;
mod commands;
mod config_check;
mod configuration;
mod connections;
mod console;
mod console_access;
mod dead;
mod demo;
mod doctor;
mod endpoint_test;
mod endpoints;
mod erase;
mod examples;
mod full_disk;
mod hostile_text;
mod logs;
mod memory;
mod metrics;
mod outages;
mod private_files;
mod queue_move;
mod quickstart;
mod rabbitmq;
mod reload;
mod rotation;
mod s3;
mod screen;
mod secret_files;
mod signals;
mod signatures;
mod spool;
mod status;
mod stuck_log;
mod tail;
mod tracing;
mod trigger;

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::process::manifests;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Checks each object that the manifests of an archive folder name, and returns the manifests by conversation.
#[track_caller]
pub(crate) fn verified_archive(folder: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for path in manifests(folder) {
        let manifest = read_json(&path);
        let objects = manifest["objects"].as_array().unwrap();
        assert_eq!(objects[0]["name"], "conversation.json");
        for object in objects {
            let file = path.with_file_name(object["name"].as_str().unwrap());
            let bytes = std::fs::read(&file).unwrap();
            assert_eq!(object["size_bytes"], bytes.len(), "{}", file.display());
            assert_eq!(object["sha256"], sha256(&bytes), "{}", file.display());
            if object["kind"] == "audio" {
                assert_playable(&bytes, &object["wav"]);
            }
        }
        let id = manifest["conversation_id"].as_str().unwrap().to_owned();
        assert!(found.insert(id, manifest).is_none(), "archived twice: {}", path.display());
    }
    found
}

/// Checks with another WAV implementation that all samples are readable and the length equals that of the manifest.
#[track_caller]
fn assert_playable(bytes: &[u8], wav: &Value) {
    let mut reader = hound::WavReader::new(bytes).unwrap();
    let (samples, spec) = (reader.duration(), reader.spec());
    let seconds = f64::from(samples) / f64::from(spec.sample_rate);
    assert!(seconds > 0.0 && (wav["seconds"].as_f64().unwrap() - seconds).abs() < 0.001, "{seconds}: {wav}");
    let read = reader.samples::<i32>().map(Result::unwrap).count();
    assert_eq!(read, samples as usize * usize::from(spec.channels));
}
