"""What the worker's sections share: conversations that wait in a queue, a worker that archives them, and its limit."""

import json
import time

from .site import Failed, empty, eventually, run_once

CONCURRENCY = 8


def queued(site, simulator, ids):
    """Has the simulator deliver that these conversations are over, into the site's queue."""
    service = site.start("receive")
    simulator.deliver(service.url, ids)
    eventually(
        f"{len(ids)} deliveries are accepted",
        lambda: service.total("polyhook_deliveries_total", 'outcome="accepted"') >= len(ids),
        patience=120,
        pause=0.05,
    )
    service.stop()


def work(site, count, patience=1800):
    """Lets a worker archive `count` conversations that wait; from exec to the last."""
    service = site.start("work")
    found = {}

    def done():
        found.update(service.metrics())
        return sum_of(found, "polyhook_jobs_total") >= count

    # Rarely at first: to ask costs the worker something too.
    eventually("half is archived", lambda: done() or sum_of(found, "polyhook_jobs_total") > count * 0.5, patience, 0.05)
    eventually("all is archived", done, patience, 0.01)
    seconds = time.monotonic() - service.started
    cpu, peak = service.process.cpu(), service.peak_rss()
    service.stop()
    outcomes = {key: value for key, value in found.items() if key.startswith("polyhook_jobs_total")}
    if sum_of(found, "polyhook_jobs_total", 'outcome="archived"') != count:
        raise Failed(f"{site.name}: not archived: {outcomes}")
    audio = sum_of(found, "polyhook_archive_bytes_total", 'kind="audio"')
    return {
        "seconds": seconds,
        "calls_per_second": count / seconds,
        "cpu_seconds": cpu,
        "bytes": audio,
        "cpu_ms_per_mb": cpu * 1000 / (audio / 1e6) if audio else None,
        "peak_rss": peak,
        # Until the head of an answer; what follows it is streamed into the archive.
        "api_share": sum_of(found, "polyhook_api_seconds_sum") / sum_of(found, "polyhook_job_seconds_sum"),
    }


def warm(ctx, size):
    """Fills that much of the page cache and gives it back.

    A virtual machine has its memory only once it is touched, which makes a written byte cost up to three times as much
    for whoever comes first; what is free for some seconds may have to be got again.
    """
    path = ctx.work / "warm"
    block = bytes(1 << 20)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(block)
    path.unlink()


def sum_of(metrics, name, label=""):
    return sum(value for key, value in metrics.items() if key.split("{")[0] == name and label in key)


def manifests(site):
    """The manifests of a folder that is an archive."""
    return [json.loads(path.read_text()) for path in site.archive.rglob("manifest.json")]


def check_folder(site, count, size):
    """Fails unless every recording is there, whole, by the size on the disk."""
    sizes = [path.stat().st_size for path in site.archive.rglob("audio.wav")]
    found = len(manifests(site))
    if found != count or len(sizes) != count or any(each != size for each in sizes):
        raise Failed(f"{site.name}: {found} of {count} manifests, {len(sizes)} recordings, {set(sizes)} bytes each")


def download(ctx, name, simulator, ids, size, *options):
    """The bare client, from exec to the last."""
    folder = ctx.work / name
    folder.mkdir()
    (folder / "ids").write_text("".join(f"{each}\n" for each in ids))
    project = simulator.project
    argv = [ctx.bin / "download", "--url", simulator.url, "--account", project["account_id"]]
    argv += ["--project", project["project_id"], "--key", project["api_key"], "--ids", folder / "ids"]
    ran = run_once([*argv, "--into", folder / "recordings", "--concurrency", CONCURRENCY, *options], patience=1800)
    report = json.loads(ran["stdout"])
    if report["failed"] or report["done"] != len(ids) or report["bytes"] != size * len(ids):
        raise Failed(f"{name}: {report['done']} of {len(ids)}, {report['bytes']} bytes, failed {report['failed']}")
    empty(folder)
    return {
        "seconds": ran["seconds"],
        "calls_per_second": len(ids) / ran["seconds"],
        "cpu_seconds": ran["cpu_seconds"],
        "bytes": report["bytes"],
        "cpu_ms_per_mb": ran["cpu_seconds"] * 1000 / (report["bytes"] / 1e6),
        "peak_rss": ran["peak_rss"],
    }
