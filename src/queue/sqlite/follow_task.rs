//! A thread that follows a queue file and sends what it finds.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Follower;
use crate::queue::TailMessage;

/// Time between two reads of the file.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two reads after an error.
const ERROR_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// After a read with more events than this, the next read follows at once.
const BUSY_EVENTS: usize = 1000;
/// Events that wait for the receiver before the thread pauses.
const CHANNEL_CAPACITY: usize = 1024;

impl Follower {
    /// Starts a thread that reads the file. The thread ends when the returned receiver is dropped. An error of the file does
    /// not end it, and is sent once.
    pub fn start(self) -> mpsc::Receiver<TailMessage> {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        tokio::task::spawn_blocking(move || send_events(self, &sender));
        receiver
    }
}

fn send_events(mut follower: Follower, sender: &mpsc::Sender<TailMessage>) {
    let mut last_error = None;
    while !sender.is_closed() {
        let (messages, wait) = match follower.poll() {
            Ok(events) => {
                last_error = None;
                let messages = events.into_iter().map(|event| TailMessage::Event(Box::new(event))).collect();
                (messages, POLL_INTERVAL)
            }
            // The same error is reported once.
            Err(error) if last_error.as_ref() == Some(&error) => (Vec::new(), ERROR_POLL_INTERVAL),
            Err(error) => {
                last_error = Some(error.clone());
                (vec![TailMessage::Interrupted(error)], ERROR_POLL_INTERVAL)
            }
        };
        let busy = messages.len() > BUSY_EVENTS;
        for message in messages {
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
        if !busy {
            std::thread::sleep(wait);
        }
    }
}
