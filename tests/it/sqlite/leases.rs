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
