//! A broker in trouble of every kind, under load. Nobody restarts polyhook.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Figures, load::Load, oracle, pick, stage::Stage};
use crate::support::rabbit::{ClientCertificate, Node};

/// How long the trouble lasts.
fn while_it_lasts() -> Duration {
    pick(Duration::from_secs(6), Duration::from_mins(1))
}

/// Load before, during and after; `trouble` returns when its cause is gone.
fn rides_out(scenario: &str, trouble: impl FnOnce(&Node, &Stage, &Load)) {
    let node = Node::start(ClientCertificate::Optional);
    let stage = Stage::set(&[node.url()], pick(4000, 15_000));
    let load = stage.load();
    let mut figures = Figures::of(scenario);
    load.recovered_since(Instant::now());
    stage.announces_since(Instant::now());
    trouble(&node, &stage, &load);
    let gone = Instant::now();
    let acknowledged = load.recovered_since(gone);
    let announced = stage.announces_since(gone);
    figures
        .times("cause_gone_to_acknowledged", vec![acknowledged])
        .times("cause_gone_to_announced", vec![announced]);
    // What follows is not special any more.
    thread::sleep(Duration::from_secs(1));
    stage.judge(load, figures);
}

#[test]
fn a_broker_that_is_stopped() {
    rides_out("broker stopped", |node, _, _| {
        node.stop();
        thread::sleep(while_it_lasts());
        node.restart();
    });
}

#[test]
fn a_broker_that_hangs() {
    rides_out("broker frozen (SIGSTOP)", |node, _, _| {
        node.pause();
        thread::sleep(while_it_lasts());
        node.resume();
    });
}

#[test]
fn a_broker_short_of_memory() {
    rides_out("memory alarm", |node, _, _| {
        node.ctl(&["set_vm_memory_high_watermark", "0.0001"]);
        thread::sleep(while_it_lasts());
        node.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    });
}

#[test]
fn a_broker_short_of_disk() {
    rides_out("disk alarm", |node, _, _| {
        node.ctl(&["set_disk_free_limit", "100000GB"]);
        thread::sleep(while_it_lasts());
        node.ctl(&["set_disk_free_limit", "1MB"]);
    });
}

/// What is in the queue at that moment is lost with it, by the hand that deletes it. What a worker has by then, what comes
/// before the queue is there again, and all after, must not be.
#[test]
fn a_fetch_queue_that_is_deleted() {
    rides_out("fetch queue deleted", |node, stage, _| {
        stage.may_lose(oracle::delete_queue(&node.url(), &format!("{}.fetch", stage.prefix)));
    });
}
