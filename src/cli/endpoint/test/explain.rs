//! What an answer means and what to do next, a line each.

use std::{net::IpAddr, time::Duration};

use rustls::CertificateError;
use serde::Serialize;
use url::Url;

use super::{
    super::sanitize,
    attempt::{Answer, Head, Trouble},
};
use crate::signature::SignedForm;

/// Who is further away than this fails on time alone, if not now then soon.
const MUCH_SKEW_S: u64 = 240;

/// What was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Signed(SignedForm),
    Unsigned,
}

impl Sent {
    pub(super) fn expected(self) -> u16 {
        match self {
            Self::Signed(_) => 204,
            Self::Unsigned => 401,
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) ok: bool,
    /// A constant word; none where it is as it should be.
    pub(super) problem: Option<&'static str>,
    pub(super) meaning: String,
    pub(super) next: Option<String>,
}

fn good(meaning: &str) -> Finding {
    Finding { ok: true, problem: None, meaning: meaning.to_owned(), next: None }
}

fn bad(problem: &'static str, meaning: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { ok: false, problem: Some(problem), meaning: meaning.into(), next: Some(next.into()) }
}

/// Says what an answer means. `path` is where the configured receiver takes deliveries.
pub(super) fn explain(sent: Sent, answer: &Answer, url: &Url, path: &str, timeout: Duration) -> Finding {
    let host = url.host_str().unwrap_or_default();
    match answer {
        Answer::Http(head) => status(sent, head, url, path),
        Answer::None(Trouble::Dns) => bad(
            "dns",
            format!("{host} has no address"),
            format!(
                "add a public DNS record for {host}, or correct the URL with `polyhook endpoint update --url`"
            ),
        ),
        Answer::None(Trouble::Refused) => bad(
            "refused",
            format!("nobody listens on port {} of {host}", url.port_or_known_default().unwrap_or_default()),
            "start the ingress (or the receiver), or correct the port in the URL",
        ),
        Answer::None(Trouble::Tls(error)) => tls(error, host),
        Answer::None(Trouble::Timeout) => bad(
            "too_slow",
            format!(
                "there is no answer within {} ms, the time PolyAI waits; it then tries again",
                timeout.as_millis()
            ),
            "a firewall that drops packets, or an ingress that waits for a receiver: look whether the request is in the \
             ingress's log; polyhook itself answers within server.ack_budget",
        ),
        Answer::None(Trouble::Broken) => bad(
            "broken",
            "the connection could not be made, or broke before the answer",
            "look into the ingress's log, and at firewalls and proxies between here and there",
        ),
    }
}

fn status(sent: Sent, head: &Head, url: &Url, path: &str) -> Finding {
    let Head { status, ours, .. } = *head;
    match (sent, status) {
        (Sent::Signed(_), 204) if ours => good("durable, as it should be"),
        (Sent::Unsigned, 401) => good("refused, as it should be"),
        (Sent::Unsigned, 200..=299) => bad(
            "takes_unsigned",
            "it takes what nobody has signed: this is not a polyhook, or another service before it answers",
            "route this URL to the receiver; until then whatever anybody posts there counts",
        ),
        (Sent::Signed(_), 200..=299) => bad(
            "not_polyhook",
            "PolyAI takes this for a yes and never sends the event again, but a polyhook says 204: another service answers, \
             and events are lost",
            "route this URL to the receiver",
        ),
        (_, 300..=399) => {
            let to = head.location.as_deref().map(|to| format!(" to {}", sanitize(to))).unwrap_or_default();
            bad(
                "redirect",
                format!("it redirects{to}, and a delivery is not sent anywhere else"),
                "register the URL it leads to (`polyhook endpoint update --url`), or have the ingress not redirect this path",
            )
        }
        (Sent::Signed(form), 401) if ours => unknown_secret(form, head.skew_s),
        (_, 401) => bad(
            "login",
            if head.asks_for_login {
                "something before the receiver asks for a login"
            } else {
                "something before the receiver refuses it"
            },
            "exempt this path from the ingress's authentication, or have PolyAI send what it asks for (`polyhook endpoint \
             update --header`)",
        ),
        (_, 403) => bad(
            "forbidden",
            "a firewall (WAF) or the ingress forbids it; a polyhook never says 403, and PolyAI never tries again after one",
            "let POST to this path through, from PolyAI's addresses and with bodies of JSON; the firewall's log names the rule",
        ),
        (_, 404) if ours => bad(
            "path",
            format!("a polyhook answers, but it takes deliveries at another path than {}", url.path()),
            format!(
                "its server.path ({path} by this configuration) and what the ingress makes of the URL's path must agree"
            ),
        ),
        (_, 404) => bad(
            "not_routed",
            format!("the ingress has no route for {}{}", url.host_str().unwrap_or_default(), url.path()),
            "add the route to the receiver, or correct the URL with `polyhook endpoint update --url`",
        ),
        (_, 405) => bad(
            "method",
            "this path takes no POST: another service, or a page, answers",
            "route POST of this URL to the receiver",
        ),
        (_, 413) => bad(
            "too_large",
            "a body of a few bytes is too large for the ingress",
            "raise the ingress's limit to server.body_limit at least (1 MiB)",
        ),
        (_, 408 | 429) => bad(
            "limited",
            "the ingress limits requests or waits too short; PolyAI tries again, for 5.5 hours",
            "raise the ingress's limits for this path",
        ),
        (_, 503) if ours => bad(
            "not_durable",
            "a polyhook answers, but cannot make it durable now; PolyAI tries again. After a rotation it may also be a secret \
             it does not know",
            "its /readyz and its log say why",
        ),
        (_, 502..=504) => bad(
            "no_receiver",
            "the ingress finds no receiver that is ready; PolyAI tries again, for 5.5 hours",
            "look whether the receivers run and are ready (`polyhook healthcheck`), and which port the ingress sends to",
        ),
        (_, 500..=599) => bad(
            "server_error",
            "something before the receiver fails; a polyhook never says this",
            "look into the ingress's log",
        ),
        _ => bad(
            "not_polyhook",
            "a polyhook never says this, and PolyAI never tries again after it: another service answers",
            "route this URL to the receiver; a 400 may be plain http on a port for https",
        ),
    }
}

/// A receiver is there and does not believe us.
fn unknown_secret(form: SignedForm, skew_s: Option<i64>) -> Finding {
    if let (SignedForm::Timestamped, Some(skew_s)) = (form, skew_s)
        && skew_s.unsigned_abs() > MUCH_SKEW_S
    {
        let way = if skew_s > 0 { "behind" } else { "ahead of" };
        return bad(
            "clock",
            format!(
                "the receiver's clock is {} s {way} ours, and signed times must be close",
                skew_s.unsigned_abs()
            ),
            "set the clock that is wrong (NTP); PolyAI's is right",
        );
    }
    bad(
        "secret",
        "a polyhook answers, but does not know this secret, or does not take this form: what PolyAI signs so is lost",
        "give the receivers the same signature.secrets_file and signature.scheme as here (their /readyz says whether they \
         could read it); with a lost secret, `polyhook endpoint rotate-secret`",
    )
}

fn tls(error: &rustls::Error, host: &str) -> Finding {
    let certificate = |meaning: String, next: String| bad("certificate", meaning, next);
    let rustls::Error::InvalidCertificate(why) = error else {
        return bad(
            "tls",
            format!("TLS does not come about: {}", sanitize(&error.to_string())),
            "look whether this port speaks TLS 1.2 or 1.3 at all; plain http on it does not",
        );
    };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => certificate(
            "the certificate has expired, so PolyAI does not deliver".to_owned(),
            "renew it, and look why that did not happen by itself".to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => certificate(
            "the certificate is not valid yet, or this machine's clock is slow".to_owned(),
            "look at the clocks, then at the certificate".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => certificate(
            format!("the certificate is for another name than {host}"),
            format!("give the ingress a certificate for {host}: often its default one is served, because the host has no rule"),
        ),
        CertificateError::UnknownIssuer => certificate(
            "nobody whom this machine trusts has issued the certificate: it is self-signed, or the intermediate ones are missing"
                .to_owned(),
            "serve the full chain of a public certificate authority".to_owned(),
        ),
        why => certificate(
            format!("the certificate is not accepted: {}", sanitize(&why.to_string())),
            "give the ingress a certificate of a public certificate authority".to_owned(),
        ),
    }
}

/// What PolyAI cannot reach although we can.
pub(super) fn addresses(url: &Url, found: &[IpAddr]) -> Option<String> {
    let inside = |ip: &IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    let first = found.first().filter(|_| found.iter().all(inside))?;
    Some(format!(
        "from here, {} is {first}, a private address: PolyAI delivers from outside and must find a public one",
        url.host_str().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(sent: Sent, answer: &Answer) -> Finding {
        let url = "https://hooks.example.com/hooks".parse().unwrap();
        explain(sent, answer, &url, "/polyai-events", Duration::from_secs(5))
    }

    fn problem(sent: Sent, head: Head) -> Option<&'static str> {
        finding(sent, &Answer::Http(head)).problem
    }

    const SIGNED: Sent = Sent::Signed(SignedForm::Timestamped);

    #[test]
    fn every_status_has_a_meaning_and_all_but_the_right_ones_a_next_step() {
        for sent in [SIGNED, Sent::Signed(SignedForm::Body), Sent::Unsigned] {
            for status in 100..=599 {
                for ours in [false, true] {
                    let finding = finding(sent, &Answer::Http(Head { status, ours, ..Head::default() }));
                    assert_eq!(finding.ok, finding.next.is_none() && finding.problem.is_none());
                    assert!(!finding.ok || status == sent.expected(), "{sent:?} {status}");
                    assert!(!finding.meaning.contains('\n'));
                }
            }
        }
    }

    #[test]
    fn who_answers_makes_the_difference() {
        let head = |status, ours| Head { status, ours, ..Head::default() };
        for (status, by_polyhook, by_another) in [
            (401, "secret", "login"),
            (404, "path", "not_routed"),
            (503, "not_durable", "no_receiver"),
            (200, "not_polyhook", "not_polyhook"),
            (403, "forbidden", "forbidden"),
        ] {
            assert_eq!(problem(SIGNED, head(status, true)), Some(by_polyhook));
            assert_eq!(problem(SIGNED, head(status, false)), Some(by_another));
        }
        assert_eq!(problem(SIGNED, head(204, true)), None);
        assert_eq!(problem(Sent::Unsigned, head(401, true)), None);
        assert_eq!(problem(Sent::Unsigned, head(204, true)), Some("takes_unsigned"));
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_secret() {
        let head = |skew_s| Head { status: 401, ours: true, skew_s: Some(skew_s), ..Head::default() };
        assert_eq!(problem(SIGNED, head(-900)), Some("clock"));
        assert_eq!(problem(SIGNED, head(3)), Some("secret"));
        assert_eq!(problem(Sent::Signed(SignedForm::Body), head(-900)), Some("secret"));
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        for (error, word) in [
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidForName, "another name than hooks.example.com"),
            (CertificateError::UnknownIssuer, "intermediate"),
            (CertificateError::Revoked, "not accepted"),
        ] {
            let finding = finding(SIGNED, &Answer::None(Trouble::Tls(error.into())));
            assert!(finding.meaning.contains(word) && !finding.ok, "{}", finding.meaning);
        }
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(finding(SIGNED, &Answer::None(Trouble::Tls(plain))).problem, Some("tls"));
    }

    #[test]
    fn a_private_address_is_noticed() {
        let url = "https://hooks.example.com/".parse().unwrap();
        let note =
            |ips: &[&str]| addresses(&url, &ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        assert!(note(&["10.0.0.7"]).unwrap().contains("10.0.0.7"));
        assert!(note(&["fd00::7", "192.168.1.1"]).is_some());
        assert_eq!(note(&["10.0.0.7", "203.0.113.7"]), None);
        assert_eq!(note(&["127.0.0.1"]), None);
        assert_eq!(note(&[]), None);
    }
}
