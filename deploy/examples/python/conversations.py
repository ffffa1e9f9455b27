#!/usr/bin/env python3
"""Consumes polyhook's announcements with pika. ../README.md explains each step."""

import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pika

URL = os.environ["AMQP_URL"]
EXCHANGE = os.environ.get("EXCHANGE", "polyhook.conversations")
QUEUE = os.environ.get("QUEUE", "calls")
DONE = Path(os.environ.get("DONE", "done"))
RETRY_DELAY = 1  # second

stopping = False


class PoisonMessage(Exception):
    """The message can never be processed."""


def stream(url):
    """Opens a URL. An s3:// URL holds the key as it is; the path of a file:// URL is percent-encoded."""
    if url.startswith("file:"):
        return open(unquote(urlsplit(url).path), "rb")
    if url.startswith("s3://"):
        import boto3

        bucket, key = url.removeprefix("s3://").split("/", 1)
        client = boto3.client("s3")
        try:
            return client.get_object(Bucket=bucket, Key=key)["Body"]
        except client.exceptions.NoSuchKey as error:
            raise FileNotFoundError(url) from error
    raise PoisonMessage(f"cannot read {url}")


def matches_hash(url, sha256):
    digest = hashlib.sha256()
    with stream(url) as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == sha256


def work(manifest):
    """Replace this with your own work; here it is a summary."""
    return {name: manifest[name] for name in ("conversation_id", "project_id", "started_at", "turn_count")}


def ready(event):
    target = DONE / f"{event['id']}.json"
    if target.exists():
        return "repeat"
    manifest, urls = event["data"]["manifest"], event["data"]["urls"]
    try:
        intact = all([matches_hash(urls[it["name"]], it["sha256"]) for it in manifest["objects"]])
        if not intact:
            with stream(urls["manifest.json"]) as source:
                if json.loads(source.read())["revision"] > manifest["revision"]:
                    return "outdated"  # the newer revision has its own announcement
            raise RuntimeError("an object does not match its sha256")
    except FileNotFoundError:
        return "missing"
    # Work and record are one step (the rename). Otherwise a crash between them would repeat the work.
    part = target.with_suffix(".part")
    part.write_text(json.dumps(work(manifest)))
    part.replace(target)
    return "done"


def erased(event):
    for path in DONE.glob("*.json"):
        if json.loads(path.read_text())["conversation_id"] == event["data"]["conversation_id"]:
            path.unlink()
    return "erased"


HANDLERS = {"conversation.ready": ready, "conversation.updated": ready, "conversation.erased": erased}


def handle(body):
    try:
        event = json.loads(body)
        if not re.fullmatch("[0-9a-f]{64}", event["id"]):
            raise PoisonMessage("not an id of polyhook")
        outcome = HANDLERS[event["type"]](event)
        return f"{outcome} {event['subject']}"
    except (ValueError, KeyError, TypeError) as error:
        raise PoisonMessage(f"not an announcement: {error!r}") from error


def consume(channel):
    channel.queue_declare(f"{QUEUE}.dead", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_declare(QUEUE, durable=True, arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": 10,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{QUEUE}.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    })
    for kind in HANDLERS:
        channel.queue_bind(QUEUE, EXCHANGE, f"{kind}.#")
    channel.basic_qos(prefetch_count=8)
    print(f"waiting in {QUEUE}", flush=True)
    for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.2):
        if stopping:
            return
        if method is None:
            continue
        try:
            print(handle(body), flush=True)
        except PoisonMessage as error:
            print(f"poison: {error}", flush=True)
            channel.basic_reject(method.delivery_tag, requeue=False)
        except Exception as error:
            print(f"retry: {error!r}", flush=True)
            time.sleep(RETRY_DELAY)
            channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            channel.basic_ack(method.delivery_tag)


def stop(*_):
    global stopping
    stopping = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    DONE.mkdir(parents=True, exist_ok=True)
    while not stopping:
        try:
            with pika.BlockingConnection(pika.URLParameters(URL)) as connection:
                consume(connection.channel())
        except pika.exceptions.AMQPError as error:
            print(f"broker: {error!r}; connecting again", file=sys.stderr, flush=True)
            time.sleep(RETRY_DELAY)
