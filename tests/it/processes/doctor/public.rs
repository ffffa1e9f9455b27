//! The check of the public URL.

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
