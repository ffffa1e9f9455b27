//! Connecting to the broker: several addresses, refused logins, TLS.

use polyhook::{
    queue::{JobOutcome, Published, Queue, QueueConfig, QueueError, QueueUrls},
    secret::Secret,
};
use tokio::task::block_in_place;

use super::harness::{TestQueue, config, message, try_open};
use crate::support::rabbit::{Node, SHARED_NODE, exclusive_node, unique_prefix};

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_refused_login_without_the_password() {
    let url = SHARED_NODE.url().replace("guest:guest", "guest:hunter2hunter2");
    let test = try_open(&config(&url, &unique_prefix())).unwrap();
    test.wait_until_unready("check user and password").await;
    let error = test.queue.ready().await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    test.queue.close().await;
    let nowhere = try_open(&config(&SHARED_NODE.url().replace("%2f", "nowhere"), &unique_prefix())).unwrap();
    nowhere.wait_until_unready("virtual host").await;
    nowhere.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_to_the_next_node_of_the_list() {
    let urls = ["amqp://127.0.0.1:1", &SHARED_NODE.url(), "amqp://127.0.0.1:2"];
    let list = QueueUrls::Many(urls.into_iter().map(Secret::new).collect());
    let test = TestQueue::with(&QueueConfig { url: list, ..config("", &unique_prefix()) }).await;
    assert_eq!(test.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    test.queue.close().await;
}

fn tls_config(url: &str, ca: Option<&str>, node: &Node) -> QueueConfig {
    QueueConfig { ca_file: ca.map(|name| node.file(name)), ..config(url, &unique_prefix()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_with_the_configured_authority() {
    let test = TestQueue::with(&tls_config(&SHARED_NODE.tls_url(), Some("ca.pem"), &SHARED_NODE)).await;
    assert_eq!(test.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    let job = test.next_job().await;
    test.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    let connections = block_in_place(|| SHARED_NODE.ctl(&["list_connections", "ssl", "client_properties"]));
    let ours: Vec<_> = connections.lines().filter(|line| line.starts_with("true")).collect();
    assert!(ours.iter().any(|line| line.contains("polyhook publish")), "{connections}");
    assert!(ours.iter().any(|line| line.contains("polyhook consume")), "{connections}");
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_sends_plain_text_to_a_port_without_tls() {
    let plain = format!("amqps://guest:guest@localhost:{}/%2f", SHARED_NODE.port());
    let test = try_open(&tls_config(&plain, Some("ca.pem"), &SHARED_NODE)).unwrap();
    test.wait_until_unready("TLS").await;
    assert!(test.queue.publish(message("evt_1", "{}")).await.is_err());
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_server_certificate_of_another_authority() {
    for ca in [Some("other-ca.pem"), None] {
        let test = match try_open(&tls_config(&SHARED_NODE.tls_url(), ca, &SHARED_NODE)) {
            Ok(test) => test,
            // The machine has no root certificates.
            Err(error) => {
                assert!(ca.is_none() && error.to_string().contains("ca_file"), "{error}");
                continue;
            }
        };
        test.wait_until_unready("no trusted TLS connection").await;
        assert!(test.queue.publish(message("evt_1", "{}")).await.is_err());
        test.queue.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn authenticates_with_a_client_certificate() {
    let node = exclusive_node().await;
    let without = try_open(&tls_config(&node.tls_url(), Some("ca.pem"), &node)).unwrap();
    let with = QueueConfig {
        client_cert_file: Some(node.file("client.pem")),
        client_key_file: Some(node.file("client.key")),
        ..tls_config(&node.tls_url(), Some("ca.pem"), &node)
    };
    let test = TestQueue::with(&with).await;
    assert_eq!(test.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    test.queue.close().await;
    let error = without.queue.ready().await.expect_err("the broker requires a certificate");
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    without.queue.close().await;

    // A key that does not belong to the certificate is rejected before any connection is made.
    let mixed = QueueConfig { client_key_file: Some(node.file("server.key")), ..with };
    let error = try_open(&mixed).err().unwrap();
    assert!(error.to_string().contains("client_key_file"), "{error}");
}
