//! `kill -9` of the receiver, the worker and the broker at random moments, under load.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use super::{Figures, deployment::Deployment, seeded_rng, short_or_long};
use crate::support::rabbit::exclusive_node_blocking;

#[test]
fn kills_at_random_moments_lose_nothing() {
    let mut rng = seeded_rng("kills");
    let (process_kills, broker_kills) = short_or_long((10, 2), (220, 60));
    let node = exclusive_node_blocking();
    let deployment = Deployment::start(&[node.url()], short_or_long(10_000, 90_000));
    let load = deployment.start_load();
    let mut figures = Figures::new("kill -9 of receiver, worker and broker");

    // Independent pauses, so that one is killed while another one recovers.
    let (mut broker_rng, mut worker_rng) = (rng.fork(), rng.fork());
    let (receiver, worker, broker, listening) = thread::scope(|scope| {
        let broker = scope.spawn(|| {
            let (mut recoveries, mut restarts) = (Vec::new(), Vec::new());
            for _ in 0..broker_kills {
                sleep_randomly(&mut broker_rng, 500..2500);
                let killed = Instant::now();
                node.kill();
                node.restart();
                restarts.push(killed.elapsed());
                recoveries.push(load.wait_for_acknowledgement_after(Instant::now()));
            }
            (recoveries, restarts)
        });
        let worker = scope.spawn(|| {
            let mut recoveries = Vec::new();
            for _ in 0..process_kills {
                sleep_randomly(&mut worker_rng, 200..2000);
                let killed = Instant::now();
                deployment.replace_worker();
                recoveries.push(deployment.wait_for_announcement_after(killed));
            }
            recoveries
        });
        let mut receiver = Vec::new();
        for _ in 0..process_kills {
            sleep_randomly(&mut rng, 200..2000);
            let killed = Instant::now();
            deployment.replace_receiver(&load);
            receiver.push(load.wait_for_acknowledgement_after(killed));
        }
        let (broker, listening) = broker.join().unwrap();
        (receiver, worker.join().unwrap(), broker, listening)
    });
    figures
        .set("kills", 2 * process_kills + broker_kills)
        .set_durations("receiver_killed_to_acknowledged", receiver)
        .set_durations("worker_killed_to_announced", worker)
        .set_durations("broker_killed_to_listening", listening)
        .set_durations("broker_listening_to_acknowledged", broker);
    deployment.finish(load, figures);
}

fn sleep_randomly(rng: &mut fastrand::Rng, milliseconds: Range<u64>) {
    thread::sleep(Duration::from_millis(rng.u64(milliseconds)));
}
