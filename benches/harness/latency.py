"""Measures the time to a response at a fixed rate, independent of the responses.

Latency is measured from the time at which a delivery was due, so a stall also counts for every delivery that had to wait. The
bare publisher gets its messages in the same way and alternates with the receivers: polyhook, and a minimal one with the same duties.
"""

from . import contenders
from .contenders import durable, load, publish
from .formatting import spread_over, with_spread, table

PROGRAMS = ("load", "lean", "publish")
RATES = (500, 5000)
RECEIVERS = {"polyhook": contenders.polyhook, "lean": contenders.lean}
WHAT = ("p50", "p90", "p99", "p999", "max")
NAMES = {"polyhook": "polyhook", "lean": "lean bound", "publish": "bare publisher"}
# The percentiles in the report; the plot shows all.
SHOWN = ("p50", "p99")


def run(ctx):
    running = {name: start(ctx, name) for name, start in RECEIVERS.items() if name == "polyhook" or ctx.compares(name)}
    try:
        return {str(rate): at(ctx, running, rate) for rate in RATES}
    finally:
        for each in running.values():
            each.stop()


def at(ctx, running, rate):
    words = ("--rate", rate, "--duration", "3s" if ctx.quick else "20s", "--warmup", "500ms")
    rounds = []
    for _ in range(ctx.rounds):
        found = {}
        for name, each in running.items():
            found[name] = load(ctx, each, "--connections", 256, *words)
            durable(name, found[name], ctx.broker().take(each.queue))
        rounds.append({**found, "publish": publish(ctx, "bench.raw", *words)})
    names = list(rounds[0])
    return {
        "latency_us": {
            name: {what: spread_over(rounds, lambda each: each[name]["latency_us"][what]) for what in WHAT}
            for name in names
        },
        "ratio": {
            what: spread_over(rounds, lambda each: each["polyhook"]["latency_us"][what] / each["publish"]["latency_us"][what])
            for what in WHAT
        },
        # The round with the median p99.
        "percentiles": {name: middle(rounds, name)["percentiles"] for name in names},
        "reached_per_second": {name: spread_over(rounds, lambda each: each[name]["per_second"]) for name in names},
    }


def middle(rounds, name):
    ranked = sorted((each[name] for each in rounds), key=lambda report: report["latency_us"]["p99"])
    return ranked[len(ranked) // 2]


def markdown(found):
    """Returns the section of the report."""
    rows = []
    for rate, of in found.items():
        for name, percentiles in of["latency_us"].items():
            rows.append([f"{int(rate):,}/s", NAMES[name], *(with_spread(percentiles[p], digits=0) for p in SHOWN)])
        rows.append([f"{int(rate):,}/s", "polyhook's ratio to the bare publisher", *(with_spread(of["ratio"][p]) for p in SHOWN)])
    return table(["rate", "", *(f"{p}, µs" for p in SHOWN)], rows)
