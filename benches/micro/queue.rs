//! Making deliveries durable on the local disk: what is waited for is the fsync, shared by those who come together.

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

use crate::inputs::{USUAL, message};

/// How many deliveries wait at a time.
const TOGETHER: [usize; 3] = [1, 64, 512];

/// A slow disk is what is measured, not an error.
const PATIENCE: Duration = Duration::from_secs(30);

#[divan::bench(args = TOGETHER)]
fn queue_append(bencher: Bencher, together: usize) {
    let (runtime, folder, lifecycle) = surroundings();
    let options = SqliteOptions { publish_timeout: PATIENCE, ..SqliteOptions::default() };
    let queue = runtime
        .block_on(async { SqliteQueue::open(&folder.path().join("queue.db"), options, &lifecycle) })
        .expect("a queue in a temporary folder");
    append(bencher, &runtime, together, async |messages: Vec<Message>| {
        try_join_all(messages.into_iter().map(|message| queue.publish(message))).await.expect("durable");
    });
    lifecycle.drain();
    runtime.block_on(queue.close());
}

#[divan::bench(args = TOGETHER)]
fn spool_append(bencher: Bencher, together: usize) {
    let (runtime, folder, lifecycle) = surroundings();
    let config = SpoolConfig { path: folder.path().join("spool.db"), ..SpoolConfig::default() };
    let spool: Arc<Spool> = runtime
        .block_on(async { Spool::open(&config, &QueueConfig::default(), Clock::default(), &lifecycle) })
        .expect("a spool in a temporary folder");
    append(bencher, &runtime, together, async |messages: Vec<Message>| {
        try_join_all(messages.into_iter().map(|message| spool.put(message))).await.expect("durable");
    });
    lifecycle.drain();
    runtime.block_on(spool.close());
}

fn append(bencher: Bencher, runtime: &Runtime, together: usize, durable: impl AsyncFn(Vec<Message>)) {
    let mut made = 0;
    bencher
        .counter(ItemsCount::new(together))
        .with_inputs(move || {
            let first = made;
            made += together;
            (first..made).map(|n| message(n, USUAL)).collect()
        })
        .bench_local_values(|messages| runtime.block_on(durable(messages)));
}

fn surroundings() -> (Runtime, TempDir, Lifecycle) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    (runtime, TempDir::new().expect("a temporary folder"), Lifecycle::new())
}
