//! `polyhook doctor`: the tests cause each fault for real and check its finding.

mod broker;
mod local;
mod polyai;
mod public;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
};

use serde_json::Value;

use crate::support::process::{CommandOutput, Installation, PolyhookCommand};

/// The findings of a run.
#[derive(Debug)]
struct Diagnosis {
    findings: Vec<Value>,
    code: Option<i32>,
}

impl Diagnosis {
    fn read(said: &CommandOutput) -> Self {
        let document: Value = serde_json::from_str(said.stdout.lines().next().expect("a document")).unwrap();
        let findings = document["findings"].as_array().unwrap().clone();
        let red = findings.iter().any(|finding| finding["state"] == "fail");
        assert_eq!(document["ok"], !red, "{document}");
        assert!(red || said.code == Some(0), "{said:?}");
        for status in ["ok", "warn", "fail", "skipped"] {
            let count = findings.iter().filter(|finding| finding["state"] == status).count();
            assert_eq!(document["summary"][status], count, "{document}");
        }
        for finding in &findings {
            let [next, status] = [&finding["next"], &finding["state"]];
            assert_eq!(next.is_null(), status == "ok", "a finding that is not ok has a next step: {finding}");
        }
        Self { findings, code: said.code }
    }

    /// Asserts that a finding of `check` with `status` contains `words`.
    #[track_caller]
    fn has(&self, check: &str, status: &str, words: &str) -> &Self {
        let found = self.findings.iter().any(|finding| {
            let text = format!("{} {} {}", finding["target"], finding["message"], finding["next"])
                .replace("\\\"", "\"")
                .replace("\\\\", "\\");
            finding["check"] == check && finding["state"] == status && text.contains(words)
        });
        assert!(found, "no {status} of {check} says {words:?}:\n{}", self.text());
        if status == "fail" {
            assert_eq!(self.code, Some(1));
        }
        self
    }

    fn text(&self) -> String {
        self.findings.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    }

    /// Asserts that no other check fails.
    #[track_caller]
    fn fails_only(&self, check: &str) -> &Self {
        for finding in &self.findings {
            assert!(
                finding["state"] != "fail" || finding["check"] == check,
                "another failure than {check}: {finding}"
            );
        }
        self
    }

    /// Asserts that nothing fails and that these checks are ok.
    #[track_caller]
    fn is_ok(&self, checks: &[&str]) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.text());
        for check in checks {
            self.has(check, "ok", "");
        }
        self
    }
}

fn doctor(site: &Installation, arguments: &[&str]) -> Diagnosis {
    Diagnosis::read(&call(site, arguments).run())
}

fn call(site: &Installation, arguments: &[&str]) -> PolyhookCommand {
    let arguments = [&["doctor", "--json"], arguments].concat();
    site.polyhook(arguments).must_not_print("guest:guest").must_not_print("an-unknown-key")
}

/// Starts a server that answers every request with the same bytes.
fn fixed_server(answer: impl Into<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.into();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let answer = answer.clone();
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
                let mut body = vec![0; length.unwrap_or_default()];
                let _ = stream.read_exact(&mut body);
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    address
}

/// Returns a response for [`fixed_server`].
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Starts a server that sends bytes without TLS at once, and returns an https URL of it.
fn server_without_tls() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    url
}

/// Returns an address on which no server listens.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
