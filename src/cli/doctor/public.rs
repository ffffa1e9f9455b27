//! Whether PolyAI reaches us: an unsigned post to the public URL must be answered 401, in polyhook's words.
//!
//! It can only be tried from here; PolyAI comes from elsewhere, through another firewall.

use std::time::Duration;

use http::header::LOCATION;
use reqwest::Response;
use url::Url;

use super::{
    polyai::certificate,
    report::{Finding, Subject},
};
use crate::{clock::Clock, config::Config, polyai::http as client_policy, web};

/// What PolyAI waits by default.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of an answer is looked at.
const MAX_BODY: usize = 4096;

/// A URL without what may be private in it.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

pub(super) async fn check(
    config: &Config,
    url: Option<&Url>,
    subject: Subject,
    clock: Clock,
) -> Vec<Finding> {
    let Some(url) = url else {
        return vec![subject.skipped(
            "the configuration does not know it",
            "give --url https://HOST/PATH, the URL that is registered with PolyAI",
        )];
    };
    let Ok(client) = client_policy::no_redirect_client() else {
        return vec![subject.fail("there is no HTTP client", client_policy::CLIENT_SETUP_HINT)];
    };
    let started = tokio::time::Instant::now();
    let sent = client
        .post(url.clone())
        .header("content-type", "application/json")
        .body(r#"{"type":"polyhook.doctor"}"#)
        .timeout(PATIENCE)
        .send()
        .await;
    let mut findings = Vec::new();
    if url.scheme() != "https" {
        findings.push(subject.warn(
            "it is not https",
            "PolyAI registers https URLs only: put an ingress with TLS before polyhook",
        ));
    }
    match sent {
        Err(error) => findings.push(subject.fail(
            format!("cannot be reached: {}", client_policy::describe_error(&error)),
            "check the name, the ingress, its certificate (a whole chain of a public authority) and the firewall",
        )),
        Ok(response) => {
            findings.extend(certificate(&subject, client_policy::certificate_expires(&response), clock.now()));
            findings.push(judge(config, url, &subject, response, started).await);
        }
    }
    findings
}

async fn judge(
    config: &Config,
    url: &Url,
    subject: &Subject,
    response: Response,
    started: tokio::time::Instant,
) -> Finding {
    let status = response.status();
    let to =
        response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| url.join(to).ok());
    let body = client_policy::read_prefix(response, MAX_BODY).await;
    let took = started.elapsed();
    let ours = web::is_receiver_answer(status, &body);
    let by = if ours { "polyhook" } else { "something that is not polyhook" };
    let said = format!("an unsigned post is answered {} by {by}", status.as_u16());
    match status.as_u16() {
        401 if ours && took > config.server.ack_budget / 4 => subject.warn(
            format!("{said}, but only after {} ms", took.as_millis()),
            "PolyAI waits 5 s for an answer: look at what stands between",
        ),
        401 if ours => subject.ok(format!("{said}, in {} ms", took.as_millis())),
        401 => subject.fail(said, "the ingress asks for credentials of its own, which PolyAI does not have: let this path through"),
        200..=299 => subject.fail(
            said,
            "another service takes the deliveries, and PolyAI believes they have arrived: route this path to polyhook",
        ),
        300..=399 => subject.fail(
            format!("{said}, to {}", to.as_ref().map_or_else(|| "nowhere".to_owned(), shown)),
            "PolyAI does not follow redirects: register the URL it leads to, or take the redirect away",
        ),
        403 | 406 | 429 => subject.fail(
            said,
            "a firewall (WAF), a bot rule or a limit is in the way: let posts to this path through, whatever their content",
        ),
        404 if ours => subject.fail(
            said,
            format!("the path is another than server.path ({}): correct either, or the ingress's rewriting", config.server.path),
        ),
        404 | 405 | 410 => subject.fail(said, "the ingress has no route for this host and path: point it at server.listen"),
        503 if ours => subject.fail(said, "polyhook is overloaded or cannot make anything durable: look at /readyz and its log"),
        500..=599 => subject.fail(said, "the ingress does not reach polyhook: is it running, and is server.listen what the ingress asks?"),
        _ => subject.fail(said, "an unsigned post must be answered 401: look at what stands between"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_private_of_a_url_is_shown() {
        let url = Url::parse("https://me:secret@h.example:8443/in?token=secret#x").unwrap();
        assert_eq!(shown(&url), "https://h.example:8443/in");
    }
}
