//! Complete without webhooks: reconciliation, backfill, audit, and the lists and leases they stand on.

mod audit;
mod backfill;
mod lease;
mod lists;
mod reconcile;

use serde_json::{Value, json};

use crate::support::process::{PolyAi, Site};

/// Chats of the last days, one every ten minutes, the newest just now; next to nothing to fetch.
const RECENT: &str = "
    spacing = \"10m\"
    mix = { webchat = 1.0, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
";

/// How often PolyAI was asked for something, whatever it answered.
fn asked(polyai: &PolyAi, operation: &str) -> u64 {
    let requests = polyai.control("GET", "requests", &Value::Null);
    requests[operation]
        .as_object()
        .map_or(0, |counts| counts.values().map(|count| count.as_u64().unwrap()).sum())
}

/// Ends the call `id` that long after it began.
fn script(polyai: &PolyAi, id: &str, script: &Value) {
    polyai.control("PUT", &format!("calls/{id}/script"), script);
}

/// The report that a command ends with.
fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.trim()).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// A polyhook of its own, whose reconciliation is as `reconcile` says (TOML).
fn site(polyai: &PolyAi, reconcile: &str, more: &str) -> Site {
    Site::new(&polyai.access, &format!("reconcile = {{ {reconcile} }}\n{more}"))
}

/// Opens or closes doors of PolyAI's.
fn serve(polyai: &PolyAi, doors: &[(&str, bool)]) {
    let doors: serde_json::Map<_, _> =
        doors.iter().map(|(name, open)| ((*name).to_owned(), json!(open))).collect();
    polyai.control("PUT", "served", &Value::Object(doors));
}
