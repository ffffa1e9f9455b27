//! The steps from a raw request to a message.

use std::time::Duration;

use divan::{Bencher, black_box, counter::BytesCount};
use polyhook::{
    event::{self, DedupKey, Event},
    signature::{self, Scheme, Verifier},
};

use crate::inputs::{NOW, USUAL_BYTES, body, event_id, now, secrets};

/// Number of active secrets, and bytes of the body.
const SECRETS_AND_BYTES: [(usize, usize); 4] =
    [(1, USUAL_BYTES), (10, USUAL_BYTES), (1, 64 << 10), (10, 64 << 10)];

#[divan::bench(args = SECRETS_AND_BYTES)]
fn signature_timestamped(bencher: Bencher, (count, bytes): (usize, usize)) {
    verify(bencher, Some(NOW), count, bytes);
}

#[divan::bench(args = SECRETS_AND_BYTES)]
fn signature_body(bencher: Bencher, (count, bytes): (usize, usize)) {
    verify(bencher, None, count, bytes);
}

fn verify(bencher: Bencher, timestamp: Option<i64>, count: usize, bytes: usize) {
    let secrets = secrets(count);
    let verifier = Verifier::new(&secrets, Scheme::Auto, Duration::from_mins(5));
    let body = body(0, bytes);
    let signature = signature::sign(secrets.last().expect("at least one"), timestamp, &body);
    let timestamp = timestamp.map(|seconds| seconds.to_string());
    let check = || {
        let timestamp = timestamp.as_deref().map(str::as_bytes);
        verifier.verify(Some(signature.as_bytes()), black_box(timestamp), black_box(&body), now())
    };
    check().expect("genuine");
    bencher.counter(BytesCount::new(bytes)).bench_local(check);
}

#[divan::bench(args = [USUAL_BYTES, 64 << 10, 1 << 20])]
fn event_usual(bencher: Bencher, bytes: usize) {
    read(bencher, &body(0, bytes), event::CONVERSATION_COMPLETED);
}

/// Reads ten thousand unknown names, mostly escaped.
#[divan::bench]
fn event_many_names(bencher: Bencher) {
    let names = (0..10_000)
        .map(|n| format!(r#""\u006eame\n{n}":"\u00e4\ud83d\ude00\\\"","conversationId":"\u004b{n}","#))
        .collect::<Vec<_>>()
        .concat();
    read(bencher, format!(r#"{{{names}"type":"x"}}"#).as_bytes(), "x");
}

/// Reads JSON of the maximum depth, many times.
#[divan::bench]
fn event_deep(bencher: Bencher) {
    let nest = format!("{}{}", r#"{"data":["#.repeat(60), "]}".repeat(60));
    let nests = vec![nest; 500].join(",");
    read(bencher, format!(r#"{{"data":[{nests}],"type":"x"}}"#).as_bytes(), "x");
}

/// Reads a body that is invalid JSON only at its last byte.
#[divan::bench]
fn event_cut_off(bencher: Bencher) {
    let body = body(0, 1 << 20);
    read(bencher, &body[..body.len() - 1], event::UNPARSED);
}

fn read(bencher: Bencher, body: &[u8], kind: &str) {
    assert_eq!(Event::read(body).kind, kind);
    bencher.counter(BytesCount::new(body.len())).bench_local(|| Event::read(black_box(body)));
}

#[divan::bench(args = [USUAL_BYTES, 64 << 10])]
fn dedup_key(bencher: Bencher, bytes: usize) {
    let (id, body) = (event_id(0), body(0, bytes));
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let id = event::message_id(Some(black_box(id.as_bytes())), &body);
        DedupKey::new(&id, black_box(&body))
    });
}
