"""Whether a delivery costs the same with more of everything: projects, signing secrets, connections.

A closed loop of ten thousand connections would only meet `max_in_flight`, and a connection that is silent for long is
closed. So that many are compared at a fixed rate, at which each of them is used every few seconds.
"""

from . import contenders
from .contenders import durable, load
from .words import over, said, table

NAME = "growth"
CONNECTIONS = (1, 64, 1000)
CONNECTIONS_AT_RATE = (64, 10_000)
RATE = 3000


def run(ctx):
    many = {"projects": [{"account_id": "ACCOUNT-1", "project_id": f"PROJECT-{n}", "api_key": "none"} for n in range(100)]}
    secrets = [f"another-secret-of-the-benchmark-{n}" for n in range(9)]
    kinds = {
        "one": (contenders.polyhook(ctx, "growth-one"), ()),
        "projects_100": (contenders.polyhook(ctx, "growth-projects", many), ("--projects", 100)),
        "secrets_10": (contenders.polyhook(ctx, "growth-secrets", {"signature": {"secrets": [*secrets, contenders.SECRET]}}), ()),
    }
    rounds = []
    for _ in range(ctx.rounds):
        found = {name: cost(ctx, running, 64, words) for name, (running, words) in kinds.items()}
        for count in CONNECTIONS:
            found[f"connections_{count}"] = cost(ctx, kinds["one"][0], count, ())
        rounds.append(found)
    for found in rounds:
        for count in CONNECTIONS_AT_RATE:
            # Long enough for each connection to be made and used.
            words = ("--rate", RATE, "--warmup", "5s", "--duration", "1s" if ctx.quick else "10s")
            found[f"at_rate_{count}"] = cost(ctx, kinds["one"][0], count, words)
    for running, _ in kinds.values():
        running.stop()
    return {
        "per_second": {name: over(rounds, lambda each: each[name]["per_second"]) for name in rounds[0]},
        "cpu_us": {name: over(rounds, lambda each: each[name]["cpu_us"]) for name in rounds[0]},
        "ratio": {
            f"{name}/{base}": over(rounds, lambda each: each[name]["cpu_us"] / each[base]["cpu_us"])
            for base, names in {
                "one": ("projects_100", "secrets_10"),
                "connections_64": ("connections_1", "connections_1000"),
                "at_rate_64": ("at_rate_10000",),
            }.items()
            for name in names
        },
    }


def cost(ctx, running, connections, words):
    # They are made in the warm-up. What they cost then is counted, like everything.
    if "--rate" not in words:
        words = ("--duration", "1s" if ctx.quick else "5s", "--warmup", "500ms" if ctx.quick else "1s", *words)
    before = running.process.cpu()
    report = load(ctx, running, "--connections", connections, *words)
    cpu = running.process.cpu() - before
    durable(running.queue, report, ctx.broker().take(running.queue))
    return {"per_second": report["per_second"], "cpu_us": cpu / report["accepted"] * 1e6}


def markdown(found):
    """The section as the report shows it."""
    rows = [[in_words(name), said(of, digits=1)] for name, of in found["cpu_us"].items()]
    return table(["", "CPU, µs each"], rows)


def in_words(name):
    """What a figure is of."""
    kind, _, count = name.rpartition("_")
    if kind == "at_rate":
        return f"{int(count):,} connections at {RATE:,}/s"
    return f"{int(count):,} {kind if count != '1' else kind.rstrip('s')}" if count.isdigit() else "one project, one secret, 64 connections"
