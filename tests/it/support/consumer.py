"""A minimal consumer of a customer: prints every event and announcement as a line of JSON.

    consumer.py URL PREFIX

Binds queues of its own to both exchanges, then prints {"bound": true}. Ends when its standard input ends.
"""

import base64
import json
import os
import sys
import threading

import pika


def exit_with_stdin():
    sys.stdin.buffer.read()
    os._exit(0)


def main(url, prefix):
    threading.Thread(target=exit_with_stdin, daemon=True).start()
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    for exchange in ("events", "conversations"):
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, f"{prefix}.{exchange}", "#")
        channel.basic_consume(queue, print_message, auto_ack=True)
    print(json.dumps({"bound": True}), flush=True)
    channel.start_consuming()


def print_message(channel, method, properties, body):
    line = {
        "exchange": method.exchange,
        "routing_key": method.routing_key,
        "message_id": properties.message_id,
        "type": properties.type,
        "timestamp": properties.timestamp,
        "content_type": properties.content_type,
        "correlation_id": properties.correlation_id,
        "delivery_mode": properties.delivery_mode,
        "app_id": properties.app_id,
        "headers": properties.headers,
        "body": base64.b64encode(body).decode(),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
