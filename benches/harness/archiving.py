"""Shared by the sections about the worker: fills a queue, runs a worker that archives, and runs the bare client."""

import json
import time

from .site import BenchmarkError, empty, eventually, run_once

CONCURRENCY = 8


def queued(site, simulator, ids):
    """Fills the queue of `site`: the simulator delivers the end of these conversations."""
    service = site.start("receive")
    simulator.deliver(service.url, ids)
    eventually(
        f"{len(ids)} deliveries are accepted",
        lambda: service.total("polyhook_deliveries_total", 'outcome="accepted"') >= len(ids),
        timeout=120,
        pause=0.05,
    )
    service.stop()


def work(site, count, timeout=1800):
    """Runs a worker until it has archived `count` waiting conversations. Measures from exec to the last."""
    service = site.start("work")
    found = {}

    def done():
        found.update(service.metrics())
        return sum_of(found, "polyhook_jobs_total") >= count

    # Polls rarely at first, because each poll costs the worker CPU time.
    eventually("half is archived", lambda: done() or sum_of(found, "polyhook_jobs_total") > count * 0.5, timeout, 0.05)
    eventually("all is archived", done, timeout, 0.01)
    seconds = time.monotonic() - service.started
    cpu, peak = service.process.cpu(), service.peak_rss()
    service.stop()
    outcomes = {key: value for key, value in found.items() if key.startswith("polyhook_jobs_total")}
    if sum_of(found, "polyhook_jobs_total", 'outcome="archived"') != count:
        raise BenchmarkError(f"{site.name}: not archived: {outcomes}")
    audio = sum_of(found, "polyhook_archive_bytes_total", 'kind="audio"')
    return {
        "seconds": seconds,
        "calls_per_second": count / seconds,
        "cpu_seconds": cpu,
        "bytes": audio,
        "cpu_ms_per_mb": cpu * 1000 / (audio / 1e6) if audio else None,
        "peak_rss": peak,
        # Time until the head of a response; the body is streamed into the archive.
        "api_share": sum_of(found, "polyhook_api_seconds_sum") / sum_of(found, "polyhook_job_seconds_sum"),
    }


def warm(ctx, size):
    """Fills the page cache with `size` bytes and frees them.

    A virtual machine gets its memory only when it is touched. The first writer then pays up to three times as much per byte.
    Memory that is free for some seconds may be taken away again.
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
    """Returns all manifests of the archive folder."""
    return [json.loads(path.read_text()) for path in site.archive.rglob("manifest.json")]


def check_folder(site, count, size):
    """Fails unless every recording exists and has its full size."""
    sizes = [path.stat().st_size for path in site.archive.rglob("audio.wav")]
    found = len(manifests(site))
    if found != count or len(sizes) != count or any(each != size for each in sizes):
        raise BenchmarkError(f"{site.name}: {found} of {count} manifests, {len(sizes)} recordings, {set(sizes)} bytes each")


def download(ctx, name, simulator, ids, size, *options):
    """Runs the bare client. Measures from exec to the last conversation."""
    folder = ctx.work / name
    folder.mkdir()
    (folder / "ids").write_text("".join(f"{each}\n" for each in ids))
    project = simulator.project
    argv = [ctx.bin / "download", "--url", simulator.url, "--account", project["account_id"]]
    argv += ["--project", project["project_id"], "--key", project["api_key"], "--ids", folder / "ids"]
    ran = run_once([*argv, "--into", folder / "recordings", "--concurrency", CONCURRENCY, *options], timeout=1800)
    report = json.loads(ran["stdout"])
    if report["failed"] or report["done"] != len(ids) or report["bytes"] != size * len(ids):
        raise BenchmarkError(f"{name}: {report['done']} of {len(ids)}, {report['bytes']} bytes, failed {report['failed']}")
    empty(folder)
    return {
        "seconds": ran["seconds"],
        "calls_per_second": len(ids) / ran["seconds"],
        "cpu_seconds": ran["cpu_seconds"],
        "bytes": report["bytes"],
        "cpu_ms_per_mb": ran["cpu_seconds"] * 1000 / (report["bytes"] / 1e6),
        "peak_rss": ran["peak_rss"],
    }
