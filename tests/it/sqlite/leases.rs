//! Leases and delays.

use super::*;

#[tokio::test]
async fn jobs_are_leased_in_order_of_arrival() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    let names: Vec<_> = (0..40).map(|n| format!("evt_{n}")).collect();
    for id in &names {
        queue.publish(message(id, b"{}")).await.unwrap();
    }
    let mut leases = Vec::new();
    for id in &names {
        let job = take(&queue).await;
        assert_eq!(&job.message.id, id);
        leases.push(job.lease);
    }
    // A returned job comes before later ones.
    queue.publish(message("late", b"{}")).await.unwrap();
    queue.settle(leases[7], JobOutcome::Release).await.unwrap();
    assert_eq!(take(&queue).await.message.id, names[7]);
    queue.close().await;
}

#[tokio::test]
async fn a_job_of_a_dead_process_returns_after_thirty_seconds() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let (queue, vanishing) = fixture.open_with(options_with_clock(&clock));
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    take(&queue).await;
    // Dropped without a close, as if the process had died.
    drop((queue, vanishing));
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    assert_empty(&queue).await;
    clock.advance(Duration::from_secs(29));
    assert_empty(&queue).await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(take(&queue).await.message, message("evt_1", b"{}"));
    queue.close().await;
}

#[tokio::test]
async fn a_lease_is_extended_while_its_holder_lives() {
    let fixture = SqliteFixture::new();
    let short = SqliteOptions { lease: Duration::from_secs(2), ..test_options() };
    let (holder, holding) = fixture.open_with(short.clone());
    let (other, _) = fixture.open_with(short);
    holder.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&holder).await;
    for _ in 0..5 {
        assert_empty(&other).await;
    }
    drop((holder, holding));
    let again = take(&other).await;
    assert_eq!(again.message, job.message);
    other.close().await;
}

/// The lease of a job that is not settled is extended as long as the process lives.
#[tokio::test]
async fn a_job_is_settled_although_the_writer_is_stuck_and_no_more_writes_may_wait() {
    const MORE_THAN_MAY_WAIT: usize = 1100;
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture
        .open_with(SqliteOptions { publish_timeout: Duration::from_millis(200), ..SqliteOptions::default() });
    eventually("published", || async { queue.publish(message("evt_job", b"{}")).await.ok() }).await;
    let job = take(&queue).await;
    fixture
        .connection()
        .execute_batch(
            "CREATE TRIGGER slow BEFORE INSERT ON messages WHEN NEW.id = 'slow' BEGIN
                 SELECT count(*) FROM (
                     WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 8000000) SELECT x FROM n
                 );
             END",
        )
        .unwrap();
    let mut publishers = JoinSet::new();
    for n in 0..MORE_THAN_MAY_WAIT {
        let queue = Arc::clone(&queue);
        let id = if n == 0 { "slow".to_owned() } else { format!("evt_{n}") };
        publishers.spawn(async move { queue.publish(message(&id, b"{}")).await });
    }
    publishers.join_all().await;
    // Its caller may give up, but the writer must know of it.
    let _ = queue.settle(job.lease, JobOutcome::Done).await;
    eventually("settled", || async {
        let done = "SELECT count(*) FROM messages WHERE id = 'evt_job' AND state = 'done'";
        (fixture.count(done) == 1).then_some(())
    })
    .await;
    queue.close().await;
}

#[tokio::test]
async fn a_waiting_consumer_notices_a_moved_clock() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&queue).await;
    let after = Duration::from_hours(6);
    queue.settle(job.lease, JobOutcome::Retry { after, history: history(1) }).await.unwrap();
    let waiting = take(&queue);
    let advancing = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        clock.advance(after);
        Instant::now()
    };
    let (job, moved) = tokio::join!(waiting, advancing);
    assert_eq!(job.history, history(1));
    assert!(moved.elapsed() < Duration::from_secs(5), "{:?}", moved.elapsed());
    queue.close().await;
}

#[tokio::test]
async fn the_oldest_job_is_as_old_as_its_wait_for_a_worker() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let (queue, _) = fixture.open_with(options_with_clock(&clock));
    let assert_age = async |seconds| {
        assert_eq!(queue.oldest_age().await.unwrap(), Some(Duration::from_secs(seconds)));
    };
    assert_age(0).await;
    queue.publish_delayed(message("evt_1", b"{}"), Duration::from_mins(10)).await.unwrap();
    assert_age(0).await;
    clock.advance(Duration::from_mins(11));
    assert_age(60).await;
    let job = take(&queue).await;
    assert_age(0).await;
    let outcome = JobOutcome::Retry { after: Duration::from_mins(1), history: history(1) };
    queue.settle(job.lease, outcome).await.unwrap();
    assert_age(0).await;
    clock.advance(Duration::from_secs(90));
    assert_age(30).await;
    let job = take(&queue).await;
    queue.settle(job.lease, JobOutcome::Dead { history: history(2) }).await.unwrap();
    clock.advance(Duration::from_hours(1));
    let mut letters = queue.dead_letters().await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    letters.replay(letter).await.unwrap();
    letters.close().await;
    clock.advance(Duration::from_secs(20));
    assert_age(20).await;
    let received_at = clock.now() - Duration::from_mins(5);
    queue.publish(Message { received_at, ..message("evt_2", b"{}") }).await.unwrap();
    assert_age(300).await;
    queue.close().await;
}
