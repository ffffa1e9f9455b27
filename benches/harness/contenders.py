"""The receivers to compare: polyhook, its peers, and its bounds. All get the same load."""

import json
from dataclasses import dataclass
from pathlib import Path

from .site import SECRET, BenchmarkError, Site, answers_at, eventually, free_ports, run_once

PATH = "polyai-events"
BODY_BYTES = 600
#: The routing key of every delivery of the load client.
ROUTING_KEY = "conversation.completed.live"


@dataclass
class Running:
    """A receiver that listens."""

    process: object
    url: str
    secret: str = SECRET
    #: The queue that holds the accepted deliveries.
    queue: str | None = None
    service: object = None

    def stop(self):
        self.process.stop()


def prefix(name):
    """Returns the prefix of a receiver's AMQP names: its exchange is `PREFIX.events`, its queue `PREFIX.fetch`."""
    return f"bench.{name}"


def polyhook(ctx, name, sections=None):
    """Starts `polyhook receive` on RabbitMQ, with a production configuration changed by `sections`."""
    site = Site(ctx, name, None, {"queue": {"url": ctx.broker().url, "prefix": prefix(name)}, **(sections or {})})
    service = site.start("receive")
    return Running(service.process, service.url, site.secret, f"{prefix(name)}.fetch", service)


def null(ctx, name):
    (port,) = free_ports(1)
    return listening(ctx, name, [ctx.bin / "null", "--listen", f"127.0.0.1:{port}", "--secret", SECRET], {}, port, None)


def lean(ctx, name, workers=1):
    (port,) = free_ports(1)
    words = ("--listen", f"127.0.0.1:{port}", "--secret", SECRET, "--url", ctx.broker().url, "--prefix", prefix(name), "--workers", workers)
    return listening(ctx, name, [ctx.bin / "lean", *words], {}, port, f"{prefix(name)}.fetch")


def fastify(ctx, name):
    return peer(ctx, name, lambda port: ["node", ctx.root / ".tools/bench-node/app.js"], queue=f"bench.{name}")


def fastify_like(ours):
    """Returns the function that starts Fastify on the exchange of a running polyhook of this name, with its properties and headers."""
    env = {"EXCHANGE": f"{prefix(ours)}.events"}
    return lambda ctx, name: peer(ctx, name, lambda port: ["node", ctx.root / ".tools/bench-node/app.js"], f"{prefix(ours)}.fetch", env)


def fastapi(ctx, name):
    app = ctx.root / "benches/peers/fastapi_aio_pika"
    return peer(
        ctx,
        name,
        lambda port: [
            venv(ctx, "uvicorn"), "--app-dir", app, "--port", port, "--no-access-log", "--log-level", "warning", "app:app",
        ],
        queue=f"bench.{name}",
    )


def flask(ctx, name):
    app = ctx.root / "benches/peers/flask_pika"
    return peer(
        ctx,
        name,
        lambda port: [
            venv(ctx, "gunicorn"), "--chdir", app, "--bind", f"127.0.0.1:{port}", "--workers", 2, "--threads", 32,
            "--keep-alive", 60, "--log-level", "warning", "app:app",
        ],
        queue=f"bench.{name}",
    )


def venv(ctx, program):
    return ctx.root / ".tools/bench-venv/bin" / program


def peer(ctx, name, argv, queue, env=None):
    (port,) = free_ports(1)
    env = {"PORT": str(port), "SECRET": SECRET, "QUEUE": queue, "AMQP_URL": ctx.broker().url, **(env or {})}
    return listening(ctx, name, argv(port), env, port, queue)


def listening(ctx, name, argv, env, port, queue):
    process = ctx.start(name, argv, env)
    eventually(f"{name} listens", lambda: answers_at(port))
    return Running(process, f"http://127.0.0.1:{port}/{PATH}", queue=queue)


def load(ctx, running, *words):
    """Runs the load client and returns its report, with its CPU time."""
    done = run_once([ctx.bin / "load", "--url", running.url, "--secret", running.secret, "--body-bytes", BODY_BYTES, *words])
    return {**json.loads(done["stdout"]), "cpu_seconds": done["cpu_seconds"]}


def publish(ctx, queue, *words, arrives_in=None):
    """Runs the bare publisher and returns its report, with its CPU time. Its messages arrive in `queue` or `arrives_in`."""
    done = run_once([ctx.bin / "publish", "--url", ctx.broker().url, "--queue", queue, "--body-bytes", BODY_BYTES, *words])
    report = {**json.loads(done["stdout"]), "cpu_seconds": done["cpu_seconds"]}
    durable(queue, report, ctx.broker().take(arrives_in or queue))
    return report


def durable(name, report, found, may_refuse=False):
    """Fails unless exactly the accepted messages are durable, and no delivery failed unless `may_refuse`."""
    if (report["failed"] and not may_refuse) or not found or report["accepted"] != found:
        raise BenchmarkError(f"{name}: accepted {report['accepted']}, found durable {found}, failed {report['failed']}")


def file_size(path):
    return Path(path).stat().st_size
