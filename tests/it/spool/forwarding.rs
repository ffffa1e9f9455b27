//! Forwarded messages: duplicates and properties.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn duplicates_are_recognised_after_restarts() {
    let mut fixture = SpoolFixture::new(&SHARED_NODE.url());
    fixture.clock = Clock::manual("2026-11-22T12:00:00Z".parse().unwrap());
    let sent = message("evt_1", "{}");
    let mut new = 0;
    for hour in 0..6 {
        let queue = fixture.open();
        eventually("connected", async || queue.ready().await.is_ok() && fixture.conditions().is_empty())
            .await;
        eventually("published", async || match queue.publish(sent.clone()).await {
            Ok(published) => {
                new += u32::from(published == Published::New);
                true
            }
            Err(_) => false,
        })
        .await;
        assert_eq!(new, 1, "in hour {hour}");
        let copies = join_all((0..100).map(|_| queue.publish(sent.clone()))).await;
        assert!(copies.iter().all(|copy| matches!(copy, Ok(Published::Duplicate))));
        let other_body = Message { body: format!("{{\"hour\":{hour}}}").into(), ..sent.clone() };
        let other_body =
            Message { dedup: polyhook::event::DedupKey::new("evt_1", &other_body.body), ..other_body };
        assert_eq!(
            queue.publish(other_body).await.unwrap(),
            Published::New,
            "another body under the same id is not a duplicate"
        );
        queue.close().await;
        fixture.clock.advance(Duration::from_mins(59));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_spooled_event_arrives_like_a_directly_published_one() {
    let fixture = SpoolFixture::new(&SHARED_NODE.url());
    let queue = fixture.open();
    eventually("connected", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    let (client, prefix) = (PlainClient::new().await, &fixture.queue_config.prefix);
    let inbox = format!("{prefix}.inbox");
    client.declare_queue(&inbox, FieldTable::default()).await;
    client.bind(&inbox, &format!("{prefix}.events"), "conversation.completed.live").await;
    let body = r#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"},  "spaces":"kept"}"#;
    // The spool stores times with millisecond precision.
    let received_at = "2026-11-22T10:20:30.123Z".parse().unwrap();
    let event = Message { received_at, ..message("evt_1", body) };

    assert_eq!(queue.publish(event.clone()).await.unwrap(), Published::New);
    assert_eq!(fixture.spooled_messages(), 0, "published without the spool");
    let direct = client.receive(&inbox).await;
    // A second process shares the spool's file, and the queue forwards the messages of that process.
    let other_process =
        Spool::open(&fixture.spool_config, &fixture.queue_config, fixture.clock.clone(), &fixture.lifecycle)
            .unwrap();
    other_process.put(event).await.unwrap();
    let spooled = client.receive(&inbox).await;

    assert_eq!(spooled.data, direct.data);
    assert_eq!(spooled.routing_key, direct.routing_key);
    assert_eq!(headers(&spooled.properties), headers(&direct.properties));
    assert_eq!(spooled.properties, direct.properties);
    assert_eq!(spooled.properties.correlation_id().as_ref().unwrap().as_str(), "CA1");
    other_process.close().await;
    queue.close().await;
}
