//! A full, damaged or deleted spool file.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_spool_rejects_at_once_and_recovers() {
    let node = exclusive_node().await;
    block_in_place(|| node.stop());
    let mut fixture = SpoolFixture::new(&node.url());
    fixture.spool_config.max_bytes = ByteSize::kib(512);
    let queue = fixture.open();
    let big = |n: u32| message(&format!("evt_{n}"), &format!("{{\"x\":\"{}\"}}", "x".repeat(10_000)));
    let mut stored = Vec::new();
    let refused = loop {
        let n = u32::try_from(stored.len()).unwrap();
        let begun = Instant::now();
        match queue.publish(big(n)).await {
            Ok(_) => stored.push(n),
            Err(error) => break (error, begun.elapsed()),
        }
        assert!(stored.len() < 60, "the size limit is exceeded");
    };
    assert!(refused.1 < WITHOUT_BROKER, "{refused:?}");
    let text = refused.0.to_string();
    assert!(text.contains("the spool") && text.contains("spool.max_bytes"), "{text}");
    assert!(queue.ready().await.is_err(), "neither broker nor spool takes messages");
    assert!(stored.len() > 20);
    block_in_place(|| node.restart());
    take_all(&queue, stored.iter().copied().collect()).await;
    eventually("empty", async || fixture.spooled_messages() == 0).await;
    queue.publish(big(1000)).await.unwrap();
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_spool_does_not_block_the_broker() {
    let node = exclusive_node().await;
    block_in_place(|| node.stop());
    let fixture = SpoolFixture::new(&node.url());
    fs::write(fixture.path(), vec![b'?'; 9000]).unwrap();
    let queue = fixture.open();
    let begun = Instant::now();
    let error = queue.publish(message("evt_1", "{}")).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(begun.elapsed() < WITHOUT_BROKER, "{:?}", begun.elapsed());
    assert!(spool::verify(fixture.path()).is_err());

    // While the broker works the spool is not needed, but its error is reported.
    block_in_place(|| node.restart());
    eventually("ready", async || queue.ready().await.is_ok()).await;
    assert_eq!(fixture.conditions(), ["spool"]);
    assert_eq!(queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);

    // After the file was moved away, as the error says, the spool works without a restart.
    fs::rename(fixture.path(), fixture.folder.path().join("moved-away")).unwrap();
    eventually("well", async || queue.ready().await.is_ok() && fixture.conditions().is_empty()).await;
    block_in_place(|| node.stop());
    eventually("spooled", async || queue.publish(message("evt_2", "{}")).await.is_ok()).await;
    assert_eq!(fixture.spooled_messages(), 1);
    block_in_place(|| node.restart());
    take_all(&queue, [1, 2].into()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deleted_spool_is_restored() {
    let node = exclusive_node().await;
    block_in_place(|| node.stop());
    let fixture = SpoolFixture::new(&node.url());
    let queue = fixture.open();
    publish_all(&queue, 0..20).await;
    for file in fixture.files() {
        fs::remove_file(file).unwrap();
    }
    eventually("spooled", async || queue.publish(message("evt_20", "{}")).await.is_ok()).await;
    block_in_place(|| node.restart());
    take_all(&queue, (0..=20).collect()).await;
    queue.close().await;
}
