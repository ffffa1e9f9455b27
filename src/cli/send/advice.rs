//! Explains an unexpected outcome of a delivery: the target, the cause and what to do.

use url::Url;

use polyhook_simulator::AttemptOutcome;

use crate::secret;

/// Returns one line about an unexpected outcome. `path` is the configured `server.path`.
pub(super) fn explain(outcome: AttemptOutcome, target: &Url, path: &str) -> String {
    let target = secret::shown_address(target);
    match outcome {
        AttemptOutcome::Network => format!(
            "no connection to {target}: start a receiver with `polyhook run`, or name a running one with --url"
        ),
        AttemptOutcome::Timeout => {
            format!("no answer in time from {target}: see the log of the receiver, and `polyhook status`")
        }
        AttemptOutcome::Answered { status } => {
            format!("{target} answered {status}: {}", advice(status, path))
        }
    }
}

fn advice(status: u16, path: &str) -> String {
    match status {
        200..=299 => "that was not expected; if it must refuse this delivery, check that the URL is a polyhook receiver's, \
                     and its signature.on_mismatch"
            .to_owned(),
        300..=399 => "PolyAI follows no redirect; name the final URL with --url".to_owned(),
        401 | 403 => "it has another signing secret or clock; sign with its secret (--secret-file FILE), and see why with \
                      `polyhook verify`"
            .to_owned(),
        404 | 405 => format!(
            "the path of the URL must be the receiver's server.path, which is {path} in this configuration"
        ),
        413 => "the body is larger than its server.body_limit".to_owned(),
        503 => "it cannot store deliveries now; see its /readyz and `polyhook status`".to_owned(),
        _ => "check that the URL is a polyhook receiver's, and see its log".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unexpected_outcome_names_the_target_and_the_next_step() {
        let target = "http://user:hunter2@127.0.0.1:8080/events?key=hunter2".parse().unwrap();
        let answered = |status| AttemptOutcome::Answered { status };
        for (outcome, step) in [
            (AttemptOutcome::Network, "`polyhook run`"),
            (AttemptOutcome::Network, "--url"),
            (AttemptOutcome::Timeout, "`polyhook status`"),
            (answered(204), "signature.on_mismatch"),
            (answered(301), "--url"),
            (answered(401), "--secret-file"),
            (answered(404), "server.path, which is /polyai-events"),
            (answered(413), "server.body_limit"),
            (answered(500), "log"),
            (answered(503), "/readyz"),
        ] {
            let text = explain(outcome, &target, "/polyai-events");
            assert!(text.contains("http://127.0.0.1:8080/events") && text.contains(step), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
