//! The meaning of an HTTP answer.

use url::Url;

use super::{
    super::sanitize,
    attempt::ResponseFacts,
    finding::{Finding, TestDelivery},
};
use crate::signature::SignedForm;

/// Clocks that differ by more than this cause rejections now or soon: receivers tolerate 300 s by default.
const MAX_CLOCK_SKEW_S: u64 = 240;

/// Explains an HTTP answer. `path` is the path of the configured receiver.
pub(super) fn explain_status(
    delivery: TestDelivery,
    response: &ResponseFacts,
    url: &Url,
    path: &str,
) -> Finding {
    let by_polyhook = response.by_polyhook;
    match (delivery, response.status) {
        (TestDelivery::Signed(_), 204) if by_polyhook => Finding::expected("stored durably, as expected"),
        (TestDelivery::Unsigned, 401) => Finding::expected("refused, as expected"),
        (delivery, 200..=299) => other_success(delivery),
        (_, 300..=399) => redirect(response),
        (TestDelivery::Signed(form), 401) if by_polyhook => unknown_secret(form, response.skew_s),
        (_, status @ (404 | 503)) if by_polyhook => unready_polyhook(status, url, path),
        (_, status @ 400..=499) => refused_by_ingress(status, response, url),
        (_, status @ 500..=599) => failed_ingress(status),
        _ => not_polyhook(),
    }
}

fn other_success(delivery: TestDelivery) -> Finding {
    match delivery {
        TestDelivery::Unsigned => Finding::problem(
            "takes_unsigned",
            "it accepts a delivery without a signature: this is not polyhook, or another service answers before polyhook",
            "route this URL to the receiver; until then, any posted event is accepted",
        ),
        TestDelivery::Signed(_) => Finding::problem(
            "not_polyhook",
            "PolyAI regards this answer as success and does not send the event again, but polyhook answers 204: another \
             service answers, and events are lost",
            "route this URL to the receiver",
        ),
    }
}

fn redirect(response: &ResponseFacts) -> Finding {
    let target = response.location.as_deref().map(|target| format!(" to {}", sanitize(target)));
    Finding::problem(
        "redirect",
        format!("it redirects{}, and PolyAI does not follow redirects", target.unwrap_or_default()),
        "register the target URL (`polyhook endpoint update --url`), or remove the ingress's redirect for this path",
    )
}

/// Explains the 401 of a receiver: its clock differs, or it does not know the secret.
fn unknown_secret(form: SignedForm, skew_s: Option<i64>) -> Finding {
    if let (SignedForm::Timestamped, Some(skew_s)) = (form, skew_s)
        && skew_s.unsigned_abs() > MAX_CLOCK_SKEW_S
    {
        let direction = if skew_s > 0 { "behind" } else { "ahead of" };
        return Finding::problem(
            "clock",
            format!(
                "the receiver's clock is {} s {direction} the clock of this machine, and a signature is valid only for a \
                 few minutes",
                skew_s.unsigned_abs()
            ),
            "set the wrong clock (NTP); PolyAI's clock is right",
        );
    }
    Finding::problem(
        "secret",
        "polyhook answers, but it does not know this secret or does not accept this form: deliveries that PolyAI signs this \
         way are lost",
        "give the receivers the same signature.secrets_file and signature.scheme as here (their /readyz reports whether they \
         could read the file); if the secret is lost, run `polyhook endpoint rotate-secret`",
    )
}

fn unready_polyhook(status: u16, url: &Url, path: &str) -> Finding {
    if status == 404 {
        return Finding::problem(
            "path",
            format!("polyhook answers, but it accepts deliveries at another path than {}", url.path()),
            format!(
                "make its server.path ({path} in this configuration) and the path that the ingress forwards equal"
            ),
        );
    }
    Finding::problem(
        "not_durable",
        "polyhook answers, but it cannot store deliveries now; PolyAI sends them again. Shortly after a rotation, it may also \
         not know the secret",
        "read its /readyz and its log",
    )
}

/// Explains a 4xx that is not polyhook's.
fn refused_by_ingress(status: u16, response: &ResponseFacts, url: &Url) -> Finding {
    match status {
        401 => Finding::problem(
            "login",
            if response.asks_for_login {
                "a service before the receiver asks for a login"
            } else {
                "a service before the receiver refuses the delivery"
            },
            "exempt this path from the ingress's authentication, or let PolyAI send the credentials (`polyhook endpoint \
             update --header`)",
        ),
        403 => Finding::problem(
            "forbidden",
            "a firewall (WAF) or the ingress forbids the delivery; polyhook never answers 403, and PolyAI does not send the \
             event again after it",
            "allow POST with JSON bodies to this path from PolyAI's addresses; the firewall's log names the rule",
        ),
        404 => Finding::problem(
            "not_routed",
            format!("the ingress has no route for {}{}", url.host_str().unwrap_or_default(), url.path()),
            "add the route to the receiver, or correct the URL with `polyhook endpoint update --url`",
        ),
        405 => Finding::problem(
            "method",
            "this path does not accept POST: another service or a web page answers",
            "route POST requests for this URL to the receiver",
        ),
        413 => Finding::problem(
            "too_large",
            "the ingress rejects a body of a few bytes as too large",
            "raise the ingress's limit to at least server.body_limit (1 MiB)",
        ),
        408 | 429 => Finding::problem(
            "limited",
            "the ingress limits requests, or its timeout is too short; PolyAI sends the event again for 5.5 hours",
            "raise the ingress's limits for this path",
        ),
        _ => not_polyhook(),
    }
}

/// Explains a 5xx that is not polyhook's.
fn failed_ingress(status: u16) -> Finding {
    match status {
        502..=504 => Finding::problem(
            "no_receiver",
            "the ingress finds no receiver that is ready; PolyAI sends the event again for 5.5 hours",
            "check that the receivers run and are ready (`polyhook healthcheck`), and that the ingress forwards to the right \
             port",
        ),
        _ => Finding::problem(
            "server_error",
            "a service before the receiver fails; polyhook never gives this answer",
            "read the ingress's log",
        ),
    }
}

fn not_polyhook() -> Finding {
    Finding::problem(
        "not_polyhook",
        "polyhook never gives this answer, and PolyAI does not send the event again after it: another service answers",
        "route this URL to the receiver; a 400 may mean plain HTTP on a port for HTTPS",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: TestDelivery = TestDelivery::Signed(SignedForm::Timestamped);

    fn finding(delivery: TestDelivery, response: &ResponseFacts) -> Finding {
        let url = "https://hooks.example.com/hooks".parse().unwrap();
        explain_status(delivery, response, &url, "/polyai-events")
    }

    fn response(status: u16, by_polyhook: bool) -> ResponseFacts {
        ResponseFacts { status, by_polyhook, ..ResponseFacts::default() }
    }

    #[test]
    fn every_unexpected_status_has_a_meaning_and_a_next_step() {
        for delivery in [SIGNED, TestDelivery::Signed(SignedForm::Body), TestDelivery::Unsigned] {
            for status in 100..=599 {
                for by_polyhook in [false, true] {
                    let finding = finding(delivery, &response(status, by_polyhook));
                    assert_eq!(finding.ok, finding.next.is_none() && finding.problem.is_none());
                    assert!(!finding.ok || status == delivery.expected(), "{delivery:?} {status}");
                    assert!(!finding.meaning.contains('\n'));
                }
            }
        }
    }

    #[test]
    fn explains_a_status_by_its_sender() {
        for (status, by_polyhook, by_another) in [
            (401, "secret", "login"),
            (404, "path", "not_routed"),
            (503, "not_durable", "no_receiver"),
            (200, "not_polyhook", "not_polyhook"),
            (403, "forbidden", "forbidden"),
        ] {
            assert_eq!(finding(SIGNED, &response(status, true)).problem, Some(by_polyhook));
            assert_eq!(finding(SIGNED, &response(status, false)).problem, Some(by_another));
        }
        assert_eq!(finding(SIGNED, &response(204, true)).problem, None);
        assert_eq!(finding(TestDelivery::Unsigned, &response(401, true)).problem, None);
        assert_eq!(finding(TestDelivery::Unsigned, &response(204, true)).problem, Some("takes_unsigned"));
    }

    #[test]
    fn distinguishes_a_wrong_clock_from_a_wrong_secret() {
        let skewed = |skew_s| ResponseFacts { skew_s: Some(skew_s), ..response(401, true) };
        assert_eq!(finding(SIGNED, &skewed(-900)).problem, Some("clock"));
        assert_eq!(finding(SIGNED, &skewed(3)).problem, Some("secret"));
        assert_eq!(finding(TestDelivery::Signed(SignedForm::Body), &skewed(-900)).problem, Some("secret"));
    }
}
