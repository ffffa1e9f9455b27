//! `kill -9` of receiver, worker and broker at any moment, under load.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Figures, dice, pick, stage::Stage};
use crate::support::rabbit::{ClientCertificate, Node};

#[test]
fn kills_of_everything_at_any_moment_lose_nothing() {
    let mut dice = dice("kills");
    let (processes, brokers) = pick((14, 2), (220, 60));
    let node = Node::start(ClientCertificate::Optional);
    let stage = Stage::set(&[node.url()], pick(10_000, 90_000));
    let load = stage.load();
    let mut figures = Figures::of("kill -9 of receiver, worker and broker");

    // Each has its own rhythm, so that they fall into each other's recovery.
    let mut of_broker = dice.fork();
    let mut of_worker = dice.fork();
    let (receiver, worker, broker, booted) = thread::scope(|scope| {
        let broker = scope.spawn(|| {
            let (mut recoveries, mut boots) = (Vec::new(), Vec::new());
            for _ in 0..brokers {
                pause(&mut of_broker, 500..2500);
                let killed = Instant::now();
                node.kill();
                node.restart();
                boots.push(killed.elapsed());
                recoveries.push(load.recovered_since(Instant::now()));
            }
            (recoveries, boots)
        });
        let worker = scope.spawn(|| {
            let mut recoveries = Vec::new();
            for _ in 0..processes {
                pause(&mut of_worker, 200..2000);
                let killed = Instant::now();
                stage.replace_worker();
                recoveries.push(stage.announces_since(killed));
            }
            recoveries
        });
        let mut receiver = Vec::new();
        for _ in 0..processes {
            pause(&mut dice, 200..2000);
            let killed = Instant::now();
            stage.replace_receiver(&load);
            receiver.push(load.recovered_since(killed));
        }
        let (broker, booted) = broker.join().unwrap();
        (receiver, worker.join().unwrap(), broker, booted)
    });
    figures
        .set("kills", 2 * processes + brokers)
        .times("receiver_killed_to_acknowledged", receiver)
        .times("worker_killed_to_announced", worker)
        .times("broker_killed_to_listening", booted)
        .times("broker_listening_to_acknowledged", broker);
    stage.judge(load, figures);
}

fn pause(dice: &mut fastrand::Rng, ms: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(dice.u64(ms)));
}
