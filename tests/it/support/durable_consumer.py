"""A customer's consumer with a durable queue. It connects again for as long as it takes.

    durable_consumer.py announcements|everything PREFIX NAME URL...

Prints {"bound": true} when its queue NAME is bound for announcements, or for events as well. Then it prints
{"exchange", "id", "subject"} of each message as a line of JSON, and acknowledges the message afterwards. When a
connection ends, it tries the URLs in turn. It ends when its standard input ends.
"""

import itertools
import json
import os
import sys
import threading
import time

import pika

# Then it tries the next URL: a node that is cut off from its cluster keeps its clients and delivers nothing (RabbitMQ 4.3).
IDLE_SECONDS = 10


def exit_with_stdin():
    sys.stdin.buffer.read()
    os._exit(0)


def print_line(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def consume(url, wanted, prefix, name, replicated):
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 5
    parameters.socket_timeout = parameters.stack_timeout = 5
    parameters.connection_attempts = 1
    channel = pika.BlockingConnection(parameters).channel()
    channel.exchange_declare(f"{prefix}.conversations", "topic", durable=True)
    # Only a cluster needs a replicated queue.
    kind = "quorum" if replicated else "classic"
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
    channel.queue_bind(name, f"{prefix}.conversations", "#")
    channel.basic_qos(prefetch_count=200)
    if wanted == "everything":
        # Only polyhook knows the arguments of this exchange, so it is not declared here. Until it exists, binding fails
        # and is tried again.
        channel.queue_bind(name, f"{prefix}.events", "#")
    print_line({"bound": True})
    for method, properties, body in channel.consume(name, inactivity_timeout=IDLE_SECONDS):
        if method is None:
            raise TimeoutError("no message")
        print_message(channel, method, properties, body)


def print_message(channel, method, properties, body):
    print_line({"exchange": method.exchange, "id": properties.message_id, "subject": properties.correlation_id})
    channel.basic_ack(method.delivery_tag)


def main(wanted, prefix, name, *urls):
    threading.Thread(target=exit_with_stdin, daemon=True).start()
    for url in itertools.cycle(urls):
        try:
            consume(url, wanted, prefix, name, len(urls) > 1)
        # If a broker accepts a connection but does not answer, pika raises exceptions without a common base class.
        except Exception as error:
            print(f"durable_consumer: {type(error).__name__}", file=sys.stderr, flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
