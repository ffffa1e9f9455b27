//! The limit of a durable delivery: a bare publisher with the same client library. Persistent messages of the same size
//! into a quorum queue, each confirm awaited; nothing is received, verified or read.
//!
//! One task owns each channel, because lapin gives confirms to the wrong message where tasks share one.

use std::sync::Arc;

use clap::Parser;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use polyhook_bench::{Course, Measured, event, pace};
use tokio::time::Instant;

/// Publishes to a quorum queue and measures the confirms.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Where to: `amqp://…`
    #[arg(long)]
    url: String,
    /// The queue; declared if it is not there.
    #[arg(long)]
    queue: String,
    /// The exchange to publish to; by default straight to the queue.
    #[arg(long, default_value = "")]
    exchange: String,
    /// The routing key; by default the queue's name.
    #[arg(long)]
    key: Option<String>,
    /// So many headers of some 40 bytes each.
    #[arg(long, default_value_t = 0)]
    headers: usize,
    /// Messages that may be unconfirmed, over all channels.
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// Channels.
    #[arg(long, default_value_t = 4)]
    channels: usize,
    /// Messages a second, in an open loop.
    #[arg(long)]
    rate: Option<u32>,
    #[command(flatten)]
    course: Course,
}

struct Publisher {
    channel: Channel,
    exchange: String,
    key: String,
    headers: usize,
    body: Arc<[u8]>,
    measured_from: Instant,
    end: Instant,
}

impl Publisher {
    /// Publishes one and waits for its confirm.
    async fn publish(&self, since: Instant) -> (Instant, Result<(), String>) {
        let mut headers = FieldTable::default();
        for n in 0..self.headers {
            headers.insert(
                format!("cloudEvents:header-{n}").into(),
                AMQPValue::LongString("x".repeat(24).into()),
            );
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirmed = async {
            self.channel
                .basic_publish(
                    self.exchange.as_str().into(),
                    self.key.as_str().into(),
                    options,
                    &self.body,
                    properties,
                )
                .await?
                .await
        };
        let outcome = match confirmed.await {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(_) => Err("returned or refused".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        (since, outcome)
    }

    fn note(&self, (since, outcome): (Instant, Result<(), String>), measured: &mut Measured) {
        let within = since >= self.measured_from && since < self.end;
        match outcome {
            Ok(()) => measured.success(since.elapsed(), within),
            Err(reason) => measured.failure(reason),
        }
    }

    /// Keeps `depth` messages unconfirmed.
    async fn closed(self, depth: usize) -> Measured {
        let mut measured = Measured::default();
        let mut flights = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            while now < self.end && flights.len() < depth {
                flights.push(self.publish(Instant::now()));
            }
            let Some(landed) = flights.next().await else { return measured };
            self.note(landed, &mut measured);
        }
    }

    /// Publishes what is due.
    async fn open(self, due: async_channel::Receiver<Instant>) -> Measured {
        let mut measured = Measured::default();
        let mut flights = FuturesUnordered::new();
        let mut over = false;
        while !(over && flights.is_empty()) {
            tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => self.note(landed, &mut measured),
                at = due.recv(), if !over => match at {
                    Ok(at) => flights.push(self.publish(at)),
                    Err(_) => over = true,
                },
            }
        }
        measured
    }
}

#[tokio::main]
async fn main() -> Result<(), lapin::Error> {
    let args = Args::parse();
    let connection = Connection::connect(&args.url, ConnectionProperties::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    connection.create_channel().await?.queue_declare(args.queue.as_str().into(), options, arguments).await?;

    let body: Arc<[u8]> = event(0, 1, args.course.body_bytes).into();
    let mut channels = Vec::new();
    for _ in 0..args.channels {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channels.push(channel);
    }
    let start = Instant::now();
    let measured_from = start + args.course.warmup;
    let end = measured_from + args.course.duration;
    let due = args.rate.map(|rate| pace(start, end, rate));
    let tasks = channels.into_iter().enumerate().map(|(n, channel)| {
        let exchange = args.exchange.clone();
        let (key, headers) = (args.key.clone().unwrap_or_else(|| args.queue.clone()), args.headers);
        let body = Arc::clone(&body);
        let publisher = Publisher { channel, exchange, key, headers, body, measured_from, end };
        let depth = args.depth / args.channels + usize::from(n < args.depth % args.channels);
        let due = due.clone();
        async move {
            match due {
                Some(due) => publisher.open(due).await,
                None => publisher.closed(depth).await,
            }
        }
    });
    let tasks: tokio::task::JoinSet<_> = tasks.collect();
    let mut measured = Measured::default();
    for each in tasks.join_all().await {
        measured.add(&each);
    }
    measured.report(args.course.duration).print();
    Ok(())
}
