"""A receiver like the one of PolyAI's quickstart, with a durable queue: Flask and pika, a confirm for every message.

Runs in gunicorn with threads. Each thread has its own connection, because a pika connection belongs to one thread.
"""

import hashlib
import hmac
import os
import threading

import pika
from flask import Flask, request

SECRET = os.environ["SECRET"].encode()
QUEUE = os.environ["QUEUE"]
QUORUM = {"x-queue-type": "quorum"}

app = Flask(__name__)
local = threading.local()


def channel():
    if getattr(local, "channel", None) is None or local.channel.is_closed:
        connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
        local.channel = connection.channel()
        local.channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
        local.channel.confirm_delivery()
    return local.channel


def genuine(body):
    signed = request.headers.get("X-PolyAI-Timestamp", "").encode() + b"." + body
    expected = hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, request.headers.get("X-PolyAI-Signature", ""))


@app.post("/polyai-events")
def deliver():
    body = request.get_data()
    if not genuine(body):
        return "", 401
    properties = pika.BasicProperties(
        delivery_mode=2, message_id=request.headers.get("X-PolyAI-Event-Id"), content_type="application/json"
    )
    try:
        # Raises an error if the broker refuses or returns the message.
        channel().basic_publish("", QUEUE, body, properties, mandatory=True)
    except pika.exceptions.AMQPError:
        return "", 503
    return "", 204
