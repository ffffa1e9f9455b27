//! Names of log fields in the Elastic Common Schema, for `log.format = "ecs"`.
//!
//! The library that formats events as ECS (tracing-ecs 0.5) keeps polyhook's own names at the top level, where they may
//! collide with fields of ECS, and formats each value twice. A table of the few names that ECS defines is smaller.

/// The version of the schema (<https://www.elastic.co/guide/en/ecs/current/ecs-ecs.html>).
pub(super) const VERSION: &str = "8.11.0";

/// The fields that ECS defines. All other fields are polyhook's own: they get the prefix [`OWN`].
const NAMES: [(&str, &str); 8] = [
    ("message", "message"),
    ("error", "error.message"),
    ("event.id", "event.id"),
    ("status", "http.response.status_code"),
    ("request.id", "http.request.id"),
    ("body_bytes", "http.request.body.bytes"),
    ("trace_id", "trace.id"),
    ("span_id", "span.id"),
];

/// The prefix of polyhook's own fields.
const OWN: &str = "polyhook.";

/// Returns the prefix and the rest of the name of a field.
pub(super) fn name(field: &str) -> (&'static str, &str) {
    match NAMES.iter().find(|(own, _)| *own == field) {
        Some((_, name)) => ("", name),
        None => (OWN, field),
    }
}
