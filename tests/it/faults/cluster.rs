//! A cluster of three nodes under load: a node is killed, the leader of the queue is killed, and the leader is cut off.
//! polyhook has the URLs of all nodes.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Figures,
    deployment::{Deployment, RECOVERY_TIMEOUT},
    load::Load,
    short_or_long,
};
use crate::support::{cluster::Cluster, process::eventually_within};

#[test]
fn killed_nodes_and_a_partition_lose_nothing() {
    let rounds = short_or_long(1, 5);
    let cluster = Cluster::start();
    let deployment = Deployment::start(&cluster.urls(), short_or_long(8000, 40_000));
    let fetch = format!("{}.fetch", deployment.prefix);
    let load = deployment.start_load();
    let mut figures = Figures::new("three nodes: node killed, leader killed, partition");
    load.wait_for_acknowledgement_after(Instant::now());

    let (mut follower, mut leader, mut isolated, mut healed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let victim = (cluster.leader(&fetch) + 1) % cluster.nodes.len();
        follower.push(kill_and_restart(&cluster, victim, &deployment, &load));
        leader.push(kill_and_restart(&cluster, cluster.leader(&fetch), &deployment, &load));

        let victim = cluster.leader(&fetch);
        cluster.isolate(victim);
        let since = Instant::now();
        eventually_within(RECOVERY_TIMEOUT, "noticed", || {
            let elected = cluster.leader_seen_by((victim + 1) % cluster.nodes.len(), &fetch);
            elected.is_some_and(|elected| elected != victim)
        });
        isolated.push(wait_for_recovery(&deployment, &load, since));
        cluster.reconnect(victim);
        let since = Instant::now();
        wait_until_complete(&cluster);
        healed.push(wait_for_recovery(&deployment, &load, since));
    }
    figures
        .set("rounds", rounds)
        .set_durations("follower_killed_to_recovered", follower)
        .set_durations("leader_killed_to_recovered", leader)
        .set_durations("leader_cut_off_to_recovered", isolated)
        .set_durations("partition_healed_to_recovered", healed);
    deployment.finish(load, figures);
}

/// Waits until deliveries are acknowledged and conversations announced again. Returns the time since `moment`.
fn wait_for_recovery(deployment: &Deployment, load: &Load, moment: Instant) -> Duration {
    let acknowledged = load.wait_for_acknowledgement_after(moment);
    acknowledged.max(deployment.wait_for_announcement_after(moment))
}

/// Kills a node, waits until polyhook works without it, and restarts it. Returns the time to the recovery.
fn kill_and_restart(cluster: &Cluster, victim: usize, deployment: &Deployment, load: &Load) -> Duration {
    let killed = Instant::now();
    cluster.nodes[victim].kill();
    let recovery = wait_for_recovery(deployment, load, killed);
    thread::sleep(Duration::from_secs(1));
    cluster.nodes[victim].restart();
    wait_until_complete(cluster);
    recovery
}

/// Waits until every node runs and sees all others.
fn wait_until_complete(cluster: &Cluster) {
    eventually_within(RECOVERY_TIMEOUT, "complete", || {
        cluster
            .nodes
            .iter()
            .all(|node| node.eval("length(rabbit_nodes:all_running())").as_deref() == Some("3"))
    });
}
