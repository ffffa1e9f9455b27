//! The permissions that each user of the broker needs, and a check of them that changes nothing.
//!
//! RabbitMQ shows permissions to administrators only. So each permission is tested with a request that needs it, but has no
//! effect. The broker checks permissions before anything else.
//!
//! | permission | request |
//! |---|---|
//! | configure | a declaration with an invalid argument |
//! | write | the removal of a binding that does not exist, for its destination |
//! | read (exchange) | the same, for its source |
//! | read (queue) | a consumer with an invalid argument |
//!
//! `write` on the default exchange is tested by the round trip of the [probe](super::probe).

use lapin::{
    Connection,
    options::{BasicConsumeOptions, BasicQosOptions, ExchangeUnbindOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    request::{BrokerError, with_channel},
    topology::{Topology, TopologyObject},
};

/// A routing key that no binding has.
const UNUSED_KEY: &str = "polyhook.doctor.nothing";
/// The name of the default exchange in permissions.
pub(super) const DEFAULT_EXCHANGE: &str = "amq.default";

/// A user of the broker, by what it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerUser {
    /// Publishes events and declares everything: receivers and reconciliation.
    Publisher,
    /// Consumes jobs, too.
    Worker,
    /// Reads dead letters and tail events instead: a console that changes nothing.
    Viewer,
    /// Also replays, drops and erases: the commands of an operator, and a console with `allow_replay`.
    Operator,
    /// A worker whose process also serves the console.
    WorkerWithConsole,
}

/// A permission in RabbitMQ's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    Configure,
    Write,
    Read,
}

impl Permission {
    const ALL: [Self; 3] = [Self::Configure, Self::Write, Self::Read];

    fn label(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A permission that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPermission {
    /// `configure`, `write` or `read`.
    pub permission: &'static str,
    /// The exchange or queue.
    pub object: String,
}

impl MissingPermission {
    /// Returns the permission for `object`, which is missing.
    pub(super) fn new(permission: Permission, object: &str) -> Self {
        Self { permission: permission.label(), object: object.to_owned() }
    }
}

/// An exchange, a queue, or a group of queues. [`Resource::Unrouted`] is both an exchange and a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Events,
    Conversations,
    Tail,
    Unrouted,
    Dead,
    Fetch,
    /// The queues of delayed jobs.
    Delays,
    /// The queues of followers of the tail.
    Followers,
    DefaultExchange,
}

use Resource::{Conversations, Dead, DefaultExchange, Delays, Events, Fetch, Followers, Tail, Unrouted};

impl BrokerUser {
    /// Returns the resources for which the user needs a permission.
    ///
    /// Everyone declares and binds everything at each connection: for a binding, the queue needs `write` and the exchange
    /// `read`. Only workers can declare queues that do not exist yet and that dead-letter, because this needs `read` on them.
    fn resources(self, permission: Permission) -> impl Iterator<Item = Resource> {
        let everyone: &[_] = match permission {
            Permission::Configure => &[Events, Conversations, Tail, Unrouted, Dead, Fetch, Delays],
            Permission::Write => &[Events, Tail, Unrouted, Fetch],
            Permission::Read => &[Events, Unrouted],
        };
        let more: &[_] = match (self, permission) {
            (Self::Publisher, _) | (Self::Worker, Permission::Configure) => &[],
            (Self::Worker, Permission::Write) => &[Conversations, DefaultExchange],
            (Self::Worker, Permission::Read) => &[Fetch, Delays],
            (Self::Viewer, Permission::Configure | Permission::Write)
            | (Self::Operator | Self::WorkerWithConsole, Permission::Configure) => &[Followers],
            (Self::Operator | Self::WorkerWithConsole, Permission::Write) => {
                &[Conversations, Followers, DefaultExchange]
            }
            (Self::Viewer | Self::Operator, Permission::Read) => &[Tail, Dead, Followers],
            (Self::WorkerWithConsole, Permission::Read) => &[Fetch, Delays, Tail, Dead, Followers],
        };
        everyone.iter().chain(more).copied()
    }

    /// Returns whether the user publishes to queues by their name.
    pub(super) fn needs_default_exchange(self) -> bool {
        self.resources(Permission::Write).any(|resource| resource == DefaultExchange)
    }

    /// Returns the patterns for `rabbitmqctl set_permissions` that grant exactly what the user needs: configure, write, read.
    pub fn patterns(self, prefix: &str) -> [String; 3] {
        let prefix = prefix.replace('.', r"\.");
        Permission::ALL.map(|permission| {
            let needed: Vec<_> = self.resources(permission).collect();
            let names: Vec<_> = needed.iter().filter_map(|resource| resource.pattern()).collect();
            let ours = format!(r"{prefix}\.({})", names.join("|"));
            if needed.contains(&DefaultExchange) {
                format!(r"^({ours}|amq\.default)$")
            } else {
                format!("^{ours}$")
            }
        })
    }
}

impl Resource {
    /// Returns the pattern of the name after the prefix. None for the default exchange.
    fn pattern(self) -> Option<&'static str> {
        Some(match self {
            Events => "events",
            Conversations => "conversations",
            Tail => "tail",
            Unrouted => "unrouted",
            Dead => "dead",
            Fetch => "fetch",
            Delays => r"fetch\.retry\.[0-9a-z]+",
            Followers => r"tail\.[0-9a-f]+",
            DefaultExchange => return None,
        })
    }

    /// Returns the objects of the resource that a test of `permission` uses. `follower` is the name of a follower's queue.
    fn objects(self, topology: &Topology, follower: &ShortString, permission: Permission) -> Vec<Object> {
        let exchange = |name: &ShortString| vec![Object { name: name.clone(), is_exchange: true }];
        let queue = |name: &ShortString| vec![Object { name: name.clone(), is_exchange: false }];
        match self {
            Events => exchange(&topology.events),
            Conversations => exchange(&topology.conversations),
            Tail => exchange(&topology.tail),
            // The queue is bound to the exchange of the same name.
            Unrouted if permission == Permission::Read => exchange(&topology.unrouted),
            Unrouted => queue(&topology.unrouted),
            Dead => queue(&topology.dead),
            Fetch => queue(&topology.fetch),
            Delays => {
                let queues = topology.delay_queues.iter().chain(&topology.refresh_queues);
                queues.flat_map(|delayed| queue(&delayed.name)).collect()
            }
            Followers => queue(follower),
            DefaultExchange => Vec::new(),
        }
    }
}

/// An exchange or a queue. It does not have to exist.
#[derive(Clone, Debug)]
struct Object {
    name: ShortString,
    is_exchange: bool,
}

impl Object {
    /// Returns whether the broker refused the request because of a permission for this object.
    fn is_denied<T>(&self, result: &Result<T, BrokerError>) -> bool {
        let object_type = if self.is_exchange { "exchange" } else { "queue" };
        // A request may need permissions for two objects. The broker names the one whose permission is missing.
        let named = format!("{object_type} '{}' in vhost", self.name);
        matches!(result, Err(BrokerError { code: Some(403), text }) if text.contains(&named))
    }

    async fn may_not_configure(&self, connection: &Connection) -> bool {
        let queue = TopologyObject::queue(&self.name, &[]);
        self.is_denied(
            &with_channel(connection, async |channel| queue.declare_invalid(channel, false).await).await,
        )
    }

    async fn may_not_write(&self, connection: &Connection, topology: &Topology) -> bool {
        let source = if self.name == topology.events { &topology.tail } else { &topology.events };
        self.is_denied(&self.unbind_from(connection, source).await)
    }

    /// `writable` are objects that the user may write. Without one, the permission cannot be tested.
    async fn may_not_read(&self, connection: &Connection, writable: &[Self]) -> bool {
        if !self.is_exchange {
            return self.is_denied(&self.consume_invalid(connection).await);
        }
        let Some(to) = writable.iter().find(|to| to.name != self.name) else { return false };
        self.is_denied(&to.unbind_from(connection, &self.name).await)
    }

    /// Removes a binding that does not exist.
    async fn unbind_from(&self, connection: &Connection, source: &ShortString) -> Result<(), BrokerError> {
        let (name, source, key) = (self.name.clone(), source.clone(), UNUSED_KEY.into());
        with_channel(connection, async |channel| {
            if self.is_exchange {
                let options = ExchangeUnbindOptions::default();
                channel.exchange_unbind(name, source, key, options, FieldTable::default()).await
            } else {
                channel.queue_unbind(name, source, key, FieldTable::default()).await
            }
        })
        .await
    }

    /// Starts a consumer that the broker refuses.
    async fn consume_invalid(&self, connection: &Connection) -> Result<(), BrokerError> {
        with_channel(connection, async |channel| {
            // A broker that accepted the argument would send one message, which returns to the queue with the channel.
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-priority".into(), AMQPValue::LongString("none".into()));
            let options = BasicConsumeOptions::default();
            channel.basic_consume(self.name.clone(), "".into(), options, arguments).await.map(drop)
        })
        .await
    }
}

/// Returns the `write` and `read` permissions that the user needs and lacks, and `configure` for a follower's queue. The
/// declarations of the [probe](super::probe) show what else the user may not configure.
pub(super) async fn missing(
    connection: &Connection,
    topology: &Topology,
    follower: &ShortString,
    user: BrokerUser,
) -> Vec<MissingPermission> {
    let (mut missing, mut writable) = (Vec::new(), Vec::new());
    for permission in Permission::ALL {
        for object in user.resources(permission).flat_map(|each| each.objects(topology, follower, permission))
        {
            let denied = match permission {
                Permission::Configure => {
                    object.name == *follower && object.may_not_configure(connection).await
                }
                Permission::Write => object.may_not_write(connection, topology).await,
                Permission::Read => object.may_not_read(connection, &writable).await,
            };
            if denied {
                missing.push(MissingPermission::new(permission, object.name.as_str()));
            } else if permission == Permission::Write {
                writable.push(object);
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_a_console_may_what_both_may() {
        for permission in Permission::ALL {
            let of = |user: BrokerUser| user.resources(permission).collect::<Vec<_>>();
            let both = of(BrokerUser::WorkerWithConsole);
            for user in [BrokerUser::Worker, BrokerUser::Viewer, BrokerUser::Operator] {
                assert!(of(user).iter().all(|needed| both.contains(needed)), "{permission:?} of {user:?}");
            }
        }
    }
}
