//! The check of the public URL.

use serde_json::json;

use super::{answer, doctor, fixed_server, server_without_tls, unused_address};
use crate::support::process::{Installation, SimulatedPolyAi};

#[test]
fn reports_what_answers_instead_of_polyhook() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let ask = |url: &str| doctor(&site, &["--role", "receive", "--url", url]);
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let ours = receive.receiver_address();
    let found = ask(&format!("http://{ours}/polyai-events"));
    found.is_ok(&["public_url"]).has("public_url", "warn", "not https");
    ask(&format!("http://{ours}/elsewhere?token=whsec_mine")).has(
        "public_url",
        "fail",
        "server.path (/polyai-events)",
    );
    receive.stop();

    for (status, headers, body, words) in [
        ("200 OK", "", "welcome", "another service takes the deliveries"),
        ("204 No Content", "", "", "another service takes the deliveries"),
        (
            "302 Found",
            "location: https://www.example.com/x?y=whsec_z\r\n",
            "",
            "to https://www.example.com/x",
        ),
        ("401 Unauthorized", "www-authenticate: Basic\r\n", "who are you?", "credentials of its own"),
        ("403 Forbidden", "", "blocked", "a firewall (WAF)"),
        ("404 Not Found", "", "default backend - 404", "no route"),
        ("502 Bad Gateway", "", "<html>", "the ingress does not reach polyhook"),
        ("503 Service Unavailable", "", "{\"error\":\"service unavailable\"}\n", "/readyz"),
        ("418 I'm a teapot", "", "", "must be answered with 401"),
    ] {
        let found = ask(&format!("http://{}/polyai-events", fixed_server(answer(status, headers, body))));
        found.has("public_url", "fail", words).fails_only("public_url");
    }
    ask(&format!("http://{}/", unused_address())).has("public_url", "fail", "refused");
    ask("https://no-such-host.invalid/").has("public_url", "fail", "cannot be resolved");
    ask(&server_without_tls()).has("public_url", "fail", "no trusted TLS connection");
}

#[test]
fn compares_the_ack_budget_with_the_timeout_of_the_endpoint() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let url = "https://hooks.example.com/polyai-events";
    doctor(&site, &[]).has("endpoint.timeout", "skipped", "polyhook endpoint create");
    let body =
        json!({ "name": "n", "url": url, "event_types": ["conversation.completed"], "timeout_ms": 5000 });
    let id = polyai.api("POST", "/v1/webhook-endpoints", &body)["id"].as_str().unwrap().to_owned();
    doctor(&site, &[]).is_ok(&["endpoint.timeout"]).has("endpoint.timeout", "ok", "1000 ms are left");
    let found = doctor(&site, &["--set", "server.ack_budget=4800ms"]);
    found.has("endpoint.timeout", "warn", "200 ms are left");
    polyai.api("PATCH", &format!("/v1/webhook-endpoints/{id}"), &json!({ "timeout_ms": 4000 }));
    for role in ["run", "receive", "operate"] {
        let found = doctor(&site, &["--role", role]);
        found.has("endpoint.timeout", "fail", "PolyAI waits 4000 ms").fails_only("endpoint.timeout");
        found.has("endpoint.timeout", "fail", "set server.ack_budget to 3500ms or less");
        found.has("endpoint.timeout", "fail", &format!("polyhook endpoint update --timeout-ms 5000 {id}"));
    }
    // A receiver has no key, and a key that is refused is not the receiver's business.
    let receive = |more: &[&str]| doctor(&site, &[&["--role", "receive"], more].concat());
    receive(&["--set", "projects=[]"]).has("endpoint.timeout", "skipped", "4500 ms or more");
    receive(&["--set", "projects=[]", "--set", "server.ack_budget=5s"]).has(
        "endpoint.timeout",
        "warn",
        "5000 ms",
    );
    site.write("key", "an-unknown-key");
    receive(&[]).is_ok(&["secret"]).has("endpoint.timeout", "skipped", "cannot be listed");
    receive(&["--set", "server.ack_budget=6s"]).has("endpoint.timeout", "warn", "4500ms or less");
}
