//! The limit of the embedded queue: a bare appender with the same SQLite. Each producer waits until its message is durable; one
//! thread writes all waiting messages in one transaction. The table has only the necessary columns and no index but its key.
//!
//! `--consume` deletes each message a while later, in the transactions of later messages, like a queue that is kept empty. With
//! and without `--secure-delete` it shows the cost of overwriting deleted rows with zeros.
//!
//! `--unique` adds the index that a queue needs to reject duplicates. Its key is a hash, so each message touches another page.
//!
//! `--queue` sends the same bytes through polyhook's embedded queue, without a receiver.

use std::{path::PathBuf, sync::Arc, sync::mpsc};

use clap::Parser;
use polyhook::{
    clock::Clock,
    event::DedupKey,
    lifecycle::Lifecycle,
    queue::{Message, Published, Queue, QueueConfig, sqlite::SqliteOptions, sqlite::SqliteQueue},
};
use polyhook_bench::{LoadReport, MeasurementArgs, Measurements, cpu, event};
use rusqlite::Connection;
use serde::Serialize;
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

/// Maximum messages in one transaction.
const MAX_BATCH: usize = 2048;
/// Number of messages that stay in the table with `--consume`.
const BACKLOG: i64 = 1000;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS messages (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    received_at INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT";

/// [`TABLE`] with a unique key, as random as a hash, that rejects duplicates.
const UNIQUE_TABLE: &str = "CREATE TABLE IF NOT EXISTS messages (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    received_at INTEGER NOT NULL,
    body        BLOB    NOT NULL,
    key         BLOB    NOT NULL UNIQUE
) STRICT";

/// Appends to an SQLite file and measures when each message is durable.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the command line")]
struct Args {
    /// File, which must not exist
    #[arg(long)]
    file: PathBuf,
    /// Producers, each waiting for its message
    #[arg(long, default_value_t = 64)]
    producers: usize,
    #[command(flatten)]
    measurement: MeasurementArgs,
    /// Delete each message a thousand messages later
    #[arg(long, conflicts_with = "queue")]
    consume: bool,
    /// Overwrite deleted rows with zeros
    #[arg(long, conflicts_with = "queue")]
    secure_delete: bool,
    /// Add an index that rejects duplicates
    #[arg(long, conflicts_with = "queue")]
    unique: bool,
    /// Use polyhook's embedded queue
    #[arg(long)]
    queue: bool,
}

/// A report with the CPU time of the program.
#[derive(Debug, Serialize)]
struct CostedReport {
    #[serde(flatten)]
    report: LoadReport,
    /// User and system time of this process, producers included.
    cpu_seconds: f64,
}

struct Append {
    id: String,
    received_at: i64,
    body: Arc<[u8]>,
    key: Option<DedupKey>,
    durable: oneshot::Sender<Result<(), String>>,
}

/// The writing thread.
struct Writer {
    connection: Connection,
    consume: bool,
}

impl Writer {
    fn open(args: &Args) -> rusqlite::Result<Self> {
        let connection = Connection::open(&args.file)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        for (name, value) in [
            ("synchronous", "FULL"),
            ("secure_delete", if args.secure_delete { "ON" } else { "OFF" }),
            // The value of the embedded queue.
            ("cache_size", "-8192"),
        ] {
            connection.pragma_update(None, name, value)?;
        }
        connection.execute_batch(if args.unique { UNIQUE_TABLE } else { TABLE })?;
        Ok(Self { connection, consume: args.consume })
    }

    fn run(mut self, appends: &mpsc::Receiver<Append>) {
        while let Ok(first) = appends.recv() {
            let batch: Vec<_> = std::iter::once(first).chain(appends.try_iter()).take(MAX_BATCH).collect();
            let outcome = self.write(&batch).map_err(|error| error.to_string());
            for append in batch {
                // A producer that no longer waits does not count the message.
                let _ = append.durable.send(outcome.clone());
            }
        }
    }

    fn write(&mut self, batch: &[Append]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            for Append { id, received_at, body, key, .. } in batch {
                let kind = "conversation.completed";
                match key {
                    None => transaction
                        .prepare_cached("INSERT INTO messages (id, kind, received_at, body) VALUES (?1, ?2, ?3, ?4)")?
                        .execute((id, kind, received_at, &body[..]))?,
                    Some(key) => transaction
                        .prepare_cached(
                            "INSERT INTO messages (id, kind, received_at, body, key) VALUES (?1, ?2, ?3, ?4, ?5)",
                        )?
                        .execute((id, kind, received_at, &body[..], key.as_bytes()))?,
                };
            }
            if self.consume {
                transaction
                    .prepare_cached("DELETE FROM messages WHERE seq <= ?1")?
                    .execute([transaction.last_insert_rowid() - BACKLOG])?;
            }
        }
        transaction.commit()
    }
}

/// The destination of the producers' messages.
#[derive(Clone)]
enum Target {
    Bare { appends: mpsc::Sender<Append>, unique: bool },
    Queue(Arc<SqliteQueue>, Clock),
}

impl Target {
    /// Appends a message and returns when it is durable.
    async fn append(&self, id: String, body: &Arc<[u8]>) -> Result<(), String> {
        match self {
            Self::Bare { appends, unique } => {
                let (durable, answer) = oneshot::channel();
                let key = unique.then(|| DedupKey::new(&id, body));
                let append = Append { id, received_at: 0, body: Arc::clone(body), key, durable };
                appends.send(append).map_err(|error| error.to_string())?;
                answer.await.map_err(|error| error.to_string())?
            }
            Self::Queue(queue, clock) => {
                let message = Message {
                    dedup: DedupKey::new(&id, body),
                    id,
                    kind: "conversation.completed".to_owned(),
                    environment: "live".to_owned(),
                    conversation_id: None,
                    received_at: clock.now(),
                    traceparent: None,
                    content_type: "application/json".to_owned(),
                    body: bytes::Bytes::from_owner(Arc::clone(body)),
                };
                match queue.publish(message).await {
                    Ok(Published::New) => Ok(()),
                    Ok(Published::Duplicate) => Err("rejected as a duplicate".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }
}

/// Appends one message after the other until `end`.
async fn produce(
    target: Target,
    producer: usize,
    body: Arc<[u8]>,
    from: Instant,
    end: Instant,
) -> Measurements {
    let mut measured = Measurements::default();
    for n in 0_u64.. {
        let since = Instant::now();
        if since >= end {
            break;
        }
        match target.append(format!("evt_{producer:08x}{n:x}"), &body).await {
            Ok(()) => measured.success(since.elapsed(), since >= from),
            Err(reason) => {
                measured.failure(reason);
                break;
            }
        }
    }
    measured
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let lifecycle = Lifecycle::new();
    let mut writing = None;
    let target = if args.queue {
        let options = SqliteOptions::new(&QueueConfig::default(), Clock::System);
        Target::Queue(SqliteQueue::open(&args.file, options, &lifecycle)?, Clock::System)
    } else {
        let writer = Writer::open(&args)?;
        let (appends, receiver) = mpsc::channel();
        writing = Some(std::thread::spawn(move || writer.run(&receiver)));
        Target::Bare { appends, unique: args.unique }
    };
    let from = Instant::now() + args.measurement.warmup;
    let body: Arc<[u8]> = event(0, 1, args.measurement.body_bytes).into();
    let producers: JoinSet<_> = (0..args.producers)
        .map(|producer| {
            produce(target.clone(), producer, Arc::clone(&body), from, from + args.measurement.duration)
        })
        .collect();
    let mut measured = Measurements::default();
    for each in producers.join_all().await {
        measured.add(&each);
    }
    if let Target::Queue(queue, _) = &target {
        lifecycle.drain();
        queue.close().await;
    }
    drop(target);
    if let Some(writing) = writing {
        writing.join().map_err(|_| "the writer panicked")?;
    }
    let report = measured.report(args.measurement.duration);
    print(&CostedReport { report, cpu_seconds: cpu::used().as_secs_f64() })
}

#[expect(clippy::print_stdout, reason = "the harness reads standard output")]
fn print(costed: &CostedReport) -> Result<(), Box<dyn std::error::Error>> {
    println!("{}", serde_json::to_string(costed)?);
    Ok(())
}
