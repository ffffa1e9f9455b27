//! A simulated PolyAI that runs as a process of its own.

use std::net::SocketAddr;

use serde_json::Value;

use super::{PolyhookCommand, Process, http_request};

/// A running `polyhook simulate`.
#[derive(Debug)]
pub(crate) struct SimulatedPolyAi {
    pub(crate) access: SimulatorAccess,
    _process: Process,
    _folder: tempfile::TempDir,
}

/// The address, the ids and the secrets that polyhook needs to work with the simulator.
#[derive(Clone, Debug)]
pub(crate) struct SimulatorAccess {
    pub(crate) url: String,
    pub(crate) account_id: String,
    pub(crate) project_id: String,
    pub(crate) api_key: String,
    pub(crate) secret: String,
}

impl SimulatorAccess {
    /// Access to a PolyAI that does not answer, because nothing, or something else, listens at `address`.
    pub(crate) fn unreachable(address: impl std::fmt::Display) -> Self {
        Self {
            url: format!("http://{address}"),
            account_id: "acme".to_owned(),
            project_id: "desk".to_owned(),
            api_key: "a-key-of-the-test".to_owned(),
            secret: "a-secret-of-the-test".to_owned(),
        }
    }
}

impl SimulatedPolyAi {
    /// A scenario of chats with one turn, which are small to fetch.
    pub(crate) const CHATS: &str = "
        epoch = \"2026-11-03T12:00:00Z\"
        mix = { webchat = 1.0, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    ";
    /// A scenario of short calls with recordings.
    pub(crate) const CALLS: &str = "
        epoch = \"2026-11-03T12:00:00Z\"
        mix = { webchat = 0.0, chat = 0.0, min_turns = 1, max_turns = 2, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    ";

    pub(crate) fn start(scenario: &str, calls: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("scenario.toml"), scenario).unwrap();
        let calls = calls.to_string();
        let arguments = [
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--json",
            "--scenario",
            "scenario.toml",
            "--calls",
            &calls,
        ];
        let process = PolyhookCommand::new(folder.path(), arguments).may_print_secrets().start();
        let printed: Value = process.wait_for("access", |line| serde_json::from_str(line).ok());
        let text = |name: &str| printed[name].as_str().expect(name).to_owned();
        let access = SimulatorAccess {
            url: text("url"),
            account_id: text("account_id"),
            project_id: text("project_id"),
            api_key: text("api_key"),
            secret: text("signing_secret"),
        };
        Self { access, _process: process, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.access.url.trim_start_matches("http://").parse().unwrap()
    }

    /// Calls the simulator's own control API, to script or to inspect it.
    pub(crate) fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request(method, &format!("/_simulator/{path}"), "", body)
    }

    /// Calls one of the simulated PolyAI APIs with the API key.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request(method, path, &format!("x-api-key: {}\r\n", self.access.api_key), body)
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &Value) -> Value {
        let headers = format!("content-type: application/json\r\n{headers}");
        let (status, body) =
            http_request(self.address(), method, path, &headers, body.to_string().as_bytes())
                .expect("a response");
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Returns the ids of all calls.
    pub(crate) fn ids(&self) -> Vec<String> {
        let calls = self.control("GET", "calls", &Value::Null);
        calls["calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| call["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Returns the body of the event that a finished conversation causes.
    pub(crate) fn event(&self, conversation_id: &str) -> Vec<u8> {
        let SimulatorAccess { account_id, project_id, .. } = &self.access;
        serde_json::json!({ "type": "conversation.completed", "data": {
            "conversation_id": conversation_id, "environment": "live",
            "account_id": account_id, "project_id": project_id,
        }})
        .to_string()
        .into_bytes()
    }
}
