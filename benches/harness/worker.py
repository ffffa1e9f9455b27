"""Compares the worker with a bare client that downloads the same bytes with the same concurrency, and measures its memory.

The bare client runs twice: as it is, and with each file made durable (`download_sync`), as the worker must do before it
acknowledges a job.
"""

from .archiving import CONCURRENCY, check_folder, download, queued, warm, work
from .seaweed import Seaweed
from .site import BenchmarkError, Simulator, Site
from .formatting import megabytes, number, with_spread, spread, table

PROGRAMS = ("download",)
SIZE = 1 << 20
LARGE = 8


def run(ctx):
    simulator = Simulator(ctx, "worker")
    try:
        return {"speed": speed(ctx, simulator), "memory": memory(ctx, simulator)}
    finally:
        simulator.stop()


def speed(ctx, simulator):
    count = 400 if ctx.quick else 2000
    ids = calls(simulator, count, SIZE)
    contenders = {
        "download": lambda name: download(ctx, name, simulator, ids, SIZE),
        "download_sync": lambda name: download(ctx, name, simulator, ids, SIZE, "--sync"),
        "embedded": lambda name: archive(ctx, name, simulator, ids, {}),
        "amqp": lambda name: archive(ctx, name, simulator, ids, {"url": ctx.broker().url, "prefix": name}),
    }
    rounds = []
    for number in range(ctx.rounds):
        found = {}
        for name, measure in contenders.items():
            warm(ctx, count * SIZE)
            found[name] = measure(f"worker-{name}-{number}")
        rounds.append(found)
    return {
        "calls": count,
        "bytes_each": SIZE,
        "concurrency": CONCURRENCY,
        "rounds": rounds,
        "calls_per_second": {name: spread([each[name]["calls_per_second"] for each in rounds]) for name in contenders},
        "cpu_ms_per_mb": {name: spread([each[name]["cpu_ms_per_mb"] for each in rounds]) for name in contenders},
        "ratios": {
            f"{queue}/{limit}": {
                "calls_per_second": ratio(rounds, queue, limit, "calls_per_second"),
                "cpu_ms_per_mb": ratio(rounds, queue, limit, "cpu_ms_per_mb"),
            }
            for queue in ("embedded", "amqp")
            for limit in ("download", "download_sync")
        },
        "api_share": {name: spread([each[name]["api_share"] for each in rounds]) for name in ("embedded", "amqp")},
    }


def ratio(rounds, ours, limit, what):
    return spread([each[ours][what] / each[limit][what] for each in rounds])


def calls(simulator, count, size):
    """Adds short calls with a recording of this size, which cost the simulator little."""
    kind = {"turns": 2, "environment": "live", "channel": "VOICE-SIP"}
    return simulator.add_calls(count, **kind, script={"audio_size": f"{size} B"})


def archive(ctx, name, simulator, ids, queue):
    site = Site(ctx, name, simulator, {"queue": queue, "worker": {"concurrency": CONCURRENCY}})
    queued(site, simulator, ids)
    found = work(site, len(ids))
    check_folder(site, len(ids), SIZE)
    site.remove()
    return found


def memory(ctx, simulator):
    """Measures the worker's peak memory with eight concurrent large recordings."""
    size = (256 << 20) if ctx.quick else (2 << 30)
    ids = calls(simulator, LARGE, size)
    found = {"recordings": LARGE, "bytes_each": size}
    site = Site(ctx, "worker-large-folder", simulator, {"worker": {"concurrency": LARGE}})
    queued(site, simulator, ids)
    warm(ctx, LARGE * size)
    found["folder"] = work(site, LARGE)
    check_folder(site, LARGE, size)
    site.remove()
    # The cost per byte, almost without the cost per conversation.
    warm(ctx, LARGE * size)
    found["download"] = download(ctx, "worker-large-download", simulator, ids, size)
    found["cpu_per_mb_ratio"] = found["folder"]["cpu_ms_per_mb"] / found["download"]["cpu_ms_per_mb"]

    server = Seaweed(ctx)
    sections = {"archive": server.archive("large"), "worker": {"concurrency": LARGE}}
    site = Site(ctx, "worker-large-bucket", simulator, sections)
    queued(site, simulator, ids)
    found["bucket"] = work(site, LARGE)
    stored = server.objects("large", ".wav")
    if len(stored) != LARGE or any(each != size for each in stored):
        raise BenchmarkError(f"{site.name}: {stored} bytes in the bucket")
    server.stop()
    return found




WHAT = {
    "download": "bare client",
    "download_sync": "bare client, each file made durable",
    "embedded": "`polyhook work`, embedded queue",
    "amqp": "`polyhook work`, RabbitMQ",
}


def markdown(found):
    """Returns the section of the report."""
    speed, memory = found["speed"], found["memory"]

    def row(name, what):
        def of(limit, which):
            both = speed["ratios"].get(f"{name}/{limit}")
            return with_spread(both[which]) if both else ""

        return [
            what,
            with_spread(speed["calls_per_second"][name], digits=0),
            of("download", "calls_per_second"),
            of("download_sync", "calls_per_second"),
            with_spread(speed["cpu_ms_per_mb"][name]),
            of("download", "cpu_ms_per_mb"),
            of("download_sync", "cpu_ms_per_mb"),
        ]

    head = ["", "calls per second", "ratio to the bare client", "ratio to the durable one", "CPU, ms per MB", "ratio to the bare client"]
    large = [
        [what, megabytes(memory[name]["peak_rss"]), number(memory[name]["cpu_ms_per_mb"]), number(memory[name]["seconds"], 1)]
        for name, what in (("folder", "to a folder"), ("bucket", "to an S3 server"), ("download", "bare client, to a folder"))
    ]
    share = with_spread(speed["api_share"]["embedded"])
    return "\n".join([
        f"{speed['calls']} calls with a recording of {megabytes(speed['bytes_each'])}, {speed['concurrency']} at a time. "
        f"{share} of a job's time passes until the API's answers begin.\n",
        table([*head, "ratio to the durable one"], [row(*each) for each in WHAT.items()]),
        f"{memory['recordings']} recordings of {memory['bytes_each'] >> 20} MiB at a time:\n",
        table(["", "peak resident", "CPU, ms per MB", "seconds"], large),
    ])
