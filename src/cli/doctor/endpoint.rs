//! Compares `server.ack_budget` with the time that PolyAI waits for an answer of the registered endpoint.
//!
//! Only a project's key shows the endpoint, and receivers have none. Then the check cannot be made, which is no failure.

use std::{collections::BTreeSet, time::Duration};

use url::Url;

use super::report::{Finding, Subject};
use crate::{
    clock::Clock,
    config::Config,
    polyai::{Endpoint, WebhooksClient},
    secret::shown_address,
    shell,
    web::{MAX_ACK_BUDGET, MIN_ACK_BUDGET, POLYAI_TIMEOUT},
};

/// The shortest time that an endpoint can set.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The time for the network, the ingress and TLS, beside `server.ack_budget`.
const MIN_MARGIN: Duration = POLYAI_TIMEOUT.saturating_sub(MAX_ACK_BUDGET);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn subject(target: impl Into<String>) -> Subject {
    Subject::new("endpoint.timeout", target)
}

/// Compares the endpoints with `url`, or those that may lead to this receiver.
pub(super) async fn check(config: &Config, url: Option<&Url>, clock: Clock) -> Vec<Finding> {
    let budget = config.server.ack_budget;
    let (mut findings, mut endpoints) = (Vec::new(), Vec::new());
    let mut ids = BTreeSet::new();
    let with_key = config
        .projects
        .iter()
        .filter(|project| !project.api_key.is_empty() || project.data_api_key.is_some());
    let mut without_key = true;
    for project in with_key {
        without_key = false;
        match list(config, project, clock.clone()).await {
            // Projects share accounts.
            Ok(listed) => {
                endpoints.extend(listed.into_iter().filter(|endpoint| ids.insert(endpoint.id.clone())));
            }
            Err(error) => findings.push(subject(&*project.project_id).skipped(
                format!("the endpoints cannot be listed: {error}"),
                format!(
                    "look at timeout_ms in Agent Studio; it must be {} or more",
                    ms(budget.min(MAX_ACK_BUDGET) + MIN_MARGIN)
                ),
            )),
        }
    }
    if without_key {
        return vec![compare_with_default(budget)];
    }
    let relevant = relevant(&endpoints, url, &config.server.path);
    if relevant.is_empty() && findings.is_empty() {
        findings.push(match url {
            Some(url) => subject(shown_address(url)).warn(
                "no endpoint of the account has this URL, so PolyAI delivers nothing to it",
                "register it with `polyhook endpoint create --url`, or give another --url; `polyhook endpoint list` shows all endpoints",
            ),
            None => subject("webhook").skipped(
                "no endpoint of the account leads to server.path",
                "register one with `polyhook endpoint create`, or name its URL with --url",
            ),
        });
    }
    if relevant.is_empty() && budget + MIN_MARGIN > POLYAI_TIMEOUT {
        findings.push(compare_with_default(budget));
    }
    findings.extend(relevant.into_iter().map(|endpoint| compare(endpoint, budget)));
    findings
}

async fn list(
    config: &Config,
    project: &crate::polyai::ProjectConfig,
    clock: Clock,
) -> Result<Vec<Endpoint>, String> {
    let client = WebhooksClient::new(&config.polyai, project, clock).map_err(|error| error.to_string())?;
    match tokio::time::timeout(LIST_TIMEOUT, client.list()).await {
        Ok(listed) => listed.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {LIST_TIMEOUT:?}")),
    }
}

/// Returns the endpoints that lead to this receiver. Without a URL: the only enabled one, or those with the path of the
/// receiver.
fn relevant<'a>(endpoints: &'a [Endpoint], url: Option<&Url>, path: &str) -> Vec<&'a Endpoint> {
    let parsed = |endpoint: &Endpoint| endpoint.url.parse::<Url>().ok();
    if let Some(url) = url {
        return endpoints.iter().filter(|endpoint| parsed(endpoint).as_ref() == Some(url)).collect();
    }
    let enabled: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.enabled != Some(false)).collect();
    if enabled.len() == 1 {
        return enabled;
    }
    let leads_here = |endpoint: &&Endpoint| parsed(endpoint).is_some_and(|url| url.path() == path);
    enabled.into_iter().filter(leads_here).collect()
}

fn compare(endpoint: &Endpoint, budget: Duration) -> Finding {
    let timeout = endpoint.timeout_ms.map_or(POLYAI_TIMEOUT, Duration::from_millis);
    let subject = subject(&*endpoint.id);
    let waits = format!(
        "PolyAI waits {} for an answer, and polyhook may take {} (server.ack_budget)",
        ms(timeout),
        ms(budget)
    );
    let Some(margin) = timeout.checked_sub(budget).filter(|margin| !margin.is_zero()) else {
        return subject.fail(
            format!("{waits}: PolyAI gives up first, counts the delivery as failed and repeats it, although it may be durable"),
            next(&endpoint.id, timeout, budget),
        );
    };
    if margin < MIN_MARGIN {
        let message = format!(
            "{waits}: {} are left for the network and the ingress, and {} are needed",
            ms(margin),
            ms(MIN_MARGIN)
        );
        return subject.warn(message, next(&endpoint.id, timeout, budget));
    }
    subject.ok(format!("{waits}: {} are left for the network and the ingress", ms(margin)))
}

fn next(id: &str, timeout: Duration, budget: Duration) -> String {
    let largest = timeout.saturating_sub(MIN_MARGIN).min(MAX_ACK_BUDGET);
    let lower = format!("set server.ack_budget to {}ms or less", largest.as_millis());
    // No timeout makes such a budget valid.
    if budget > MAX_ACK_BUDGET {
        return lower;
    }
    let raise = format!(
        "raise the endpoint's timeout with `polyhook endpoint update --timeout-ms {} {}`",
        (budget + 2 * MIN_MARGIN).max(MIN_TIMEOUT).as_millis(),
        shell::last_argument(id)
    );
    if largest < MIN_ACK_BUDGET { raise } else { format!("{lower}, or {raise}") }
}

/// Compares with PolyAI's default, because only a key shows the endpoint.
fn compare_with_default(budget: Duration) -> Finding {
    let subject = subject("webhook");
    if budget > MAX_ACK_BUDGET {
        return subject.warn(
            format!(
                "server.ack_budget is {}, but PolyAI waits {} for an answer unless the endpoint's timeout_ms is higher",
                ms(budget),
                ms(POLYAI_TIMEOUT)
            ),
            format!("set server.ack_budget to {}ms or less", MAX_ACK_BUDGET.as_millis()),
        );
    }
    subject.skipped(
        "only a project's key shows the endpoint, and none is configured here",
        format!(
            "where the key is, `polyhook endpoint show` must show a timeout of {} or more",
            ms(budget + MIN_MARGIN)
        ),
    )
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, url: &str, timeout_ms: Option<u64>) -> Endpoint {
        Endpoint { id: id.to_owned(), url: url.to_owned(), timeout_ms, ..Endpoint::default() }
    }

    #[test]
    fn the_budget_must_leave_half_a_second_of_the_timeout() {
        for (timeout_ms, budget_ms, expected, next) in [
            (Some(5000), 4000, "ok", ""),
            (None, 4500, "ok", ""),
            (
                Some(4800),
                4400,
                "warn",
                "4300ms or less, or raise the endpoint's timeout with `polyhook endpoint update --timeout-ms 5400 whe_1`",
            ),
            (
                Some(600),
                4000,
                "fail",
                "raise the endpoint's timeout with `polyhook endpoint update --timeout-ms 5000 whe_1`",
            ),
            // A start refuses more, whatever the timeout is.
            (None, 4501, "warn", "set server.ack_budget to 4500ms or less"),
            (Some(4000), 4000, "fail", "3500ms or less"),
            (Some(3000), 4000, "fail", "--timeout-ms 5000"),
            (Some(30_000), 29_900, "warn", "set server.ack_budget to 4500ms or less"),
            (Some(1000), 40_000, "fail", "500ms or less"),
        ] {
            let finding = compare(
                &endpoint("whe_1", "https://a.example/", timeout_ms),
                Duration::from_millis(budget_ms),
            );
            let found = serde_json::to_value(&finding).unwrap();
            assert_eq!(found["state"], expected, "{found}");
            let advice = found["next"].as_str().unwrap_or_default();
            assert!(advice.contains(next) && (!next.starts_with("set") || advice == next), "{found}");
        }
    }

    #[test]
    fn without_a_key_the_budget_is_compared_with_the_default() {
        for (budget_ms, expected) in [(4000, "skipped"), (4500, "skipped"), (4600, "warn"), (9000, "warn")] {
            let found = serde_json::to_value(compare_with_default(Duration::from_millis(budget_ms))).unwrap();
            assert_eq!(found["state"], expected, "{found}");
        }
    }

    #[test]
    fn ignores_endpoints_of_other_services() {
        let mut all = vec![
            endpoint("ours", "https://a.example/polyai-events", None),
            endpoint("other", "https://b.example/other", None),
        ];
        let ids = |all: &[Endpoint], url: Option<&str>| -> Vec<String> {
            let url = url.map(|url| url.parse().unwrap());
            relevant(all, url.as_ref(), "/polyai-events").into_iter().map(|one| one.id.clone()).collect()
        };
        assert_eq!(ids(&all, None), ["ours"]);
        assert_eq!(ids(&all, Some("https://B.example:443/other")), ["other"]);
        assert!(ids(&all, Some("https://c.example/")).is_empty());
        assert_eq!(ids(&all[1..], None), ["other"], "the only one");
        all[0].enabled = Some(false);
        assert_eq!(ids(&all, None), ["other"], "the only enabled one");
    }
}
