"""The receivers to compare: polyhook, its peers, and a receiver without a queue. All get the same load."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from .site import SECRET, BenchmarkError, Site, answers_at, eventually, free_ports, run_once

PATH = "polyai-events"
BODY_BYTES = 600


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


def polyhook(ctx, name, sections=None, cores=None):
    """Starts `polyhook receive` on RabbitMQ, with a production configuration changed by `sections`."""
    prefix = f"bench.{name}"
    site = Site(ctx, name, None, {"queue": {"url": ctx.broker().url, "prefix": prefix}, **(sections or {})})
    service = site.start("receive", cores)
    return Running(service.process, service.url, site.secret, f"{prefix}.fetch", service)


def null(ctx, name, cores=None):
    (port,) = free_ports(1)
    argv = [ctx.bin / "null", "--listen", f"127.0.0.1:{port}", "--secret", SECRET]
    return listening(ctx, name, argv, {}, port, cores, None)


def fastify(ctx, name, cores=None):
    return peer(ctx, name, cores, lambda port: ["node", ctx.root / ".tools/bench-node/app.js"])


def fastapi(ctx, name, cores=None):
    app = ctx.root / "benches/peers/fastapi_aio_pika"
    return peer(
        ctx,
        name,
        cores,
        lambda port: [
            venv(ctx, "uvicorn"), "--app-dir", app, "--port", port, "--no-access-log", "--log-level", "warning", "app:app",
        ],
    )


def flask(ctx, name, cores=None):
    app = ctx.root / "benches/peers/flask_pika"
    return peer(
        ctx,
        name,
        cores,
        lambda port: [
            venv(ctx, "gunicorn"), "--chdir", app, "--bind", f"127.0.0.1:{port}", "--workers", 2, "--threads", 32,
            "--keep-alive", 60, "--log-level", "warning", "app:app",
        ],
    )


def venv(ctx, program):
    return ctx.root / ".tools/bench-venv/bin" / program


def peer(ctx, name, cores, argv):
    (port,) = free_ports(1)
    queue = f"bench.{name}"
    env = {"PORT": str(port), "SECRET": SECRET, "QUEUE": queue, "AMQP_URL": ctx.broker().url}
    return listening(ctx, name, argv(port), env, port, cores, queue)


def listening(ctx, name, argv, env, port, cores, queue):
    process = ctx.start(name, argv, env, cores)
    eventually(f"{name} listens", lambda: answers_at(port))
    return Running(process, f"http://127.0.0.1:{port}/{PATH}", queue=queue)


def load(ctx, running, *words, cores=None):
    """Runs the load client and returns its report, with its CPU time."""
    pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    argv = [*pin, ctx.bin / "load", "--url", running.url, "--secret", running.secret, "--body-bytes", BODY_BYTES, *words]
    done = run_once(argv)
    return {**json.loads(done["stdout"]), "cpu_seconds": done["cpu_seconds"]}


def publish(ctx, queue, *words, cores=None, arrives_in=None):
    """Runs the bare publisher and returns its report, with its CPU time. Its messages arrive in `queue` or `arrives_in`."""
    pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    argv = [*pin, ctx.bin / "publish", "--url", ctx.broker().url, "--queue", queue, "--body-bytes", BODY_BYTES, *words]
    done = run_once(argv)
    report = {**json.loads(done["stdout"]), "cpu_seconds": done["cpu_seconds"]}
    durable(queue, report, ctx.broker().take(arrives_in or queue))
    return report


def durable(name, report, found, may_refuse=False):
    """Fails unless exactly the accepted messages are durable, and no delivery failed unless `may_refuse`."""
    if (report["failed"] and not may_refuse) or not found or report["accepted"] != found:
        raise BenchmarkError(f"{name}: accepted {report['accepted']}, found durable {found}, failed {report['failed']}")


def file_size(path):
    return Path(path).stat().st_size


def cores():
    """Returns the cores of this process."""
    return sorted(os.sched_getaffinity(0))
