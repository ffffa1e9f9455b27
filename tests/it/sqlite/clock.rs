//! A clock that is wrong for a while, or is set back.

use polyhook::queue::LeaseId;

use super::*;

const DAY: Duration = Duration::from_hours(24);

/// Publishes a message, takes it and lets it wait for `after`.
async fn delay_a_job(queue: &Arc<dyn Queue>, after: Duration) {
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(queue).await;
    queue.settle(job.lease, JobOutcome::Retry { after, history: history(1) }).await.unwrap();
}

/// Checks that the job waits for `delay` from now and not longer, and takes it.
async fn assert_waits(queue: &Arc<dyn Queue>, clock: &Clock, delay: Duration) -> LeaseId {
    assert_empty(queue).await;
    clock.advance(delay.saturating_sub(Duration::from_secs(2)));
    assert_empty(queue).await;
    clock.advance(Duration::from_secs(3));
    let job = take(queue).await;
    assert_eq!(job.message.id, "evt_1");
    job.lease
}

#[tokio::test]
async fn a_job_that_was_delayed_by_a_clock_far_ahead_waits_for_its_delay() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let right = clock.now();
    clock.set(right + 400 * DAY);
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    delay_a_job(&queue, Duration::from_mins(1)).await;
    queue.close().await;
    clock.set(right);
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    assert_waits(&queue, &clock, Duration::from_mins(1)).await;
    queue.close().await;
}

#[tokio::test]
async fn a_waiting_consumer_notices_a_clock_that_was_set_back() {
    for back in [Duration::from_hours(1), 400 * DAY] {
        let (fixture, clock) = (SqliteFixture::new(), manual_clock());
        let (queue, _) = fixture.open_with(options_with_clock(&clock));
        delay_a_job(&queue, Duration::from_secs(10)).await;
        assert_empty(&queue).await;
        clock.set(clock.now() - back);
        assert_waits(&queue, &clock, Duration::from_secs(10)).await;
        queue.close().await;
    }
}

#[tokio::test]
async fn a_lease_of_a_dead_process_ends_although_the_clock_was_set_back() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let (queue, vanishing) = fixture.open_with(options_with_clock(&clock));
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    take(&queue).await;
    drop((queue, vanishing));
    clock.set(clock.now() - Duration::from_hours(1));
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    assert_waits(&queue, &clock, Duration::from_secs(30)).await;
    queue.close().await;
}

#[tokio::test]
async fn a_job_waits_for_its_delay_whatever_time_is_stored() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    delay_a_job(&queue, Duration::from_secs(10)).await;
    queue.close().await;
    for due in [i64::MAX, i64::MAX / 2, clock.now().as_millisecond() + 3_600_000] {
        fixture.connection().execute("UPDATE messages SET due = ?1", [due]).unwrap();
        let (queue, _) = fixture.open_with(options_with_clock(&clock));
        let lease = assert_waits(&queue, &clock, Duration::from_secs(10)).await;
        let retry = JobOutcome::Retry { after: Duration::from_secs(10), history: history(1) };
        queue.settle(lease, retry).await.unwrap();
        queue.close().await;
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_for_a_while_deletes_nothing() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let options = SqliteOptions { cleanup_interval: Duration::from_millis(20), ..options_with_clock(&clock) };
    let (queue, sqlite) = fixture.open_with(options.clone());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&queue).await;
    queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    queue.publish(event("event")).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    let right = clock.now();
    clock.set(right + 400 * DAY);
    tokio::time::sleep(Duration::from_millis(300)).await;
    clock.set(right);
    assert_eq!(queue.publish(message("evt_1", b"{}")).await.unwrap(), Published::Duplicate, "a replay");
    assert_eq!(queue.publish(event("event")).await.unwrap(), Published::Duplicate);
    assert_eq!(sqlite.announcements_after(0, 10).await.unwrap().len(), 1);

    // What was written meanwhile is not kept for 400 days longer.
    clock.set(right + 400 * DAY);
    queue.publish(event("future")).await.unwrap();
    clock.set(right);
    eventually("it has the current time", || async {
        let future = fixture.count("SELECT max(ended_at) FROM messages");
        (future <= u64::try_from(right.as_millisecond()).unwrap()).then_some(())
    })
    .await;
    queue.close().await;
}
