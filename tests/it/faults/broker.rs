//! Faults of the broker under load. polyhook recovers without a restart.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Figures, deployment::Deployment, load::Load, oracle, short_or_long};
use crate::support::rabbit::{Node, exclusive_node_blocking};

/// Returns the duration of a fault.
fn fault_duration() -> Duration {
    short_or_long(Duration::from_secs(4), Duration::from_mins(1))
}

/// Sends load before, during and after a fault. `fault` begins and ends the fault.
fn survives(scenario: &str, fault: impl FnOnce(&Node, &Deployment, &Load)) {
    let node = exclusive_node_blocking();
    let deployment = Deployment::start(&[node.url()], short_or_long(4000, 15_000));
    let load = deployment.start_load();
    let mut figures = Figures::new(scenario);
    load.wait_for_acknowledgement_after(Instant::now());
    deployment.wait_for_announcement_after(Instant::now());
    fault(&node, &deployment, &load);
    let ended = Instant::now();
    let acknowledged = load.wait_for_acknowledgement_after(ended);
    let announced = deployment.wait_for_announcement_after(ended);
    figures
        .set_durations("cause_gone_to_acknowledged", vec![acknowledged])
        .set_durations("cause_gone_to_announced", vec![announced]);
    // Some deliveries under normal conditions.
    thread::sleep(Duration::from_secs(1));
    deployment.finish(load, figures);
}

#[test]
fn loses_nothing_when_the_broker_stops() {
    survives("broker stopped", |node, _, _| {
        node.stop();
        thread::sleep(fault_duration());
        node.restart();
    });
}

#[test]
fn loses_nothing_when_the_broker_freezes() {
    survives("broker frozen (SIGSTOP)", |node, _, _| {
        node.pause();
        thread::sleep(fault_duration());
        node.resume();
    });
}

#[test]
fn loses_nothing_during_a_memory_alarm() {
    survives("memory alarm", |node, _, _| {
        node.ctl(&["set_vm_memory_high_watermark", "0.0001"]);
        thread::sleep(fault_duration());
        node.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    });
}

#[test]
fn loses_nothing_during_a_disk_alarm() {
    survives("disk alarm", |node, _, _| {
        node.ctl(&["set_disk_free_limit", "100000GB"]);
        thread::sleep(fault_duration());
        node.ctl(&["set_disk_free_limit", "1MB"]);
    });
}

/// The messages in the queue are deleted with it. Jobs that a worker holds, deliveries that arrive before the queue
/// exists again, and all later ones must not be lost.
#[test]
fn loses_only_the_messages_in_a_deleted_fetch_queue() {
    survives("fetch queue deleted", |node, deployment, _| {
        let fetch = format!("{}.fetch", deployment.prefix);
        deployment.expect_loss(oracle::delete_queue(&node.url(), &fetch));
    });
}
