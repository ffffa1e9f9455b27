"""Measures the time to a response at a fixed rate, independent of the responses.

Latency is measured from the time at which a delivery was due, so a stall also counts for every delivery that had to wait. The
bare publisher gets its messages in the same way and alternates with the receiver.
"""

from . import contenders
from .contenders import durable, load, publish
from .formatting import spread_over, with_spread, table

NAME = "latency"
RATES = (500, 5000)
WHAT = ("p50", "p90", "p99", "p999", "max")
# The percentiles in the report; the plot shows all.
SHOWN = ("p50", "p99")


def run(ctx):
    running = contenders.polyhook(ctx, "latency")
    try:
        return {str(rate): at(ctx, running, rate) for rate in RATES}
    finally:
        running.stop()


def at(ctx, running, rate):
    words = ("--rate", rate, "--duration", "3s" if ctx.quick else "20s", "--warmup", "500ms")
    rounds = []
    for _ in range(ctx.rounds):
        ours = load(ctx, running, "--connections", 256, *words)
        durable("latency", ours, ctx.broker().take(running.queue))
        rounds.append({"polyhook": ours, "publish": publish(ctx, "bench.raw", *words)})
    return {
        "latency_us": {
            name: {what: spread_over(rounds, lambda each: each[name]["latency_us"][what]) for what in WHAT}
            for name in ("polyhook", "publish")
        },
        "ratio": {
            what: spread_over(rounds, lambda each: each["polyhook"]["latency_us"][what] / each["publish"]["latency_us"][what])
            for what in WHAT
        },
        # The round with the median p99.
        "percentiles": {name: middle(rounds, name)["percentiles"] for name in ("polyhook", "publish")},
        "reached_per_second": {name: spread_over(rounds, lambda each: each[name]["per_second"]) for name in ("polyhook", "publish")},
    }


def middle(rounds, name):
    ranked = sorted((each[name] for each in rounds), key=lambda report: report["latency_us"]["p99"])
    return ranked[len(ranked) // 2]


def markdown(found):
    """Returns the section of the report."""
    rows = []
    for rate, of in found.items():
        for name, what in (("polyhook", "polyhook"), ("publish", "bare publisher")):
            rows.append([f"{int(rate):,}/s", what, *(with_spread(of["latency_us"][name][p], digits=0) for p in SHOWN)])
        rows.append([f"{int(rate):,}/s", "ratio", *(with_spread(of["ratio"][p]) for p in SHOWN)])
    return table(["rate", "", *(f"{p}, µs" for p in SHOWN)], rows)
