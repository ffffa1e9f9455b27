//! The worker's limit: a bare client that asks the same API for the same conversations with the same concurrency, and
//! writes each recording to a file while it hashes it. No queue, no manifest, no check of what came.
//!
//! `--sync` makes each file durable before the next conversation, as an archive that may be acknowledged must.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use futures_util::StreamExt;
use polyhook_bench::{Measured, Report, cpu};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    task::JoinSet,
    time::Instant,
};

/// What is gathered before it is written.
const BUFFER: usize = 256 << 10;

/// Downloads conversations with their recordings.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Where the API is: `http://HOST:PORT`
    #[arg(long)]
    url: String,
    /// The account's id.
    #[arg(long)]
    account: String,
    /// The project's id.
    #[arg(long)]
    project: String,
    /// The API's key; it is a made up one.
    #[arg(long)]
    key: String,
    /// A file with one conversation id a line.
    #[arg(long)]
    ids: PathBuf,
    /// The folder for the recordings.
    #[arg(long)]
    into: PathBuf,
    /// Conversations at a time.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Make each file durable.
    #[arg(long)]
    sync: bool,
}

/// What is said of a run.
#[derive(Debug, Serialize)]
struct Downloaded {
    #[serde(flatten)]
    report: Report,
    /// Bytes of recordings.
    bytes: u64,
    /// User and system time of this process.
    cpu_seconds: f64,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Client {
    http: reqwest::Client,
    args: Args,
}

impl Client {
    async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        let Args { url, account, project, key, .. } = &self.args;
        let url = format!("{url}/v3/{account}/{project}/conversations/{path}");
        self.http.get(url).header("x-api-key", key).send().await?.error_for_status()
    }

    /// One conversation; how large its recording is.
    async fn fetch(&self, n: usize, id: &str) -> Result<u64, Failure> {
        let conversation = self.get(id).await?.bytes().await?;
        self.write(&format!("{n}.json"), async |file| {
            file.write_all(&conversation).await?;
            Ok(())
        })
        .await?;
        let mut size = 0;
        let mut hash = Sha256::new();
        let recording = self.get(&format!("{id}/audio?direction=combined&redacted=false")).await?;
        self.write(&format!("{n}.wav"), async |file| {
            let mut parts = recording.bytes_stream();
            while let Some(part) = parts.next().await {
                let part = part?;
                hash.update(&part);
                size += part.len() as u64;
                file.write_all(&part).await?;
            }
            Ok(())
        })
        .await?;
        let sum = format!("{}  {n}.wav\n", hex::encode(hash.finalize()));
        self.write(&format!("{n}.sha256"), async |file| Ok(file.write_all(sum.as_bytes()).await?)).await?;
        Ok(size)
    }

    async fn write(
        &self,
        name: &str,
        content: impl AsyncFnOnce(&mut BufWriter<File>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut file = BufWriter::with_capacity(BUFFER, File::create(self.args.into.join(name)).await?);
        content(&mut file).await?;
        file.flush().await?;
        if self.args.sync {
            file.get_ref().sync_all().await?;
        }
        Ok(())
    }
}

/// Takes one conversation after the other.
async fn work(
    client: Arc<Client>,
    ids: async_channel::Receiver<(usize, String)>,
    start: Instant,
) -> (Measured, u64, Duration) {
    let (mut measured, mut bytes) = (Measured::default(), 0);
    while let Ok((n, id)) = ids.recv().await {
        let since = Instant::now();
        match client.fetch(n, &id).await {
            Ok(size) => {
                measured.success(since.elapsed(), true);
                bytes += size;
            }
            Err(error) => measured.failure(error.to_string()),
        }
    }
    (measured, bytes, start.elapsed())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    tokio::fs::create_dir_all(&args.into).await?;
    let ids = tokio::fs::read_to_string(&args.ids).await?;
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "there is a provider already")?;
    #[expect(clippy::disallowed_methods, reason = "the bare client is meant to be bare")]
    let http = reqwest::Client::new();
    let (sender, receiver) = async_channel::unbounded();
    for (n, id) in ids.lines().enumerate() {
        sender.send((n, id.to_owned())).await?;
    }
    drop(sender);
    let start = Instant::now();
    let concurrency = args.concurrency;
    let client = Arc::new(Client { http, args });
    let workers: JoinSet<_> =
        (0..concurrency).map(|_| work(Arc::clone(&client), receiver.clone(), start)).collect();
    let (mut measured, mut bytes, mut time) = (Measured::default(), 0, Duration::ZERO);
    for (each, its_bytes, its_time) in workers.join_all().await {
        measured.add(&each);
        bytes += its_bytes;
        time = time.max(its_time);
    }
    print(&Downloaded { report: measured.report(time), bytes, cpu_seconds: cpu::used().as_secs_f64() })
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn print(downloaded: &Downloaded) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(downloaded)?);
    Ok(())
}
