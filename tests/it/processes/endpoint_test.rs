//! `polyhook endpoint test` against a receiver, and against other services that may answer in its place.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::process::{Installation, PolyhookCommand, Process, SimulatedPolyAi, metric};

fn start_receiver(more: &str) -> (SimulatedPolyAi, Installation, Process) {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, more);
    let run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    (polyai, site, run)
}

fn test(site: &Installation, more: &[&str]) -> PolyhookCommand {
    site.polyhook([&["endpoint", "test"], more].concat())
}

/// Returns the problem of each test delivery, in order.
#[track_caller]
fn problems(site: &Installation, url: &str) -> Vec<Option<String>> {
    let output = test(site, &["--json", "--url", url]).run();
    let report = output.json();
    assert_eq!(output.code, Some(i32::from(report["ok"] != true)), "{report}");
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        assert_eq!(check["ok"], check["reason"].is_null(), "{check}");
        assert_eq!(check["ok"], check["next"].is_null(), "{check}");
    }
    checks.iter().map(|check| check["reason"].as_str().map(str::to_owned)).collect()
}

/// Returns the answer to the head of a request.
type Respond = fn(&str) -> &'static str;

/// Starts another service that answers each request with `answer`. It runs until the process ends.
fn other_service(answer: Respond) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
                let _ = reader.read_exact(&mut body);
                let _ = (&stream).write_all(answer(&head).as_bytes());
            });
        }
    });
    address
}

/// Starts a service that answers plain HTTP on every connection.
fn plain_http_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    address
}

#[test]
fn passes_against_a_receiver_without_leaving_a_job() {
    let (polyai, site, mut run) = start_receiver("");
    let url = format!("http://{}/polyai-events", run.receiver_address());
    let body = json!({
        "name": "n", "url": url, "event_types": ["conversation.completed"], "timeout_ms": 9000,
        "headers": { "X-Firewall": "token-of-a-firewall" },
    });
    polyai.api("POST", "/v1/webhook-endpoints", &body);
    let output =
        test(&site, &["--json"]).must_not_print("token-of-a-firewall").run().expect_exit_code(0).json();
    // Two secrets in two forms, and one delivery without a signature.
    let checks = output["checks"].as_array().unwrap();
    let seen: Vec<_> =
        checks.iter().map(|check| (&check["secret"], &check["form"], &check["status"])).collect();
    let (timestamped, alone) = (json!("timestamped"), json!("body"));
    assert_eq!(
        seen,
        [
            (&json!(1), &timestamped, &json!(204)),
            (&json!(1), &alone, &json!(204)),
            (&json!(2), &timestamped, &json!(204)),
            (&json!(2), &alone, &json!(204)),
            (&Value::Null, &Value::Null, &json!(401)),
        ]
    );
    let output = test(&site, &[]).run().expect_exit_code(0);
    assert!(output.stdout.contains("deliveries arrive") && output.stderr.is_empty(), "{output:?}");
    let admin = run.address("serving /livez, /readyz and /metrics");
    assert_eq!(metric(admin, "polyhook_deliveries_total{outcome=\"accepted\"}"), 8);
    assert_eq!(metric(admin, "polyhook_queue_depth{queue=\"fetch\"}"), 0, "the event has no conversation");
    assert_eq!(metric(admin, "polyhook_queue_depth{queue=\"dead\"}"), 0);

    // The command notes a disabled endpoint, even if the deliveries arrive.
    let id = output.stdout.split_whitespace().next().unwrap().to_owned();
    site.polyhook(["endpoint", "update", &id, "--disable"]).run().expect_exit_code(0);
    assert!(test(&site, &[&id]).run().expect_exit_code(0).stdout.contains("is disabled"));
    run.stop();
}

#[test]
fn finds_a_receiver_with_another_configuration() {
    let (_polyai, site, mut run) = start_receiver("");
    let receiver = run.receiver_address();
    let url = |path: &str| format!("http://{receiver}{path}");
    // Another path than the receiver's.
    assert_eq!(problems(&site, &url("/hooks")), vec![Some("path".to_owned()); 5]);
    // A secret that the receiver does not have.
    let secrets = std::fs::read_to_string(site.path().join("secrets")).unwrap();
    site.write("other", &format!("a-secret-that-no-receiver-has\n{secrets}"));
    let output =
        test(&site, &["--url", &url("/polyai-events"), "--set", "signature.secrets_file=other", "--json"]);
    let output = output.must_not_print("a-secret-that-no-receiver-has").run().expect_exit_code(1).json();
    let problems: Vec<_> =
        output["checks"].as_array().unwrap().iter().map(|check| &check["reason"]).collect();
    let [unknown, ok] = [&json!("secret"), &Value::Null];
    assert_eq!(problems, [unknown, unknown, ok, ok, ok, ok, ok]);
    run.stop();
    let output = test(&site, &["--url", &url("/polyai-events")]).run().expect_exit_code(1);
    assert!(
        output.stdout.contains("no process listens") && output.stdout.contains("next:"),
        "{}",
        output.stdout
    );
}

#[test]
fn distinguishes_other_services_from_a_receiver() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "signature.scheme = \"timestamped\"");
    let answers: [(Respond, &str, &str); 7] = [
        (
            |_| "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            "not_polyhook",
            "takes_unsigned",
        ),
        (
            |head| {
                if head.starts_with("post /moved") {
                    "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
                } else {
                    "HTTP/1.1 308 Permanent Redirect\r\nconnection: close\r\nlocation: /moved\r\ncontent-length: 0\r\n\r\n"
                }
            },
            "redirect",
            "redirect",
        ),
        (
            |_| "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "forbidden",
            "forbidden",
        ),
        (
            |_| "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 9\r\n\r\nnot found",
            "not_routed",
            "not_routed",
        ),
        (
            |_| "HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "no_receiver",
            "no_receiver",
        ),
        (
            // A service that accepts everything.
            |_| "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            "",
            "takes_unsigned",
        ),
        (
            |head| {
                assert!(!head.contains("x-polyai-timestamp") || head.contains("x-polyai-signature"));
                "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\n\r\n"
            },
            "login",
            "",
        ),
    ];
    for (answer, signed, unsigned) in answers {
        let url = format!("http://{}/polyai-events", other_service(answer));
        let word = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        assert_eq!(problems(&site, &url), [word(signed), word(signed), word(unsigned)]);
    }
    // A missing answer is reported once, not once for every secret.
    let broken = other_service(|_| "");
    assert_eq!(problems(&site, &format!("http://{broken}/")), [Some("broken".to_owned())]);
    assert_eq!(problems(&site, "https://no-such-name.invalid/"), [Some("dns".to_owned())]);
    assert_eq!(problems(&site, &format!("https://{}/", plain_http_service())), [Some("tls".to_owned())]);
    let output = test(&site, &["--url", "ftp://example.com/"]).run().expect_exit_code(2);
    assert!(output.stderr.contains("https://"), "{}", output.stderr);
}

#[test]
fn sends_the_headers_of_the_endpoint() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let firewall = other_service(|head| {
        if !head.contains("x-firewall: token-of-a-firewall") {
            "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        } else if head.contains("x-polyai-signature") {
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
        } else {
            "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        }
    });
    let url = format!("http://{firewall}/");
    let body = json!({
        "name": "n", "url": url, "event_types": ["conversation.completed"],
        "headers": { "X-Firewall": "token-of-a-firewall" },
    });
    polyai.api("POST", "/v1/webhook-endpoints", &body);
    test(&site, &[]).must_not_print("token-of-a-firewall").run().expect_exit_code(0);
    let output = test(&site, &["--url", &url]).run().expect_exit_code(1);
    assert!(output.stdout.contains("WAF"), "a URL alone has no headers: {}", output.stdout);
}

#[test]
fn reports_an_answer_after_the_timeout() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let slow = other_service(|_| {
        std::thread::sleep(Duration::from_secs(3));
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    });
    let body = json!({
        "name": "n", "url": format!("http://{slow}/"), "event_types": ["conversation.completed"], "timeout_ms": 1000,
    });
    polyai.api("POST", "/v1/webhook-endpoints", &body);
    let output = test(&site, &[]).run().expect_exit_code(1);
    assert!(output.stdout.contains("within 1000 ms"), "{}", output.stdout);
}

#[test]
fn explains_an_untrusted_certificate() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
        }
    });
    let output = test(&site, &["--json", "--url", &format!("https://localhost:{port}/")])
        .run()
        .expect_exit_code(1)
        .json();
    assert_eq!(output["checks"][0]["reason"], "certificate", "{output}");
    assert!(output["checks"][0]["message"].as_str().unwrap().contains("self-signed"), "{output}");
    assert_eq!(output["checks"].as_array().unwrap().len(), 1);
}
