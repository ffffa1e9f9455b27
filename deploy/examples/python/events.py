#!/usr/bin/env python3
"""Consumes PolyAI's other events (alerts and handoffs), which polyhook forwards."""

import json
import os
import signal
import sys

import pika

URL = os.environ["AMQP_URL"]
EXCHANGE = os.environ.get("EXCHANGE", "polyhook.events")
QUEUE = os.environ.get("QUEUE", "attention")


def main():
    channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
    # polyhook answers 204 when every bound queue has the event. A quorum queue keeps working if a node fails.
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 10})
    for key in ("alerts.#", "handoff.#"):
        channel.queue_bind(QUEUE, EXCHANGE, key)
    channel.basic_qos(prefetch_count=8)
    channel.basic_consume(QUEUE, show)
    print(f"waiting in {QUEUE}", flush=True)
    channel.start_consuming()


def show(channel, method, properties, body):
    # The body is PolyAI's, byte for byte. The routing key names its type and environment, the properties identify it; a repeat has the same `message_id`.
    event = json.loads(body)
    subject = event.get("alert") or event.get("data") or {}
    subject = subject.get("name") or subject.get("conversation_id")
    print(f"{method.routing_key} {subject} {properties.message_id}", flush=True)
    channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main()
