//! The worker's limit: a bare client that fetches the same conversations from the same API with the same concurrency. It
//! writes each recording to a file and hashes it, without queue, manifest and validation.
//!
//! `--sync` makes each file durable before the next conversation, as an archive must before it acknowledges a job.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use futures_util::StreamExt;
use polyhook_bench::{LoadReport, Measurements, cpu};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    task::JoinSet,
    time::Instant,
};

/// Size of a write, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Downloads conversations with their recordings.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// API: `http://HOST:PORT`
    #[arg(long)]
    url: String,
    /// Account id
    #[arg(long)]
    account: String,
    /// Project id
    #[arg(long)]
    project: String,
    /// API key
    #[arg(long)]
    key: String,
    /// File with one conversation id per line
    #[arg(long)]
    ids: PathBuf,
    /// Folder for the recordings
    #[arg(long)]
    into: PathBuf,
    /// Concurrent conversations
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Make each file durable
    #[arg(long)]
    sync: bool,
}

/// The report of a run.
#[derive(Debug, Serialize)]
struct DownloadReport {
    #[serde(flatten)]
    report: LoadReport,
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

    /// Downloads one conversation and returns the size of its recording, in bytes.
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
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(self.args.into.join(name)).await?);
        content(&mut file).await?;
        file.flush().await?;
        if self.args.sync {
            file.get_ref().sync_all().await?;
        }
        Ok(())
    }
}

/// Downloads one conversation after the other.
async fn work(
    client: Arc<Client>,
    ids: async_channel::Receiver<(usize, String)>,
    start: Instant,
) -> (Measurements, u64, Duration) {
    let (mut measured, mut bytes) = (Measurements::default(), 0);
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
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a crypto provider is already installed")?;
    #[expect(clippy::disallowed_methods, reason = "the comparison uses the default client")]
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
    let (mut measured, mut bytes, mut time) = (Measurements::default(), 0, Duration::ZERO);
    for (each, client_bytes, client_time) in workers.join_all().await {
        measured.add(&each);
        bytes += client_bytes;
        time = time.max(client_time);
    }
    print(&DownloadReport { report: measured.report(time), bytes, cpu_seconds: cpu::used().as_secs_f64() })
}

#[expect(clippy::print_stdout, reason = "the harness reads standard output")]
fn print(downloaded: &DownloadReport) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(downloaded)?);
    Ok(())
}
