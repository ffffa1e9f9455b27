//! Faults, each by name, while deliveries go on: real processes, real brokers, a real disk.
//!
//! The oracle is always the same (`oracle`): every delivery that was answered 204 ends in the archive, once, and its
//! announcement arrives at least once; every request is answered within the ack budget; nothing needs a restart by
//! hand. Deliveries that were refused are sent again, as PolyAI does (`load`), so it does not matter whether a fault
//! is ridden out by refusing or by keeping: both must come out right.
//!
//! Short by default. `FAULTS=long` takes the figures that are published: more kills, longer outages, every point to
//! crash at. Each scenario prints one line of JSON after `faults: `, and `FAULTS_REPORT=FILE` gathers the lines.
//! `FAULTS_SEED=N` repeats what was left to chance. Namespaces and mounts need root.

mod broker;
mod cluster;
mod crashes;
mod disk;
mod kills;
mod load;
mod oracle;
mod polyai;
mod pressure;
mod repeats;
mod stage;
mod tracer;

use std::{
    fs::OpenOptions,
    io::Write,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

/// Whether the figures to be published are taken.
fn long() -> bool {
    std::env::var_os("FAULTS").is_some_and(|word| word == "long")
}

fn pick<T>(short: T, longer: T) -> T {
    if long() { longer } else { short }
}

/// The chance of this run, told so that it can be had again.
fn dice(scenario: &str) -> fastrand::Rng {
    let seed = std::env::var_os("FAULTS_SEED")
        .map_or_else(|| fastrand::u64(..1 << 48), |seed| seed.to_str().unwrap().parse().unwrap());
    eprintln!("{scenario}: FAULTS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// What a scenario found, to be printed as one line.
#[derive(Debug)]
struct Figures {
    started: Instant,
    line: Map<String, Value>,
}

impl Figures {
    fn of(scenario: &str) -> Self {
        let mut line = Map::new();
        line.insert("scenario".to_owned(), scenario.into());
        line.insert("length".to_owned(), pick("short", "long").into());
        Self { started: Instant::now(), line }
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.line.insert(name.to_owned(), value.into());
        self
    }

    /// Durations of one kind, such as the recoveries from one kind of fault.
    fn times(&mut self, name: &str, mut times: Vec<Duration>) -> &mut Self {
        times.sort_unstable();
        let ms = |time: Option<&Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap());
        let value = json!({
            "count": times.len(),
            "median_ms": ms(times.get(times.len() / 2)),
            "longest_ms": ms(times.last()),
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
