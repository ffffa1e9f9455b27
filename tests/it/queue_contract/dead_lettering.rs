//! Guarantees about dead letters.

use std::sync::Arc;

use polyhook::clock::Clock;
use polyhook::queue::{DeadLetter, History, JobOutcome, Message, Published, Queue};

use super::{
    QueueUnderTest, assert_depths, assert_empty, dead_letters, depths, history, message, publish, settle,
    take,
};

pub(crate) async fn keeps_a_dead_letter_across_a_restart<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    publish(&queue, message("evt_1", b"{}")).await;
    let job = take(&queue).await;
    settle(&queue, job.lease, JobOutcome::Dead { history: history(2) }).await;
    assert_empty(&queue).await;
    assert_depths(&queue, depths(0, 0, 1, 0)).await;
    queue.close().await;
    let queue = backend.open().await;
    assert_empty(&queue).await;
    assert_depths(&queue, depths(0, 0, 1, 0)).await;
    queue.close().await;
}

/// Makes dead letters of the messages, in order.
async fn bury(queue: &Arc<dyn Queue>, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        publish(queue, message).await;
        let job = take(queue).await;
        settle(queue, job.lease, JobOutcome::Dead { history: history(2) }).await;
    }
}

async fn assert_dead(queue: &Arc<dyn Queue>, dead: u64) {
    assert_depths(queue, depths(0, 0, dead, 0)).await;
}

fn ids(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.message.id.as_str()).collect()
}

pub(crate) async fn lists_dead_letters_with_message_and_history<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    assert_eq!(dead_letters(&*queue).await, []);
    // More than one page, by number and by size.
    let sent: Vec<_> = (0..300)
        .map(|n| {
            let body = vec![b'x'; if n < 4 { 1 << 20 } else { n }];
            Message { traceparent: Some("00-1-2-01".to_owned()), ..message(&format!("evt_{n}"), &body) }
        })
        .collect();
    bury(&queue, sent.clone()).await;
    let other = backend.open().await;
    assert_dead(&other, 300).await;
    let cursor = other.dead_letters().await.unwrap();
    assert_eq!(cursor.total(), 300);
    cursor.close().await;
    assert_dead(&other, 300).await;
    let mut found = dead_letters(&*other).await;
    assert_eq!(found.len(), 300);
    let place = |letter: &DeadLetter| sent.iter().position(|sent| sent.id == letter.message.id).unwrap();
    for (at, letter) in found.iter().enumerate() {
        assert!(place(letter).abs_diff(at) <= B::MAX_DISORDER, "{:?}", ids(&found));
    }
    found.sort_by_key(place);
    for (letter, sent) in found.iter().zip(&sent) {
        assert!(letter.message == *sent, "{} or its properties changed", sent.id);
        assert_eq!(letter.history, history(2));
        assert_eq!((letter.reason(), letter.since()), ("rate_limited", history(2).attempts[1].at));
        assert_eq!(letter.correlation_id(), Some("corr-1"), "the latest correlation id");
    }
    queue.close().await;
    other.close().await;
}

pub(crate) async fn keeps_dead_letters_that_are_only_read<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, ["a", "b", "c"].map(|id| message(id, b"{}"))).await;
    for closed in [true, false] {
        let mut cursor = queue.dead_letters().await.unwrap();
        assert_eq!(cursor.next().await.unwrap().unwrap().message.id, "a");
        assert_eq!(cursor.next().await.unwrap().unwrap().message.id, "b");
        if closed {
            cursor.close().await;
        } else {
            drop(cursor);
        }
        assert_dead(&queue, 3).await;
        assert_empty(&queue).await;
    }
    assert_eq!(ids(&dead_letters(&*queue).await), ["a", "b", "c"]);
    queue.close().await;
}

pub(crate) async fn replay_moves_a_dead_letter_and_restarts_its_schedule<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, ["a", "b", "c"].map(|id| message(id, b"{\"n\":1}"))).await;
    let before = Clock::System.now();
    let mut cursor = queue.dead_letters().await.unwrap();
    while let Some(letter) = cursor.next().await.unwrap() {
        if letter.message.id == "b" {
            cursor.replay(letter).await.expect("replayed");
        }
    }
    cursor.close().await;
    assert_depths(&queue, depths(1, 0, 2, 0)).await;
    let job = take(&queue).await;
    assert_eq!(job.message, message("b", b"{\"n\":1}"));
    let History { failures, waits, attempts, failures_before_replay, not_before, replays } = &job.history;
    assert_eq!((*failures, *waits, *failures_before_replay), (0, 0, 2), "the schedule starts again");
    assert_eq!(*attempts, history(2).attempts, "the attempts are kept");
    assert_eq!(*not_before, None, "and are no reason to wait");
    assert!(replays.len() == 1 && replays[0] >= before, "{replays:?}");
    assert_empty(&queue).await;

    // If the job dies again, it is a dead letter with its whole history and can be replayed again.
    let mut again = job.history.clone();
    again.push(history(1).attempts.remove(0));
    settle(&queue, job.lease, JobOutcome::Dead { history: again.clone() }).await;
    assert_dead(&queue, 3).await;
    let found = dead_letters(&*queue).await;
    let letter = found.iter().find(|letter| letter.message.id == "b").unwrap();
    assert_eq!((&letter.history, letter.history.attempt_count()), (&again, 3));
    let mut cursor = queue.dead_letters().await.unwrap();
    while let Some(letter) = cursor.next().await.unwrap() {
        cursor.replay(letter).await.expect("replayed");
    }
    cursor.close().await;
    assert_depths(&queue, depths(3, 0, 0, 0)).await;
    let jobs = [take(&queue).await, take(&queue).await, take(&queue).await];
    let job = jobs.iter().find(|job| job.message.id == "b").unwrap();
    assert_eq!((job.history.failures_before_replay, job.history.replays.len()), (3, 2));
    queue.close().await;
}

pub(crate) async fn removes_a_discarded_dead_letter<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, ["a", "b", "c"].map(|id| message(id, b"{}"))).await;
    let mut cursor = queue.dead_letters().await.unwrap();
    while let Some(letter) = cursor.next().await.unwrap() {
        if letter.message.id != "b" {
            cursor.discard(letter).await.expect("dropped");
        }
    }
    cursor.close().await;
    assert_dead(&queue, 1).await;
    assert_eq!(ids(&dead_letters(&*queue).await), ["b"]);
    // A late retry by PolyAI does not restore it.
    assert_eq!(publish(&queue, message("a", b"{}")).await, Published::Duplicate);
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn a_cursor_ends_although_replayed_jobs_die_again<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, (0..20).map(|n| message(&format!("evt_{n}"), b"{}"))).await;
    let mut cursor = queue.dead_letters().await.unwrap();
    let mut met = 0;
    while let Some(letter) = cursor.next().await.unwrap() {
        met += 1;
        assert!(met <= 20, "a letter was returned twice");
        cursor.replay(letter).await.expect("replayed");
        let job = take(&queue).await;
        settle(&queue, job.lease, JobOutcome::Dead { history: job.history }).await;
        bury(&queue, [message(&format!("new_{met}"), b"{}")]).await;
    }
    cursor.close().await;
    assert_eq!(met, 20);
    assert_dead(&queue, 40).await;
    queue.close().await;
}
