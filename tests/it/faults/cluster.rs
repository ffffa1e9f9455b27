//! A cluster that loses a node, the leader of the queue, and its network, under load. polyhook is given all URLs.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Figures,
    load::Load,
    pick,
    stage::{PATIENCE, Stage},
};
use crate::support::{cluster::Cluster, process::eventually_within};

/// Acknowledged again, and announced again.
fn recovers(stage: &Stage, load: &Load, since: Instant) -> Vec<Duration> {
    let acknowledged = load.recovered_since(since);
    vec![acknowledged.max(stage.announces_since(since))]
}

#[test]
fn a_cluster_that_falls_apart_loses_nothing() {
    let rounds = pick(1, 5);
    let cluster = Cluster::start();
    let stage = Stage::set(&cluster.urls(), pick(8000, 40_000));
    let fetch = format!("{}.fetch", stage.prefix);
    let load = stage.load();
    let mut figures = Figures::of("three nodes: node killed, leader killed, partition");
    load.recovered_since(Instant::now());

    let (mut follower, mut leader, mut cut, mut healed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let victim = (cluster.leader(&fetch) + 1) % cluster.nodes.len();
        follower.extend(kill(&cluster, victim, &stage, &load));
        leader.extend(kill(&cluster, cluster.leader(&fetch), &stage, &load));

        let victim = cluster.leader(&fetch);
        cluster.cut(victim);
        let since = Instant::now();
        eventually_within(PATIENCE, "noticed", || cluster.nodes[victim].try_ctl(&["list_queues"]).is_none());
        cut.extend(recovers(&stage, &load, since));
        cluster.mend(victim);
        let since = Instant::now();
        eventually_within(PATIENCE, "whole again", || is_whole(&cluster));
        healed.extend(recovers(&stage, &load, since));
    }
    figures
        .set("rounds", rounds)
        .times("follower_killed_to_recovered", follower)
        .times("leader_killed_to_recovered", leader)
        .times("leader_cut_off_to_recovered", cut)
        .times("partition_healed_to_recovered", healed);
    stage.judge(load, figures);
}

/// Kills a node, waits until the others carry on without it, and brings it back.
fn kill(cluster: &Cluster, victim: usize, stage: &Stage, load: &Load) -> Vec<Duration> {
    let killed = Instant::now();
    cluster.nodes[victim].kill();
    let recovery = recovers(stage, load, killed);
    thread::sleep(Duration::from_secs(1));
    cluster.nodes[victim].restart();
    eventually_within(PATIENCE, "whole again", || is_whole(cluster));
    recovery
}

/// Every node runs, and sees all others.
fn is_whole(cluster: &Cluster) -> bool {
    cluster.nodes.iter().all(|node| {
        node.try_ctl(&["eval", "length(rabbit_nodes:all_running())."])
            .is_some_and(|count| count.trim() == "3")
    })
}
