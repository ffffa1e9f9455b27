//! RabbitMQ: connection, permissions, topology and a round trip.

use std::time::Duration;

use super::report::{Finding, Subject};
use crate::{
    config::{Config, Roles},
    queue::rabbitmq::probe::{self, BrokerDetails, MissingPermission, ObjectState, RoundTripError},
};

/// A slower confirm noticeably delays every delivery.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);

pub(super) async fn check(config: &Config, roles: Roles) -> Vec<Finding> {
    let refresh_ages = config.refresh_ages(roles);
    let probed = match probe::probe(&config.queue, &config.retry.delays, &refresh_ages).await {
        Ok(probed) => probed,
        Err(error) => {
            let subject = Subject::new("broker.connection", "queue.url");
            return vec![subject.fail(error.to_string(), "correct it; polyhook does not start before")];
        }
    };
    let mut findings: Vec<_> =
        probed.nodes.iter().map(|(address, connected)| node(address, connected)).collect();
    let Some(details) = probed.details else {
        let next = "fix the connection first";
        for check in ["broker.permissions", "broker.topology", "broker.policies", "broker.round_trip"] {
            findings.push(
                Subject::new(check, &*config.queue.prefix).skipped("no node accepts the connection", next),
            );
        }
        return findings;
    };
    findings.extend(permissions(&details, &config.queue.prefix));
    findings.extend(topology(&details, config, roles));
    findings.push(policies(&details, &config.queue.prefix));
    findings.push(round_trip(&details, config));
    findings
}

fn node(address: &str, connected: &Result<(), String>) -> Finding {
    let subject = Subject::new("broker.connection", address);
    match connected {
        Ok(()) => subject.ok("accepts the connection"),
        Err(reason) => {
            let message = reason.strip_prefix(address).map_or(&**reason, str::trim_start);
            subject.fail(
                message,
                "fix that, or correct queue.url; a running polyhook connects by itself as soon as it can",
            )
        }
    }
}

fn permissions(details: &BrokerDetails, prefix: &str) -> Vec<Finding> {
    let subject = |on: &str| Subject::new("broker.permissions", on);
    if details.missing_permissions.is_empty()
        && details.objects.iter().all(|(_, _, state)| *state != ObjectState::Denied)
    {
        return vec![
            subject(prefix)
                .ok("the user may configure, write and read all of polyhook's queues and exchanges"),
        ];
    }
    let next = grant_command(details, prefix);
    if details.missing_permissions.is_empty() {
        return vec![
            subject(prefix).fail("the user may not declare all of polyhook's queues and exchanges", next),
        ];
    }
    let all = details.missing_permissions.iter();
    all.map(|MissingPermission { permission, object }| {
        subject(object).fail(format!("the user {} lacks permission to {permission} it", details.user), &*next)
    })
    .collect()
}

/// Returns the command that grants exactly the permissions that polyhook needs.
fn grant_command(details: &BrokerDetails, prefix: &str) -> String {
    let ours = format!("{}\\.", prefix.replace('.', "\\."));
    format!(
        "rabbitmqctl set_permissions -p {} {} '^{ours}' '^({ours}|amq\\.default$)' '^{ours}'",
        shell_quote(&details.vhost),
        shell_quote(&details.user)
    )
}

/// Quotes `text` for a shell.
fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn topology(details: &BrokerDetails, config: &Config, roles: Roles) -> Vec<Finding> {
    let prefix = &config.queue.prefix;
    let mut findings = Vec::new();
    let (mut correct, mut missing) = (0, Vec::new());
    for (what, name, state) in &details.objects {
        let subject = Subject::new("broker.topology", format!("{what} {name}"));
        match state {
            ObjectState::AsExpected(counts) => {
                correct += 1;
                findings.extend(counts.and_then(|counts| contents(&subject, name, counts, prefix, roles)));
            }
            ObjectState::Missing => missing.push(name.as_str()),
            ObjectState::Different(difference) => findings.push(subject.fail(
                format!("it exists with other properties than polyhook needs ({difference})"),
                format!("delete it when it is empty (polyhook declares it again) with `rabbitmqctl delete_{what} -p {} {name}` or on the management page, or set another queue.prefix", shell_quote(&details.vhost)),
            )),
            // Reported by the check of the permissions.
            ObjectState::Denied => {}
            ObjectState::Unclear(message) => findings.push(subject.fail(
                format!("the broker reports: {message}"),
                "check whether a node of the cluster is down; a quorum queue needs the majority of its members",
            )),
        }
    }
    let all = Subject::new("broker.topology", prefix.as_str());
    if missing.len() == details.objects.len() {
        findings.insert(
            0,
            all.warn(
                "nothing is declared yet",
                "nothing to do; polyhook declares everything at its first start",
            ),
        );
    } else if !missing.is_empty() {
        let next = "start polyhook, which declares it again within seconds; if it runs already, find out what deletes it";
        findings.insert(0, all.warn(format!("missing: {}", missing.join(", ")), next));
    } else if correct == details.objects.len() {
        let message =
            format!("{correct} exchanges and queues have the required type, delivery limit and arguments");
        findings.insert(0, all.ok(message));
    }
    findings
}

/// Returns a warning about a queue that should be empty or that nothing consumes.
fn contents(
    subject: &Subject,
    name: &str,
    (messages, consumers): (u32, u32),
    prefix: &str,
    roles: Roles,
) -> Option<Finding> {
    match name.strip_prefix(prefix)? {
        ".fetch" if messages > 0 && consumers == 0 => Some(subject.warn(
            format!("{messages} jobs wait, and no worker takes them"),
            if roles.work { "start `polyhook work` (or `run`)" } else { "start `polyhook work` somewhere" },
        )),
        ".dead" if messages > 0 => Some(subject.warn(
            format!("{messages} dead letters"),
            "find out why with `polyhook dead list`, fix the cause, and retry with `polyhook dead replay`",
        )),
        ".unrouted" if messages > 0 => Some(subject.warn(
            format!("{messages} events for which no queue is bound"),
            format!(
                "bind your own queue to {prefix}.events for the events you want; nothing consumes this queue"
            ),
        )),
        _ => None,
    }
}

fn policies(details: &BrokerDetails, prefix: &str) -> Finding {
    Subject::new("broker.policies", prefix).skipped(
        "AMQP does not show policies. None may set message-ttl, expires, max-length, max-length-bytes or delivery-limit on these queues; otherwise jobs and dead letters are dropped or rejected",
        format!(
            "rabbitmqctl list_queues -p {} name policy operator_policy effective_policy_definition | grep '^{}\\.'",
            shell_quote(&details.vhost),
            prefix.replace('.', "\\.")
        ),
    )
}

fn round_trip(details: &BrokerDetails, config: &Config) -> Finding {
    let subject = Subject::new("broker.round_trip", &*config.queue.prefix);
    match &details.round_trip {
        Ok(latency) if *latency > config.queue.publish_timeout.min(MAX_ROUND_TRIP) => subject.warn(
            format!("a message came back, but after {} ms", latency.as_millis()),
            "check the load and disk of the broker and the network; with this latency, deliveries go to the spool or are answered with 503",
        ),
        Ok(latency) => subject.ok(format!("a message was confirmed and came back in {} ms", latency.as_millis())),
        Err(RoundTripError::Blocked) => subject.fail(
            "the broker accepts no messages, because it is short of memory or disk (connection.blocked)",
            "find the alarm with `rabbitmqctl status`; add memory or disk, raise vm_memory_high_watermark or lower disk_free_limit",
        ),
        Err(RoundTripError::Denied) => subject.skipped("a permission is missing", "see broker.permissions"),
        Err(RoundTripError::Other(message)) => subject.fail(
            message.clone(),
            "check the log of the broker, and look for a policy that matches every queue (`rabbitmqctl list_policies`)",
        ),
    }
}
