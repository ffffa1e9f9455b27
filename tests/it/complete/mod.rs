//! Completeness without webhooks: reconciliation, backfill and audit, with their lists and leases.

mod audit;
mod backfill;
mod backfill_wait;
mod lease;
mod lists;
mod odd_lists;
mod reconcile;

use serde_json::{Value, json};

use crate::support::process::{Installation, SimulatedPolyAi};

/// Chats of the last days, one every ten minutes, the newest just now, with little data to fetch.
const RECENT_CHATS: &str = "
    spacing = \"10m\"
    mix = { webchat = 1.0, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
";

/// Returns the number of requests for one operation of PolyAI, with any answer.
fn request_count(polyai: &SimulatedPolyAi, operation: &str) -> u64 {
    let requests = polyai.control("GET", "requests", &Value::Null);
    requests[operation]
        .as_object()
        .map_or(0, |counts| counts.values().map(|count| count.as_u64().unwrap()).sum())
}

/// Changes the simulated behaviour of the call `id`.
fn script_call(polyai: &SimulatedPolyAi, id: &str, script: &Value) {
    polyai.control("PUT", &format!("calls/{id}/script"), script);
}

/// Parses the JSON report of a command.
fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.trim()).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// Creates a polyhook installation with these `reconcile` settings (TOML).
fn site(polyai: &SimulatedPolyAi, reconcile: &str, more: &str) -> Installation {
    Installation::new(&polyai.access, &format!("reconcile = {{ {reconcile} }}\n{more}"))
}

/// Enables or disables operations of the simulated PolyAI.
fn set_served(polyai: &SimulatedPolyAi, doors: &[(&str, bool)]) {
    let doors: serde_json::Map<_, _> =
        doors.iter().map(|(name, open)| ((*name).to_owned(), json!(open))).collect();
    polyai.control("PUT", "served", &Value::Object(doors));
}
