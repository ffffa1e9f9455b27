//! Checks whether PolyAI answers at the configured host, with the API that is expected there.

use super::super::report::{Finding, Subject};
use crate::polyai::{
    Api, ApiRequest, ErrorKind, Target,
    probe::{ProbeResponse, Prober},
};

const CHECK_HOSTS: &str = "check polyai.region, polyai.base_url (v3) and polyai.platform_url (Data API); a proxy or a login page in between has the same effect";

pub(super) async fn check(
    subject: &Subject,
    prober: &Prober,
    target: &Target,
    response: &ProbeResponse,
    v3_works: bool,
) -> Finding {
    if let Some(cause) = &response.cause {
        return subject
            .fail(cause.clone(), "check DNS, proxy and firewall on this machine, and the name of the host");
    }
    let status = response.outcome.as_ref().map_or_else(|error| error.status.unwrap_or_default(), |_| 200);
    let content = response.content_type.as_deref().unwrap_or("no content type");
    match response.error() {
        None if response.conversations().is_some() => {}
        None => {
            return subject.fail(
                format!("wrong host: it answers 200, but with {content} and no list of conversations"),
                CHECK_HOSTS,
            );
        }
        Some(ErrorKind::Redirected) => {
            return subject
                .fail("wrong host: it redirects elsewhere, and the key is not sent there", CHECK_HOSTS);
        }
        Some(_) if !response.is_polyai => {
            return subject.fail(
                format!("wrong host: it answers {status} with {content}, and it is not PolyAI"),
                CHECK_HOSTS,
            );
        }
        Some(ErrorKind::NotServed) if target.api() == Api::Data && v3_works => {
            return subject.skipped(
                "it does not serve the Data API",
                "nothing to do as long as v3 serves conversations by id",
            );
        }
        Some(ErrorKind::NotServed) => return not_served(subject, prober, target).await,
        Some(_) => {}
    }
    subject.ok(format!("PolyAI answers in {} ms", response.elapsed.as_millis()))
}

/// Finds out whether the host serves the other API instead, which means that the two URLs are swapped.
async fn not_served(subject: &Subject, prober: &Prober, target: &Target) -> Finding {
    let other = target.other_api();
    let response = prober.send(&other, ApiRequest::List { limit: 1 }).await;
    let serves_other = response.is_polyai
        && (response.conversations().is_some()
            || !matches!(response.error(), None | Some(ErrorKind::NotServed)));
    let api = target.api().label();
    if !serves_other {
        return subject.fail(format!("wrong host: it does not serve conversations by {api}"), CHECK_HOSTS);
    }
    let next = match target.api() {
        Api::V3 => {
            "set polyai.base_url to the runtime host (such as api.us-1.platform.polyai.app), not to the poly.ai host; a tenant without v3 needs polyai.api = \"data\""
        }
        Api::Data => "set polyai.platform_url to the poly.ai host, not to the runtime host",
    };
    subject.fail(format!("wrong host: it serves {} but not {api}", other.api().label()), next)
}
