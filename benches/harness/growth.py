"""Compares the cost of a delivery with more projects, signing secrets and connections.

A closed loop of ten thousand connections would only reach `max_in_flight`. So these are compared at a fixed rate that uses each
connection every few seconds.
"""

from . import contenders
from .contenders import durable, load
from .formatting import spread_over, with_spread, table

PROGRAMS = ("load", "lean")
CONNECTIONS = (1, 64, 1000)
CONNECTIONS_AT_RATE = (64, 10_000)
RATE = 3000


def run(ctx):
    many = {"projects": [{"account_id": "ACCOUNT-1", "project_id": f"PROJECT-{n}", "api_key": "none"} for n in range(100)]}
    secrets = [f"another-secret-of-the-benchmark-{n}" for n in range(7)]
    kinds = {
        # More than the default, for the last two figures.
        "one": (contenders.polyhook(ctx, "growth-one", {"server": {"max_connections": 12_000}}), ()),
        "projects_100": (contenders.polyhook(ctx, "growth-projects", many), ("--projects", 100)),
        "secrets_8": (contenders.polyhook(ctx, "growth-secrets", {"signature": {"secrets": [*secrets, contenders.SECRET]}}), ()),
    }
    lean = contenders.lean(ctx, "growth-lean")
    rounds = []
    for _ in range(ctx.rounds):
        found = {name: cost(ctx, running, 64, words) for name, (running, words) in kinds.items()}
        for count in CONNECTIONS:
            found[f"connections_{count}"] = cost(ctx, kinds["one"][0], count, ())
        for count in (1, 64):
            found[f"lean_{count}"] = cost(ctx, lean, count, ())
        rounds.append(found)
    for found in rounds:
        for count in CONNECTIONS_AT_RATE:
            # Long enough to open and use each connection.
            words = ("--rate", RATE, "--warmup", "5s", "--duration", "1s" if ctx.quick else "10s")
            found[f"at_rate_{count}"] = cost(ctx, kinds["one"][0], count, words)
    for running in [lean, *(running for running, _ in kinds.values())]:
        running.stop()
    return {
        "per_second": {name: spread_over(rounds, lambda each: each[name]["per_second"]) for name in rounds[0]},
        "cpu_us": {name: spread_over(rounds, lambda each: each[name]["cpu_us"]) for name in rounds[0]},
        "ratio": {
            f"{name}/{base}": spread_over(rounds, lambda each: each[name]["cpu_us"] / each[base]["cpu_us"])
            for base, names in {
                "one": ("projects_100", "secrets_8"),
                "connections_64": ("connections_1", "connections_1000"),
                "lean_64": ("lean_1",),
                "at_rate_64": ("at_rate_10000",),
            }.items()
            for name in names
        },
    }


def cost(ctx, running, connections, words):
    # The warm-up opens the connections; its cost is included.
    if "--rate" not in words:
        words = ("--duration", "1s" if ctx.quick else "5s", "--warmup", "500ms" if ctx.quick else "1s", *words)
    before = running.process.cpu()
    report = load(ctx, running, "--connections", connections, *words)
    cpu = running.process.cpu() - before
    durable(running.queue, report, ctx.broker().take(running.queue))
    return {"per_second": report["per_second"], "cpu_us": cpu / report["accepted"] * 1e6}


def markdown(found):
    """Returns the section of the report."""
    rows = [[label(name), with_spread(of, digits=1)] for name, of in found["cpu_us"].items()]
    return table(["", "CPU, µs each"], rows)


def label(name):
    """Returns the label of a figure."""
    kind, _, count = name.rpartition("_")
    if kind == "lean":
        return f"the lean bound, {count} connection{'s' if count != '1' else ''}"
    if kind == "at_rate":
        return f"{int(count):,} connections at {RATE:,}/s"
    return f"{int(count):,} {kind if count != '1' else kind.rstrip('s')}" if count.isdigit() else "one project, one secret, 64 connections"
