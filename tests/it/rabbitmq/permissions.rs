//! The probe of `polyhook doctor` with the users of deploy/rabbitmq/definitions.json, and with one permission less.

use std::{fs, time::Duration};

use futures_util::{StreamExt, stream};
use polyhook::queue::rabbitmq::probe::{self, BrokerDetails, BrokerUser, ObjectState, RoundTripError};
use serde_json::{Value, json};

use super::config;
use crate::support::rabbit::{Node, SHARED_NODE, unique_prefix};

const DEFINITIONS: &str = include_str!("../../../deploy/rabbitmq/definitions.json");
const DELAYS: [u64; 6] = [10, 60, 300, 1800, 7200, 21600];
const REFRESH_AGE: Duration = Duration::from_hours(1);
const USERS: [(&str, BrokerUser); 4] = [
    ("polyhook-receiver", BrokerUser::Publisher),
    ("polyhook-worker", BrokerUser::Worker),
    ("polyhook-console", BrokerUser::Viewer),
    ("polyhook-operator", BrokerUser::Operator),
];
const PASSWORD: &str = "a-password-of-tests";
/// Connections at a time.
const CONNECTIONS: usize = 8;

/// A user of the broker that lacks at most one permission of its role.
#[derive(Debug)]
struct TestUser {
    name: String,
    role: BrokerUser,
    /// configure, write, read
    patterns: [String; 3],
    /// The permission, and the pattern of the object's name.
    lacks: Option<(&'static str, String)>,
}

/// Returns the users of the definitions, each once complete and once without each of its permissions.
fn users(definitions: &Value) -> Vec<TestUser> {
    let mut users = Vec::new();
    for (user, role) in USERS {
        let rows = definitions["permissions"].as_array().unwrap();
        let row = rows.iter().find(|row| row["user"] == user).unwrap();
        let patterns = role.patterns("polyhook");
        users.push(TestUser { name: format!("test-{user}"), role, patterns: patterns.clone(), lacks: None });
        for (index, permission) in ["configure", "write", "read"].into_iter().enumerate() {
            assert_eq!(
                row[permission], patterns[index],
                "{permission}: the doctor advises another pattern for {user}"
            );
            for (name, reduced) in reduced(&patterns[index]) {
                let mut patterns = patterns.clone();
                patterns[index] = reduced;
                let user = format!("test-{user}-{}", users.len());
                users.push(TestUser { name: user, role, patterns, lacks: Some((permission, name)) });
            }
        }
    }
    users
}

/// Returns each alternative of a pattern, with the pattern without it.
fn reduced(pattern: &str) -> Vec<(String, String)> {
    let names = pattern.split_once("polyhook\\.(").unwrap().1.split_once(')').unwrap().0;
    let without = |name: &str| {
        let others: Vec<_> = names.split('|').filter(|other| *other != name).collect();
        (name.to_owned(), pattern.replace(&format!("({names})"), &format!("({})", others.join("|"))))
    };
    let mut all: Vec<_> = names.split('|').map(without).collect();
    if pattern.contains("|amq\\.default") {
        all.push(("amq\\.default".to_owned(), pattern.replace("|amq\\.default", "")));
    }
    all
}

/// Imports `definitions` into the virtual host, with these users.
fn import(node: &Node, vhost: &str, definitions: &Value, users: &[TestUser]) {
    let mut definitions = definitions.clone();
    definitions["vhosts"] = json!([{ "name": vhost }]);
    definitions["users"] =
        users.iter().map(|user| json!({ "name": user.name, "password": PASSWORD, "tags": "" })).collect();
    let permissions = users.iter().map(|user| {
        let [configure, write, read] = &user.patterns;
        json!({ "user": user.name, "vhost": vhost, "configure": configure, "write": write, "read": read })
    });
    definitions["permissions"] = permissions.collect();
    for part in ["policies", "exchanges", "queues", "bindings"] {
        for row in definitions[part].as_array_mut().unwrap() {
            row["vhost"] = json!(vhost);
        }
    }
    let file = node.file(&format!("{vhost}.json"));
    fs::write(&file, definitions.to_string()).unwrap();
    node.ctl(&["import_definitions", file.to_str().unwrap()]);
}

async fn probe(vhost: &str, user: &TestUser) -> BrokerDetails {
    let url = format!("amqp://{}:{PASSWORD}@127.0.0.1:{}/{vhost}", user.name, SHARED_NODE.port());
    let refresh_ages = if user.role == BrokerUser::Publisher { vec![] } else { vec![REFRESH_AGE] };
    let (config, delays) = (config(&url, "polyhook"), DELAYS.map(Duration::from_secs));
    let report = probe::probe(&config, &delays, &refresh_ages, user.role).await.unwrap();
    assert_eq!(report.nodes[0].1, Ok(()), "{user:?}");
    report.details.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_names_exactly_the_missing_permission_of_a_role() {
    let definitions: Value = serde_json::from_str(DEFINITIONS).unwrap();
    let vhost = &unique_prefix();
    let users = users(&definitions);
    tokio::task::block_in_place(|| import(&SHARED_NODE, vhost, &definitions, &users));
    let probes = users.iter().map(async |user| (user, probe(vhost, user).await));
    let mut probes = stream::iter(probes).buffer_unordered(CONNECTIONS);
    while let Some((user, details)) = probes.next().await {
        let BrokerDetails { objects, missing_permissions, round_trip, .. } = &details;
        let Some((permission, name)) = &user.lacks else {
            assert_eq!(missing_permissions, &[], "{user:?}");
            assert!(round_trip.is_ok(), "{user:?}: {round_trip:?}");
            let declared = |state: &ObjectState| matches!(state, ObjectState::AsExpected(_));
            assert!(objects.iter().all(|(.., state)| declared(state)), "{user:?}: {objects:?}");
            continue;
        };
        let expected = match name.as_str() {
            "amq\\.default" => "amq.default".to_owned(),
            // Each delay has a queue.
            name => format!("polyhook.{}", name.split('[').next().unwrap().replace('\\', "")),
        };
        let is_group = name.contains('[');
        let exact = |found: &probe::MissingPermission| {
            found.permission == *permission
                && if is_group { found.object.starts_with(&expected) } else { found.object == expected }
        };
        assert!(
            !missing_permissions.is_empty() && missing_permissions.iter().all(exact),
            "{user:?}: {missing_permissions:?}"
        );
        assert!(missing_permissions.len() == 1 || is_group, "{missing_permissions:?}");
        assert!(
            matches!(round_trip, Ok(_) | Err(RoundTripError::Denied)),
            "a missing permission is no other error: {user:?}: {round_trip:?}"
        );
    }
    assert!(users.len() > 60, "{}", users.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_of_an_empty_virtual_host_shows_who_may_create_what() {
    let empty = json!({ "policies": [], "exchanges": [], "queues": [], "bindings": [] });
    let vhost = &unique_prefix();
    let users: Vec<_> = USERS
        .into_iter()
        .map(|(_, role)| TestUser {
            name: format!("{vhost}-{role:?}"),
            role,
            patterns: role.patterns("polyhook"),
            lacks: None,
        })
        .collect();
    tokio::task::block_in_place(|| import(&SHARED_NODE, vhost, &empty, &users));
    for user in &users {
        let details = probe(vhost, user).await;
        assert_eq!(details.missing_permissions, [], "{user:?}");
        for (_, name, state) in &details.objects {
            // Without `read`, a queue that dead-letters cannot be created.
            let may_create = user.role == BrokerUser::Worker || !name.starts_with("polyhook.fetch");
            assert_eq!(*state, ObjectState::Missing { may_create }, "{name} for {user:?}");
        }
    }
}
