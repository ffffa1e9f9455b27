//! Fault tests: real processes, real brokers and a real disk fail while deliveries arrive.
//!
//! Every scenario ends with the same checks ([`oracle`]): each delivery that was answered 204 is archived once and
//! announced at least once, each request is answered within the ack budget, and nothing needs a manual restart. The
//! sender ([`load`]) sends refused deliveries again, as PolyAI does. So a receiver may refuse deliveries during a fault
//! or store them; both must lose nothing.
//!
//! Scenarios are short by default. `FAULTS=long` measures the published figures: more kills, longer outages, and a crash
//! at every system call. Each scenario prints one line of JSON after `faults: `; `FAULTS_REPORT=FILE` appends the lines to
//! a file. `FAULTS_SEED=N` repeats the random choices of a run. Network namespaces and mounts need root.

mod broker;
mod cluster;
mod crashes;
mod deployment;
mod disk;
mod kills;
mod load;
mod oracle;
mod polyai;
mod pressure;
mod repeats;
mod replays;
mod tracer;

use std::{
    fs::OpenOptions,
    io::Write,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

/// Returns whether this run measures the published figures.
fn is_long_run() -> bool {
    std::env::var_os("FAULTS").is_some_and(|length| length == "long")
}

fn short_or_long<T>(short: T, long: T) -> T {
    if is_long_run() { long } else { short }
}

/// Returns a random generator and prints its seed, so that the run can be repeated.
fn seeded_rng(scenario: &str) -> fastrand::Rng {
    let seed = std::env::var_os("FAULTS_SEED")
        .map_or_else(|| fastrand::u64(..1 << 48), |seed| seed.to_str().unwrap().parse().unwrap());
    eprintln!("{scenario}: FAULTS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// The measurements of one scenario. They are printed as one line of JSON.
#[derive(Debug)]
struct Figures {
    started: Instant,
    line: Map<String, Value>,
}

impl Figures {
    fn new(scenario: &str) -> Self {
        let mut line = Map::new();
        line.insert("scenario".to_owned(), scenario.into());
        line.insert("length".to_owned(), short_or_long("short", "long").into());
        Self { started: Instant::now(), line }
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.line.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the number, the median and the maximum of durations of one kind, such as the recoveries from one kind of fault.
    fn set_durations(&mut self, name: &str, mut durations: Vec<Duration>) -> &mut Self {
        durations.sort_unstable();
        let value = json!({
            "count": durations.len(),
            "median_ms": durations.get(durations.len() / 2).copied().map(milliseconds),
            "longest_ms": durations.last().copied().map(milliseconds),
        });
        self.set(name, value)
    }

    fn print(mut self) {
        let seconds = self.started.elapsed().as_secs();
        self.set("seconds", seconds);
        let line = Value::Object(self.line).to_string();
        eprintln!("faults: {line}");
        if let Some(path) = std::env::var_os("FAULTS_REPORT") {
            let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("FAULTS_REPORT");
            writeln!(file, "{line}").expect("FAULTS_REPORT can be written");
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
