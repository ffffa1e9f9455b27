"""Measures cost and throughput of durable deliveries: closed loop, 64 connections, 600-byte bodies, a quorum queue.

Bounds and peers alternate with polyhook:

* `lean`: a minimal receiver with the same duties, the same client library and none of polyhook's features, on one thread and on two.
* `fastify_amqplib` and the other peers: each publishes directly into a queue, as one would write it.
* `fastify_alike`: the same Fastify with polyhook's exchange, routing key, properties and headers.
* `null`: receives and verifies, and stores nothing.
* `publish`: a bare publisher with the same client library and the same number of unconfirmed messages, directly into a queue;
  `publish_alike` with polyhook's exchange, routing key, properties and headers.
"""

from functools import partial

from . import contenders
from .contenders import durable, load, publish
from .formatting import spread_over, with_spread, table

PROGRAMS = ("load", "lean", "null", "publish")
CONNECTIONS = 64
OURS = "polyhook"
#: polyhook comes first, because `fastify_alike` and `publish_alike` use its exchange.
RECEIVERS = {
    OURS: contenders.polyhook,
    "lean": contenders.lean,
    "lean_2": partial(contenders.lean, workers=2),
    "fastify_amqplib": contenders.fastify,
    "fastify_alike": contenders.fastify_like(OURS),
    "fastapi_aio_pika": contenders.fastapi,
    "flask_pika": contenders.flask,
    "null": contenders.null,
}
ALIKE = ("--exchange", f"{contenders.prefix(OURS)}.events", "--key", contenders.ROUTING_KEY, "--alike")
PUBLISHERS = {"publish": (), "publish_alike": ALIKE}
CONTENDERS = (*RECEIVERS, *PUBLISHERS)


def run(ctx):
    times = ("--duration", "1s" if ctx.quick else "5s", "--warmup", "300ms" if ctx.quick else "1s")
    running = {name: start(ctx, name) for name, start in RECEIVERS.items() if name == OURS or ctx.compares(name)}
    # Not measured: a peer that compiles its code while it runs must have done so.
    for name, each in running.items():
        deliveries(ctx, name, each, times)
    rounds = []
    for _ in range(ctx.rounds):
        found = {name: deliveries(ctx, name, each, times) for name, each in running.items()}
        for name, words in PUBLISHERS.items():
            if ctx.compares(name):
                found[name] = bare(ctx, times, *words, arrives_in=running[OURS].queue if words else None)
        rounds.append(found)
    for each in running.values():
        each.stop()
    names = list(rounds[0])
    return {
        "connections": CONNECTIONS,
        "body_bytes": contenders.BODY_BYTES,
        "rounds": rounds,
        **{what: {name: spread_over(rounds, lambda each: each[name][what]) for name in names} for what in ("per_second", "cpu_us", "broker_cpu_us")},
        "client_cpu_us": {name: spread_over(rounds, lambda each: each[name]["client_cpu_us"]) for name in running},
        "cpu_ratio": ratios(rounds, "cpu_us"),
        "throughput_ratio": ratios(rounds, "per_second"),
    }


def ratios(rounds, what):
    """Returns polyhook's figure divided by that of each contender."""
    return {name: spread_over(rounds, lambda each: each[OURS][what] / each[name][what]) for name in rounds[0] if name != OURS}


def deliveries(ctx, name, running, times):
    broker = ctx.broker()
    before, broker_before = running.process.cpu(), broker.process.cpu()
    report = load(ctx, running, "--connections", CONNECTIONS, *times)
    cpu, broker_cpu = running.process.cpu() - before, broker.process.cpu() - broker_before
    if running.queue:
        # A peer may refuse some deliveries, because PolyAI would retry them.
        durable(name, report, broker.take(running.queue), may_refuse=name != OURS)
    return costed(report, cpu, broker_cpu) | {"client_cpu_us": report["cpu_seconds"] / report["accepted"] * 1e6}


def bare(ctx, times, *words, arrives_in=None):
    broker = ctx.broker()
    before = broker.process.cpu()
    report = publish(ctx, "bench.raw", "--depth", CONNECTIONS, *times, *words, arrives_in=arrives_in)
    return costed(report, report["cpu_seconds"], broker.process.cpu() - before)


def costed(report, cpu, broker_cpu):
    count = report["accepted"]
    kept = {key: report[key] for key in ("accepted", "failed", "per_second", "latency_us")}
    return {**kept, "cpu_us": cpu / count * 1e6, "broker_cpu_us": broker_cpu / count * 1e6}


WHAT = {
    OURS: "polyhook",
    "lean": "lean bound: the same duties, no features",
    "lean_2": "lean bound, two threads",
    "fastify_amqplib": "Fastify + amqplib",
    "fastify_alike": "Fastify + amqplib, polyhook's exchange and headers",
    "fastapi_aio_pika": "FastAPI + aio-pika",
    "flask_pika": "Flask + pika (gunicorn, 2 × 32 threads)",
    "null": "axum and the signature, no queue",
    "publish": "bare publisher",
    "publish_alike": "bare publisher, polyhook's exchange and headers",
}


def markdown(found):
    """Returns the section of the report."""
    rows = [
        [
            WHAT[name],
            with_spread(found["cpu_us"][name], digits=1),
            with_spread(found["cpu_ratio"][name]) if name in found["cpu_ratio"] else "",
            with_spread(found["per_second"][name], digits=0),
            with_spread(found["throughput_ratio"][name]) if name in found["throughput_ratio"] else "",
            with_spread(found["broker_cpu_us"][name], digits=1) if name != "null" else "",
        ]
        for name in found["cpu_us"]
    ]
    return table(["", "CPU, µs each", "polyhook's ratio to it", "per second", "polyhook's ratio to it", "broker's CPU, µs each"], rows)
