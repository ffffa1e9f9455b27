//! The callers of a publisher task that wait for the broker's confirms.
//!
//! Every caller gets exactly one reply: when its message is confirmed, rejected or returned, or when the task gives up the
//! channel.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::confirm::{Confirm, ConfirmResult};
use crate::queue::QueueError;

/// The broker's answer to a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublishResult {
    /// Every queue it was routed to has it.
    Stored,
    /// It was routed to no queue. With a window over one: this message or a neighbour was.
    Returned,
}

/// The reply to the caller of a publish request.
pub(super) type Reply = Result<PublishResult, QueueError>;

/// The callers that wait for a reply, by the number of their message on this channel.
#[derive(Default)]
pub(super) struct PendingReplies {
    by_number: HashMap<u64, (oneshot::Sender<Reply>, Instant)>,
    last_number: u64,
    /// The broker has rejected a message on this channel.
    pub(super) any_rejected: bool,
}

impl PendingReplies {
    /// Adds a caller and returns the number of its message.
    pub(super) fn add(&mut self, reply: oneshot::Sender<Reply>) -> u64 {
        self.last_number += 1;
        self.by_number.insert(self.last_number, (reply, Instant::now()));
        self.last_number
    }

    pub(super) fn oldest_age(&self) -> Option<Duration> {
        self.by_number.values().map(|(_, since)| since.elapsed()).max()
    }

    /// Answers the callers of completed messages. Returns an error if the channel has ended.
    pub(super) fn answer(&mut self, completed: Vec<ConfirmResult>) -> Result<(), String> {
        if completed.iter().any(|result| result.with_returned_message) {
            for (_, (reply, _)) in self.by_number.drain() {
                let _ = reply.send(Ok(PublishResult::Returned));
            }
        }
        let mut channel = Ok(());
        for ConfirmResult { number, confirm, .. } in completed {
            let result = match confirm {
                Confirm::Ack => Ok(PublishResult::Stored),
                Confirm::Nack => {
                    self.any_rejected = true;
                    Err(QueueError::Refused(
                        "a queue is full or cannot store it (see the broker's log)".to_owned(),
                    ))
                }
                Confirm::NotRequested => Err(QueueError::Refused(
                    "the channel is not in confirm mode; this is a bug in polyhook, please report it"
                        .to_owned(),
                )),
                Confirm::Lost(error) => {
                    channel = Err(format!("a publishing channel ended: {error}"));
                    Err(QueueError::Unavailable(format!("the connection to the broker was lost: {error}")))
                }
            };
            if let Some((reply, _)) = self.by_number.remove(&number) {
                let _ = reply.send(result);
            }
        }
        channel
    }

    pub(super) fn fail_all(&mut self, error: &QueueError) {
        for (_, (reply, _)) in self.by_number.drain() {
            let _ = reply.send(Err(error.clone()));
        }
    }
}
