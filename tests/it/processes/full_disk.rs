//! Recordings that fill the disk which the archive shares with the queue.

use std::path::Path;

use serde_json::json;

use crate::support::{
    process::{Installation, SimulatedPolyAi, deliver, eventually, get},
    small_disk::SmallDisk,
};

#[test]
fn recordings_that_do_not_fit_leave_the_queue_its_space() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 3);
    let site = Installation::new(
        &polyai.access,
        r#"
        queue = { url = "sqlite:small/queue.db" }
        archive = { url = "file:small/archive" }
        retry = { delays = ["1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"] }
        "#,
    );
    let disk = SmallDisk::mount(site.path().join("small"), 64);
    let [large, larger, small] = <[String; 3]>::try_from(polyai.ids()).unwrap();
    for (id, size) in [(&large, "80 MiB"), (&larger, "100 MiB")] {
        polyai.control("PUT", &format!("calls/{id}/script"), &json!({ "audio_size": size }));
    }
    let mut run = site.polyhook(["run"]).start();
    let (receiver, admin) = (run.receiver_address(), run.wait_until_ready());
    let send = |event_id: &str, id: &str| deliver(receiver, &site.secret, event_id, &polyai.event(id));
    assert_eq!([send("evt-1", &large), send("evt-2", &larger)], [Some(204), Some(204)]);
    let readyz = || get(admin, "/readyz").unwrap().1;
    eventually("the full disk is reported", || readyz().contains("degraded: archive: the disk of"));
    assert!(readyz().starts_with("ready"), "{}", readyz());

    for n in 0..20 {
        assert_eq!(send(&format!("evt-more-{n}"), &small), Some(204), "{}", readyz());
    }
    let archive = disk.file("archive");
    eventually("a call that fits is archived", || archived(&archive) == 1);
    eventually("nothing is staged", || staged(&archive) == 0);

    disk.resize(512);
    eventually("all are archived", || archived(&archive) == 3);
    eventually("the condition has ended", || !readyz().contains("degraded"));
    run.stop();
}

fn archived(archive: &Path) -> usize {
    crate::support::process::manifests(archive).len()
}

/// Returns the number of unfinished files.
fn staged(archive: &Path) -> usize {
    let folders = std::fs::read_dir(archive.join(".polyhook/staging")).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count() - 1).sum()
}
