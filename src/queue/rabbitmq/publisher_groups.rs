//! The groups of publishers that share one connection.
//!
//! RabbitMQ (seen with 3.10) confirms the messages of a channel in order: one unconfirmed message holds up all later
//! ones. A message that must not wait for another kind's queue therefore has channels of its own.
//!
//! | group | publishes | channels × unconfirmed messages | reason |
//! |---|---|---|---|
//! | `jobs` | deliveries that ask for a fetch | 1 × 512 | A customer's queue for other events must not keep a call from being durable. |
//! | `events` | all other deliveries | 1 × 512 | They may be routed to a customer's queue that confirms late or never. |
//! | `in_order` | deliveries from the spool | 1 × 128 | Only one channel keeps the order of arrival. |
//! | `announcements` | announcements | 4 × 1 | A customer's queue that confirms nothing must not hold up retries. |
//! | `jobs_again` | retries, dead letters, replays | 4 × 1 | One message at a time, so that a returned message is known exactly. |
//! | `tail` | tail events | 1 × 64 | They must not delay anything else ([`tail_publisher`]). |

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    connection::ConnectionState,
    publisher::{PublisherConfig, Publishers},
    tail_publisher,
    tasks::BackgroundTasks,
};

/// One task for each group of deliveries. With two, each would find half as many messages when it is woken, and waking is
/// the expensive part.
const JOBS: PublisherConfig = PublisherConfig { tasks: 1, window: 512, eager: true };
const EVENTS: PublisherConfig = PublisherConfig { eager: false, ..JOBS };
const IN_ORDER: PublisherConfig = PublisherConfig { tasks: 1, window: 128, eager: false };
/// A window of one makes it certain which message was returned.
const ONE_AT_A_TIME: PublisherConfig = PublisherConfig { tasks: 4, window: 1, eager: false };

/// All groups but `tail`; see the [module](self).
#[derive(Debug)]
pub(super) struct PublisherGroups {
    pub(super) jobs: Publishers,
    pub(super) events: Publishers,
    pub(super) in_order: Publishers,
    pub(super) announcements: Publishers,
    pub(super) jobs_again: Arc<Publishers>,
}

impl PublisherGroups {
    /// Starts the tasks of all groups. Returns the group for tail events separately.
    pub(super) fn start(
        state: &watch::Receiver<ConnectionState>,
        tasks: &BackgroundTasks,
    ) -> (Self, Publishers) {
        let start = |config| {
            let (publishers, publisher_tasks) = Publishers::new(config, state, &tasks.closing);
            for publisher in publisher_tasks {
                tasks.spawn_user("queue publisher", publisher.run());
            }
            publishers
        };
        let groups = Self {
            jobs: start(JOBS),
            events: start(EVENTS),
            in_order: start(IN_ORDER),
            announcements: start(ONE_AT_A_TIME),
            jobs_again: Arc::new(start(ONE_AT_A_TIME)),
        };
        (groups, start(tail_publisher::CONFIG))
    }
}
