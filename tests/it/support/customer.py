"""A customer's worker that outlives brokers: a durable queue, acknowledged after it was told, and no end of patience.

    customer.py announcements|everything PREFIX NAME URL...

Says {"bound": true} when its queue NAME is bound for announcements, or for events as well, then {"exchange", "id", "subject"} of each message, as a
line of JSON. When a broker goes it tries the URLs in turn. Goes on until its input ends.
"""

import itertools
import json
import os
import sys
import threading
import time

import pika


def leash():
    sys.stdin.buffer.read()
    os._exit(0)


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def consume(url, wanted, prefix, name, replicated):
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 5
    parameters.socket_timeout = parameters.stack_timeout = 5
    parameters.connection_attempts = 1
    channel = pika.BlockingConnection(parameters).channel()
    channel.exchange_declare(f"{prefix}.conversations", "topic", durable=True)
    # Only a cluster needs a replicated one.
    kind = "quorum" if replicated else "classic"
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
    channel.queue_bind(name, f"{prefix}.conversations", "#")
    channel.basic_qos(prefetch_count=200)
    if wanted == "everything":
        # This exchange has arguments that are polyhook's business: it is bound when it is there.
        channel.queue_bind(name, f"{prefix}.events", "#")
    channel.basic_consume(name, show)
    say({"bound": True})
    channel.start_consuming()


def show(channel, method, properties, body):
    subject = (properties.headers or {}).get("cloudEvents:subject")
    say({"exchange": method.exchange, "id": properties.message_id, "subject": subject})
    channel.basic_ack(method.delivery_tag)


def main(wanted, prefix, name, *urls):
    threading.Thread(target=leash, daemon=True).start()
    for url in itertools.cycle(urls):
        try:
            consume(url, wanted, prefix, name, len(urls) > 1)
        # pika has exceptions without a family of their own for a broker that accepts and says nothing.
        except Exception as error:
            print(f"customer: {type(error).__name__}", file=sys.stderr, flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
