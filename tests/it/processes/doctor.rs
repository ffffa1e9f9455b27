//! `polyhook doctor`: each fault, made for real, is named for what it is.

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

/// What the doctor says.
#[derive(Debug)]
struct Diagnosis {
    findings: Vec<Value>,
    code: Option<i32>,
}

impl Diagnosis {
    fn read(said: &CommandOutput) -> Self {
        let document: Value = serde_json::from_str(said.stdout.lines().next().expect("a document")).unwrap();
        let findings = document["findings"].as_array().unwrap().clone();
        let red = findings.iter().any(|finding| finding["status"] == "fail");
        assert_eq!(document["ok"], !red, "{document}");
        assert!(red || said.code == Some(0), "{said:?}");
        for status in ["ok", "warn", "fail", "skipped"] {
            let count = findings.iter().filter(|finding| finding["status"] == status).count();
            assert_eq!(document["summary"][status], count, "{document}");
        }
        for finding in &findings {
            let [next, status] = [&finding["next"], &finding["status"]];
            assert_eq!(next.is_null(), status == "ok", "what is not green has a next step: {finding}");
        }
        Self { findings, code: said.code }
    }

    /// A finding of `check` with `status` that says `words`, be it in what it says or in what to do.
    #[track_caller]
    fn says(&self, check: &str, status: &str, words: &str) -> &Self {
        let found = self.findings.iter().any(|finding| {
            let text = format!("{} {} {}", finding["target"], finding["said"], finding["next"])
                .replace("\\\"", "\"")
                .replace("\\\\", "\\");
            finding["check"] == check && finding["status"] == status && text.contains(words)
        });
        assert!(found, "no {status} of {check} says {words:?}:\n{}", self.shown());
        if status == "fail" {
            assert_eq!(self.code, Some(1));
        }
        self
    }

    fn shown(&self) -> String {
        self.findings.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    }

    /// The only red thing is this check.
    #[track_caller]
    fn only(&self, check: &str) -> &Self {
        for finding in &self.findings {
            assert!(
                finding["status"] != "fail" || finding["check"] == check,
                "red beside {check}: {finding}"
            );
        }
        self
    }

    /// Nothing is red, and these are green.
    #[track_caller]
    fn green(&self, checks: &[&str]) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.shown());
        for check in checks {
            self.says(check, "ok", "");
        }
        self
    }
}

fn doctor(site: &Installation, arguments: &[&str]) -> Diagnosis {
    Diagnosis::read(&call(site, arguments).run())
}

fn call(site: &Installation, arguments: &[&str]) -> PolyhookCommand {
    let arguments = [&["doctor", "--json"], arguments].concat();
    site.polyhook(arguments).must_not_print("guest:guest").must_not_print("a-key-of-nobody")
}

/// A server that answers everything with the same bytes.
fn fixed(answer: impl Into<String>) -> SocketAddr {
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

/// An answer for [`fixed`].
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The URL of a server that speaks without TLS, and first.
fn without_tls() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    url
}

/// A port where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
