"""Compares the embedded queue with a bare appender, and checks that its consumer keeps up.

* `append`: the limit; the same bytes into a minimal table.
* `append_unique`: `append` with the index that a queue needs to reject duplicates.
* `queue`: the same producers through polyhook's embedded queue, without a receiver.
* `receive`: signed deliveries over HTTP into `polyhook receive` on the embedded queue. The load client shares the cores with
  it, so compare with `null`, a receiver without a queue under the same client.
"""

import json
import os
import sqlite3
import time
from contextlib import closing
from statistics import median

from .site import BenchmarkError, Service, Simulator, Site, answers_at, eventually, free_ports, run_once
from .formatting import number, with_spread, spread, table

PROGRAMS = ("append", "load", "null")
CONNECTIONS = 64
BODY_BYTES = 600


def run(ctx):
    seconds = 1.5 if ctx.quick else 10
    contenders = {"append": appender, "append_unique": unique, "queue": through_queue, "receive": receiver, "null": null}
    rounds = []
    for number in range(ctx.rounds):
        rounds.append({name: measure(ctx, f"embedded-{name}-{number}", seconds) for name, measure in contenders.items()})
    return {
        "seconds": seconds,
        "connections": CONNECTIONS,
        "body_bytes": BODY_BYTES,
        "rounds": rounds,
        "ratios": {
            name: spread([each[name]["per_second"] / each["append"]["per_second"] for each in rounds])
            for name in ("append_unique", "queue", "receive", "null")
        },
        "queue/append_unique": spread(
            [each["queue"]["per_second"] / each["append_unique"]["per_second"] for each in rounds]
        ),
        "per_second": {name: spread([each[name]["per_second"] for each in rounds]) for name in contenders},
        "cpu_us": {name: spread([each[name]["cpu_us"] for each in rounds]) for name in contenders},
        "secure_delete": secure_delete(ctx, seconds),
        "consumer": consumer(ctx, seconds),
        "rates": rates(ctx),
    }


def rows(path, question):
    """Returns the number that an SQL query on a file selects."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        return file.execute(question).fetchone()[0] or 0


def durable(name, report, found):
    """Fails unless exactly the accepted messages are durable."""
    if report["failed"] or report["accepted"] != found or not found:
        raise BenchmarkError(f"{name}: accepted {report['accepted']}, found {found}, failed {report['failed']}")


def append(ctx, name, seconds, *options):
    path = ctx.work / f"{name}.db"
    argv = [ctx.bin / "append", "--file", path, "--producers", CONNECTIONS, "--duration", f"{seconds}s"]
    report = json.loads(run_once([*argv, "--body-bytes", BODY_BYTES, *options])["stdout"])
    # max(seq) also counts rows that were consumed.
    durable(name, report, rows(path, "SELECT max(seq) FROM messages"))
    for file in ctx.work.glob(f"{name}.db*"):
        os.truncate(file, 0)
    return costed(report, report["cpu_seconds"])


def costed(report, cpu_seconds):
    """Returns the stored part of a report, with the CPU time per message."""
    kept = {key: report[key] for key in ("accepted", "per_second", "latency_us")}
    return {**kept, "cpu_us": cpu_seconds / report["accepted"] * 1e6}


def appender(ctx, name, seconds):
    return append(ctx, name, seconds)


def unique(ctx, name, seconds):
    return append(ctx, name, seconds, "--unique")


def through_queue(ctx, name, seconds):
    return append(ctx, name, seconds, "--queue")


def load(ctx, url, secret, seconds):
    argv = [ctx.bin / "load", "--url", url, "--secret", secret, "--connections", CONNECTIONS, "--duration", f"{seconds}s"]
    return json.loads(run_once([*argv, "--body-bytes", BODY_BYTES])["stdout"])


def receiver(ctx, name, seconds):
    site = Site(ctx, name, None)
    service = site.start("receive")
    before = service.process.cpu()
    report = load(ctx, service.url, site.secret, seconds)
    cpu = service.process.cpu() - before
    service.stop()
    durable(name, report, rows(site.queue_file, "SELECT count(*) FROM messages m JOIN bodies b ON b.seq = m.seq"))
    site.remove()
    return costed(report, cpu)


def null(ctx, name, seconds):
    (port,) = free_ports(1)
    secret = "a-secret-of-the-benchmark"
    argv = [str(ctx.bin / "null"), "--listen", f"127.0.0.1:{port}", "--secret", secret]
    process = ctx.start(name, argv, {})
    eventually("null listens", lambda: answers_at(port))
    before = process.cpu()
    report = load(ctx, f"http://127.0.0.1:{port}/polyai-events", secret, seconds)
    cpu = process.cpu() - before
    process.stop()
    if report["failed"]:
        raise BenchmarkError(f"{name}: {report['failed']}")
    return costed(report, cpu)


def secure_delete(ctx, seconds):
    """Measures the cost of overwriting deleted messages, with a bare appender whose table is kept nearly empty."""
    pairs = []
    for number in range(ctx.rounds):
        without = append(ctx, f"consume-{number}", seconds / 2, "--consume")
        overwriting = append(ctx, f"consume-secure-{number}", seconds / 2, "--consume", "--secure-delete")
        pairs.append((without, overwriting))
    return {
        "cpu_ratio": spread([b["cpu_us"] / a["cpu_us"] for a, b in pairs]),
        "throughput_ratio": spread([b["per_second"] / a["per_second"] for a, b in pairs]),
    }


def consumer(ctx, seconds):
    """Checks that the consumer keeps up with a receiver at full load. The events belong to an environment that is not archived, so
    a job is leased and settled without an API request: this is the speed of the queue itself."""
    found = []
    for number in range(1 if ctx.quick else ctx.rounds):
        site = Site(ctx, f"embedded-consumer-{number}", None, {"worker": {"environments": ["sandbox"]}})
        service = site.start("run")
        start = time.monotonic()
        report = load(ctx, service.url, site.secret, seconds)
        taken = time.monotonic() - start
        behind = waiting(service)
        start = time.monotonic()
        eventually("the queue is empty", lambda: waiting(service) == 0, timeout=300, pause=0.1)
        drained = time.monotonic() - start
        settled = service.total("polyhook_jobs_total", 'outcome="skipped"')
        service.stop()
        durable(site.name, report, settled)
        site.remove()
        found.append({
            "received_per_second": report["per_second"],
            "behind": behind,
            "behind_share": behind / report["accepted"],
            "settled_per_second_meanwhile": (report["accepted"] - behind) / taken,
            "seconds_to_drain": drained,
        })
    return found


def waiting(service):
    """Returns the number of unfinished jobs."""
    return service.total("polyhook_queue_depth", 'queue="fetch"')


def rates(ctx):
    """Runs `polyhook run` with real jobs (conversation, a recording of 100 kB, archive) at rising rates until the queue grows."""
    seconds = 3 if ctx.quick else 15
    steps = []
    simulator = Simulator(ctx, "embedded-rates")
    for rate in (100, 200, 400, 800):
        site = Site(ctx, f"embedded-rate-{rate}", simulator)
        service = site.start("run")
        ids = simulator.add_calls(
            rate * seconds, turns=2, environment="live", channel="VOICE-SIP", script={"audio_size": "100 KB"}
        )
        step = offer(service, simulator, ids, rate, seconds)
        eventually("all is archived", lambda: archived(service) == len(ids), timeout=300, pause=0.1)
        service.stop()
        manifests = sum(1 for _ in site.archive.rglob("manifest.json"))
        durable(site.name, {"accepted": len(ids), "failed": {}}, manifests)
        site.remove()
        steps.append(step)
        if not step["holds"]:
            break
    simulator.stop()
    return {"seconds": seconds, "steps": steps, "holds": max((s["rate"] for s in steps if s["holds"]), default=0)}


def archived(service):
    return service.total("polyhook_jobs_total", 'outcome="archived"')


def offer(service: Service, simulator: Simulator, ids, rate, seconds):
    cpu, its_cpu, start = service.process.cpu(), simulator.process.cpu(), time.monotonic()
    simulator.deliver(service.url, ids, rate=rate)
    depths = []
    while time.monotonic() - start < seconds:
        time.sleep(0.25)
        depths.append(waiting(service))
    taken = time.monotonic() - start
    half = len(depths) // 2
    return {
        "rate": rate,
        "depths": depths,
        "archived_per_second": archived(service) / taken,
        "cores": (service.process.cpu() - cpu) / taken,
        "simulator_cores": (simulator.process.cpu() - its_cpu) / taken,
        # Jobs in progress, and deliveries of the last half second, are not a backlog.
        "holds": median(depths[half:]) <= max(16, rate / 2) and max(depths[half:]) <= max(32, rate),
    }


WHAT = {
    "append": "bare appender",
    "append_unique": "bare appender with a unique key",
    "queue": "the embedded queue alone",
    "receive": "`polyhook receive` on it, over HTTP",
    "null": "HTTP and signature, no queue",
}


def markdown(found):
    """Returns the section of the report."""
    rows = [
        [
            what,
            with_spread(found["per_second"][name], digits=0),
            with_spread(found["ratios"][name]) if name in found["ratios"] else "1",
            with_spread(found["cpu_us"][name], digits=1),
        ]
        for name, what in WHAT.items()
    ]
    rates = found["rates"]
    most = max(each["archived_per_second"] for each in rates["steps"])
    flat = [number(each["cores"]) for each in rates["steps"] if each["holds"]]
    behind = [each["behind_share"] for each in found["consumer"]]
    return "\n".join([
        table(["", "per second", "ratio to the bare appender", "CPU, µs each"], rows),
        f"- Ratio of the queue to an appender with a unique key: {with_spread(found['queue/append_unique'])}.\n"
        f"- In a closed loop of {found['connections']} connections, with jobs that ask no API, {with_spread(spread(behind))} of the "
        "deliveries to `polyhook run` still wait at the end.\n"
        f"- With a conversation and a recording of 100 kB for each delivery the queue stays flat up to {rates['holds']} calls per second "
        f"({flat[-1] if flat else '0'} cores); at most {number(most, 0)} per second were archived.\n",
    ])
