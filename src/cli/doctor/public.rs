//! Checks whether PolyAI can reach the receiver: polyhook must answer an unsigned POST to the public URL with 401.
//!
//! The check runs on this machine. PolyAI connects from elsewhere, perhaps through another firewall.

use http::header::LOCATION;
use reqwest::Response;
use url::Url;

use super::{
    polyai::certificate_finding,
    report::{Finding, Subject},
};
use crate::{clock::Clock, config::Config, polyai::http as client_policy, secret::shown_address, web};

/// The part of the response body that is examined.
const MAX_BODY_BYTES: usize = 4096;

pub(super) async fn check(
    config: &Config,
    url: Option<&Url>,
    subject: Subject,
    clock: Clock,
) -> Vec<Finding> {
    let Some(url) = url else {
        return vec![subject.skipped(
            "the configuration does not contain the public URL",
            "give the URL that is registered with PolyAI: --url https://HOST/PATH",
        )];
    };
    let Ok(client) = client_policy::certificate_info_client() else {
        return vec![subject.fail("cannot create an HTTP client", client_policy::CLIENT_SETUP_HINT)];
    };
    let started = tokio::time::Instant::now();
    let sent = client
        .post(url.clone())
        .header("content-type", "application/json")
        .body(r#"{"type":"polyhook.doctor"}"#)
        .timeout(web::POLYAI_TIMEOUT)
        .send()
        .await;
    let mut findings = Vec::new();
    if url.scheme() != "https" {
        findings.push(subject.warn(
            "the URL is not https",
            "PolyAI accepts https URLs only; put an ingress with TLS in front of polyhook",
        ));
    }
    match sent {
        Err(error) => findings.push(subject.fail(
            format!("cannot be reached: {}", client_policy::describe_error(&error)),
            "check the host name, the ingress, its certificate (the full chain of a public authority) and the firewall",
        )),
        Ok(response) => {
            findings.extend(certificate_finding(&subject, client_policy::certificate_expiry(&response), clock.now()));
            findings.push(assess(config, url, &subject, response, started).await);
        }
    }
    findings
}

async fn assess(
    config: &Config,
    url: &Url,
    subject: &Subject,
    response: Response,
    started: tokio::time::Instant,
) -> Finding {
    let status = response.status();
    let location =
        response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| url.join(to).ok());
    let body = client_policy::read_prefix(response, MAX_BODY_BYTES).await;
    let latency = started.elapsed();
    let from_polyhook = web::is_receiver_answer(status, &body);
    let by = if from_polyhook { "polyhook" } else { "another program than polyhook" };
    let message = format!("an unsigned POST is answered with {} by {by}", status.as_u16());
    match status.as_u16() {
        401 if from_polyhook && latency > config.server.ack_budget / 4 => subject.warn(
            format!("{message}, but after {} ms", latency.as_millis()),
            "check what delays the request between here and polyhook; PolyAI waits 5 s for an answer",
        ),
        401 if from_polyhook => subject.ok(format!("{message}, in {} ms", latency.as_millis())),
        401 => subject.fail(message, "allow this path in the ingress, which requires credentials of its own that PolyAI does not have"),
        200..=299 => subject.fail(
            message,
            "route this path to polyhook; another service takes the deliveries, and PolyAI treats them as delivered",
        ),
        300..=399 => subject.fail(
            format!("{message}, to {}", location.as_ref().map_or_else(|| "an unknown location".to_owned(), shown_address)),
            "register the target of the redirect, or remove the redirect; PolyAI does not follow redirects",
        ),
        403 | 406 | 429 => subject.fail(
            message,
            "allow POST requests with any content to this path; a firewall (WAF), a bot rule or a rate limit rejects them",
        ),
        404 if from_polyhook => subject.fail(
            message,
            format!("make the path of the URL equal to server.path ({}), or correct the rewrite rule of the ingress", config.server.path),
        ),
        404 | 405 | 410 => subject.fail(message, "add a route to server.listen for this host and path; the ingress has no route for them"),
        503 if from_polyhook => subject.fail(message, "check /readyz and the log; polyhook is overloaded or cannot store deliveries"),
        500..=599 => subject.fail(message, "check that polyhook runs and that the ingress connects to server.listen; the ingress does not reach polyhook"),
        _ => subject.fail(message, "check what answers instead of polyhook; an unsigned POST must be answered with 401"),
    }
}
