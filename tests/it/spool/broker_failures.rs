//! An unavailable, crashing, unresponsive or rejecting broker.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deliveries_survive_an_unavailable_broker_and_a_crash() {
    let node = exclusive_node().await;
    block_in_place(|| node.stop());
    let fixture = SpoolFixture::new(&node.url());
    // A runtime of its own that ends as if the process had been killed, so that it no longer drains the spool.
    let process = tokio::runtime::Runtime::new().unwrap();
    block_in_place(|| {
        process.block_on(async {
            let queue = fixture.open();
            queue.ready().await.expect("ready because of the spool");
            assert_eq!(fixture.conditions(), ["broker"]);
            for n in 0..300 {
                let took = publish_all(&queue, n..=n).await;
                assert!(
                    took < WITHOUT_BROKER,
                    "the broker is known to be unavailable, but the publish took: {took:?}"
                );
            }
            assert_eq!(fixture.spooled_messages(), 300);
            // Duplicates are recognised even if the first message went to the spool.
            assert_eq!(queue.publish(message("evt_7", "{}")).await.unwrap(), Published::Duplicate);
            assert_eq!(spool::verify(fixture.path()), Ok(300));
        });
    });
    process.shutdown_background();
    let queue = fixture.open();
    publish_all(&queue, 300..310).await;
    block_in_place(|| node.restart());
    let order = take_all(&queue, (0..310).collect()).await;
    assert_eq!(order[..300], (0..300).collect::<Vec<_>>(), "in order of arrival");
    eventually("empty", async || fixture.spooled_messages() == 0).await;
    eventually("well", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_crash_during_the_drain_loses_nothing() {
    let node = exclusive_node().await;
    block_in_place(|| node.stop());
    let mut fixture = SpoolFixture::new(&node.url());
    fixture.spool_config.drain_rate = 200.try_into().unwrap();
    let queue = fixture.open();
    publish_all(&queue, 0..600).await;
    for left in [500, 250] {
        block_in_place(|| node.restart());
        eventually("partly drained", async || fixture.spooled_messages() < left).await;
        block_in_place(|| node.kill());
        assert!(fixture.spooled_messages() > 0, "the drain finished before the crash");
    }
    // The broker is frozen, too, so that messages on their way stay unconfirmed for long.
    block_in_place(|| node.restart());
    eventually("partly drained", async || fixture.spooled_messages() < 150).await;
    node.pause();
    sleep(Duration::from_secs(3)).await;
    block_in_place(|| node.kill());
    block_in_place(|| node.restart());
    take_all(&queue, (0..600).collect()).await;
    eventually("empty", async || fixture.spooled_messages() == 0).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_one_publish_waits_for_an_unresponsive_broker() {
    let node = exclusive_node().await;
    let fixture = SpoolFixture::new(&node.url());
    let queue = fixture.open();
    eventually("connected", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    publish_all(&queue, 0..10).await;
    assert_eq!(fixture.spooled_messages(), 0);
    node.pause();
    let took = publish_all(&queue, 10..20).await;
    assert!((PUBLISH_TIMEOUT..2 * PUBLISH_TIMEOUT).contains(&took), "{took:?}");
    let took = publish_all(&queue, 20..30).await;
    assert!(took < WITHOUT_BROKER, "waited for the broker again: {took:?}");
    node.resume();
    take_all(&queue, (0..30).collect()).await;
    eventually("empty", async || fixture.spooled_messages() == 0).await;
    let took = publish_all(&queue, 30..40).await;
    assert!(took < WITHOUT_BROKER, "{took:?}");
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn spools_while_the_broker_is_short_of_memory() {
    let node = exclusive_node().await;
    let fixture = SpoolFixture::new(&node.url());
    let queue = fixture.open();
    eventually("connected", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    eventually("blocked", async || {
        publish_all(&queue, std::iter::once(fastrand::u32(1000..))).await;
        fixture.spooled_messages() > 0
    })
    .await;
    let took = publish_all(&queue, 0..50).await;
    assert!(took < WITHOUT_BROKER, "{took:?}");
    queue.ready().await.unwrap();
    assert!(fixture.conditions().contains(&"broker"));
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.6"]));
    take_all(&queue, (0..50).collect()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deleted_fetch_queue_costs_no_delivery() {
    let fixture = SpoolFixture::new(&SHARED_NODE.url());
    let queue = fixture.open();
    eventually("connected", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    publish_all(&queue, 0..20).await;
    // One job is held by a worker, the others are prefetched.
    let held = timeout(TEST_TIMEOUT, queue.next()).await.unwrap().unwrap();
    eventually("taken", async || {
        let listed = block_in_place(|| SHARED_NODE.ctl(&["list_queues", "name", "messages_unacknowledged"]));
        listed.contains(&format!("{}.fetch\t20", fixture.queue_config.prefix))
    })
    .await;
    let fetch = format!("{}.fetch", fixture.queue_config.prefix);
    block_in_place(|| SHARED_NODE.ctl(&["delete_queue", &fetch]));
    for n in 20..60 {
        assert_eq!(queue.publish(message(&format!("evt_{n}"), "{}")).await.unwrap(), Published::New);
        sleep(Duration::from_millis(10)).await;
    }
    take_all(&queue, (0..60).collect()).await;
    assert!(matches!(queue.settle(held.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));
    let depths = queue.depths().await.unwrap();
    assert!(depths.contains(&(QueueKind::Unrouted, 0)), "{depths:?}");
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rejecting_queue_is_reported_and_blocks_no_other_message() {
    let fixture = SpoolFixture::new(&SHARED_NODE.url());
    let queue = fixture.open();
    eventually("connected", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    let (prefix, policy) = (&fixture.queue_config.prefix, format!("full-{}", fixture.queue_config.prefix));
    let pattern = format!("^{prefix}\\.unrouted$");
    let definition = r#"{"max-length": 0, "overflow": "reject-publish"}"#;
    block_in_place(|| {
        SHARED_NODE.ctl(&["set_policy", &policy, &pattern, definition, "--apply-to", "queues"])
    });
    let alert =
        |n: u32| Message { kind: "alerts.triggered".to_owned(), ..message(&format!("evt_{n}"), "{}") };
    // Rejected messages go to the spool.
    eventually("refused", async || {
        queue.publish(alert(fastrand::u32(10_000..))).await.unwrap();
        fixture.conditions() == ["publishing"]
    })
    .await;
    assert!(fixture.spooled_messages() > 0);
    publish_all(&queue, 0..10).await;
    take_all(&queue, (0..10).collect()).await;
    block_in_place(|| SHARED_NODE.ctl(&["clear_policy", &policy]));
    eventually("forwarded", async || fixture.spooled_messages() == 0).await;
    queue.close().await;
}
