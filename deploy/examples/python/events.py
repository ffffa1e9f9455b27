#!/usr/bin/env python3
"""Consumes PolyAI's other events, alerts and handoffs, as polyhook passes them on."""

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
    # An event is answered 204 when every queue that is bound for it has it: a quorum queue, so that a broken node delays nobody.
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 10})
    for key in ("alerts.#", "handoff.#"):
        channel.queue_bind(QUEUE, EXCHANGE, key)
    channel.basic_qos(prefetch_count=8)
    channel.basic_consume(QUEUE, show)
    print(f"waiting in {QUEUE}", flush=True)
    channel.start_consuming()


def show(channel, method, properties, body):
    # The body is PolyAI's, byte for byte, in whatever form; who and what is in the properties. `message_id` tells a repeat.
    event = json.loads(body)
    about = event.get("alert") or event.get("data") or {}
    about = about.get("name") or about.get("conversation_id")
    print(f"{properties.type} {properties.headers['polyhook-environment']} {about} {properties.message_id}", flush=True)
    channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main()
