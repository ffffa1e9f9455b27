//! The checks at the end of a scenario: every acknowledged delivery is archived once and announced.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{
    Figures,
    deployment::RECOVERY_TIMEOUT,
    load::{Acknowledged, DeliveryRecord},
    milliseconds,
};
use crate::support::process::{eventually, manifests};

/// The place that announcements are read from.
#[derive(Debug)]
pub(super) enum AnnouncementSource<'a> {
    /// The queue of a customer on RabbitMQ.
    RabbitMq(&'a Customer),
    /// The file of the embedded queue.
    Embedded(&'a Path),
}

impl AnnouncementSource<'_> {
    /// Returns the id of every announcement, by conversation.
    fn announcements(&self) -> BTreeMap<String, Vec<String>> {
        match self {
            Self::RabbitMq(customer) => customer.received.lock().unwrap().announcements.clone(),
            Self::Embedded(path) => announcements_in_file(path).unwrap_or_default(),
        }
    }
}

/// Returns the ids of the announcements in a queue's file, by conversation, or `None` if the file cannot be read.
pub(super) fn announcements_in_file(path: &Path) -> Option<BTreeMap<String, Vec<String>>> {
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    file.busy_timeout(Duration::from_secs(10)).ok()?;
    let mut query = file.prepare("SELECT subject, id FROM announcements").ok()?;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).ok()? {
        let (subject, id) = row.ok()?;
        found.entry(subject).or_default().push(id);
    }
    Some(found)
}

/// The messages that a person deleted together with a queue.
///
/// RabbitMQ first counts the messages of a quorum queue and then deletes it (`rabbit_quorum_queue:delete`: `stat`, then
/// `ra:delete_cluster`). Messages that it confirms in between are deleted, too, but not counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeletedMessages {
    counted: usize,
    requested: Instant,
    deleted: Instant,
}

impl DeletedMessages {
    /// Returns whether the deletion explains that these deliveries are missing: apart from those that were sent before
    /// its end and answered after its start, they are at most as many as were counted.
    fn explain(&self, missing: &[Acknowledged]) -> bool {
        let concurrent = |times: &Acknowledged| times.sent < self.deleted && times.answered > self.requested;
        missing.iter().filter(|times| !concurrent(times)).count() <= self.counted
    }
}

/// Waits until every acknowledged delivery is archived and announced, and checks the result. Messages that a person
/// deleted may be missing.
#[track_caller]
pub(super) fn check(
    record: &DeliveryRecord,
    archive: &Path,
    source: &AnnouncementSource<'_>,
    deleted: Option<DeletedMessages>,
    figures: &mut Figures,
) {
    let missing = || {
        let (archived, announced) = (archived_revisions(archive), source.announcements());
        let without = |is_present: &dyn Fn(&String) -> bool| -> Vec<Acknowledged> {
            record.acknowledged.iter().filter(|(id, _)| !is_present(id)).map(|(_, times)| *times).collect()
        };
        (without(&|id| archived.contains_key(id)), without(&|id| announced.contains_key(id)))
    };
    let is_explained = |missing: &[Acknowledged]| {
        missing.is_empty() || deleted.is_some_and(|deleted| deleted.explain(missing))
    };
    let start = Instant::now();
    let (mut lost, mut unannounced) = missing();
    while !(is_explained(&lost) && is_explained(&unannounced)) && start.elapsed() < RECOVERY_TIMEOUT {
        std::thread::sleep(Duration::from_millis(200));
        (lost, unannounced) = missing();
    }
    let announced = source.announcements();
    let archived = archived_revisions(archive);
    let twice = archived.values().filter(|revisions| **revisions != [1]).count();
    let with_two_ids = announced.values().filter(|ids| ids.iter().collect::<BTreeSet<_>>().len() > 1).count();
    figures
        .set("lost", lost.len())
        .set("thrown_away", deleted.map_or(0, |deleted| deleted.counted))
        .set("not_announced", unannounced.len())
        .set("archived", archived.len())
        .set("archived_twice", twice)
        .set("announced", announced.len())
        .set("announced_again", announced.values().map(|ids| ids.len() - 1).sum::<usize>())
        .set("caught_up_ms", milliseconds(start.elapsed()));
    record.check(figures);
    assert!(
        is_explained(&lost),
        "acknowledged but not archived: {figures:?}, deleted: {deleted:?}, {lost:?}"
    );
    assert!(
        is_explained(&unannounced),
        "acknowledged but not announced: {figures:?}, deleted: {deleted:?}, {unannounced:?}"
    );
    assert_eq!(twice, 0, "archived twice: {figures:?}");
    assert_eq!(with_two_ids, 0, "announced under two ids: {figures:?}");
}

/// Returns the revisions of all manifests, by conversation. Panics if a manifest is incomplete.
pub(super) fn archived_revisions(archive: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for path in manifests(archive) {
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).expect("a complete manifest");
        let id = manifest["conversation_id"].as_str().unwrap().to_owned();
        found.entry(id).or_default().push(manifest["revision"].as_u64().unwrap());
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> Command {
    let python = root().join(".tools/venv/bin/python");
    assert!(python.exists(), "Python with pika is not installed: run scripts/install-test-tools");
    Command::new(python)
}

/// Deletes a queue with all its messages.
pub(super) fn delete_queue(url: &str, queue: &str) -> DeletedMessages {
    const DELETE: &str = "
import pika, sys
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
print('ready', flush=True)
input()
print(channel.queue_delete(sys.argv[2]).method.message_count)";
    let mut child = python()
        .args(["-c", DELETE, url, queue])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(printed.next().as_deref(), Some("ready"));
    let requested = Instant::now();
    writeln!(child.stdin.take().unwrap()).unwrap();
    let counted = printed.next().expect("the number of messages").parse().unwrap();
    let deleted = Instant::now();
    assert!(child.wait().unwrap().success());
    DeletedMessages { counted, requested, deleted }
}

/// A running `support/durable_consumer.py`: a customer's consumer of announcements.
#[derive(Debug)]
pub(super) struct Customer {
    child: Child,
    received: Arc<Mutex<Received>>,
}

#[derive(Debug, Default)]
struct Received {
    /// How often the queue was bound: once for each connection.
    bound: usize,
    announcements: BTreeMap<String, Vec<String>>,
    events: BTreeSet<String>,
}

impl Customer {
    /// Binds a durable queue for announcements on the brokers at `urls`.
    pub(super) fn start(urls: &[String], prefix: &str) -> Self {
        Self::spawn("announcements", urls, prefix)
    }

    /// Binds a durable queue for announcements and events. The exchange of events must exist.
    pub(super) fn start_with_events(urls: &[String], prefix: &str) -> Self {
        Self::spawn("everything", urls, prefix)
    }

    fn spawn(wanted: &str, urls: &[String], prefix: &str) -> Self {
        let mut child = python()
            .arg(root().join("tests/it/support/durable_consumer.py"))
            .args([wanted, prefix, &format!("{prefix}.customer")])
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let (writer, events) = (Arc::clone(&received), format!("{prefix}.events"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).expect("JSON");
                writer.lock().unwrap().add(&line, &events);
            }
        });
        let customer = Self { child, received };
        eventually("bound", || customer.received.lock().unwrap().bound > 0);
        customer
    }

    /// Returns the number of conversations that were announced.
    pub(super) fn announced(&self) -> usize {
        self.received.lock().unwrap().announcements.len()
    }

    /// Returns the ids of the announcements of a conversation.
    pub(super) fn announcement_ids(&self, conversation: &str) -> BTreeSet<String> {
        let received = self.received.lock().unwrap();
        received.announcements.get(conversation).into_iter().flatten().cloned().collect()
    }

    pub(super) fn has_announcement(&self, conversation: &str) -> bool {
        !self.announcement_ids(conversation).is_empty()
    }

    /// Returns whether the announcement of a conversation arrives now or within 300 ms.
    pub(super) fn receives_announcement(&self, conversation: &str) -> bool {
        wait_briefly(|| self.has_announcement(conversation))
    }

    /// Returns whether an event arrives now or within 300 ms.
    pub(super) fn receives_event(&self, id: &str) -> bool {
        wait_briefly(|| self.received.lock().unwrap().events.contains(id))
    }
}

impl Received {
    /// Adds a line that `support/durable_consumer.py` printed.
    fn add(&mut self, line: &Value, events_exchange: &str) {
        if line["bound"] == true {
            self.bound += 1;
            return;
        }
        let (id, subject) = (line["id"].as_str().unwrap(), line["subject"].as_str().unwrap_or_default());
        if line["exchange"] == events_exchange {
            self.events.insert(id.to_owned());
        } else {
            self.announcements.entry(subject.to_owned()).or_default().push(id.to_owned());
        }
    }
}

fn wait_briefly(holds: impl Fn() -> bool) -> bool {
    (0..15).any(|_| {
        let holds = holds();
        if !holds {
            std::thread::sleep(Duration::from_millis(20));
        }
        holds
    })
}

impl Drop for Customer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
