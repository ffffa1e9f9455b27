//! If the reader of the log stops reading, neither deliveries nor the shutdown wait for it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::process::{Installation, SimulatedPolyAi, deliver, eventually, get};

/// Many more lines than a pipe of 64 KiB holds, at about 250 bytes per line. `src/telemetry/writer.rs` tests what happens
/// when the buffer behind the pipe is full as well.
const REJECTED_DELIVERIES: usize = 2000;

/// A process that is killed at the end of the test, also after a panic.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_unread_log_delays_nothing() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let receive = Command::new(env!("CARGO_BIN_EXE_polyhook"))
        .args(["receive", "--config", "polyhook.toml"])
        .current_dir(site.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut receive = KilledOnDrop(receive);
    // The test reads the log until the process listens; then it stops, but the pipe stays open.
    let mut log = BufReader::new(receive.0.stderr.take().unwrap());
    let mut address = |message: &str| loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ended before {message:?}");
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == message {
            break line["address"].as_str().unwrap().parse().unwrap();
        }
    };
    let receiver = address("receiving deliveries");
    let admin = address("serving /livez, /readyz and /metrics");
    eventually("ready", || get(admin, "/readyz").is_some_and(|(status, _)| status == 200));

    for number in 0..REJECTED_DELIVERIES {
        let status = deliver(receiver, "not-the-configured-secret", &format!("evt-{number}"), b"{}");
        assert_eq!(status, Some(401), "{number}");
    }
    let event = polyai.event(&polyai.ids()[0]);
    assert_eq!(deliver(receiver, &site.secret, "evt-genuine", &event), Some(204));

    // The shutdown does not wait either.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(receive.0.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let start = std::time::Instant::now();
    assert_eq!(receive.0.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < std::time::Duration::from_secs(8), "{:?}", start.elapsed());
    drop(log);
}
