//! Guarantees about erasing a conversation.

use polyhook::queue::{Announcement, JobOutcome, Message, Published, QueueError};

use super::{
    QueueUnderTest, announcement, assert_depths, assert_empty, dead_letters, depths, history, message,
    publish, settle, take, with_delayed,
};

pub(crate) async fn erases_the_messages_about_a_conversation<B: QueueUnderTest>() {
    const ID: &str = "CA0123456789";
    let backend = B::start().await;
    let queue = backend.open().await;
    let named = |id: &str| format!(r#"{{"data":{{"conversation_id":"{id}","from":"+441234"}}}}"#);
    let about = |event: &str, id: &str| message(event, named(id).as_bytes());
    for id in [ID, "CA01234567890", "CA-another"] {
        publish(&queue, about(&format!("dead-{id}"), id)).await;
        let job = take(&queue).await;
        settle(&queue, job.lease, JobOutcome::Dead { history: history(1) }).await;
        let kept = Message { kind: "handoff.created".to_owned(), ..about(&format!("event-{id}"), id) };
        publish(&queue, kept).await;
    }
    for (event, outcome) in [
        ("done", JobOutcome::Done),
        ("dead", JobOutcome::Dead { history: history(2) }),
        ("retry", JobOutcome::Retry { after: B::LONG_DELAY, history: history(1) }),
    ] {
        publish(&queue, about(event, ID)).await;
        let job = take(&queue).await;
        settle(&queue, job.lease, outcome).await;
    }
    publish(&queue, about("leased", ID)).await;
    let leased = take(&queue).await;
    publish(&queue, about("waiting", ID)).await;
    queue.publish_delayed(about("later", ID), B::LONG_DELAY).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    let ours = Announcement { subject: ID.to_owned(), ..announcement("ready-2") };
    queue.announce(ours.clone()).await.unwrap();
    let erased = Announcement { kind: "conversation.erased".to_owned(), id: "gone".to_owned(), ..ours };
    queue.announce(erased).await.unwrap();

    let found = queue.erase(ID, true).await.expect("searched");
    let searched = |count| if B::SEARCHES_JOBS { count } else { 0 };
    assert_eq!((found.dead_letters, found.events), (2, 1), "{found:?}");
    assert_eq!((found.jobs, found.announcements), (searched(4), searched(1)), "{found:?}");
    assert_eq!(dead_letters(&*queue).await.len(), 4, "a dry run removes nothing");
    let removed = queue.erase(ID, false).await.expect("erased");
    assert_eq!((removed.total(), removed.dead_letters), (found.total(), 2), "{removed:?}");
    let left = dead_letters(&*queue).await;
    let left: Vec<_> = left.iter().map(|letter| letter.message.id.as_str()).collect();
    assert_eq!(left, ["dead-CA01234567890", "dead-CA-another"]);
    let jobs = 2 - searched(2);
    let retry = 1 - searched(1);
    assert_depths(&queue, with_delayed(depths(jobs, retry, 2, 2), 1 - searched(1))).await;
    assert_eq!(queue.erase(ID, false).await.unwrap().total(), 0, "nothing is left");
    if B::SEARCHES_JOBS {
        assert!(matches!(queue.settle(leased.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));
        assert_empty(&queue).await;
    }
    if B::RECOGNISES_DUPLICATES {
        for late in ["done", "dead", "waiting", "leased", "later"] {
            let late = queue.publish(about(late, ID)).await.unwrap();
            assert_eq!(late, Published::Duplicate, "PolyAI's retries restore nothing");
        }
    }
    queue.close().await;
}
