"""Measures the receiver's time to start, its memory at rest and under load, and the size of the program."""

import hashlib
import hmac
import secrets
import socket
import time

from . import contenders
from .contenders import load
from .formatting import megabytes, with_spread, spread, table
from .site import BenchmarkError, Site, eventually, free_ports

PROGRAMS = ("load",)


def run(ctx):
    return {
        "binary_bytes": contenders.file_size(ctx.bin / "polyhook"),
        "start": start(ctx),
        "memory": memory(ctx),
    }


def memory(ctx):
    """Measures resident memory at a steady rate, and at rest after many deliveries."""
    running = contenders.polyhook(ctx, "memory")
    fresh = running.process.resident()
    seconds, many = (20, 100_000) if ctx.quick else (3600, 1_000_000)
    job = ctx.start(
        "steady",
        [ctx.bin / "load", "--url", running.url, "--secret", running.secret, "--rate", 1000, "--warmup", "0s", "--duration", f"{seconds}s"],
        {},
    )
    series, begin = [], time.monotonic()
    while job.popen.poll() is None:
        series.append((time.monotonic() - begin, running.process.rss()))
        # The broker keeps all deliveries; they are counted at the end.
        time.sleep(max(0.5, seconds / 400))
    report = load(ctx, running, "--connections", 64, "--duration", "600s", "--warmup", "0s", "--deliveries", many)
    found = ctx.broker().take(running.queue)
    if report["failed"] or found != report["accepted"] + 1000 * seconds:
        raise BenchmarkError(f"memory: {found} found durable of {report['accepted']} and {1000 * seconds}, failed {report['failed']}")
    time.sleep(5)
    rest = running.process.resident()
    running.stop()
    half = len(series) // 2
    return {
        "fresh": fresh,
        "idle": rest,
        "idle_bytes": sum(rest.values()),
        "deliveries": found,
        "rate": 1000,
        "seconds": seconds,
        "series": series,
        # From the beginning of the second half to its end.
        "growth_bytes": series[-1][1] - series[half][1],
    }


def start(ctx):
    """Measures from exec to the first 204, with the broker up, and with a spool while the broker is down."""
    up, away = [], []
    for number in range(max(ctx.rounds, 5)):
        site = Site(ctx, f"start-{number}", None, {"queue": {"url": ctx.broker().url, "prefix": "bench.start"}})
        up.append(first_answer(ctx, site))
        (unused_port,) = free_ports(1)
        sections = {"queue": {"url": f"amqp://127.0.0.1:{unused_port}"}, "spool": {"path": f"{ctx.work}/spool-{number}.db"}}
        away.append(first_answer(ctx, Site(ctx, f"start-away-{number}", None, sections)))
    ctx.broker().take("bench.start.fetch")
    return {"broker_up_ms": spread(up), "broker_away_ms": spread(away)}


def first_answer(ctx, site):
    listen, admin = free_ports(2)
    argv = site.argv("receive", "--set", f"server.listen=127.0.0.1:{listen}", "--set", f"admin.listen=127.0.0.1:{admin}")
    client = contenders.Running(None, f"http://127.0.0.1:{listen}/{contenders.PATH}", site.secret)
    request = signed_request(client)
    begin = time.monotonic()
    process = ctx.start(f"{site.name}-receive", argv, {})
    eventually("the first 204", lambda: answered(listen, request), timeout=20, pause=0.001)
    took = (time.monotonic() - begin) * 1000
    process.stop()
    return took


def signed_request(client):
    body = b'{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}'
    stamp = str(int(time.time()))
    signature = hmac.new(client.secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    head = (
        f"POST /{contenders.PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nx-polyai-timestamp: {stamp}\r\n"
        f"x-polyai-signature: {signature}\r\nx-polyai-event-id: evt_{secrets.token_hex(8)}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answered(port, request):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(64).startswith(b"HTTP/1.1 204")
    except OSError:
        return False


def markdown(found):
    """Returns the section of the report."""
    memory = found["memory"]
    rows = [
        ["exec to the first 204, broker up", with_spread(found["start"]["broker_up_ms"], " ms", 0)],
        ["exec to the first 204, broker down, with a spool", with_spread(found["start"]["broker_away_ms"], " ms", 0)],
        ["memory at the start", f"{megabytes(sum(memory['fresh'].values()))} ({megabytes(memory['fresh']['file'])} of it the program itself)"],
        [
            f"memory at rest after {memory['deliveries']:,} deliveries",
            f"{megabytes(memory['idle_bytes'])} ({megabytes(memory['idle']['file'])} of it the program itself)",
        ],
        [f"growth over the second half of {memory['seconds']:,} s at {memory['rate']:,}/s", megabytes(memory["growth_bytes"])],
    ]
    return table(["", ""], rows)
