//! RabbitMQ: reachable, permitted, and as polyhook needs it.

use std::time::Duration;

use super::report::{Finding, Subject};
use crate::{
    config::{Config, Roles},
    queue::rabbitmq::probe::{self, BrokerDetails, MissingPermission, ObjectState, RoundTripError},
};

/// A confirm that takes longer is felt by every delivery.
const SLOW: Duration = Duration::from_millis(500);

pub(super) async fn check(config: &Config, roles: Roles) -> Vec<Finding> {
    let found = match probe::probe(&config.queue, &config.retry.delays).await {
        Ok(found) => found,
        Err(error) => {
            let subject = Subject::new("broker.connection", "queue.url");
            return vec![subject.fail(error.to_string(), "polyhook does not start before that is corrected")];
        }
    };
    let mut findings: Vec<_> = found.nodes.iter().map(|(place, connected)| node(place, connected)).collect();
    let Some(details) = found.details else {
        let next = "mend the connection first";
        for check in ["broker.permissions", "broker.topology", "broker.policies", "broker.round_trip"] {
            findings.push(Subject::new(check, &*config.queue.prefix).skipped("no node lets us in", next));
        }
        return findings;
    };
    findings.extend(permissions(&details, &config.queue.prefix));
    findings.extend(topology(&details, config, roles));
    findings.push(policies(&details, &config.queue.prefix));
    findings.push(round_trip(&details, config));
    findings
}

fn node(place: &str, connected: &Result<(), String>) -> Finding {
    let subject = Subject::new("broker.connection", place);
    match connected {
        Ok(()) => subject.ok("lets us in"),
        Err(reason) => {
            let said = reason.strip_prefix(place).map_or(&**reason, str::trim_start);
            subject.fail(
                said,
                "mend that, or correct queue.url; `polyhook` connects by itself as soon as it can",
            )
        }
    }
}

fn permissions(details: &BrokerDetails, prefix: &str) -> Vec<Finding> {
    let subject = |on: &str| Subject::new("broker.permissions", on);
    if details.missing_permissions.is_empty()
        && details.objects.iter().all(|(_, _, state)| *state != ObjectState::Denied)
    {
        return vec![subject(prefix).ok("the user may configure, write and read everything of polyhook's")];
    }
    let next = grant(details, prefix);
    if details.missing_permissions.is_empty() {
        return vec![subject(prefix).fail("the user may not declare everything of polyhook's", next)];
    }
    let all = details.missing_permissions.iter();
    all.map(|MissingPermission { permission, object }| {
        subject(object).fail(format!("the user {} lacks permission to {permission} it", details.user), &*next)
    })
    .collect()
}

/// The command that gives every permission polyhook needs, and no other.
fn grant(details: &BrokerDetails, prefix: &str) -> String {
    let ours = format!("{}\\.", prefix.replace('.', "\\."));
    format!(
        "rabbitmqctl set_permissions -p {} {} '^{ours}' '^({ours}|amq\\.default$)' '^{ours}'",
        quoted(&details.vhost),
        quoted(&details.user)
    )
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn topology(details: &BrokerDetails, config: &Config, roles: Roles) -> Vec<Finding> {
    let prefix = &config.queue.prefix;
    let mut findings = Vec::new();
    let (mut right, mut missing) = (0, Vec::new());
    for (what, name, state) in &details.objects {
        let subject = Subject::new("broker.topology", format!("{what} {name}"));
        match state {
            ObjectState::AsExpected(counts) => {
                right += 1;
                findings.extend(counts.and_then(|counts| contents(&subject, name, counts, prefix, roles)));
            }
            ObjectState::Missing => missing.push(name.as_str()),
            ObjectState::Different(said) => findings.push(subject.fail(
                format!("it exists with other properties than polyhook needs ({said})"),
                format!("remove it once it is empty (polyhook declares it again): `rabbitmqctl delete_{what} -p {} {name}` or the management page; or choose another queue.prefix", quoted(&details.vhost)),
            )),
            // Said under permissions.
            ObjectState::Denied => {}
            ObjectState::Unclear(said) => findings.push(subject.fail(
                format!("the broker says: {said}"),
                "look for a node of the cluster that is down: a quorum queue needs the majority of its members",
            )),
        }
    }
    let all = Subject::new("broker.topology", prefix.as_str());
    if missing.len() == details.objects.len() {
        findings.insert(
            0,
            all.warn(
                "nothing is declared yet",
                "nothing to do: polyhook declares everything at its first start",
            ),
        );
    } else if !missing.is_empty() {
        let next = "polyhook declares it again within seconds while it runs; start it, or ask who deletes it";
        findings.insert(0, all.warn(format!("missing: {}", missing.join(", ")), next));
    } else if right == details.objects.len() {
        let said = format!(
            "{right} exchanges and queues, with the type, the delivery limit and the arguments they need"
        );
        findings.insert(0, all.ok(said));
    }
    findings
}

/// What stands in a queue that should be empty, or has nobody to empty it.
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
            "`polyhook dead list` says why; `polyhook dead replay` tries them again",
        )),
        ".unrouted" if messages > 0 => Some(subject.warn(
            format!("{messages} events that nobody has bound a queue for"),
            format!(
                "bind a queue of your own to {prefix}.events for what you want; nothing empties this one"
            ),
        )),
        _ => None,
    }
}

fn policies(details: &BrokerDetails, prefix: &str) -> Finding {
    Subject::new("broker.policies", prefix).skipped(
        "AMQP does not show them; none may set message-ttl, expires, max-length, max-length-bytes or a delivery-limit on these queues, or jobs and dead letters are dropped or refused",
        format!(
            "rabbitmqctl list_queues -p {} name policy operator_policy effective_policy_definition | grep '^{}\\.'",
            quoted(&details.vhost),
            prefix.replace('.', "\\.")
        ),
    )
}

fn round_trip(details: &BrokerDetails, config: &Config) -> Finding {
    let subject = Subject::new("broker.round_trip", &*config.queue.prefix);
    match &details.round_trip {
        Ok(took) if *took > config.queue.publish_timeout.min(SLOW) => subject.warn(
            format!("a message came back, but only after {} ms", took.as_millis()),
            "a broker or network that is this slow sends deliveries to the spool, or costs them a 503: look at its load and disk",
        ),
        Ok(took) => subject.ok(format!("a message was confirmed and came back in {} ms", took.as_millis())),
        Err(RoundTripError::Blocked) => subject.fail(
            "the broker takes no messages: it is short of memory or disk (connection.blocked)",
            "`rabbitmqctl status` names the alarm; give it memory or disk, or raise vm_memory_high_watermark or lower disk_free_limit",
        ),
        Err(RoundTripError::Denied) => subject.skipped("a permission is missing", "see broker.permissions"),
        Err(RoundTripError::Other(said)) => subject.fail(
            said.clone(),
            "look at the broker's log, and for a policy that matches every queue (`rabbitmqctl list_policies`)",
        ),
    }
}
