//! The archive on S3 has the same objects as an archive folder, and no object is written twice.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde_json::{Value, json};

use super::{sha256, verified_archive};
use crate::support::{
    process::{Installation, Process, SimulatedPolyAi, eventually, metric},
    seaweed::Seaweed,
};

const CALLS: usize = 12;

/// Returns the bytes and the entity tag of every object below a prefix, except polyhook's own and the index.
async fn objects(store: &impl ObjectStore, prefix: &str) -> BTreeMap<String, (Vec<u8>, Option<String>)> {
    let listed: Vec<_> = store.list(Some(&Path::from(prefix))).try_collect().await.unwrap();
    let mut found = BTreeMap::new();
    let is_own = |key: &str| key.contains("/.polyhook/") || key.contains("/index/");
    for meta in listed.into_iter().filter(|meta| !is_own(meta.location.as_ref())) {
        let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap().to_vec();
        let key = meta.location.as_ref().strip_prefix(prefix).unwrap().trim_start_matches('/').to_owned();
        found.insert(key, (bytes, meta.e_tag));
    }
    found
}

/// Returns the parts of a manifest that do not depend on time and place.
fn content(manifest: &Value) -> Value {
    let mut manifest = manifest.clone();
    let fields = manifest.as_object_mut().unwrap();
    fields.remove("timings");
    for object in manifest["objects"].as_array_mut().unwrap() {
        object.as_object_mut().unwrap().remove("etag");
    }
    manifest
}

fn deliver_all(polyai: &SimulatedPolyAi, run: &Process, event_seed: u64) {
    let url = format!("http://{}/polyai-events", run.receiver_address());
    polyai.control("POST", "deliver", &json!({ "url": url, "events": { "seed": event_seed } }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_the_same_objects_on_s3_as_in_a_folder() {
    let s3 = Seaweed::shared().await;
    let store = s3.client();
    let prefix = "processes/same";
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, CALLS);
    let folder = Installation::new(&polyai.access, "worker.audio = \"both\"");
    let config = s3.config(prefix);
    let archive = format!(
        "worker.audio = \"both\"\n[archive]\nurl = \"{}\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\n\
         access_key_id = \"{}\"\nsecret_access_key_file = \"s3-key\"\nallow_http = true",
        config.url,
        config.endpoint.unwrap(),
        config.access_key_id.unwrap(),
    );
    let bucket = Installation::new(&polyai.access, &archive);
    let key = config.secret_access_key.unwrap();
    bucket.write("s3-key", key.expose());

    let mut on_folder = folder.polyhook(["run"]).start();
    let mut on_bucket = bucket.polyhook(["run"]).must_not_print(key.expose()).start();
    let admin = (on_folder.wait_until_ready(), on_bucket.wait_until_ready());
    deliver_all(&polyai, &on_folder, 1);
    deliver_all(&polyai, &on_bucket, 1);
    let archived = |admin| metric(admin, "polyhook_jobs_total{outcome=\"archived\"}");
    eventually("archived in both", || archived(admin.0) == CALLS && archived(admin.1) == CALLS);

    let in_folder = verified_archive(&folder.archive());
    let in_bucket = objects(&store, prefix).await;
    assert_eq!(in_folder.len(), CALLS);
    let mut names = 0;
    for path in folder.manifests() {
        let place =
            path.parent().unwrap().strip_prefix(folder.archive()).unwrap().to_str().unwrap().to_owned();
        let in_file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (bytes, _) = &in_bucket[&format!("{place}/manifest.json")];
        let in_store: Value = serde_json::from_slice(bytes).unwrap();
        assert_eq!(content(&in_file), content(&in_store));
        for object in in_store["objects"].as_array().unwrap() {
            let (bytes, etag) = &in_bucket[&format!("{place}/{}", object["name"].as_str().unwrap())];
            assert_eq!(object["sha256"], sha256(bytes));
            assert_eq!(object["etag"].as_str(), etag.as_deref(), "the manifest names the very object");
        }
        names += 1 + in_store["objects"].as_array().unwrap().len();
    }
    assert_eq!(in_bucket.len(), names, "nothing else lies there: {:?}", in_bucket.keys());

    // Other events of the same calls: no object is written again, not even with the same bytes.
    let unchanged = |admin| metric(admin, "polyhook_jobs_total{outcome=\"unchanged\"}");
    deliver_all(&polyai, &on_bucket, 2);
    eventually("done again", || unchanged(admin.1) == CALLS);
    let later = objects(&store, prefix).await;
    assert_eq!(later, in_bucket, "the second delivery changed something");
    on_folder.stop();
    on_bucket.stop();
}
