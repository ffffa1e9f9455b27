"""Whether a delivery costs the same with more of everything: projects, signing secrets, connections."""

from . import contenders
from .contenders import durable, load
from .words import over, said, table

NAME = "growth"
CONNECTIONS = (1, 64, 1000)


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
            }.items()
            for name in names
        },
    }


def cost(ctx, running, connections, words):
    # They are made in the warm-up. What they cost then is counted, like everything.
    seconds = "1500ms" if ctx.quick else "5s"
    before = running.process.cpu()
    report = load(ctx, running, "--connections", connections, "--duration", seconds, "--warmup", "1s", *words)
    cpu = running.process.cpu() - before
    durable(running.queue, report, ctx.broker().take(running.queue))
    return {"per_second": report["per_second"], "cpu_us": cpu / report["accepted"] * 1e6}


def markdown(found):
    """The section as the report shows it."""
    rows = [[name.replace("_", " "), said(of, digits=1)] for name, of in found["cpu_us"].items()]
    ratios = [[name.replace("_", " "), said(of)] for name, of in found["ratio"].items()]
    return f"{table(['', 'CPU, µs each'], rows)}\n{table(['against', 'ratio'], ratios)}"
