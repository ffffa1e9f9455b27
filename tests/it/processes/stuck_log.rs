//! Whoever reads the log may stop reading. No delivery waits for that, nor does the end.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::process::{Installation, SimulatedPolyAi, deliver, eventually, get};

/// Many more than a pipe of 64 KiB holds, at some 250 bytes a line. `src/telemetry/writer.rs` tries what happens when the room behind
/// it is full as well.
const REFUSED: usize = 2000;

/// When the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let receive = Command::new(env!("CARGO_BIN_EXE_polyhook"))
        .args(["receive", "--config", "polyhook.toml"])
        .current_dir(site.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut receive = Killed(receive);
    // Until it listens somebody reads; then nobody does, and the pipe stays open.
    let mut log = BufReader::new(receive.0.stderr.take().unwrap());
    let mut address = |message: &str| loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before {message:?}");
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == message {
            break line["address"].as_str().unwrap().parse().unwrap();
        }
    };
    let receiver = address("receiving deliveries");
    let admin = address("serving /livez, /readyz and /metrics");
    eventually("ready", || get(admin, "/readyz").is_some_and(|(status, _)| status == 200));

    for number in 0..REFUSED {
        let status = deliver(receiver, "not-the-secret-of-ours", &format!("evt-{number}"), b"{}");
        assert_eq!(status, Some(401), "{number}");
    }
    let event = polyai.event(&polyai.ids()[0]);
    assert_eq!(deliver(receiver, &site.secret, "evt-genuine", &event), Some(204));

    // Nor does it hold up the end.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(receive.0.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(receive.0.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(log);
}
