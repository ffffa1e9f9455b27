//! Secrets that change while the receiver runs, retry windows, and a wrong clock.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use polyhook::{
    clock::Clock,
    health::Health,
    lifecycle::Lifecycle,
    queue::Queue,
    secret::Secret,
    signature::{SIGNATURE_HEADER, TIMESTAMP_HEADER, sign},
    web::{Receiver, ReceiverConfig, SignatureConfig, TriggerConfig},
};
use tempfile::TempDir;

use super::{
    harness::{NOW, SECRET, Server, clock, server, signature},
    queues::{Behaviour, FakeQueue},
    wire::{Request, event_body},
};

const OTHER: &str = "whsec_00000000000000000000000000000000";

/// A receiver with its secrets file, its clock and its admin listener.
struct Place {
    folder: TempDir,
    receiver: Receiver,
    server: Server,
    admin: Server,
    clock: Clock,
}

impl Place {
    async fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        std::fs::write(&path, file).unwrap();
        let config = SignatureConfig {
            secrets: Vec::new(),
            file_secrets: polyhook::web::SecretsFile::read(&path).unwrap(),
            secrets_file: Some(path),
            ..signature()
        };
        Self::with(folder, &config).await
    }

    async fn with(folder: TempDir, config: &SignatureConfig) -> Self {
        let (clock, health) = (clock(), Health::default());
        let queue = FakeQueue::new(Behaviour::Store);
        let dynamic = Arc::clone(&queue) as Arc<dyn Queue>;
        let lifecycle = Lifecycle::new();
        let sections =
            ReceiverConfig { server: &server(), signature: config, trigger: &TriggerConfig::default() };
        let receiver = Receiver::new(sections, dynamic, clock.clone(), &health, &lifecycle);
        let admin = Server::admin_with(&queue, lifecycle.clone(), health).await;
        let limits = self::server().connection_limits(u64::MAX);
        let server = Server::serve(receiver.clone(), limits, lifecycle).await;
        Self { folder, receiver, server, admin, clock }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("secrets")
    }

    async fn write(&self, text: &str) {
        std::fs::write(self.file(), text).unwrap();
        self.receiver.refresh().await;
    }

    async fn status(&self, secret: &str) -> u16 {
        let body = event_body("evt-1");
        let signature = sign(&Secret::new(secret), None, body.as_bytes());
        self.server.ask(&Request::unsigned(body).with(SIGNATURE_HEADER, signature)).await.status
    }

    /// Sends a delivery that PolyAI signed at `seconds` by its own clock. Each is another event.
    async fn stamped(&self, seconds: i64, id: &str) -> u16 {
        let body = event_body(id);
        let signature = sign(&Secret::new(SECRET), Some(seconds), body.as_bytes());
        let request = Request::unsigned(body)
            .with(SIGNATURE_HEADER, signature)
            .with(TIMESTAMP_HEADER, seconds.to_string());
        self.server.ask(&request).await.status
    }

    async fn readyz(&self) -> String {
        let answer = self.admin.get("/readyz").await;
        assert_eq!(answer.status, 200, "a condition must not make the receiver unready");
        answer.body
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.receiver.refresh().await;
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

#[tokio::test]
async fn reloads_secrets_from_the_file() {
    let place = Place::new(&format!("{SECRET}\n")).await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (204, 401));
    place.write(&format!("{SECRET}\n{OTHER}\n")).await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (204, 204));
    place.write(OTHER).await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (401, 204));
}

#[tokio::test]
async fn keeps_the_secrets_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    std::fs::write(&path, OTHER).unwrap();
    let config = SignatureConfig { secrets_file: Some(path), ..signature() };
    let place = Place::with(folder, &config).await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (204, 401), "not read yet");
    place.receiver.refresh().await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (204, 204));
}

#[tokio::test]
async fn an_unusable_file_keeps_the_secrets_and_is_reported() {
    let place = Place::new(SECRET).await;
    for (bad, why) in [
        ("", "no secret"),
        ("# nothing\n", "no secret"),
        ("hunter2-hunter2", "shorter than 16"),
        (&format!("{OTHER}\n# polyhook:expires=soon\n{SECRET}"), "line 2"),
        (&format!("# polyhook:expires={}\n{OTHER}", at(-1)), "expired"),
    ] {
        place.write(bad).await;
        assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (204, 401), "{bad}");
        let said = place.readyz().await;
        assert!(said.contains("degraded: secrets: ") && said.contains(why), "{said}");
        assert!(said.contains("remain active") && !said.contains("hunter2"), "{said}");
    }
    std::fs::remove_file(place.file()).unwrap();
    place.receiver.refresh().await;
    assert_eq!(place.status(SECRET).await, 204);
    assert!(place.readyz().await.contains("degraded: secrets: "), "{}", place.readyz().await);
    place.write(OTHER).await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (401, 204));
    assert_eq!(place.readyz().await, "ready\n");
}

/// The ninth secret of a file may be one that PolyAI signs with.
#[tokio::test]
async fn more_than_eight_secrets_lose_no_delivery() {
    let secret = |number: usize| format!("whsec_of_endpoint_number_{number}");
    let file = |count: usize| (1..=count).map(|number| secret(number) + "\n").collect::<String>();
    let place = Place::new(&file(8)).await;
    for number in 1..=8 {
        assert_eq!(place.status(&secret(number)).await, 204, "{number}");
    }
    assert_eq!(place.status(&secret(9)).await, 401);

    place.write(&format!("# polyhook:expires={}\n{}", at(3600), file(9))).await;
    assert_eq!([place.status(&secret(1)).await, place.status(&secret(8)).await], [204, 204]);
    assert_eq!(place.status(&secret(9)).await, 503, "PolyAI must send it again");
    assert_eq!(place.server.ask(&Request::unsigned("{}")).await.status, 401);
    let said = place.readyz().await;
    assert!(said.contains("degraded: secrets: 9 signing secrets are valid, but at most 8"), "{said}");
    assert!(said.contains("only the first 8 are active") && !said.contains("whsec"), "{said}");

    place.pass(Duration::from_hours(1)).await;
    assert_eq!([place.status(&secret(1)).await, place.status(&secret(9)).await], [401, 204]);
    assert_eq!(place.readyz().await, "ready\n");
    // A secret that is there twice counts once.
    place.write(&format!("{}{}\n", file(8), secret(1))).await;
    assert_eq!([place.status(&secret(8)).await, place.status(&secret(9)).await], [204, 401]);
    assert_eq!(place.readyz().await, "ready\n");
}

#[tokio::test]
async fn a_secret_expires_at_its_time() {
    let place = Place::new(&format!("{OTHER}\n# polyhook:expires={}\n{SECRET}\n", at(3600))).await;
    place.pass(Duration::from_secs(3599)).await;
    assert_eq!(place.status(SECRET).await, 204);
    place.pass(Duration::from_secs(1)).await;
    assert_eq!((place.status(SECRET).await, place.status(OTHER).await), (401, 204));
    assert_eq!(place.readyz().await, "ready\n");
}

#[tokio::test]
async fn retry_window_answers_503_only_to_a_mismatch() {
    let place = Place::new(SECRET).await;
    assert_eq!(place.status(OTHER).await, 401);
    place.write(&format!("# polyhook:window={}\n{SECRET}\n", at(60))).await;
    let body = event_body("evt-1");
    let other = sign(&Secret::new(OTHER), None, body.as_bytes());
    place.server.ask(&Request::unsigned(body).with(SIGNATURE_HEADER, other)).await.assert_unavailable();
    assert_eq!(place.status(SECRET).await, 204);
    for hopeless in [Request::unsigned("{}"), Request::unsigned("{}").with(SIGNATURE_HEADER, "00")] {
        assert_eq!(place.server.ask(&hopeless).await.status, 401);
    }
    assert_eq!(
        place.stamped(NOW - 301, "evt-old").await,
        401,
        "a retry window must not accept a stale delivery"
    );
    // The window ends without a reload of the file.
    place.clock.advance(Duration::from_mins(1));
    assert_eq!((place.status(OTHER).await, place.status(SECRET).await), (401, 204));
}

#[tokio::test]
async fn retry_window_ends_after_a_day_at_the_latest() {
    let place = Place::new(&format!("# polyhook:window={}\n{SECRET}\n", at(365 * 86_400))).await;
    place.pass(Duration::from_secs(86_399)).await;
    assert_eq!(place.status(OTHER).await, 503);
    // A change of the secrets does not start the window again.
    place.write(&format!("# polyhook:window={}\n{SECRET}\n{SECRET}x\n", at(365 * 86_400))).await;
    place.pass(Duration::from_secs(1)).await;
    assert_eq!(place.status(OTHER).await, 401);
}

#[tokio::test]
async fn reports_a_clock_that_is_ten_minutes_wrong() {
    let place = Place::with(tempfile::tempdir().unwrap(), &signature()).await;
    assert_eq!(place.stamped(NOW - 600, "evt-1").await, 401);
    assert_eq!(place.readyz().await, "ready\n", "a single stale delivery may be a replay");
    assert_eq!(place.stamped(NOW - 600, "evt-1").await, 401);
    assert_eq!(place.readyz().await, "ready\n", "a repeated delivery may be a replay");
    assert_eq!(place.stamped(NOW - 595, "evt-2").await, 401, "a stale delivery is answered 401");
    let said = place.readyz().await;
    assert!(said.contains("degraded: clock: 2 genuine deliveries"), "{said}");
    assert!(said.contains("595 s behind this machine's clock") && said.contains("NTP"), "{said}");
    assert_eq!(place.status(SECRET).await, 204, "a delivery without a timestamp must be accepted");
    assert!(place.readyz().await.contains("degraded: clock"));
    assert_eq!(place.stamped(NOW - 300, "evt-3").await, 204);
    assert_eq!(place.readyz().await, "ready\n");
}

#[tokio::test]
async fn clears_the_clock_condition_after_ten_minutes() {
    let place = Place::with(tempfile::tempdir().unwrap(), &signature()).await;
    for id in ["evt-1", "evt-2"] {
        assert_eq!(place.stamped(NOW + 600, id).await, 401);
    }
    assert!(place.readyz().await.contains("600 s ahead of this machine's clock"), "{}", place.readyz().await);
    place.pass(Duration::from_secs(599)).await;
    assert_ne!(place.readyz().await, "ready\n");
    place.pass(Duration::from_secs(1)).await;
    assert_eq!(place.readyz().await, "ready\n");
}

/// Each delivery during a reload is verified with the old set or the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_replaces_all_secrets_at_once() {
    let place = Place::new(SECRET).await;
    let write = |path: &Path, round: usize| {
        std::fs::write(path, format!("whsec_changing_all_the_time_{round}\n{SECRET}\n")).unwrap();
    };
    let changes = async {
        for round in 0..10 {
            write(&place.file(), round);
            place.receiver.refresh().await;
            assert_eq!(place.status(&format!("whsec_changing_all_the_time_{round}")).await, 204, "{round}");
        }
    };
    let deliveries = async {
        let mut wire = place.server.open().await;
        for n in 0..1500 {
            wire.ask(&Request::event(&format!("evt-{n}"))).await.assert_taken();
        }
    };
    tokio::join!(changes, deliveries);
}
