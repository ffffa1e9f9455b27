//! Consumes polyhook's announcements with lapin. `../README.md` explains each step.

use std::{env, error::Error, fmt, path::PathBuf, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use object_store::{ObjectStoreExt, aws::AmazonS3Builder, local::LocalFileSystem, path::Path as Key};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{
    fs,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

type BoxError = Box<dyn Error + Send + Sync>;

const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A message that can never be processed.
#[derive(Debug)]
struct PoisonMessage(String);

impl fmt::Display for PoisonMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for PoisonMessage {}

struct Consumer {
    url: String,
    exchange: String,
    queue: String,
    done: PathBuf,
}

/// Opens a URL. An `s3://` URL holds the key as it is; the path of a `file://` URL is percent-encoded.
async fn read(url: &str) -> Result<object_store::GetResult, BoxError> {
    if let Some((bucket, key)) = url.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) {
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build()?;
        Ok(store.get(&Key::parse(key)?).await?)
    } else {
        let path = url
            .parse::<url::Url>()?
            .to_file_path()
            .map_err(|()| PoisonMessage(format!("cannot read {url}")))?;
        Ok(LocalFileSystem::new().get(&Key::from_absolute_path(path)?).await?)
    }
}

async fn matches_hash(url: &str, sha256: &str) -> Result<bool, BoxError> {
    let (mut hash, mut chunks) = (Sha256::new(), read(url).await?.into_stream());
    while let Some(chunk) = chunks.next().await {
        hash.update(chunk?);
    }
    Ok(hex::encode(hash.finalize()) == sha256)
}

/// Replace this with your own work; here it is a summary.
fn work(manifest: &Value) -> Value {
    ["conversation_id", "project_id", "started_at", "turn_count"]
        .iter()
        .map(|name| ((*name).to_owned(), manifest[name].clone()))
        .collect()
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, PoisonMessage> {
    value[name].as_str().ok_or_else(|| PoisonMessage(format!("not an announcement: it has no {name}")))
}

impl Consumer {
    async fn ready(&self, event: &Value) -> Result<&'static str, BoxError> {
        let target = self.done.join(format!("{}.json", text(event, "id")?));
        if fs::try_exists(&target).await? {
            return Ok("repeat");
        }
        let (manifest, urls) = (&event["data"]["manifest"], &event["data"]["urls"]);
        let objects = manifest["objects"].as_array().ok_or_else(|| PoisonMessage("no objects".to_owned()))?;
        for object in objects {
            if !matches_hash(text(urls, text(object, "name")?)?, text(object, "sha256")?).await? {
                let now = read(text(urls, "manifest.json")?).await?.bytes().await?;
                let now: Value = serde_json::from_slice(&now)?;
                if now["revision"].as_u64() > manifest["revision"].as_u64() {
                    return Ok("outdated"); // the newer revision has its own announcement
                }
                return Err("an object does not match its sha256".into());
            }
        }
        // Work and record are one step (the rename). Otherwise a crash between them would repeat the work.
        let part = target.with_extension("part");
        fs::write(&part, work(manifest).to_string()).await?;
        fs::rename(part, target).await?;
        Ok("done")
    }

    async fn erased(&self, event: &Value) -> Result<&'static str, BoxError> {
        let mut entries = fs::read_dir(&self.done).await?;
        while let Some(entry) = entries.next_entry().await? {
            let done: Value = serde_json::from_slice(&fs::read(entry.path()).await?).unwrap_or_default();
            if done["conversation_id"] == event["data"]["conversation_id"] {
                fs::remove_file(entry.path()).await?;
            }
        }
        Ok("erased")
    }

    async fn handle(&self, body: &[u8]) -> Result<String, BoxError> {
        let event: Value = serde_json::from_slice(body).map_err(|error| PoisonMessage(error.to_string()))?;
        let id = text(&event, "id")?;
        if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PoisonMessage("not an id of polyhook".to_owned()).into());
        }
        let outcome = match text(&event, "type")? {
            "conversation.ready" | "conversation.updated" => self.ready(&event).await,
            "conversation.erased" => self.erased(&event).await,
            other => Err(PoisonMessage(format!("not an announcement: {other}")).into()),
        };
        let outcome = outcome.or_else(|error| match error.downcast_ref() {
            Some(object_store::Error::NotFound { .. }) => Ok("missing"),
            _ => Err(error),
        })?;
        Ok(format!("{outcome} {}", text(&event, "subject")?))
    }

    async fn settle(&self, message: Delivery) -> Result<(), lapin::Error> {
        match self.handle(&message.data).await {
            Ok(outcome) => {
                print_line(&outcome);
                message.ack(BasicAckOptions::default()).await?;
            }
            Err(error) => {
                let poison = error.is::<PoisonMessage>();
                print_line(&format!("{}: {error}", if poison { "poison" } else { "retry" }));
                if !poison {
                    sleep(RETRY_DELAY).await;
                }
                message.nack(BasicNackOptions { requeue: !poison, ..BasicNackOptions::default() }).await?;
            }
        }
        Ok(())
    }

    async fn declare(&self, channel: &Channel) -> Result<(), lapin::Error> {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let dead = format!("{}.dead", self.queue);
        let word = |text: &str| AMQPValue::LongString(text.into());
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), word("quorum"));
        channel.queue_declare(dead.as_str().into(), durable, arguments.clone()).await?;
        arguments.insert("x-delivery-limit".into(), 10i64.into());
        for (name, value) in [
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-routing-key", dead.as_str()),
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"),
        ] {
            arguments.insert(name.into(), word(value));
        }
        channel.queue_declare(self.queue.as_str().into(), durable, arguments).await?;
        for key in ["conversation.ready.#", "conversation.updated.#", "conversation.erased.#"] {
            let (queue, exchange) = (self.queue.as_str().into(), self.exchange.as_str().into());
            let options = QueueBindOptions::default();
            channel.queue_bind(queue, exchange, key.into(), options, FieldTable::default()).await?;
        }
        channel.basic_qos(8, BasicQosOptions::default()).await
    }

    /// Consumes until the connection is lost. The broker then delivers unacknowledged messages again.
    async fn consume(&self) -> Result<(), lapin::Error> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        self.declare(&channel).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let queue = self.queue.as_str().into();
        let mut messages = channel.basic_consume(queue, "".into(), options, arguments).await?;
        print_line(&format!("waiting in {}", self.queue));
        while let Some(message) = messages.next().await {
            self.settle(message?).await?;
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the program prints its results")]
fn print_line(line: &str) {
    println!("{line}");
}

#[expect(clippy::disallowed_methods, reason = "an independent program that reads its own environment")]
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let or = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let consumer = Consumer {
        url: env::var("AMQP_URL")?,
        exchange: or("EXCHANGE", "polyhook.conversations"),
        queue: or("QUEUE", "calls"),
        done: or("DONE", "done").into(),
    };
    fs::create_dir_all(&consumer.done).await?;
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            ended = consumer.consume() => print_line(&format!("broker: {ended:?}; connecting again")),
            // The current message is not acknowledged, so the broker delivers it again.
            _ = terminated.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
        }
        sleep(RETRY_DELAY).await;
    }
}
