//! The messages of one channel that are not confirmed yet, and the callers that wait for them.
//!
//! Every caller gets exactly one reply: when its message is confirmed, rejected or returned, or when the task gives up the
//! channel.
//!
//! Only the oldest message wakes the task. RabbitMQ confirms many messages at once, and mostly in order, so one wake-up
//! serves all of them; a wake-up for each would cost more than everything else. [`Unconfirmed::reply_to_completed`] finds
//! messages that were confirmed before an older one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
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

/// The unconfirmed messages of a channel, oldest first. `F` publishes a message and reads its confirm.
pub(super) struct Unconfirmed<F> {
    messages: VecDeque<Message<F>>,
    /// The broker has rejected a message on this channel.
    pub(super) any_rejected: bool,
}

struct Message<F> {
    publishing: Pin<Box<F>>,
    /// The result, until [`Unconfirmed::reply_to_completed`] has reported it.
    result: Option<ConfirmResult>,
    sent_at: Instant,
    /// Empty once the caller has its reply.
    reply: Option<oneshot::Sender<Reply>>,
}

impl<F: Future<Output = ConfirmResult>> Unconfirmed<F> {
    pub(super) fn new() -> Self {
        Self { messages: VecDeque::new(), any_rejected: false }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: F, reply: oneshot::Sender<Reply>) {
        let mut message = Message {
            publishing: Box::pin(message),
            result: None,
            sent_at: Instant::now(),
            reply: Some(reply),
        };
        message.poll(&mut Context::from_waker(Waker::noop()));
        self.messages.push_back(message);
    }

    /// Waits until the oldest message has completed. Never ends without messages.
    pub(super) async fn oldest_completed(&mut self) {
        poll_fn(|context| {
            let completed = self.messages.front_mut().is_some_and(|oldest| oldest.poll(context));
            if completed { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Answers the callers of all messages that have completed. Returns an error if the channel has ended.
    pub(super) fn reply_to_completed(&mut self) -> Result<(), String> {
        // A returned message comes with the next confirm, which may be that of any message. So everything that has
        // completed is known before anyone gets a reply.
        let mut any_returned = false;
        for message in &mut self.messages {
            message.poll(&mut Context::from_waker(Waker::noop()));
            any_returned |= message.result.as_ref().is_some_and(|result| result.with_returned_message);
        }
        let mut channel = Ok(());
        self.messages.retain_mut(|message| {
            if any_returned {
                message.reply(Ok(PublishResult::Returned));
            }
            let Some(ConfirmResult { confirm, .. }) = message.result.take() else { return true };
            self.any_rejected |= matches!(confirm, Confirm::Nack);
            if let Confirm::Lost(error) = &confirm {
                channel = Err(format!("a publishing channel ended: {error}"));
            }
            message.reply(reply_for(&confirm));
            false
        });
        channel
    }

    /// Returns the age of the oldest message whose caller still waits.
    pub(super) fn oldest_age(&self) -> Option<Duration> {
        self.messages.iter().find(|message| message.reply.is_some()).map(|message| message.sent_at.elapsed())
    }

    pub(super) fn fail_all(&mut self, error: &QueueError) {
        for message in &mut self.messages {
            message.reply(Err(error.clone()));
        }
    }
}

impl<F: Future<Output = ConfirmResult>> Message<F> {
    /// Returns whether the message has completed.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        if self.result.is_none()
            && let Poll::Ready(result) = self.publishing.as_mut().poll(context)
        {
            self.result = Some(result);
        }
        self.result.is_some()
    }

    /// Answers the caller, unless it has its reply.
    fn reply(&mut self, reply: Reply) {
        if let Some(caller) = self.reply.take() {
            // Fails if the caller has stopped waiting.
            let _ = caller.send(reply);
        }
    }
}

fn reply_for(confirm: &Confirm) -> Reply {
    match confirm {
        Confirm::Ack => Ok(PublishResult::Stored),
        Confirm::Nack => {
            Err(QueueError::Refused("a queue is full or cannot store it (see the broker's log)".to_owned()))
        }
        Confirm::NotRequested => Err(QueueError::Refused(
            "the channel is not in confirm mode; this is a bug in polyhook, please report it".to_owned(),
        )),
        Confirm::Lost(error) => {
            Err(QueueError::Unavailable(format!("the connection to the broker was lost: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::future::{BoxFuture, FutureExt};

    use super::*;

    fn confirmed(confirm: Confirm, with_returned_message: bool) -> BoxFuture<'static, ConfirmResult> {
        ready(ConfirmResult { with_returned_message, confirm }).boxed()
    }

    fn send(
        unconfirmed: &mut Unconfirmed<BoxFuture<'static, ConfirmResult>>,
        message: BoxFuture<'static, ConfirmResult>,
    ) -> oneshot::Receiver<Reply> {
        let (reply, caller) = oneshot::channel();
        unconfirmed.send(message, reply);
        caller
    }

    #[test]
    fn answers_a_message_that_was_confirmed_before_an_older_one() {
        let mut unconfirmed = Unconfirmed::new();
        let mut stuck = send(&mut unconfirmed, std::future::pending().boxed());
        let mut stored = send(&mut unconfirmed, confirmed(Confirm::Ack, false));
        let mut rejected = send(&mut unconfirmed, confirmed(Confirm::Nack, false));
        assert_eq!(unconfirmed.reply_to_completed(), Ok(()));
        assert_eq!(stored.try_recv().unwrap().unwrap(), PublishResult::Stored);
        assert!(matches!(rejected.try_recv().unwrap(), Err(QueueError::Refused(_))));
        assert!(stuck.try_recv().is_err() && unconfirmed.any_rejected);
        assert_eq!(unconfirmed.len(), 1, "only the stuck one takes a place in the window");
        unconfirmed.fail_all(&QueueError::Closed);
        assert!(matches!(stuck.try_recv().unwrap(), Err(QueueError::Closed)));
    }

    /// lapin attaches a returned message to any of the confirms.
    #[test]
    fn a_returned_message_fails_all_unanswered_ones() {
        let mut unconfirmed = Unconfirmed::new();
        let mut callers = [
            send(&mut unconfirmed, confirmed(Confirm::Ack, false)),
            send(&mut unconfirmed, std::future::pending().boxed()),
            send(&mut unconfirmed, confirmed(Confirm::Ack, true)),
        ];
        assert_eq!(unconfirmed.reply_to_completed(), Ok(()));
        for caller in &mut callers {
            assert_eq!(caller.try_recv().unwrap().unwrap(), PublishResult::Returned);
        }
    }

    #[tokio::test]
    async fn reports_the_end_of_the_channel() {
        let mut unconfirmed = Unconfirmed::new();
        let lost = send(&mut unconfirmed, confirmed(Confirm::Lost("closed".to_owned()), false));
        unconfirmed.oldest_completed().await;
        assert!(unconfirmed.reply_to_completed().unwrap_err().contains("closed"));
        assert!(matches!(lost.await.unwrap(), Err(QueueError::Unavailable(_))));
        assert!(unconfirmed.is_empty());
    }
}
