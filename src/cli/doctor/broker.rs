//! RabbitMQ: connection, permissions, topology and a round trip.

use std::time::Duration;

use super::{
    super::{output::counted, role::Role},
    report::{Finding, Subject},
};
use crate::{
    config::Config,
    queue::rabbitmq::probe::{
        self, BrokerDetails, BrokerUser, MissingPermission, ObjectState, RoundTripError,
    },
    shell,
};

/// A slower confirm noticeably delays every delivery.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(500);

pub(super) async fn check(config: &Config, role: Role) -> Vec<Finding> {
    let refresh_ages = config.refresh_ages(role.roles());
    let probed = probe::probe(&config.queue, &config.retry.delays, &refresh_ages, role.broker_user(config));
    let probed = match probed.await {
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
    findings.extend(permissions(&details, config, role));
    findings.extend(topology(&details, config, role));
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

fn permissions(details: &BrokerDetails, config: &Config, role: Role) -> Vec<Finding> {
    let (user, role_name, prefix) = (&details.user, role.label(), &*config.queue.prefix);
    let subject = |on: &str| Subject::new("broker.permissions", on);
    if details.missing_permissions.is_empty() {
        return vec![subject(prefix).ok(format!("the user {user} has what the role `{role_name}` needs"))];
    }
    let other = if role == Role::Run {
        "if the user is for another role, name that with --role; otherwise "
    } else {
        ""
    };
    let next = format!(
        "{other}{} gives the user what this role needs, and takes away the rest",
        grant_command(details, prefix, role.broker_user(config))
    );
    let all = details.missing_permissions.iter();
    all.map(|MissingPermission { permission, object }| {
        let message = format!(
            "the user {user} lacks permission to {permission} it, which the role `{role_name}` needs"
        );
        subject(object).fail(message, &*next)
    })
    .collect()
}

/// Returns the command that grants exactly the permissions that the role needs.
fn grant_command(details: &BrokerDetails, prefix: &str, needed: BrokerUser) -> String {
    let [configure, write, read] = needed.patterns(prefix);
    let [vhost, user] = [&details.vhost, &details.user].map(|name| shell::quote(name));
    format!("`rabbitmqctl set_permissions -p {vhost} {user} '{configure}' '{write}' '{read}'`")
}

fn topology(details: &BrokerDetails, config: &Config, role: Role) -> Vec<Finding> {
    let prefix = &config.queue.prefix;
    let mut findings = Vec::new();
    let (mut correct, mut missing) = (0, Vec::new());
    let mut may_create_all = true;
    for (what, name, state) in &details.objects {
        let subject = Subject::new("broker.topology", format!("{what} {name}"));
        match state {
            ObjectState::AsExpected(counts) => {
                correct += 1;
                findings.extend(counts.and_then(|counts| contents(&subject, name, counts, prefix, role)));
            }
            ObjectState::Missing { may_create } => {
                missing.push(name.as_str());
                may_create_all &= may_create;
            }
            ObjectState::Different(difference) => findings.push(subject.fail(
                format!("it exists with other properties than polyhook needs ({difference})"),
                format!("delete it when it is empty (polyhook declares it again) with `rabbitmqctl delete_{what} -p {} {}` or on the management page, or set another queue.prefix", shell::quote(&details.vhost), shell::quote(name)),
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
    if !missing.is_empty() {
        let message = if missing.len() == details.objects.len() {
            "nothing is declared yet".to_owned()
        } else {
            format!("missing: {}", missing.join(", "))
        };
        let next = match role {
            Role::Run | Role::Work => {
                "start polyhook, which declares it within seconds; if it runs already, find out what deletes it"
            }
            // Queues that dead-letter can only be created by those who may read them.
            _ if !may_create_all => {
                "start a worker first, which declares it within seconds: this user may not create these queues, and does not need to"
            }
            _ => {
                "start polyhook, which declares it within seconds; if it runs already, find out what deletes it"
            }
        };
        findings.insert(0, all.warn(message, next));
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
    role: Role,
) -> Option<Finding> {
    match name.strip_prefix(prefix)? {
        ".fetch" if messages > 0 && consumers == 0 => Some(subject.warn(
            format!("{}, and no worker takes jobs", counted(messages.into(), "waiting job")),
            if role.roles().work {
                "start `polyhook work` (or `run`)"
            } else {
                "start `polyhook work` somewhere"
            },
        )),
        ".dead" if messages > 0 => Some(subject.warn(
            counted(messages.into(), "dead letter"),
            "find out why with `polyhook dead list`, fix the cause, and retry with `polyhook dead replay`",
        )),
        ".unrouted" if messages > 0 => Some(subject.warn(
            format!("{} for which no queue is bound", counted(messages.into(), "event")),
            format!(
                "bind your own queue to {prefix}.events for the events you want; nothing consumes this queue"
            ),
        )),
        _ => None,
    }
}

fn policies(details: &BrokerDetails, prefix: &str) -> Finding {
    let vhost = shell::quote(&details.vhost);
    Subject::new("broker.policies", prefix).skipped(
        "AMQP does not show policies. None may set message-ttl, expires, max-length, max-length-bytes or delivery-limit on these queues; otherwise jobs and dead letters are dropped or rejected",
        format!("rabbitmqctl list_policies -p {vhost}; rabbitmqctl list_operator_policies -p {vhost}"),
    )
}

fn round_trip(details: &BrokerDetails, config: &Config) -> Finding {
    let subject = Subject::new("broker.round_trip", &*config.queue.prefix);
    match &details.round_trip {
        Ok(latency) if *latency > config.queue.publish_timeout.min(MAX_ROUND_TRIP) => subject.warn(
            format!("a message came back, but after {} ms", latency.as_millis()),
            "check the load and disk of the broker and the network; deliveries that take longer than queue.publish_timeout go to the spool or are answered with 503",
        ),
        Ok(latency) => subject.ok(format!("a message was confirmed and came back in {} ms", latency.as_millis())),
        Err(RoundTripError::Blocked) => subject.fail(
            "the broker accepts no messages, because it is short of memory or disk (connection.blocked)",
            "find the alarm with `rabbitmqctl status`; add memory or disk, raise vm_memory_high_watermark or lower disk_free_limit",
        ),
        Err(RoundTripError::Denied) => subject.skipped("a permission is missing", "see broker.permissions"),
        Err(RoundTripError::Undeclared) => subject.skipped("nothing is declared yet", "see broker.topology"),
        Err(RoundTripError::Other(message)) => subject.fail(
            message.clone(),
            "check the log of the broker, and look for a policy that matches every queue (`rabbitmqctl list_policies`)",
        ),
    }
}
