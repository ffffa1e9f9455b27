//! The limit of a durable delivery: a bare publisher with the same client library. Publishes persistent messages of the same
//! size to a quorum queue and awaits each confirm; receives, verifies and parses nothing.
//!
//! One task owns each channel, because lapin assigns confirms to the wrong message if tasks share one.

use std::sync::Arc;

use clap::Parser;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use polyhook_bench::{
    MeasurementArgs, Measurements,
    contract::{EventProperties, PERSISTENT, declare_queue},
    event, schedule,
};
use tokio::time::Instant;

/// Publishes to a quorum queue and measures the confirms.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Broker: `amqp://…`
    #[arg(long)]
    url: String,
    /// Queue, declared if it does not exist
    #[arg(long)]
    queue: String,
    /// Exchange to publish to [default: the default exchange]
    #[arg(long, default_value = "")]
    exchange: String,
    /// Routing key [default: the queue's name]
    #[arg(long)]
    key: Option<String>,
    /// Set the properties and headers of polyhook's events
    #[arg(long)]
    alike: bool,
    /// Maximum unconfirmed messages on all channels together
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// Channels
    #[arg(long, default_value_t = 4)]
    channels: usize,
    /// Messages per second, in an open loop
    #[arg(long)]
    rate: Option<u32>,
    #[command(flatten)]
    measurement: MeasurementArgs,
}

struct Publisher {
    channel: Channel,
    exchange: String,
    key: String,
    alike: bool,
    body: Arc<[u8]>,
    measured_from: Instant,
    end: Instant,
}

impl Publisher {
    /// Publishes one message and waits for its confirm.
    async fn publish(&self, since: Instant) -> (Instant, Result<(), String>) {
        let properties =
            if self.alike { alike() } else { BasicProperties::default().with_delivery_mode(PERSISTENT) };
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

    fn record(&self, (since, outcome): (Instant, Result<(), String>), measured: &mut Measurements) {
        let within = since >= self.measured_from && since < self.end;
        match outcome {
            Ok(()) => measured.success(since.elapsed(), within),
            Err(reason) => measured.failure(reason),
        }
    }

    /// Keeps `depth` messages unconfirmed until the end.
    async fn run_closed_loop(self, depth: usize) -> Measurements {
        let mut measured = Measurements::default();
        let mut unconfirmed = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            while now < self.end && unconfirmed.len() < depth {
                unconfirmed.push(self.publish(Instant::now()));
            }
            let Some(confirmed) = unconfirmed.next().await else { return measured };
            self.record(confirmed, &mut measured);
        }
    }

    /// Publishes each message when it is due.
    async fn run_open_loop(self, due: async_channel::Receiver<Instant>) -> Measurements {
        let mut measured = Measurements::default();
        let mut unconfirmed = FuturesUnordered::new();
        let mut finished = false;
        while !(finished && unconfirmed.is_empty()) {
            tokio::select! {
                Some(confirmed) = unconfirmed.next(), if !unconfirmed.is_empty() => self.record(confirmed, &mut measured),
                at = due.recv(), if !finished => match at {
                    Ok(at) => unconfirmed.push(self.publish(at)),
                    Err(_) => finished = true,
                },
            }
        }
        measured
    }
}

/// Returns properties and headers as polyhook's event has them, with constant values.
fn alike() -> BasicProperties {
    EventProperties {
        message_id: "evt_0123456789abcdef0123456789",
        kind: "conversation.completed",
        conversation_id: "CA0123456789abcdef0123456789abcdef",
        content_type: "application/json",
        seconds: 1_795_000_000,
        received_at: "2026-11-18T13:46:40.123Z",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    .build()
}

#[tokio::main]
async fn main() -> Result<(), lapin::Error> {
    let args = Args::parse();
    let connection = Connection::connect(&args.url, ConnectionProperties::default()).await?;
    declare_queue(&connection.create_channel().await?, &args.queue).await?;

    let body: Arc<[u8]> = event(0, 1, args.measurement.body_bytes).into();
    let mut channels = Vec::new();
    for _ in 0..args.channels {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channels.push(channel);
    }
    let start = Instant::now();
    let measured_from = start + args.measurement.warmup;
    let end = measured_from + args.measurement.duration;
    let due = args.rate.map(|rate| schedule(start, end, rate));
    let tasks = channels.into_iter().enumerate().map(|(n, channel)| {
        let exchange = args.exchange.clone();
        let (key, alike) = (args.key.clone().unwrap_or_else(|| args.queue.clone()), args.alike);
        let body = Arc::clone(&body);
        let publisher = Publisher { channel, exchange, key, alike, body, measured_from, end };
        let depth = args.depth / args.channels + usize::from(n < args.depth % args.channels);
        let due = due.clone();
        async move {
            match due {
                Some(due) => publisher.run_open_loop(due).await,
                None => publisher.run_closed_loop(depth).await,
            }
        }
    });
    let tasks: tokio::task::JoinSet<_> = tasks.collect();
    let mut measured = Measurements::default();
    for each in tasks.join_all().await {
        measured.add(&each);
    }
    measured.report(args.measurement.duration).print();
    Ok(())
}
