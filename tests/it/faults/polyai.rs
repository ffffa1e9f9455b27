//! Errors of PolyAI's API for one of two projects. Its jobs wait, none becomes a dead letter, and the jobs of the other
//! project are not delayed.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{
    Figures,
    load::Load,
    milliseconds,
    oracle::{self, AnnouncementSource},
    short_or_long,
};
use crate::support::process::{Installation, Process, SimulatedPolyAi, eventually, metric};

const FAILING: &str = "PROJECT-C0NC1ERG";
const HEALTHY: &str = "PROJECT-SECOND";
const API_KEYS: [(&str, &str); 2] = [(FAILING, "simulated-key-0001"), (HEALTHY, "simulated-key-0002")];
const SCENARIO: &str = r#"
    epoch = "2026-11-03T12:00:00Z"
    mix = { webchat = 1.0, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    [[projects]]
    [[projects]]
    project_id = "PROJECT-SECOND"
    project_slug = "second"
    api_key = "simulated-key-0002"
"#;
/// Deliveries per second of each project. So few that a busy machine, where a job takes a second, can process them
/// together with the retries.
const RATE_PER_PROJECT: u32 = 3;
/// Conversations of the healthy project that are timed during each fault.
const SAMPLES: usize = 5;

/// Returns delays that together last longer than all faults. Each is short enough for a test and so long that the
/// retries do not occupy the worker.
fn retry_delays() -> String {
    format!("[{}]", ["\"10s\""; 60].join(","))
}

/// Returns the faults by name.
fn faults() -> [(&'static str, Value); 7] {
    [
        ("down", json!({ "status": 503 })),
        ("429 storm", json!({ "rate_limited": { "seconds": 1 } })),
        ("429 without a time", json!({ "rate_limited": "absent" })),
        ("hanging up", json!("hang_up")),
        ("HTML for an answer", json!("html")),
        ("broken off", json!({ "truncate": 10 })),
        ("never answering", json!({ "delay": "10m" })),
    ]
}

/// Returns the longest median from 204 to archive that the healthy project may have during a fault, if it is `alone`
/// without the failing project. Requests that hang may hold all permits of the worker for 2 s.
fn limit(alone: Duration) -> Duration {
    Duration::from_secs(4) + 6 * alone
}

#[test]
fn errors_for_one_project_do_not_delay_another() {
    let polyai = SimulatedPolyAi::start(SCENARIO, short_or_long(4000, 20_000));
    let both = Service::start(&polyai, &[FAILING, HEALTHY]);
    // The same jobs of the healthy project at the same time on the same machine, without the failing project.
    let alone = Service::start(&polyai, &[HEALTHY]);
    let mut figures = Figures::new("PolyAI fails for one of two projects");
    let mut medians = Map::new();
    for (name, action) in faults() {
        let fault = json!({ "project_id": FAILING, "fault": { "action": action } });
        polyai.control("POST", "faults", &fault);
        // More failing jobs than the worker has permits.
        both.wait_for_deliveries_of(FAILING, short_or_long(9, 60));
        let (with_failing, without) = thread::scope(|scope| {
            let without = scope.spawn(|| alone.median_time_to_archive());
            (both.median_time_to_archive(), without.join().unwrap())
        });
        polyai.control("DELETE", "faults", &Value::Null);
        let times = json!({ "with_failing": milliseconds(with_failing), "alone": milliseconds(without) });
        medians.insert(name.to_owned(), times);
        assert!(
            with_failing < limit(without),
            "{name}: the other project waits {with_failing:?}, and {without:?} without the failing one"
        );
    }
    figures.set("other_project_archived_after_ms", medians);
    alone.finish(&mut Figures::new("the healthy project alone"));
    both.finish(&mut figures);
    figures.print();
}

/// `polyhook run` for some of the projects, under load.
struct Service {
    site: Installation,
    run: Process,
    load: Load,
    /// The project of each conversation.
    projects: BTreeMap<String, String>,
    account: String,
}

impl Service {
    fn start(polyai: &SimulatedPolyAi, projects: &[&str]) -> Self {
        let account = polyai.access.account_id.clone();
        let configured: Vec<_> = API_KEYS
            .iter()
            .filter(|(project, _)| projects.contains(project))
            .map(|(project, key)| {
                format!("{{ account_id = \"{account}\", project_id = \"{project}\", api_key = \"{key}\" }}")
            })
            .collect();
        let config =
            format!("projects = [{}]\nretry = {{ delays = {} }}\n", configured.join(","), retry_delays());
        let site = Installation::new(&polyai.access, &config);
        let run = site.polyhook(["run"]).start();
        run.wait_until_ready();
        let calls = polyai.control("GET", "calls", &Value::Null);
        let calls = calls["calls"].as_array().unwrap();
        let calls: Vec<_> =
            calls.iter().filter(|call| projects.iter().any(|id| call["project_id"] == *id)).collect();
        let text = |call: &Value, name: &str| call[name].as_str().unwrap().to_owned();
        let deliveries = calls.iter().map(|call| (text(call, "id"), event(call))).collect();
        let rate = RATE_PER_PROJECT * u32::try_from(projects.len()).unwrap();
        let load = Load::with_deliveries(deliveries, polyai, run.receiver_address(), rate);
        let projects = calls.iter().map(|call| (text(call, "id"), text(call, "project_id"))).collect();
        Self { site, run, load, projects, account }
    }

    /// Waits until this many more conversations of a project are acknowledged.
    fn wait_for_deliveries_of(&self, project: &str, count: usize) {
        let since = Instant::now();
        eventually("acknowledged", || self.acknowledged_since(project, since).len() >= count);
    }

    /// Returns the conversations of a project that were acknowledged after `since`, oldest first.
    fn acknowledged_since(&self, project: &str, since: Instant) -> Vec<(Instant, String)> {
        let mut found: Vec<_> = self.load.inspect(|record| {
            let new = record
                .acknowledged
                .iter()
                .filter(|(id, times)| times.answered >= since && self.projects[*id] == project);
            new.map(|(id, times)| (times.answered, id.clone())).collect()
        });
        found.sort_unstable();
        found
    }

    /// Returns the median time from 204 to archive of the next [`SAMPLES`] conversations of the healthy project.
    fn median_time_to_archive(&self) -> Duration {
        let since = Instant::now();
        let mut samples = Vec::new();
        eventually("acknowledged", || {
            samples = self.acknowledged_since(HEALTHY, since);
            samples.len() >= SAMPLES
        });
        samples.truncate(SAMPLES);
        let mut times = Vec::new();
        eventually("archived, although the API of the other project fails", || {
            samples.retain(|(acknowledged, id)| {
                let archived = self.is_archived(id);
                if archived {
                    times.push(acknowledged.elapsed());
                }
                !archived
            });
            samples.is_empty()
        });
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Returns whether a conversation of the healthy project is archived. Reads only the folders of the dates, because
    /// frequent reads of the whole archive would slow down the service.
    fn is_archived(&self, conversation: &str) -> bool {
        let project = format!("account_id={}/project_id={HEALTHY}", self.account);
        let dates = fs::read_dir(self.site.archive().join(project)).into_iter().flatten();
        dates.flatten().any(|date| date.path().join(conversation).join("manifest.json").exists())
    }

    /// Ends the load and checks that every job was archived in the end.
    fn finish(mut self, figures: &mut Figures) {
        let record = self.load.finish();
        let queue = self.site.path().join("polyhook-data/queue.db");
        oracle::check(&record, &self.site.archive(), &AnnouncementSource::Embedded(&queue), None, figures);
        let admin = self.run.wait_until_ready();
        let dead = metric(admin, "polyhook_queue_depth{queue=\"dead\"}");
        figures.set("dead", dead);
        assert_eq!(dead, 0, "a job became a dead letter because of errors that passed");
        self.run.stop();
    }
}

/// Returns the event of a finished call.
fn event(call: &Value) -> Vec<u8> {
    let body = json!({ "type": "conversation.completed", "data": {
        "conversation_id": call["id"], "environment": "live",
        "account_id": call["account_id"], "project_id": call["project_id"],
    }});
    body.to_string().into_bytes()
}
