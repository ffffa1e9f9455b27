//! Durable appends to the local disk. Most of the time is the fsync, which concurrent deliveries share.

use std::{sync::Arc, time::Duration};

use divan::{Bencher, counter::ItemsCount};
use futures_util::future::try_join_all;
use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        Message, Queue, QueueConfig, SpoolConfig,
        spool::Spool,
        sqlite::{SqliteOptions, SqliteQueue},
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::inputs::{USUAL_BYTES, message};

/// Numbers of concurrent deliveries.
const CONCURRENCY: [usize; 3] = [1, 64, 512];

/// A generous timeout: a slow disk is measured, not an error.
const TIMEOUT: Duration = Duration::from_secs(30);

#[divan::bench(args = CONCURRENCY)]
fn queue_append(bencher: Bencher, concurrency: usize) {
    let (runtime, folder, lifecycle) = runtime_and_folder();
    let options = SqliteOptions { publish_timeout: TIMEOUT, ..SqliteOptions::default() };
    let queue = runtime
        .block_on(async { SqliteQueue::open(&folder.path().join("queue.db"), options, &lifecycle) })
        .expect("a queue in a temporary folder");
    append(bencher, &runtime, concurrency, async |messages: Vec<Message>| {
        try_join_all(messages.into_iter().map(|message| queue.publish(message))).await.expect("durable");
    });
    lifecycle.drain();
    runtime.block_on(queue.close());
}

#[divan::bench(args = CONCURRENCY)]
fn spool_append(bencher: Bencher, concurrency: usize) {
    let (runtime, folder, lifecycle) = runtime_and_folder();
    let config = SpoolConfig { path: folder.path().join("spool.db"), ..SpoolConfig::default() };
    let spool: Arc<Spool> = runtime
        .block_on(async { Spool::open(&config, &QueueConfig::default(), Clock::default(), &lifecycle) })
        .expect("a spool in a temporary folder");
    append(bencher, &runtime, concurrency, async |messages: Vec<Message>| {
        try_join_all(messages.into_iter().map(|message| spool.put(message))).await.expect("durable");
    });
    lifecycle.drain();
    runtime.block_on(spool.close());
}

fn append(bencher: Bencher, runtime: &Runtime, concurrency: usize, durable: impl AsyncFn(Vec<Message>)) {
    let mut made = 0;
    bencher
        .counter(ItemsCount::new(concurrency))
        .with_inputs(move || {
            let first = made;
            made += concurrency;
            (first..made).map(|n| message(n, USUAL_BYTES)).collect()
        })
        .bench_local_values(|messages| runtime.block_on(durable(messages)));
}

fn runtime_and_folder() -> (Runtime, TempDir, Lifecycle) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    (runtime, TempDir::new().expect("a temporary folder"), Lifecycle::new())
}
