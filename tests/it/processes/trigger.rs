//! The trigger end to end: the snippet of docs/trigger.md runs against a receiver, and the call is archived after its end.

use std::{path::Path, process::Command};

use serde_json::json;

use super::verified_archive;
use crate::support::process::{
    Installation, PolyhookCommand, SimulatedPolyAi, eventually, http_request, metric,
};

const PAGE: &str = include_str!("../../../docs/trigger.md");
const TOKEN: &str = "a-trigger-token-of-tests";
/// Takes the place of PolyAI's runtime: the names that `_gen` gives to a function, and a conversation.
const RUNTIME: &str = r#"
import sys, types
gen = types.ModuleType("_gen")
class Conversation: pass
gen.Conversation = Conversation
sys.modules["_gen"] = gen
snippet, url, token, conversation_id, project_id, environment = sys.argv[1:]
names = {}
exec(compile(snippet.replace("https://hooks.example.com/polyai-trigger", url), "end_function.py", "exec"), names)
conv = Conversation()
conv.id, conv.account_id, conv.project_id, conv.env = conversation_id, "acme", project_id, environment
conv.utils = types.SimpleNamespace(get_secret=lambda name: {"polyhook_trigger_token": token}[name])
conv.log = types.SimpleNamespace(warning=print)
assert names["end_function"](conv) is None
"#;

/// Runs the snippet for a call and returns what it logs.
fn end_function(url: &str, token: &str, conversation_id: &str, project_id: &str) -> String {
    let snippet = PAGE.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/python");
    assert!(python.exists(), "no Python with requests here: run scripts/install-test-tools");
    let arguments = ["-c", RUNTIME, snippet, url, token, conversation_id, project_id, "live"];
    let output = Command::new(python).args(arguments).env("NO_PROXY", "*").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_end_function_has_its_call_archived_after_the_end() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let id = polyai.ids().remove(0);
    polyai.control("PUT", &format!("calls/{id}/script"), &json!({ "in_progress_requests": 2 }));
    let trigger = "trigger = { path = \"/polyai-trigger\", token_file = \"tokens\" }\n";
    let site = Installation::new(&polyai.access, &format!("{trigger}retry.delays = [\"200ms\"]"));
    site.write("tokens", &format!("{TOKEN}\n"));
    let mut run = site.polyhook(["run"]).must_not_print(TOKEN).start();
    let (to, admin) = (run.receiver_address(), run.wait_until_ready());
    let url = format!("http://{to}/polyai-trigger");
    let project = &polyai.access.project_id;

    let refused = end_function(&url, "another-token-of-tests", &id, project);
    assert!(refused.starts_with("polyhook did not take the call: 401 "), "{refused}");
    for _ in 0..2 {
        assert_eq!(end_function(&url, TOKEN, &id, project), "");
    }
    eventually("archived", || site.manifests().len() == 1);
    let manifest = &verified_archive(&site.archive())[&id];
    assert_eq!((&manifest["trigger"], &manifest["in_progress"]), (&json!("trigger"), &json!(false)));
    let count = |name: &str| metric(admin, name);
    eventually("counted", || count("polyhook_jobs_total{outcome=\"archived\"}") == 1);
    assert_eq!(count("polyhook_jobs_total{outcome=\"retried\"}"), 2);
    assert_eq!(count("polyhook_deliveries_total{outcome=\"accepted\"}"), 1);
    assert_eq!(count("polyhook_deliveries_total{outcome=\"duplicate\"}"), 1);
    assert_eq!(count("polyhook_unverified_total{reason=\"token_mismatch\"}"), 1);

    // A rotation.
    site.write("tokens", "the-next-trigger-token-of-tests\n");
    eventually("the new token is active", || {
        end_function(&url, "the-next-trigger-token-of-tests", &id, project).is_empty()
    });
    let headers = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(http_request(to, "POST", "/polyai-trigger", &headers, b"{}").unwrap().0, 401);
    run.stop();
}

#[test]
fn a_trigger_that_is_not_safe_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("tokens"),
        ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|n| format!("a-trigger-token-{n}\n")).concat(),
    )
    .unwrap();
    std::fs::write(folder.path().join("empty"), "# none\n").unwrap();
    std::fs::write(folder.path().join("twice"), "hunter2-hunter2-hunter2\n".repeat(2)).unwrap();
    let secret = "signature.secrets=hunter2-of-the-webhook";
    for (settings, says) in [
        (&["trigger.path=/trigger"][..], "there is no token"),
        (&["trigger.path=/trigger", "trigger.token_file=empty"], "there is no token"),
        (&["trigger.path=/trigger", "trigger.token_file=gone"], "gone: "),
        (
            &["trigger.path=/trigger", "trigger.token_file=tokens"],
            "9 trigger tokens are valid, but at most 8",
        ),
        (&["trigger.path=/trigger", "trigger.token_file=twice"], "number 2 is the same as number 1"),
        (&["trigger.path=/trigger", "trigger.token=hunter2"], "shorter than 16 characters"),
        (&["trigger.path=/trigger", "trigger.token=Bearer hunter2-hunter2-hunter2"], "\"Bearer \""),
        (&["trigger.path=/trigger", "trigger.token=hunter2-hünter2-hunter2"], "a header cannot carry"),
        (
            &["trigger.path=/trigger", "trigger.token=hunter2-of-the-webhook"],
            "is a signing secret or an API key",
        ),
        (
            &["trigger.path=/polyai-events/", "trigger.token=hunter2-hunter2-hunter2"],
            "the same as server.path",
        ),
        (
            &["trigger.path=trigger", "trigger.token=hunter2-hunter2-hunter2"],
            "trigger.path: it must start with a slash",
        ),
        (
            &["trigger.path=/{x}", "trigger.token=hunter2-hunter2-hunter2"],
            "trigger.path: it must start with a slash",
        ),
        (&["trigger.pth=/x"], "did you mean trigger.path?"),
    ] {
        for command in [&["config", "check", "--role", "receive"][..], &["receive"]] {
            let settings = settings.iter().chain([&secret]).flat_map(|setting| ["--set", *setting]);
            let call = PolyhookCommand::new(folder.path(), command.iter().copied().chain(settings));
            let refused =
                call.must_not_print("hunter2").must_not_print("a-trigger-token").run().expect_exit_code(78);
            assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
        }
    }
}

/// The token is a configured secret, so no signing secret is needed; a delivery is refused for later.
#[test]
fn a_trigger_needs_no_signing_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut receive = PolyhookCommand::new(folder.path(), ["receive"])
        .env("POLYHOOK__TRIGGER__PATH", "/polyai-trigger")
        .env("POLYHOOK__TRIGGER__TOKEN", format!("\"{TOKEN}\"\n"))
        .env("POLYHOOK__SERVER__LISTEN", "127.0.0.1:0")
        .env("POLYHOOK__ADMIN__LISTEN", "127.0.0.1:0")
        .must_not_print(TOKEN)
        .start();
    let to = receive.receiver_address();
    let headers = format!("authorization: Bearer {TOKEN}\r\n");
    let answer = http_request(to, "POST", "/polyai-trigger", &headers, br#"{"conversation_id":"CA1"}"#);
    assert_eq!(answer, Some((204, String::new())));
    let signature = format!("x-polyai-signature: {}\r\n", "0".repeat(64));
    assert_eq!(http_request(to, "POST", "/polyai-events", &signature, b"{}").unwrap().0, 503);
    assert_eq!(http_request(to, "POST", "/polyai-events", &headers, b"{}").unwrap().0, 401);
    receive.stop();
}
