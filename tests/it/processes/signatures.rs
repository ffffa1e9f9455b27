//! Signatures compared with independent implementations: Python's `hmac` and Node's `crypto`.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
};

use crate::support::process::{Installation, PolyhookCommand, SimulatedPolyAi, interpreter, post};

const PYTHON: &str = "
import hashlib, hmac, sys
secret, timestamp, *files = sys.argv[1:]
for file in files:
    body = open(file, 'rb').read()
    signed = f'{timestamp}.'.encode() + body if timestamp else body
    print(hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest())
";

const NODE: &str = "
const [secret, timestamp, ...files] = process.argv.slice(1);
for (const file of files) {
    const hmac = require('crypto').createHmac('sha256', secret);
    if (timestamp) hmac.update(timestamp + '.');
    console.log(hmac.update(require('fs').readFileSync(file)).digest('hex'));
}
";

#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    Node,
}

impl Language {
    const ALL: [Self; 2] = [Self::Python, Self::Node];

    /// Signs files as PolyAI's documentation describes.
    fn sign(self, secret: &str, timestamp: Option<u64>, folder: &Path, files: &[&str]) -> Vec<String> {
        let (name, flag, script) = match self {
            Self::Python => ("python3", "-c", PYTHON),
            Self::Node => ("node", "-e", NODE),
        };
        let timestamp = timestamp.map(|seconds| seconds.to_string()).unwrap_or_default();
        let output = interpreter(name)
            .args([flag, script, secret, &timestamp])
            .args(files)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

fn now() -> u64 {
    u64::try_from(polyhook::clock::Clock::System.now().as_second()).unwrap()
}

const BODIES: [(&str, &[u8]); 5] = [
    ("plain", br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#),
    ("unicode", "{\"type\":\"alerts.triggered\",\"alert\":{\"name\":\"Überlauf — 満杯 🚨\"}}\n".as_bytes()),
    ("empty", b""),
    ("binary", b"\x00\x01\xfe\xff\r\n.\x80"),
    ("dotted", b"1780000000.{}"),
];

#[test]
fn accepts_signatures_of_other_implementations() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    for secret in ["whsec_0123456789abcdef0123456789abcdef", "ein-Geheimnis—秘密の鍵"] {
        let mut access = polyai.access.clone();
        secret.clone_into(&mut access.secret);
        let site = Installation::new(&access, "");
        let mut receive = site.polyhook(["receive"]).start();
        receive.wait_until_ready();
        let to = receive.receiver_address();
        for (name, body) in BODIES {
            std::fs::write(site.path().join(name), body).unwrap();
        }
        let names = BODIES.map(|(name, _)| name);
        for (language, timestamp) in
            Language::ALL.into_iter().flat_map(|language| [(language, None), (language, Some(now()))])
        {
            let good = language.sign(secret, timestamp, site.path(), &names);
            let wrong = language.sign("another-secret-entirely", timestamp, site.path(), &names);
            for (((name, body), good), wrong) in BODIES.into_iter().zip(&good).zip(&wrong) {
                // It may be what a recorded timestamped delivery signs, so the body form is refused.
                let is_replay = name == "dotted" && timestamp.is_none();
                let event_id = format!("{language:?}-{name}-{timestamp:?}");
                let what = format!("{event_id} with {secret}");
                let status = post(to, &event_id, good, timestamp, body);
                assert_eq!(status, Some(if is_replay { 401 } else { 204 }), "{what}");
                if is_replay {
                    continue;
                }
                let seconds = timestamp.map(|seconds| seconds.to_string());
                let mut arguments = vec!["verify", "--json", "--signature", good];
                arguments.extend(seconds.iter().flat_map(|seconds| ["--timestamp", seconds]));
                let verdict = site.polyhook(arguments.clone()).input(body).run().expect_exit_code(0).json();
                let form = if timestamp.is_some() { "timestamped" } else { "body" };
                assert_eq!(verdict["form"], form, "{what}");

                // A further byte or another secret makes the signature invalid.
                let other = [body, b" "].concat();
                assert_eq!(post(to, &event_id, good, timestamp, &other), Some(401), "{what}");
                site.polyhook(arguments).input(&other).run().expect_exit_code(1);
                assert_eq!(post(to, &event_id, wrong, timestamp, body), Some(401), "{what}");
            }
        }
        receive.stop();
    }
}

/// Answers one request with 204 and returns its head and its body.
fn receive_request(listener: &TcpListener) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part).unwrap();
        request.extend_from_slice(&part[..read]);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(request[..end].to_vec()).unwrap();
        let length: usize = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        if request.len() >= end + 4 + length {
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
            return (head, request.split_off(end + 4));
        }
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

#[test]
fn other_implementations_accept_the_signatures_of_send() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "whsec_fedcba9876543210";
    std::fs::write(folder.path().join("secret"), secret).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/polyai-events", listener.local_addr().unwrap());
    for (name, body) in BODIES {
        std::fs::write(folder.path().join(name), body).unwrap();
        for scheme in ["timestamped", "body"] {
            let arguments =
                ["send", "--url", &url, "--secret-file", "secret", "--scheme", scheme, "--body", name];
            let sending = PolyhookCommand::new(folder.path(), arguments).must_not_print(secret).start();
            let (head, sent) = receive_request(&listener);
            drop(sending);
            assert_eq!(sent, body, "{name}");
            let signature = header(&head, "x-polyai-signature").unwrap();
            let timestamp = header(&head, "x-polyai-timestamp").map(|seconds| seconds.parse().unwrap());
            assert_eq!(timestamp.is_some(), scheme == "timestamped", "{head}");
            assert!(timestamp.is_none_or(|seconds: u64| now().abs_diff(seconds) < 60), "{head}");
            std::fs::write(folder.path().join("sent"), &sent).unwrap();
            for language in Language::ALL {
                let theirs = language.sign(secret, timestamp, folder.path(), &["sent"]);
                assert_eq!([&*signature], theirs[..], "{language:?} {name} {scheme}");
            }
        }
    }
}
