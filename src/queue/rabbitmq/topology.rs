//! The exchanges, queues and bindings, by name and argument.
//!
//! They are declared on every connect, which changes nothing if they are correct. The exchanges that customers' workers
//! bind to (`events`, `conversations`) are declared here too, so that either side may start first. Works with RabbitMQ
//! 3.10 to 4.3. Every quorum queue has an explicit delivery limit, because 4.x has a default of 20 and drops messages that
//! exceed it.
//!
//! # The queue that was declared last
//!
//! RabbitMQ keeps the names of a node's quorum queues in a table on disk (Ra's `ra_directory`, in `names.dets`). It writes
//! a new name when the next queue is declared, or 0.5 to 1 s later. A node that is killed before that has forgotten the
//! queue that was declared last: the queue comes back empty, *whatever was confirmed*. If the node is alone, the queue never
//! elects a leader, and nothing can be published to it or consumed until someone calls `ra:trigger_election`
//! (docs/runbook.md). With 3.10.8 this happened in all of 14 kills up to 0.7 s after the declaration, and in none of 30
//! kills after 1.25 s or more. 4.x writes the table in the same way. So after declaring queues, [`Topology::declare`]
//! declares one more queue and deletes it; then it happened in none of 12 kills.

use std::time::Duration;

use lapin::{
    Channel, ErrorKind, ExchangeKind, Queue,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use tokio::time::timeout;

use super::{connection::Connection, error::OpenError};
use crate::event::{CONVERSATION_COMPLETED, CONVERSATION_DISCOVERED};

/// A job becomes a dead letter after this many deliveries that ended without its settlement. RabbitMQ counts them; from 4.3
/// on it counts only those that ended with a lost worker or connection, and the consumer counts the others.
pub(super) const FETCH_DELIVERY_LIMIT: i64 = 100;
/// The limit of queues that must never drop a message, however often it is read. 3.10 does not accept -1.
const NO_DELIVERY_LIMIT: i64 = 2_000_000_000;
/// The only delay if `[retry]` has none.
const FALLBACK_DELAY: Duration = Duration::from_mins(1);
/// Distinguishes the queues for later jobs. Their names begin like those of the other delay queues, so that they need no
/// other permissions.
const REFRESH_WORD: &str = "refresh";
const MAX_PREFIX_BYTES: usize = 64;
/// The interval at which the existence of the fetch queue is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The number of checks after which its bindings are declared again.
const CHECKS_PER_BINDING: u32 = 10;
/// Bounds a check. A node that is cut off from the majority of its cluster still answers some requests (RabbitMQ 4.3), but
/// confirms nothing, delivers nothing and binds nothing. Earlier versions close the connections to such a node, if their
/// `cluster_partition_handling` is `pause_minority`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Removes the extra queue if this process ends before it has deleted it.
const EXTRA_QUEUE_EXPIRES_MS: i32 = 60_000;

/// Marks an event that asks for no fetch and is kept in `unrouted` if no queue is bound for it. A job has no such mark:
/// if its own queue is missing, it is returned to its publisher instead.
pub(super) const UNROUTED_HEADER: (&str, &str) = ("polyhook-unrouted", "keep");

/// A queue that holds jobs for a fixed time and then dead-letters them to the fetch queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DelayQueue {
    pub(super) name: ShortString,
    pub(super) delay: Duration,
}

/// The names of all exchanges and queues.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) events: ShortString,
    pub(super) conversations: ShortString,
    pub(super) fetch: ShortString,
    pub(super) dead: ShortString,
    /// Both the exchange and the queue behind it.
    pub(super) unrouted: ShortString,
    /// The exchange of tail events (`tail_publisher.rs`).
    pub(super) tail: ShortString,
    /// For jobs that failed. Shortest first.
    pub(super) delay_queues: Vec<DelayQueue>,
    /// For jobs that are published for later. They are queues of their own, because the number of jobs in the others shows
    /// failures. Shortest first.
    pub(super) refresh_queues: Vec<DelayQueue>,
}

impl Topology {
    pub(super) fn new(
        prefix: &str,
        delays: &[Duration],
        refresh_delays: &[Duration],
    ) -> Result<Self, OpenError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(fits) {
            return Err(OpenError::Prefix);
        }
        let name = |rest: &str| ShortString::from(format!("{prefix}.{rest}"));
        let delay_queues = |delays: &[Duration], word: &str| -> Vec<_> {
            let mut delays: Vec<_> = delays.iter().copied().map(whole_milliseconds).collect();
            delays.sort_unstable();
            delays.dedup();
            let queue = |delay| DelayQueue {
                name: name(&format!("fetch.retry.{word}{}", format_delay(delay))),
                delay,
            };
            delays.into_iter().map(queue).collect()
        };
        let delays = if delays.is_empty() { &[FALLBACK_DELAY] } else { delays };
        Ok(Self {
            events: name("events"),
            conversations: name("conversations"),
            fetch: name("fetch"),
            dead: name("dead"),
            unrouted: name("unrouted"),
            tail: name("tail"),
            delay_queues: delay_queues(delays, ""),
            refresh_queues: delay_queues(refresh_delays, REFRESH_WORD),
        })
    }

    /// Returns the shortest delay queue that is long enough for `after`, or else the longest one, and the message's own
    /// expiration in it. A quorum queue expires messages at its head only, so a message does not overtake earlier ones:
    /// it may wait longer than asked, up to the delay of the queue.
    pub(super) fn delay_queue(&self, after: Duration) -> Option<(&DelayQueue, Duration)> {
        shortest_sufficient(&self.delay_queues, after)
    }

    /// Does the same for a job that is published for later.
    pub(super) fn refresh_queue(&self, after: Duration) -> Option<(&DelayQueue, Duration)> {
        shortest_sufficient(&self.refresh_queues, after)
    }

    /// Declares everything. The error names the object and what to do.
    pub(super) async fn declare(&self, connection: &Connection) -> Result<(), String> {
        let any_missing = self.any_missing(&connection.channel().await?).await;
        let channel = &connection.channel().await?;
        for object in self.objects() {
            object.declare_or_explain(channel).await?;
        }
        if any_missing && let Err(error) = self.persist_last_queue(&connection.channel().await?).await {
            tracing::warn!(
                %error,
                "queues were declared, but the broker may forget the last one with its messages if it is killed within a second"
            );
        }
        let (name, value) = UNROUTED_HEADER;
        let marked = arguments(&[("x-match", long_string("any")), (name, long_string(value))]);
        self.bind(channel, &self.unrouted, &self.unrouted, "", marked).await?;
        self.bind_fetch(channel).await
    }

    /// Returns true if an object does not exist. Other errors are left to the declaration, which reports them. The channel
    /// may have ended afterwards.
    async fn any_missing(&self, channel: &Channel) -> bool {
        for object in self.objects() {
            if let Err(error) = object.inspect(channel).await {
                return matches!(error.kind(), ErrorKind::ProtocolError(answer) if answer.get_id() == 404);
            }
        }
        false
    }

    /// Makes the broker write down the queue that was declared last (see the [module](self)) by declaring and deleting
    /// another one. Its name begins like those of the delay queues, so that it needs no other permissions.
    async fn persist_last_queue(&self, channel: &Channel) -> lapin::Result<()> {
        let name = format!("{}.retry.seal{}", self.fetch, uuid::Uuid::new_v4().simple());
        let extra = TopologyObject::queue(&name.into(), &[("x-expires", EXTRA_QUEUE_EXPIRES_MS.into())]);
        extra.declare(channel).await?;
        channel.queue_delete(extra.name, QueueDeleteOptions::default()).await.map(drop)
    }

    /// Returns all exchanges and queues in an order in which they can be declared.
    pub(super) fn objects(&self) -> Vec<TopologyObject> {
        let alternate = arguments(&[("alternate-exchange", long_string(self.unrouted.as_str()))]);
        let never_dropped =
            |name| TopologyObject::queue(name, &[("x-delivery-limit", NO_DELIVERY_LIMIT.into())]);
        let mut objects = vec![
            TopologyObject::exchange(&self.unrouted, ExchangeKind::Headers, FieldTable::default()),
            never_dropped(&self.unrouted),
            TopologyObject::exchange(&self.events, ExchangeKind::Topic, alternate),
            self.tail_exchange(),
            TopologyObject::exchange(&self.conversations, ExchangeKind::Topic, FieldTable::default()),
            never_dropped(&self.dead),
            TopologyObject::queue(&self.fetch, &dead_lettered(&self.dead, FETCH_DELIVERY_LIMIT)),
        ];
        objects.extend(self.delay_queues.iter().chain(&self.refresh_queues).map(|queue| {
            let mut arguments = dead_lettered(&self.fetch, NO_DELIVERY_LIMIT);
            let ttl = i64::try_from(queue.delay.as_millis()).unwrap_or(i64::MAX);
            arguments.push(("x-message-ttl", ttl.into()));
            TopologyObject::queue(&queue.name, &arguments)
        }));
        objects
    }

    fn tail_exchange(&self) -> TopologyObject {
        TopologyObject::exchange(&self.tail, ExchangeKind::Topic, FieldTable::default())
    }

    /// Declares the exchange that a follower needs.
    pub(super) async fn declare_tail(&self, channel: &Channel) -> Result<(), String> {
        self.tail_exchange().declare_or_explain(channel).await
    }

    async fn bind_fetch(&self, channel: &Channel) -> Result<(), String> {
        for kind in [CONVERSATION_COMPLETED, CONVERSATION_DISCOVERED] {
            let key = format!("{kind}.#");
            self.bind(channel, &self.fetch, &self.events, &key, FieldTable::default()).await?;
        }
        Ok(())
    }

    /// Checks repeatedly that the fetch queue exists and is bound, and ends the connection if it does not. Without this
    /// check a missing queue may stay unnoticed, because a customer's own queue may take the events meanwhile.
    pub(super) async fn monitor(&self, connection: &Connection) {
        let reason = loop {
            match self.check_fetch_queue(connection).await {
                Ok(()) => {}
                Err(reason) => break reason,
            }
        };
        connection.fail(reason);
    }

    /// Ends a consuming connection to a node that is cut off: it would deliver no more jobs. The publishing connection and the
    /// consumer notice everything else.
    pub(super) async fn monitor_consumer(&self, connection: &Connection) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL * CHECKS_PER_BINDING).await;
            let check = async { self.bind_fetch(&connection.channel().await?).await };
            if timeout(CHECK_TIMEOUT, check).await.is_err() {
                connection.fail(cut_off(connection));
                return;
            }
        }
    }

    async fn check_fetch_queue(&self, connection: &Connection) -> Result<(), String> {
        let channel = connection.channel().await?;
        for check in 0.. {
            tokio::time::sleep(CHECK_INTERVAL).await;
            // A broker that is short of memory reads nothing from this connection.
            if connection.blocked().is_some() {
                continue;
            }
            match timeout(CHECK_TIMEOUT, self.check_once(&channel, check % CHECKS_PER_BINDING == 0)).await {
                Ok(result) => result?,
                Err(_) if connection.blocked().is_some() => {}
                Err(_) => return Err(cut_off(connection)),
            }
        }
        Ok(())
    }

    async fn check_once(&self, channel: &Channel, with_binding: bool) -> Result<(), String> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        if let Err(error) = channel.queue_declare(self.fetch.clone(), passive, FieldTable::default()).await {
            return Err(match error.kind() {
                ErrorKind::ProtocolError(answer) if answer.get_id() == 404 => {
                    format!("the queue `{}` is missing; it is declared again", self.fetch)
                }
                _ => format!("the queue `{}` cannot be checked: {error}", self.fetch),
            });
        }
        if with_binding { self.bind_fetch(channel).await } else { Ok(()) }
    }

    async fn bind(
        &self,
        channel: &Channel,
        queue: &ShortString,
        exchange: &ShortString,
        key: &str,
        arguments: FieldTable,
    ) -> Result<(), String> {
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.clone(), exchange.clone(), key.into(), options, arguments);
        bound.await.map_err(|error| explain(&error, "binding of queue", queue))
    }
}

/// An exchange or a queue with the properties it must have.
#[derive(Clone, Debug)]
pub(super) struct TopologyObject {
    pub(super) name: ShortString,
    /// `None` for a queue.
    exchange: Option<ExchangeKind>,
    arguments: FieldTable,
}

impl TopologyObject {
    fn exchange(name: &ShortString, kind: ExchangeKind, arguments: FieldTable) -> Self {
        Self { name: name.clone(), exchange: Some(kind), arguments }
    }

    pub(super) fn queue(name: &ShortString, more: &[(&'static str, AMQPValue)]) -> Self {
        let mut arguments = arguments(more);
        arguments.insert("x-queue-type".into(), long_string("quorum"));
        Self { name: name.clone(), exchange: None, arguments }
    }

    /// Returns `exchange` or `queue`.
    pub(super) fn object_type(&self) -> &'static str {
        if self.exchange.is_some() { "exchange" } else { "queue" }
    }

    /// Creates it, or verifies that it has the required properties. Returns the message and consumer counts of a queue.
    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<Option<Queue>> {
        self.declare_with(channel, false).await
    }

    /// Declares it and explains an error.
    async fn declare_or_explain(&self, channel: &Channel) -> Result<(), String> {
        self.declare(channel).await.map(drop).map_err(|error| explain(&error, self.object_type(), &self.name))
    }

    /// Verifies that it exists, with whatever properties. Creates nothing.
    pub(super) async fn inspect(&self, channel: &Channel) -> lapin::Result<Option<Queue>> {
        self.declare_with(channel, true).await
    }

    /// Declares it with an argument that the broker refuses (406), so that nothing is created. Before that the broker checks
    /// permissions: `configure`, and with all `arguments` also those for the exchange that they name.
    pub(super) async fn declare_invalid(&self, channel: &Channel, all_arguments: bool) -> lapin::Result<()> {
        let mut invalid = self.clone();
        if !all_arguments {
            invalid.arguments = FieldTable::default();
        }
        let argument = if self.exchange.is_some() { "alternate-exchange" } else { "x-message-ttl" };
        invalid.arguments.insert(argument.into(), (-1_i32).into());
        invalid.declare(channel).await.map(drop)
    }

    async fn declare_with(&self, channel: &Channel, passive: bool) -> lapin::Result<Option<Queue>> {
        let (name, arguments) = (self.name.clone(), self.arguments.clone());
        if let Some(kind) = self.exchange.clone() {
            let options =
                ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
            return channel.exchange_declare(name, kind, options, arguments).await.map(|()| None);
        }
        let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
        channel.queue_declare(name, options, arguments).await.map(Some)
    }
}

/// Returns the arguments of a queue that dead-letters to `queue` at least once: a message leaves only after it has arrived
/// there. This requires `reject-publish` (<https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering>).
fn dead_lettered(queue: &ShortString, delivery_limit: i64) -> Vec<(&'static str, AMQPValue)> {
    vec![
        ("x-delivery-limit", delivery_limit.into()),
        ("x-dead-letter-exchange", long_string("")),
        ("x-dead-letter-routing-key", long_string(queue.as_str())),
        ("x-dead-letter-strategy", long_string("at-least-once")),
        ("x-overflow", long_string("reject-publish")),
    ]
}

fn shortest_sufficient(queues: &[DelayQueue], after: Duration) -> Option<(&DelayQueue, Duration)> {
    let queue = queues.iter().find(|queue| queue.delay >= after).or(queues.last())?;
    Some((queue, whole_milliseconds(after).min(queue.delay)))
}

fn cut_off(connection: &Connection) -> String {
    format!(
        "{} does not answer within {CHECK_TIMEOUT:?}: is it frozen, or cut off from the majority of its cluster?",
        connection.node()
    )
}

fn arguments(pairs: &[(&'static str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn long_string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Formats a delay as in queue names: `10s`, `1m`, `1m30s`.
fn format_delay(wait: Duration) -> String {
    humantime::format_duration(wait).to_string().replace(' ', "")
}

fn whole_milliseconds(wait: Duration) -> Duration {
    // RabbitMQ accepts at most 100 years, in milliseconds; this stays below it.
    Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::from(u32::MAX)))
}

/// Explains an error of a declaration and says what to do.
fn explain(error: &lapin::Error, object_type: &str, name: &ShortString) -> String {
    let ErrorKind::ProtocolError(answer) = error.kind() else {
        return format!("the {object_type} `{name}` could not be declared: {error}");
    };
    let text = answer.get_message();
    match answer.get_id() {
        406 => format!(
            "the {object_type} `{name}` exists with other properties than ours ({text}): remove it once it is empty, or choose another queue.prefix"
        ),
        403 => format!(
            "the broker does not let us declare the {object_type} `{name}` ({text}): `polyhook doctor` names the permission that this role lacks; a missing queue of jobs can only be declared by a worker, so start one first"
        ),
        _ => format!("the {object_type} `{name}` could not be declared: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(delays: &[u64]) -> Vec<Duration> {
        delays.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn names_match_the_contract() {
        let delays = seconds(&[10, 60, 300, 1800, 7200, 21600, 90]);
        let topology = Topology::new("polyhook", &delays, &seconds(&[3600, 60])).unwrap();
        let names: Vec<_> = topology.delay_queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(
            names,
            ["10s", "1m", "1m30s", "5m", "30m", "2h", "6h"]
                .map(|wait| format!("polyhook.fetch.retry.{wait}"))
        );
        assert_eq!(topology.events.as_str(), "polyhook.events");
        let names: Vec<_> = topology.refresh_queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["polyhook.fetch.retry.refresh1m", "polyhook.fetch.retry.refresh1h"]);
    }

    #[test]
    fn chooses_the_shortest_delay_queue_that_is_long_enough() {
        let topology = Topology::new("p", &seconds(&[60, 10]), &[]).unwrap();
        for (after, delay, expiration) in
            [(0.0, 10, 0.001), (9.5, 10, 9.5), (10.0, 10, 10.0), (10.1, 60, 10.1), (999.0, 60, 60.0)]
        {
            let (found, found_expiration) = topology.delay_queue(Duration::from_secs_f64(after)).unwrap();
            assert_eq!(
                (found.delay.as_secs(), found_expiration.as_secs_f64()),
                (delay, expiration),
                "{after}"
            );
        }
    }

    #[test]
    fn has_one_delay_queue_without_retry_delays() {
        assert_eq!(Topology::new("p", &[], &[]).unwrap().delay_queues[0].name.as_str(), "p.fetch.retry.1m");
    }

    #[test]
    fn rejects_a_prefix_that_cannot_begin_a_name() {
        for prefix in ["", "a b", "a#", &"x".repeat(65)] {
            assert!(Topology::new(prefix, &[], &[]).is_err(), "{prefix}");
        }
    }
}
