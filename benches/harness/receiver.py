"""Measures cost and throughput of durable deliveries: closed loop, 64 connections, 600-byte bodies, a quorum queue.

There are two layouts. `shared`: all processes on all cores. `apart`: the broker has one core, all other processes the rest, so that
a cheaper contender does not simply leave more CPU to the broker.

The limit of throughput is a bare publisher with the same client library and the same number of unconfirmed messages. It runs
twice: directly into a queue (`publish`), and with the topic exchange and ten headers of polyhook's contract
(`publish_alike`). `null` receives and verifies, and stores nothing.
"""

from . import contenders
from .contenders import durable, load, publish
from .formatting import spread_over, with_spread, table

NAME = "receiver"
CONNECTIONS = 64
OURS = "polyhook"
RECEIVERS = {
    OURS: contenders.polyhook,
    "fastify_amqplib": contenders.fastify,
    "fastapi_aio_pika": contenders.fastapi,
    "flask_pika": contenders.flask,
    "null": contenders.null,
}


def run(ctx):
    cores = contenders.cores()
    layouts = {"shared": (None, None)}
    if len(cores) > 1:
        layouts["apart"] = (cores[:1], cores[1:])
    return {"connections": CONNECTIONS, "body_bytes": contenders.BODY_BYTES, **{
        layout: measure(ctx, layout, *pins) for layout, pins in layouts.items()
    }}


def measure(ctx, layout, broker_cores, others):
    broker = ctx.broker()
    broker.pin(broker_cores or contenders.cores())
    times = ("--duration", "1s" if ctx.quick else "5s", "--warmup", "300ms" if ctx.quick else "1s")
    names = list(RECEIVERS) if layout == "shared" else [OURS, "fastify_amqplib", "null"]
    running = {name: RECEIVERS[name](ctx, f"{name}-{layout}", cores=others) for name in names}
    prefix = running[OURS].queue.removesuffix(".fetch")
    alike = ("--exchange", f"{prefix}.events", "--key", "conversation.completed.live", "--headers", "10")
    rounds = []
    for _ in range(ctx.rounds):
        found = {name: deliveries(ctx, name, each, times, others) for name, each in running.items()}
        found["publish"] = bare(ctx, times, others)
        found["publish_alike"] = bare(ctx, times, others, *alike, arrives_in=running[OURS].queue)
        rounds.append(found)
    for each in running.values():
        each.stop()
    broker.pin(contenders.cores())
    return {
        "rounds": rounds,
        "per_second": {name: spread_over(rounds, lambda each: each[name]["per_second"]) for name in rounds[0]},
        "cpu_us": {name: spread_over(rounds, lambda each: each[name]["cpu_us"]) for name in rounds[0]},
        "broker_cpu_us": {name: spread_over(rounds, lambda each: each[name]["broker_cpu_us"]) for name in rounds[0]},
        "client_cpu_us": {name: spread_over(rounds, lambda each: each[name]["client_cpu_us"]) for name in names},
        "cpu_ratio": {
            name: spread_over(rounds, lambda each: each[OURS]["cpu_us"] / each[name]["cpu_us"]) for name in rounds[0] if name != OURS
        },
        "throughput_ratio": {
            name: spread_over(rounds, lambda each: each[OURS]["per_second"] / each[name]["per_second"])
            for name in rounds[0] if name != OURS
        },
    }


def deliveries(ctx, name, running, times, cores):
    broker = ctx.broker()
    before, broker_before = running.process.cpu(), broker.process.cpu()
    report = load(ctx, running, "--connections", CONNECTIONS, *times, cores=cores)
    cpu, broker_cpu = running.process.cpu() - before, broker.process.cpu() - broker_before
    if running.queue:
        # A peer may refuse some deliveries, because PolyAI would retry them.
        durable(name, report, broker.take(running.queue), may_refuse=name != OURS)
    return costed(report, cpu, broker_cpu) | {"client_cpu_us": report["cpu_seconds"] / report["accepted"] * 1e6}


def bare(ctx, times, cores, *words, arrives_in=None):
    broker = ctx.broker()
    before = broker.process.cpu()
    report = publish(ctx, "bench.raw", "--depth", CONNECTIONS, *times, *words, cores=cores, arrives_in=arrives_in)
    return costed(report, report["cpu_seconds"], broker.process.cpu() - before)


def costed(report, cpu, broker_cpu):
    count = report["accepted"]
    kept = {key: report[key] for key in ("accepted", "failed", "per_second", "latency_us")}
    return {**kept, "cpu_us": cpu / count * 1e6, "broker_cpu_us": broker_cpu / count * 1e6}


WHAT = {
    OURS: "polyhook",
    "fastify_amqplib": "Fastify + amqplib",
    "fastapi_aio_pika": "FastAPI + aio-pika",
    "flask_pika": "Flask + pika (gunicorn, 2 × 32 threads)",
    "null": "axum and the signature, no queue",
    "publish": "bare publisher",
    "publish_alike": "bare publisher, polyhook's exchange and headers",
}


def markdown(found):
    """Returns the section of the report: the layout `shared`. Two goals show the ratios of `apart`."""
    of = found["shared"]
    rows = [
        [
            WHAT[name],
            with_spread(of["cpu_us"][name], digits=1),
            with_spread(of["cpu_ratio"][name]) if name in of["cpu_ratio"] else "",
            with_spread(of["per_second"][name], digits=0),
            with_spread(of["throughput_ratio"][name]) if name in of["throughput_ratio"] else "",
            with_spread(of["broker_cpu_us"][name], digits=1) if name != "null" else "",
        ]
        for name in of["cpu_us"]
    ]
    return table(["", "CPU, µs each", "polyhook's ratio to it", "per second", "polyhook's ratio to it", "broker's CPU, µs each"], rows)
