//! What was acknowledged is archived once and announced, or the scenario fails.

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

use super::{Figures, load::Record, stage::PATIENCE};
use crate::support::process::{eventually, manifests};

/// Where announcements are read.
#[derive(Debug)]
pub(super) enum Bus<'a> {
    /// By a worker of the customer's.
    RabbitMq(&'a Customer),
    /// In the embedded queue's file.
    Embedded(&'a Path),
}

impl Bus<'_> {
    /// The ids under which each conversation was announced, as often as it was.
    fn announced(&self) -> BTreeMap<String, Vec<String>> {
        match self {
            Self::RabbitMq(customer) => customer.seen.lock().unwrap().announced.clone(),
            Self::Embedded(path) => embedded(path).unwrap_or_default(),
        }
    }
}

/// The announcements in a queue's file; nothing while it cannot be read.
pub(super) fn embedded(path: &Path) -> Option<BTreeMap<String, Vec<String>>> {
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

/// What a person has thrown away with a queue: so many, and what was acknowledged while the broker was at it.
///
/// RabbitMQ counts the messages of a quorum queue first and deletes it then (`rabbit_quorum_queue:delete`: `stat`, then
/// `ra:delete_cluster`). What it takes and confirms in between is gone with the queue, and not in its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThrownAway {
    counted: usize,
    asked: Instant,
    answered: Instant,
}

impl ThrownAway {
    /// An answer of the receiver may be on its way for so long when the broker's is heard.
    const ON_ITS_WAY: Duration = Duration::from_millis(100);

    /// Whether no more is missing than that.
    fn explains(&self, missing: &[Instant]) -> bool {
        let meanwhile = self.asked..self.answered + Self::ON_ITS_WAY;
        missing.iter().filter(|at| !meanwhile.contains(*at)).count() <= self.counted
    }
}

/// Waits until everything that was acknowledged is archived and announced, and judges what is there then. What a person
/// has thrown away may be missing.
#[track_caller]
pub(super) fn judge(
    record: &Record,
    archive: &Path,
    bus: &Bus<'_>,
    thrown_away: Option<ThrownAway>,
    figures: &mut Figures,
) {
    let missing = || {
        let archived: BTreeSet<_> = archived(archive).into_keys().collect();
        let announced = bus.announced();
        let not_in = |is_there: &dyn Fn(&String) -> bool| -> Vec<Instant> {
            record.acknowledged.iter().filter(|(id, _)| !is_there(id)).map(|(_, at)| *at).collect()
        };
        (not_in(&|id| archived.contains(id)), not_in(&|id| announced.contains_key(id)))
    };
    let explained = |missing: &[Instant]| {
        missing.is_empty() || thrown_away.is_some_and(|thrown_away| thrown_away.explains(missing))
    };
    let start = Instant::now();
    let (mut lost, mut unheard) = missing();
    while !(explained(&lost) && explained(&unheard)) && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
        (lost, unheard) = missing();
    }
    let announced = bus.announced();
    let manifests = archived(archive);
    let twice = manifests.values().filter(|revisions| **revisions != [1]).count();
    let changed = announced.values().filter(|ids| ids.iter().collect::<BTreeSet<_>>().len() > 1).count();
    figures
        .set("lost", lost.len())
        .set("thrown_away", thrown_away.map_or(0, |thrown_away| thrown_away.counted))
        .set("not_announced", unheard.len())
        .set("archived", manifests.len())
        .set("archived_twice", twice)
        .set("announced", announced.len())
        .set("announced_again", announced.values().map(|ids| ids.len() - 1).sum::<usize>())
        .set("caught_up_ms", u64::try_from(start.elapsed().as_millis()).unwrap());
    record.judge(figures);
    assert!(explained(&lost), "acknowledged and not archived: {figures:?}, thrown away: {thrown_away:?}");
    assert!(explained(&unheard), "acknowledged and not announced: {figures:?}, thrown away: {thrown_away:?}");
    assert_eq!(twice, 0, "archived twice: {figures:?}");
    assert_eq!(changed, 0, "announced under two ids: {figures:?}");
}

/// Whether this conversation is in the archive.
pub(super) fn is_archived(archive: &Path, conversation: &str) -> bool {
    archived(archive).contains_key(conversation)
}

/// The revision of every manifest there is, by conversation. Each is whole.
pub(super) fn archived(archive: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for path in manifests(archive) {
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).expect("a whole manifest");
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
    assert!(python.exists(), "no Python with pika here: run scripts/install-test-tools");
    Command::new(python)
}

/// Deletes a queue with all that is in it.
pub(super) fn delete_queue(url: &str, queue: &str) -> ThrownAway {
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
    let mut says = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(says.next().as_deref(), Some("ready"));
    let asked = Instant::now();
    writeln!(child.stdin.take().unwrap()).unwrap();
    let counted = says.next().expect("how many there were").parse().unwrap();
    let answered = Instant::now();
    assert!(child.wait().unwrap().success());
    ThrownAway { counted, asked, answered }
}

/// `support/customer.py` at work.
#[derive(Debug)]
pub(super) struct Customer {
    child: Child,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    bound: usize,
    announced: BTreeMap<String, Vec<String>>,
    events: BTreeSet<String>,
}

impl Customer {
    /// Binds a durable queue for announcements on the brokers at `urls`.
    pub(super) fn start(urls: &[String], prefix: &str) -> Self {
        Self::of("announcements", urls, prefix)
    }

    /// The same for events too. Their exchange has to be there.
    pub(super) fn of_everything(urls: &[String], prefix: &str) -> Self {
        Self::of("everything", urls, prefix)
    }

    fn of(wanted: &str, urls: &[String], prefix: &str) -> Self {
        let mut child = python()
            .arg(root().join("tests/it/support/customer.py"))
            .args([wanted, prefix, &format!("{prefix}.customer")])
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let (told, prefix) = (Arc::clone(&seen), prefix.to_owned());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).expect("JSON");
                let seen = &mut *told.lock().unwrap();
                if line["bound"] == true {
                    seen.bound += 1;
                    continue;
                }
                let (id, subject) =
                    (line["id"].as_str().unwrap(), line["subject"].as_str().unwrap_or_default());
                if line["exchange"] == format!("{prefix}.events") {
                    seen.events.insert(id.to_owned());
                } else {
                    seen.announced.entry(subject.to_owned()).or_default().push(id.to_owned());
                }
            }
        });
        let customer = Self { child, seen };
        eventually("bound", || customer.seen.lock().unwrap().bound > 0);
        customer
    }

    /// How many conversations were announced to it.
    pub(super) fn announced(&self) -> usize {
        self.seen.lock().unwrap().announced.len()
    }

    /// The ids under which a conversation was announced.
    pub(super) fn ids(&self, conversation: &str) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        seen.announced.get(conversation).into_iter().flatten().cloned().collect()
    }

    pub(super) fn is_announced(&self, conversation: &str) -> bool {
        !self.ids(conversation).is_empty()
    }

    /// Whether a conversation is announced by now, or within the moment that it takes a broker to tell.
    pub(super) fn hears(&self, conversation: &str) -> bool {
        listen(|| self.is_announced(conversation))
    }

    /// The same of an event.
    pub(super) fn hears_event(&self, id: &str) -> bool {
        listen(|| self.seen.lock().unwrap().events.contains(id))
    }
}

fn listen(heard: impl Fn() -> bool) -> bool {
    (0..15).any(|_| {
        let heard = heard();
        if !heard {
            std::thread::sleep(Duration::from_millis(20));
        }
        heard
    })
}

impl Drop for Customer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
