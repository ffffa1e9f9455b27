//! The exchanges and queues, by name and argument.
//!
//! Declared on every connect, which changes nothing where they are right. What a customer's own workers
//! bind to (`events`, `conversations`) is here too, so that either side may start first. Works from
//! RabbitMQ 3.10 to 4.x: quorum queues whose delivery limit is always said, because 4.x has a default of 20
//! and drops what exceeds it.
//!
//! # The queue that was made last
//!
//! RabbitMQ keeps the names of a node's quorum queues in a table on disk (Ra's `ra_directory`, in `names.dets`), and writes a
//! new name down when the next queue is made, or half a second to a second later. A node that is killed before has forgotten the
//! queue it made last: it comes back empty, *whatever was confirmed*, and where the node is alone it never elects a leader, so
//! that nothing can be published or taken until somebody calls `ra:trigger_election` (docs/runbook.md). Seen with 3.10.8 in every
//! one of 14 kills up to 0.7 s after the queue was made and in none of 30 from 1.25 s on; in 4.x the table is written in the same
//! way. So who has made a queue makes another one after it, and deletes that: [`Topology::seal`]. Seen in none of 12 kills then.

use std::time::Duration;

use lapin::{
    Channel, ErrorKind, ExchangeKind, Queue,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{OpenError, connection::Session};
use crate::event::{CONVERSATION_COMPLETED, CONVERSATION_DISCOVERED};

/// How often a job may be lost by dying workers and connections before it is a dead letter.
const FETCH_DELIVERY_LIMIT: i64 = 100;
/// Where nothing may be dropped, however often somebody looks at it. 3.10 does not take -1.
const NO_DELIVERY_LIMIT: i64 = 2_000_000_000;
/// The wait for jobs that ask for one while the ladder has no rungs.
const ONLY_RUNG: Duration = Duration::from_mins(1);
const LONGEST_PREFIX: usize = 64;
/// How often it is looked whether the fetch queue is there, and after how many looks it is bound again.
const LOOK: Duration = Duration::from_secs(1);
const BIND_EVERY: u32 = 10;
/// If we come to an end before we have deleted it.
const SEAL_EXPIRES_MS: i32 = 60_000;

/// Marks an event that asks for nothing and may stay in `unrouted` where nobody has bound a queue for it. A job
/// has no such mark: where its own queue is missing it comes back to its publisher instead.
pub(super) const UNROUTED_HEADER: (&str, &str) = ("polyhook-unrouted", "keep");

/// A queue that holds jobs for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rung {
    pub(super) queue: ShortString,
    pub(super) wait: Duration,
}

/// All names.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) events: ShortString,
    pub(super) conversations: ShortString,
    pub(super) fetch: ShortString,
    pub(super) dead: ShortString,
    /// Both the exchange and the queue behind it.
    pub(super) unrouted: ShortString,
    /// Where it is told what happened (`notes.rs`).
    pub(super) tail: ShortString,
    /// Shortest first.
    pub(super) rungs: Vec<Rung>,
}

impl Topology {
    pub(super) fn new(prefix: &str, delays: &[Duration]) -> Result<Self, OpenError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if prefix.is_empty() || prefix.len() > LONGEST_PREFIX || !prefix.chars().all(fits) {
            return Err(OpenError::Prefix);
        }
        let name = |rest: &str| ShortString::from(format!("{prefix}.{rest}"));
        let mut delays: Vec<_> = delays.iter().copied().map(whole_milliseconds).collect();
        if delays.is_empty() {
            delays.push(ONLY_RUNG);
        }
        delays.sort_unstable();
        delays.dedup();
        let rungs = delays
            .into_iter()
            .map(|wait| Rung { queue: name(&format!("fetch.retry.{}", written(wait))), wait })
            .collect();
        Ok(Self {
            events: name("events"),
            conversations: name("conversations"),
            fetch: name("fetch"),
            dead: name("dead"),
            unrouted: name("unrouted"),
            tail: name("tail"),
            rungs,
        })
    }

    /// The shortest rung that is long enough for `after`, or the longest there is; and how long the
    /// message may stay in it. A message does not overtake those that came into the rung before it, so it
    /// may wait longer than asked, up to the rung's own length.
    pub(super) fn rung(&self, after: Duration) -> Option<(&Rung, Duration)> {
        let rung = self.rungs.iter().find(|rung| rung.wait >= after).or(self.rungs.last())?;
        Some((rung, whole_milliseconds(after).min(rung.wait)))
    }

    /// Declares everything. The error names the object and what to do.
    pub(super) async fn declare(&self, session: &Session) -> Result<(), String> {
        let is_missing = self.is_missing(&session.channel().await?).await;
        let channel = &session.channel().await?;
        for object in self.objects() {
            object.made(channel).await?;
        }
        if is_missing && let Err(error) = self.seal(&session.channel().await?).await {
            tracing::warn!(
                %error,
                "queues were made; should the broker be killed within a second, it may forget one of them with what is in it"
            );
        }
        let (name, value) = UNROUTED_HEADER;
        let marked = arguments(&[("x-match", long_string("any")), (name, long_string(value))]);
        self.bind(channel, &self.unrouted, &self.unrouted, "", marked).await?;
        // The channel is the caller's to drop, which closes it.
        self.bind_fetch(channel).await
    }

    /// Whether something will have to be made. Where that cannot be told the declaration will say why. The channel may have
    /// ended then.
    async fn is_missing(&self, channel: &Channel) -> bool {
        for object in self.objects() {
            if let Err(error) = object.look(channel).await {
                return matches!(error.kind(), ErrorKind::ProtocolError(said) if said.get_id() == 404);
            }
        }
        false
    }

    /// Makes the broker remember what was made last (see the [module](self)). Called like a rung, so that whoever may make those
    /// may make this.
    async fn seal(&self, channel: &Channel) -> lapin::Result<()> {
        let name = format!("{}.retry.seal{}", self.fetch, uuid::Uuid::new_v4().simple());
        let seal = Object::queue(&name.into(), &[("x-expires", SEAL_EXPIRES_MS.into())]);
        seal.declare(channel).await?;
        channel.queue_delete(seal.name, QueueDeleteOptions::default()).await.map(drop)
    }

    /// Everything but the bindings, in an order in which it can be declared.
    pub(super) fn objects(&self) -> Vec<Object> {
        let alternate = arguments(&[("alternate-exchange", long_string(self.unrouted.as_str()))]);
        let kept = |name| Object::queue(name, &[("x-delivery-limit", NO_DELIVERY_LIMIT.into())]);
        let mut objects = vec![
            Object::exchange(&self.unrouted, ExchangeKind::Headers, FieldTable::default()),
            kept(&self.unrouted),
            Object::exchange(&self.events, ExchangeKind::Topic, alternate),
            self.told_in(),
            Object::exchange(&self.conversations, ExchangeKind::Topic, FieldTable::default()),
            kept(&self.dead),
            Object::queue(&self.fetch, &dead_lettered(&self.dead, FETCH_DELIVERY_LIMIT)),
        ];
        objects.extend(self.rungs.iter().map(|rung| {
            let mut arguments = dead_lettered(&self.fetch, NO_DELIVERY_LIMIT);
            let wait = i64::try_from(rung.wait.as_millis()).unwrap_or(i64::MAX);
            arguments.push(("x-message-ttl", wait.into()));
            Object::queue(&rung.queue, &arguments)
        }));
        objects
    }

    fn told_in(&self) -> Object {
        Object::exchange(&self.tail, ExchangeKind::Topic, FieldTable::default())
    }

    /// Declares what a follower needs.
    pub(super) async fn declare_tail(&self, channel: &Channel) -> Result<(), String> {
        self.told_in().made(channel).await
    }

    async fn bind_fetch(&self, channel: &Channel) -> Result<(), String> {
        for kind in [CONVERSATION_COMPLETED, CONVERSATION_DISCOVERED] {
            let key = format!("{kind}.#");
            self.bind(channel, &self.fetch, &self.events, &key, FieldTable::default()).await?;
        }
        Ok(())
    }

    /// Looks again and again whether jobs still have their queue, and ends the session where they have not: a
    /// customer's own queue may take them meanwhile, and then nothing else would tell that we miss them.
    pub(super) async fn look_after(&self, session: &Session) {
        let reason = loop {
            match self.look(session).await {
                Ok(()) => {}
                Err(reason) => break reason,
            }
        };
        session.fail(reason);
    }

    async fn look(&self, session: &Session) -> Result<(), String> {
        let channel = session.channel().await?;
        for turn in 0.. {
            tokio::time::sleep(LOOK).await;
            // A broker that is short of memory reads nothing from us.
            if session.blocked().is_some() {
                continue;
            }
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            if let Err(error) =
                channel.queue_declare(self.fetch.clone(), passive, FieldTable::default()).await
            {
                return Err(match error.kind() {
                    ErrorKind::ProtocolError(said) if said.get_id() == 404 => {
                        format!("the queue `{}` is gone; it is declared again", self.fetch)
                    }
                    _ => format!("the queue `{}` cannot be looked at: {error}", self.fetch),
                });
            }
            if turn % BIND_EVERY == 0 {
                self.bind_fetch(&channel).await?;
            }
        }
        Ok(())
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

/// An exchange (which has a kind) or a queue, as it has to be.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) name: ShortString,
    exchange: Option<ExchangeKind>,
    arguments: FieldTable,
}

impl Object {
    fn exchange(name: &ShortString, kind: ExchangeKind, arguments: FieldTable) -> Self {
        Self { name: name.clone(), exchange: Some(kind), arguments }
    }

    fn queue(name: &ShortString, more: &[(&'static str, AMQPValue)]) -> Self {
        let mut arguments = arguments(more);
        arguments.insert("x-queue-type".into(), long_string("quorum"));
        Self { name: name.clone(), exchange: None, arguments }
    }

    /// `exchange` or `queue`
    pub(super) fn what(&self) -> &'static str {
        if self.exchange.is_some() { "exchange" } else { "queue" }
    }

    /// Makes it, or sees that it is as it has to be. Of a queue: how many messages and consumers it has.
    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<Option<Queue>> {
        self.ask(channel, false).await
    }

    /// The same, with the error in words.
    async fn made(&self, channel: &Channel) -> Result<(), String> {
        self.declare(channel).await.map(drop).map_err(|error| explain(&error, self.what(), &self.name))
    }

    /// Sees that it is there, whatever it is like.
    pub(super) async fn look(&self, channel: &Channel) -> lapin::Result<Option<Queue>> {
        self.ask(channel, true).await
    }

    async fn ask(&self, channel: &Channel, passive: bool) -> lapin::Result<Option<Queue>> {
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

/// Dead letters go to `queue`, and leave only when they have arrived there (at-least-once, which asks for
/// `reject-publish`: <https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering>).
fn dead_lettered(queue: &ShortString, delivery_limit: i64) -> Vec<(&'static str, AMQPValue)> {
    vec![
        ("x-delivery-limit", delivery_limit.into()),
        ("x-dead-letter-exchange", long_string("")),
        ("x-dead-letter-routing-key", long_string(queue.as_str())),
        ("x-dead-letter-strategy", long_string("at-least-once")),
        ("x-overflow", long_string("reject-publish")),
    ]
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

/// `10s`, `1m`, `1m30s`
fn written(wait: Duration) -> String {
    humantime::format_duration(wait).to_string().replace(' ', "")
}

fn whole_milliseconds(wait: Duration) -> Duration {
    // RabbitMQ takes no more than a hundred years; nor should we.
    Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::from(u32::MAX)))
}

pub(super) fn explain(error: &lapin::Error, what: &str, name: &ShortString) -> String {
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return format!("the {what} `{name}` could not be declared: {error}");
    };
    let text = said.get_message();
    match said.get_id() {
        406 => format!(
            "the {what} `{name}` exists with other properties than ours ({text}): remove it once it is empty, or choose another queue.prefix"
        ),
        403 => format!(
            "the broker does not let us declare the {what} `{name}` ({text}): grant the user configure, write and read on everything that begins with queue.prefix"
        ),
        _ => format!("the {what} `{name}` could not be declared: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(delays: &[u64]) -> Vec<Duration> {
        delays.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let topology = Topology::new("polyhook", &seconds(&[10, 60, 300, 1800, 7200, 21600, 90])).unwrap();
        let rungs: Vec<_> = topology.rungs.iter().map(|rung| rung.queue.as_str()).collect();
        assert_eq!(
            rungs,
            ["10s", "1m", "1m30s", "5m", "30m", "2h", "6h"]
                .map(|wait| format!("polyhook.fetch.retry.{wait}"))
        );
        assert_eq!(topology.events.as_str(), "polyhook.events");
    }

    #[test]
    fn a_wait_gets_the_rung_that_is_long_enough() {
        let topology = Topology::new("p", &seconds(&[60, 10])).unwrap();
        for (after, rung, stay) in
            [(0.0, 10, 0.001), (9.5, 10, 9.5), (10.0, 10, 10.0), (10.1, 60, 10.1), (999.0, 60, 60.0)]
        {
            let (found, found_stay) = topology.rung(Duration::from_secs_f64(after)).unwrap();
            assert_eq!((found.wait.as_secs(), found_stay.as_secs_f64()), (rung, stay), "{after}");
        }
    }

    #[test]
    fn without_a_ladder_there_is_one_rung() {
        assert_eq!(Topology::new("p", &[]).unwrap().rungs[0].queue.as_str(), "p.fetch.retry.1m");
    }

    #[test]
    fn a_prefix_that_fits_no_name_is_an_error() {
        for prefix in ["", "a b", "a#", &"x".repeat(65)] {
            assert!(Topology::new(prefix, &[]).is_err(), "{prefix}");
        }
    }
}
