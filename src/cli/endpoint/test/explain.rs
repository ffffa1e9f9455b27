//! The meaning of a failed connection, and of the addresses of the URL.

use std::{net::IpAddr, time::Duration};

use rustls::CertificateError;
use url::Url;

use super::{
    super::sanitize,
    attempt::{AttemptOutcome, ConnectionError},
    explain_status::explain_status,
    finding::{Finding, TestDelivery},
};

/// Explains the outcome of an attempt. `path` is the path of the configured receiver.
pub(super) fn explain(
    delivery: TestDelivery,
    outcome: &AttemptOutcome,
    url: &Url,
    path: &str,
    timeout: Duration,
) -> Finding {
    match outcome {
        AttemptOutcome::Response(response) => explain_status(delivery, response, url, path),
        AttemptOutcome::NoResponse(error) => explain_connection(error, url, timeout),
    }
}

fn explain_connection(error: &ConnectionError, url: &Url, timeout: Duration) -> Finding {
    let host = url.host_str().unwrap_or_default();
    match error {
        ConnectionError::UnknownHost => Finding::problem(
            "dns",
            format!("{host} has no address"),
            format!(
                "add a public DNS record for {host}, or correct the URL with `polyhook endpoint update --url`"
            ),
        ),
        ConnectionError::Refused => Finding::problem(
            "refused",
            format!(
                "no process listens on port {} of {host}",
                url.port_or_known_default().unwrap_or_default()
            ),
            "start the ingress (or the receiver), or correct the port in the URL",
        ),
        ConnectionError::Tls(error) => explain_tls(error, host),
        ConnectionError::Timeout => Finding::problem(
            "too_slow",
            format!(
                "there is no answer within {} ms, the time that PolyAI waits; PolyAI then sends the event again",
                timeout.as_millis()
            ),
            "check whether the request is in the ingress's log; a firewall may drop packets, or the ingress may wait for a \
             receiver. polyhook itself answers within server.ack_budget",
        ),
        ConnectionError::Broken => Finding::problem(
            "broken",
            "the connection failed, or it ended before the answer",
            "read the ingress's log, and check the firewalls and proxies between this machine and the ingress",
        ),
    }
}

fn explain_tls(error: &rustls::Error, host: &str) -> Finding {
    let rustls::Error::InvalidCertificate(error) = error else {
        return Finding::problem(
            "tls",
            format!("the TLS handshake fails: {}", sanitize(&error.to_string())),
            "check that this port speaks TLS 1.2 or 1.3; a port for plain HTTP does not",
        );
    };
    let (meaning, next) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "the certificate has expired, so PolyAI does not deliver".to_owned(),
            "renew it, and check why it was not renewed automatically".to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "the certificate is not valid yet, or this machine's clock is behind".to_owned(),
            "check the clocks, then the certificate".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("the certificate is for another name than {host}"),
            format!("give the ingress a certificate for {host}; it often serves its default certificate for a host without a rule"),
        ),
        CertificateError::UnknownIssuer => (
            "this machine does not trust the issuer of the certificate: it is self-signed, or intermediate certificates are \
             missing"
                .to_owned(),
            "serve the full chain of a public certificate authority".to_owned(),
        ),
        error => (
            format!("the certificate is not accepted: {}", sanitize(&error.to_string())),
            "give the ingress a certificate of a public certificate authority".to_owned(),
        ),
    };
    Finding::problem("certificate", meaning, next)
}

/// Returns a note if all addresses of the URL are private, because PolyAI cannot reach them.
pub(super) fn private_address_note(url: &Url, addresses: &[IpAddr]) -> Option<String> {
    let is_private = |ip: &IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    let first = addresses.first().filter(|_| addresses.iter().all(is_private))?;
    Some(format!(
        "on this machine, {} is {first}, a private address: PolyAI delivers from outside and needs a public one",
        url.host_str().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::SignedForm;

    fn finding(error: rustls::Error) -> Finding {
        let url = "https://hooks.example.com/hooks".parse().unwrap();
        let outcome = AttemptOutcome::NoResponse(ConnectionError::Tls(error));
        explain(
            TestDelivery::Signed(SignedForm::Body),
            &outcome,
            &url,
            "/polyai-events",
            Duration::from_secs(5),
        )
    }

    #[test]
    fn explains_certificate_errors() {
        for (error, words) in [
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidForName, "another name than hooks.example.com"),
            (CertificateError::UnknownIssuer, "intermediate"),
            (CertificateError::Revoked, "not accepted"),
        ] {
            let finding = finding(error.into());
            assert!(finding.meaning.contains(words) && !finding.ok, "{}", finding.meaning);
        }
        let plain_http = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(finding(plain_http).problem, Some("tls"));
    }

    #[test]
    fn notes_a_private_address() {
        let url = "https://hooks.example.com/".parse().unwrap();
        let note = |ips: &[&str]| {
            private_address_note(&url, &ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>())
        };
        assert!(note(&["10.0.0.7"]).unwrap().contains("10.0.0.7"));
        assert!(note(&["fd00::7", "192.168.1.1"]).is_some());
        assert_eq!(note(&["10.0.0.7", "203.0.113.7"]), None);
        assert_eq!(note(&["127.0.0.1"]), None);
        assert_eq!(note(&[]), None);
    }
}
