//! The limit of the embedded queue: a bare appender with the same SQLite. Producers wait for the durability of their
//! own message, one thread writes all that wait in one transaction; a table with the least an operator would need, no
//! index but its key.
//!
//! `--consume` deletes each message a while after it came, in the transactions of those that come later: what a queue
//! does that is kept empty. With and without `--secure-delete` it tells what overwriting deleted rows with zeros costs.
//!
//! `--unique` adds the one index that a queue cannot do without which takes each message once. Its key is a hash, so
//! each message touches a page of its own.
//!
//! `--queue` sends the same bytes through polyhook's own embedded queue instead, without a receiver before it.

use std::{path::PathBuf, sync::Arc, sync::mpsc};

use clap::Parser;
use polyhook::{
    clock::Clock,
    event::DedupKey,
    lifecycle::Lifecycle,
    queue::{Message, Published, Queue, QueueConfig, sqlite::SqliteOptions, sqlite::SqliteQueue},
};
use polyhook_bench::{Course, Measured, Report, cpu, event};
use rusqlite::Connection;
use serde::Serialize;
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

/// The most of one transaction, and how many messages stay when they are consumed.
const MAX_BATCH: usize = 2048;
const BACKLOG: i64 = 1000;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS messages (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    received_at INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT";

/// What a queue needs too that takes each message once: a key, as random as a hash is.
const UNIQUE: &str = "CREATE TABLE IF NOT EXISTS messages (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    received_at INTEGER NOT NULL,
    body        BLOB    NOT NULL,
    key         BLOB    NOT NULL UNIQUE
) STRICT";

/// Appends to an SQLite file and measures when each message is durable.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
struct Args {
    /// The file; it must not exist.
    #[arg(long)]
    file: PathBuf,
    /// Producers, each of which waits for its message.
    #[arg(long, default_value_t = 64)]
    producers: usize,
    #[command(flatten)]
    course: Course,
    /// Delete messages a thousand messages later.
    #[arg(long, conflicts_with = "queue")]
    consume: bool,
    /// Overwrite what is deleted with zeros.
    #[arg(long, conflicts_with = "queue")]
    secure_delete: bool,
    /// Have an index that refuses a message that was there before.
    #[arg(long, conflicts_with = "queue")]
    unique: bool,
    /// Through polyhook's embedded queue.
    #[arg(long)]
    queue: bool,
}

/// The report of a program that knows what it cost.
#[derive(Debug, Serialize)]
struct Costed {
    #[serde(flatten)]
    report: Report,
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

/// The one thread that writes.
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
            // As the embedded queue has it.
            ("cache_size", "-8192"),
        ] {
            connection.pragma_update(None, name, value)?;
        }
        connection.execute_batch(if args.unique { UNIQUE } else { TABLE })?;
        Ok(Self { connection, consume: args.consume })
    }

    fn run(mut self, appends: &mpsc::Receiver<Append>) {
        while let Ok(first) = appends.recv() {
            let batch: Vec<_> = std::iter::once(first).chain(appends.try_iter()).take(MAX_BATCH).collect();
            let outcome = self.write(&batch).map_err(|error| error.to_string());
            for append in batch {
                // Who does not wait any more does not count it.
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

/// Where the producers' messages go.
#[derive(Clone)]
enum Target {
    Bare { appends: mpsc::Sender<Append>, unique: bool },
    Queue(Arc<SqliteQueue>, Clock),
}

impl Target {
    /// Returns when it is durable.
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
                    Ok(Published::Duplicate) => Err("taken for a duplicate".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }
}

/// Appends one message after the other.
async fn produce(target: Target, producer: usize, body: Arc<[u8]>, from: Instant, end: Instant) -> Measured {
    let mut measured = Measured::default();
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
    let from = Instant::now() + args.course.warmup;
    let body: Arc<[u8]> = event(0, 1, args.course.body_bytes).into();
    let producers: JoinSet<_> = (0..args.producers)
        .map(|producer| {
            produce(target.clone(), producer, Arc::clone(&body), from, from + args.course.duration)
        })
        .collect();
    let mut measured = Measured::default();
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
    let report = measured.report(args.course.duration);
    print(&Costed { report, cpu_seconds: cpu::used().as_secs_f64() })
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn print(costed: &Costed) -> Result<(), Box<dyn std::error::Error>> {
    println!("{}", serde_json::to_string(costed)?);
    Ok(())
}
